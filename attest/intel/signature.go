package intel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// Types of certification data (Quoting Library API, appendix 3, table 9).
const (
	certPPID     = 1 // to 3: only names the platform, in clear or encrypted
	certPCK      = 4 // the platform's certificate, PEM
	certPCKChain = 5 // and those above it
	certQEReport = 6 // the quoting enclave's report, and the above
)

// maxCertificates is how many are looked at of a quote, and how many beside it.
const maxCertificates = 32

// maxCertificate bounds one, in bytes.
const maxCertificate = 64 << 10

// Signature is a quote's signature section. Three signatures make a chain: the
// attestation key signs the quote, the quoting enclave's report vouches for that
// key, and the platform's key (PCK) signs that report.
type Signature struct {
	quote [64]byte // r, s
	key   [64]byte // attestation key: x, y
	// QE is the quoting enclave's report.
	QE       Enclave
	qeReport []byte // the same, as signed
	qe       [64]byte
	auth     []byte // what the quoting enclave adds to the key
	certType uint16
	certData []byte
}

func parseSignature(b []byte, version uint16) (Signature, error) {
	var s Signature
	c := cursor{b: b}
	copy(s.quote[:], c.take(64, "signature"))
	copy(s.key[:], c.take(64, "attestation key"))
	inner := &c
	if version >= 4 {
		kind := c.u16("type of certification data")
		data := c.sized32("certification data")
		if c.fault != nil {
			return s, c.fault
		}
		if kind != certQEReport {
			return s, fmt.Errorf("has certification data of type %d; expected %d in version %d", kind, certQEReport, version)
		}
		if !zeros(c.b) {
			return s, fmt.Errorf("has %d bytes after its certification data that are not all zero", len(c.b))
		}
		inner = &cursor{b: data}
	}
	if err := s.parseQE(inner); err != nil {
		return s, err
	}
	if !zeros(inner.b) {
		return s, fmt.Errorf("has %d bytes after its certificates that are not all zero", len(inner.b))
	}
	return s, nil
}

func (s *Signature) parseQE(c *cursor) error {
	s.qeReport = c.take(EnclaveSize, "quoting enclave's report")
	copy(s.qe[:], c.take(64, "quoting enclave's signature"))
	s.auth = c.take(int(c.u16("size of the quoting enclave's data")), "quoting enclave's data")
	s.certType = c.u16("type of certification data")
	s.certData = c.sized32("certification data")
	if c.fault != nil {
		return c.fault
	}
	if s.certType < certPPID || s.certType > certPCKChain {
		return fmt.Errorf("has certification data of type %d; expected %d to %d", s.certType, certPPID, certPCKChain)
	}
	qe, err := ParseEnclave(s.qeReport)
	if err != nil {
		return err
	}
	s.QE = *qe
	return nil
}

// certificates are those enclosed. Whatever is not one is passed over: the PEM
// ends with a NUL where Intel's library wrote it.
func (s *Signature) certificates() ([]*x509.Certificate, error) {
	if s.certType != certPCK && s.certType != certPCKChain {
		return nil, nil
	}
	return pemCertificates(s.certData)
}

func pemCertificates(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if len(certs) == maxCertificates {
			return nil, fmt.Errorf("more than %d certificates in one text", maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs), err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// keyBound tells whether the quoting enclave's report vouches for the
// attestation key.
func (s *Signature) keyBound() error {
	sum := sha256.Sum256(append(s.key[:len(s.key):len(s.key)], s.auth...))
	if s.QE.ReportData != [64]byte(append(sum[:], make([]byte, 32)...)) {
		return errors.New("the quoting enclave's report is about another attestation key")
	}
	return nil
}

// quoteSigned tells whether the attestation key signed the quote.
func (s *Signature) quoteSigned(signed []byte) error {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, s.key[:]...))
	if err != nil {
		return fmt.Errorf("the attestation key is none: %w", err)
	}
	if !verify(key, signed, s.quote) {
		return errors.New("the quote's signature does not verify")
	}
	return nil
}

// qeSigned tells whether the platform's key signed the quoting enclave's report.
func (s *Signature) qeSigned(pck *x509.Certificate) bool {
	key, ok := pck.PublicKey.(*ecdsa.PublicKey)
	return ok && key.Curve == elliptic.P256() && verify(key, s.qeReport, s.qe)
}

// verify checks an ECDSA signature with SHA-256, r and s big endian.
func verify(key *ecdsa.PublicKey, signed []byte, signature [64]byte) bool {
	sum := sha256.Sum256(signed)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, sum[:], r, s)
}
