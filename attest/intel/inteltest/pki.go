// Package inteltest plays Intel and one platform for tests: a root of its own, an
// authority, a signer of JSON, a platform's certificate with SGX extensions, a
// quoting enclave and its quotes, TCB info, QE identity and revocation lists, all
// in genuine formats. Everything is right until a test changes one thing.
//
// No product imports it. Its roots are good only where a test hands them to the
// unexported functions of attest/tdx and attest/sgx.
package inteltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"time"
)

// Now is when everything is good.
var Now = time.Date(2025, 6, 20, 12, 0, 0, 0, time.UTC)

// Cert is a certificate with its key.
type Cert struct {
	*x509.Certificate
	Key *ecdsa.PrivateKey
}

// NewKey makes a key as DCAP has them.
func NewKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return k
}

// Issue makes a certificate; without an issuer it is its own.
func Issue(template *x509.Certificate, issuer *Cert) *Cert {
	return IssueFor(template, issuer, NewKey())
}

// IssueFor is Issue for a key.
func IssueFor(template *x509.Certificate, issuer *Cert, key *ecdsa.PrivateKey) *Cert {
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(err)
	c, err := x509.ParseCertificate(der)
	must(err)
	return &Cert{Certificate: c, Key: key}
}

// Template of a certificate with Intel's names.
func Template(name string, authority bool) *x509.Certificate {
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{"Intel Corporation"}, Country: []string{"US"}},
		SerialNumber:          serial(),
		NotBefore:             Now.AddDate(-1, 0, 0),
		NotAfter:              Now.AddDate(6, 0, 0),
		BasicConstraintsValid: true,
		IsCA:                  authority,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if authority {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return t
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	must(err)
	return n
}

// PCK is what a platform's certificate says in its SGX extensions.
type PCK struct {
	PPID       []byte
	Components [16]uint8
	PCESVN     int
	PCEID      []byte
	FMSPC      []byte
	// Platform: the extensions of multi-package platforms are there.
	Platform bool
	// Leave out the value with this arc.
	Without int
}

var sgxArc = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

type pair struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// Extension encodes it.
func (p PCK) Extension() pkix.Extension {
	tcb := sub(2)
	var levels []pair
	for i, v := range p.Components {
		levels = append(levels, pair{append(tcb[:len(tcb):len(tcb)], i+1), int(v)})
	}
	levels = append(levels,
		pair{append(tcb[:len(tcb):len(tcb)], 17), p.PCESVN},
		pair{append(tcb[:len(tcb):len(tcb)], 18), p.Components[:]})
	all := []pair{{sub(1), p.PPID}, {tcb, sequence(levels)}, {sub(3), p.PCEID}, {sub(4), p.FMSPC}, {sub(5), asn1.Enumerated(1)}}
	if p.Platform {
		c := sub(7)
		all = append(all, pair{sub(6), make([]byte, 16)}, pair{c, sequence([]pair{
			{append(c[:len(c):len(c)], 1), true}, {append(c[:len(c):len(c)], 2), true}, {append(c[:len(c):len(c)], 3), true},
		})})
	}
	var kept []pair
	for _, v := range all {
		if v.ID[len(v.ID)-1] != p.Without {
			kept = append(kept, v)
		}
	}
	return pkix.Extension{Id: sgxArc, Value: sequence(kept).FullBytes}
}

func sub(arc int) asn1.ObjectIdentifier { return append(sgxArc[:len(sgxArc):len(sgxArc)], arc) }

func sequence(pairs []pair) asn1.RawValue {
	var raw []asn1.RawValue
	for _, p := range pairs {
		b, err := asn1.Marshal(p)
		must(err)
		raw = append(raw, asn1.RawValue{FullBytes: b})
	}
	b, err := asn1.Marshal(raw)
	must(err)
	return asn1.RawValue{FullBytes: b}
}

// PEM of certificates, in order.
func PEM(certs ...*Cert) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// List signs a revocation list.
func List(issuer *Cert, template *x509.RevocationList) []byte {
	der, err := x509.CreateRevocationList(rand.Reader, template, issuer.Certificate, issuer.Key)
	must(err)
	return der
}

// ListTemplate is good at Now, and names certs.
func ListTemplate(certs ...*Cert) *x509.RevocationList {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: Now.AddDate(0, 0, -1), NextUpdate: Now.AddDate(0, 0, 29)}
	for _, c := range certs {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: t.ThisUpdate, ReasonCode: 1})
	}
	return t
}

func must(err error) {
	if err != nil {
		panic("inteltest: " + err.Error())
	}
}
