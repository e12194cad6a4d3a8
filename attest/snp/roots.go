package snp

import (
	"crypto/x509"
	"embed"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
)

// AMD's own certificates, one file for each product line: the root key (ARK),
// the key that endorses chips' keys (ASK) and the one that endorses cloud
// providers' (ASVK), as its key distribution service publishes them under
// /vcek/v1/LINE/cert_chain and /vlek/v1/LINE/cert_chain.
//
//go:embed roots/*.pem
var pinned embed.FS

// vendor is a product line's part of AMD's PKI.
type vendor struct {
	root *x509.Certificate            // ARK
	keys map[Signer]*x509.Certificate // ASK for VCEK, ASVK for VLEK
}

// amd has the pinned certificates. There is no other way to trust one.
var amd = sync.OnceValue(func() map[Line]vendor {
	vendors := make(map[Line]vendor)
	for _, l := range Lines() {
		name := "roots/" + strings.ToLower(string(l)) + ".pem"
		v, err := readVendor(name)
		if err != nil {
			panic(fmt.Sprintf("snp: embedded %s: %v", name, err)) // a test reads each
		}
		vendors[l] = v
	}
	return vendors
})

func readVendor(name string) (vendor, error) {
	b, err := pinned.ReadFile(name)
	if err != nil {
		return vendor{}, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return vendor{}, err
		}
		certs = append(certs, c)
	}
	if len(certs) != 3 {
		return vendor{}, fmt.Errorf("has %d certificates; expected ARK, ASK and ASVK", len(certs))
	}
	return vendor{root: certs[0], keys: map[Signer]*x509.Certificate{VCEK: certs[1], VLEK: certs[2]}}, nil
}
