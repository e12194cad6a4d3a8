package atls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Identity is a certificate chain with its private key. Its zero value is none.
type Identity struct {
	cert tls.Certificate
	spki [sha256.Size]byte
	made bool // by NewIdentity: the key never was anywhere else
}

// Key is the SHA-256 of the SubjectPublicKeyInfo, in FormatKey's form.
func (i Identity) Key() string { return FormatKey(i.spki) }

// NewIdentity makes an ECDSA P-256 key and a self-signed certificate that says
// nothing but the key: there are no names in it, and its dates don't expire
// (RFC 5280, section 4.1.2.5), for a VM's clock is its host's.
func NewIdentity() (Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("making a TLS key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "cocos agent"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Identity{}, fmt.Errorf("making a TLS certificate: %w", err)
	}
	i, err := newIdentity(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	i.made = err == nil
	return i, err
}

// LoadIdentity takes a PEM certificate chain, leaf first, and its PEM key.
func LoadIdentity(certPEM, keyPEM []byte) (Identity, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return Identity{}, fmt.Errorf("TLS certificate and key: %w", err)
	}
	return newIdentity(cert)
}

func newIdentity(cert tls.Certificate) (Identity, error) {
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return Identity{}, fmt.Errorf("TLS certificate: %w", err)
	}
	cert.Leaf = leaf
	return Identity{cert: cert, spki: sha256.Sum256(leaf.RawSubjectPublicKeyInfo)}, nil
}

// LoadCAs takes one or more PEM certificates and nothing else.
func LoadCAs(b []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("CA certificates: found a PEM block %q; expected %q", block.Type, "CERTIFICATE")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("CA certificate %d: %w", n+1, err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, errors.New("CA certificates: no PEM block found")
	}
	return pool, nil
}
