package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/ultravioletrs/cocos/attest"
)

// What is looked at of what comes with evidence, at most.
const (
	maxCertificates = 32
	maxCertificate  = 64 << 10 // bytes
)

// key is the certificate of a VCEK or VLEK, read (AMD 57230, tables 8 and 9).
// That it is genuine is told by chain.
type key struct {
	certificate *x509.Certificate
	signer      Signer
	line        Line
	tcb         TCB
	chipID      [64]byte // VCEK
	provider    string   // VLEK: who was given it
}

// The arcs of AMD's extensions: 1.3.6.1.4.1.3704.1 and these.
const (
	arcVersion = 1
	arcProduct = 2
	arcTCB     = 3
	arcChipID  = 4
	arcCSP     = 5
)

var amdExtensions = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// subjects are the names of the keys' certificates.
var subjects = map[Signer]string{VCEK: "SEV-VCEK", VLEK: "SEV-VLEK"}

// findKey finds the certificate of the key that signed the report, as it says:
// where there are several of its kind, the one whose key did.
func findKey(e attest.Evidence, report *Report) (*key, error) {
	subject, ok := subjects[report.Signer]
	if !ok {
		return nil, fmt.Errorf("the report is signed by no endorsed key (SIGNING_KEY is %d)", report.Signer)
	}
	ders := e.Endorsements.Certificates
	if len(ders) > maxCertificates {
		return nil, fmt.Errorf("%d certificates come with the report; at most %d are looked at", len(ders), maxCertificates)
	}
	var candidates []*x509.Certificate
	for i, der := range ders {
		if len(der) > maxCertificate {
			return nil, fmt.Errorf("certificate %d has %d bytes; at most %d are taken", i, len(der), maxCertificate)
		}
		c, err := x509.ParseCertificate(der)
		if err == nil && c.Subject.CommonName == subject { // anything else may lie beside it
			candidates = append(candidates, c)
		}
	}
	if len(candidates) == 0 {
		return nil, fmt.Errorf("none of %d certificates is a %s", len(ders), subject)
	}
	i := 0
	if len(candidates) > 1 {
		i = max(0, slices.IndexFunc(candidates, func(c *x509.Certificate) bool { return VerifySignature(e.Report, c) == nil }))
	}
	return readKey(candidates[i], report.Signer)
}

// readKey reads what AMD says in a certificate. Every extension of AMD's is
// known, there once and well-formed, or it is an error.
func readKey(c *x509.Certificate, signer Signer) (*key, error) {
	k := &key{certificate: c, signer: signer}
	if pub, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P384() {
		return nil, fmt.Errorf("%s's key is not ECDSA P-384", c.Subject.CommonName)
	}
	if c.IsCA {
		return nil, fmt.Errorf("%s's certificate is an authority's", c.Subject.CommonName)
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("%s's certificate has the unknown critical extension %v", c.Subject.CommonName, c.UnhandledCriticalExtensions[0])
	}
	extensions, err := amdOf(c)
	if err != nil {
		return nil, fmt.Errorf("%s's certificate: %w", c.Subject.CommonName, err)
	}
	if err := k.read(extensions); err != nil {
		return nil, fmt.Errorf("%s's certificate: %w", c.Subject.CommonName, err)
	}
	return k, nil
}

// amdOf returns the values of AMD's extensions by the rest of their identifier.
func amdOf(c *x509.Certificate) (map[[2]int][]byte, error) {
	extensions := make(map[[2]int][]byte)
	n := len(amdExtensions)
	for _, x := range c.Extensions {
		if len(x.Id) < n || !x.Id[:n].Equal(amdExtensions) {
			continue
		}
		arcs, ok := arcsOf(x)
		if !ok {
			return nil, fmt.Errorf("extension %v is not known", x.Id)
		}
		if _, twice := extensions[arcs]; twice {
			return nil, fmt.Errorf("extension %v is there twice", x.Id)
		}
		extensions[arcs] = x.Value
	}
	return extensions, nil
}

func arcsOf(x pkix.Extension) (arcs [2]int, ok bool) {
	switch rest := x.Id[len(amdExtensions):]; {
	case len(rest) == 1 && rest[0] >= arcVersion && rest[0] <= arcCSP && rest[0] != arcTCB:
		return [2]int{rest[0]}, true
	case len(rest) == 2 && rest[0] == arcTCB && rest[1] >= 1 && rest[1] <= 9:
		return [2]int{rest[0], rest[1]}, true
	}
	return arcs, false
}

func (k *key) read(extensions map[[2]int][]byte) error {
	version, err := number8(extensions, arcVersion, 0)
	if err != nil {
		return err
	}
	if version > 1 {
		return fmt.Errorf("has structure version %d; expected 0 or 1", version)
	}
	product, err := text(extensions, arcProduct)
	if err != nil {
		return err
	}
	if k.line, err = lineOfName(product); err != nil {
		return err
	}
	if err := k.readTCB(extensions); err != nil {
		return err
	}
	hwid, hasChip := extensions[[2]int{arcChipID}]
	_, hasCSP := extensions[[2]int{arcCSP}]
	switch {
	case k.signer == VCEK && hasChip && !hasCSP:
		return k.readChipID(hwid)
	case k.signer == VLEK && hasCSP && !hasChip:
		k.provider, err = text(extensions, arcCSP)
		return err
	}
	return errors.New("must name a chip if it is a VCEK's, a cloud provider if it is a VLEK's, and never both")
}

func (k *key) readTCB(extensions map[[2]int][]byte) error {
	var used [10]bool
	for i, p := range layout(k.line) {
		v, err := number8(extensions, arcTCB, p.arc)
		if err != nil {
			return err
		}
		k.tcb[i], used[p.arc] = v, true
	}
	for arc := 1; arc < len(used); arc++ {
		if _, there := extensions[[2]int{arcTCB, arc}]; !there || used[arc] {
			continue
		}
		if v, err := number8(extensions, arcTCB, arc); err != nil || v != 0 {
			return fmt.Errorf("has a security version 3.%d, which %s does not know", arc, k.line)
		}
	}
	return nil
}

// readChipID takes the bytes as they are, which is how AMD writes them, or in
// an OCTET STRING.
func (k *key) readChipID(value []byte) error {
	id := value
	var inner []byte
	if rest, err := asn1.Unmarshal(value, &inner); err == nil && len(rest) == 0 && len(value) != chipIDSize(k.line) {
		id = inner
	}
	if want := chipIDSize(k.line); len(id) != want {
		return fmt.Errorf("names a chip with %d bytes; expected %d on %s", len(id), want, k.line)
	}
	copy(k.chipID[:], id)
	return nil
}

func number8(extensions map[[2]int][]byte, arcs ...int) (uint8, error) {
	id := [2]int(arcs)
	value, ok := extensions[id]
	if !ok {
		return 0, fmt.Errorf("lacks the extension %d.%d", id[0], id[1])
	}
	var v int
	if rest, err := asn1.Unmarshal(value, &v); err != nil || len(rest) > 0 || v < 0 || v > 255 {
		return 0, fmt.Errorf("extension %d.%d is no number from 0 to 255", id[0], id[1])
	}
	return uint8(v), nil
}

func text(extensions map[[2]int][]byte, arc int) (string, error) {
	var v string
	value, ok := extensions[[2]int{arc}]
	if !ok {
		return "", fmt.Errorf("lacks the extension %d", arc)
	}
	if rest, err := asn1.UnmarshalWithParams(value, &v, "ia5"); err != nil || len(rest) > 0 {
		return "", fmt.Errorf("extension %d is no IA5String", arc)
	}
	return v, nil
}

// issuedBy tells whether parent, which is pinned, signed the key's certificate.
func (k *key) issuedBy(parent *x509.Certificate) error {
	if !bytes.Equal(k.certificate.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("%s's certificate is issued by %q", k.certificate.Subject.CommonName, k.certificate.Issuer.CommonName)
	}
	if err := k.certificate.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("%s's certificate is not signed by AMD's key: %w", k.certificate.Subject.CommonName, err)
	}
	return nil
}
