package intel

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/ultravioletrs/cocos/attest"
)

// Names of Intel's certificates.
const (
	namePCK       = "Intel SGX PCK Certificate"
	nameProcessor = "Intel SGX PCK Processor CA"
	namePlatform  = "Intel SGX PCK Platform CA"
	nameSigner    = "Intel SGX TCB Signing"
)

// authorities endorse platforms' keys, by what Intel's service calls them.
var authorities = map[string]string{nameProcessor: CAProcessor, namePlatform: CAPlatform}

// chain is what vouches for the quoting enclave, below the root.
type chain struct {
	pck       *pck
	authority *x509.Certificate
}

// certificatesOf are those in the quote, then those that came beside it.
func certificatesOf(s *Signature, e attest.Endorsements) (own, all []*x509.Certificate, err error) {
	if own, err = s.certificates(); err != nil {
		return nil, nil, fmt.Errorf("the quote's certificates: %w", err)
	}
	if len(e.Certificates) > maxCertificates {
		return nil, nil, fmt.Errorf("%d certificates come with the quote; at most %d are looked at", len(e.Certificates), maxCertificates)
	}
	all = own[:len(own):len(own)]
	for i, der := range e.Certificates {
		if len(der) > maxCertificate {
			return nil, nil, fmt.Errorf("certificate %d has %d bytes; at most %d are taken", i, len(der), maxCertificate)
		}
		if c, err := x509.ParseCertificate(der); err == nil { // anything else may lie beside them
			all = append(all, c)
		}
	}
	return own, all, nil
}

// findPCK finds the platform's certificate: the quote's own, else, among those
// beside it, the one whose key signed the quoting enclave's report.
func findPCK(s *Signature, own, all []*x509.Certificate) (*pck, error) {
	isPCK := func(c *x509.Certificate) bool { return c.Subject.CommonName == namePCK }
	from := own
	if !slices.ContainsFunc(own, isPCK) {
		from = all
	}
	var candidates []*x509.Certificate
	for _, c := range from {
		if isPCK(c) {
			candidates = append(candidates, c)
		}
	}
	if len(candidates) == 0 {
		return nil, fmt.Errorf("none of %d certificates is an %s", len(all), namePCK)
	}
	i := 0
	if len(candidates) > 1 {
		i = max(0, slices.IndexFunc(candidates, s.qeSigned))
	}
	return readPCK(candidates[i])
}

// link finds the authority between the platform's certificate and root.
func link(p *pck, all []*x509.Certificate, root *x509.Certificate) (*chain, error) {
	if _, ok := authorities[p.certificate.Issuer.CommonName]; !ok {
		return nil, fmt.Errorf("the platform's certificate is issued by %q", p.certificate.Issuer.CommonName)
	}
	problem := fmt.Errorf("no certificate of %s", p.certificate.Issuer.CommonName)
	for _, c := range all {
		if !bytes.Equal(c.RawSubject, p.certificate.RawIssuer) {
			continue
		}
		if err := issued(c, root); err != nil {
			problem = err
			continue
		}
		if err := issued(p.certificate, c); err != nil {
			problem = err
			continue
		}
		return &chain{pck: p, authority: c}, nil
	}
	return nil, problem
}

// issued tells whether parent issued c, which has nothing in it that is not
// understood.
func issued(c, parent *x509.Certificate) error {
	name := c.Subject.CommonName
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("the certificate of %q is issued by %q, not by %q", name, c.Issuer.CommonName, parent.Subject.CommonName)
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("the certificate of %q has the unknown critical extension %v", name, c.UnhandledCriticalExtensions[0])
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("the certificate of %q is not signed by the key of %q: %w", name, parent.Subject.CommonName, err)
	}
	return nil
}

// findSigner finds who signs Intel's JSON: in the text beside it, else among
// certificates.
func findSigner(text []byte, all []*x509.Certificate, root *x509.Certificate) (*x509.Certificate, error) {
	if len(text) > maxCollateral {
		return nil, fmt.Errorf("its chain has %d bytes; at most %d are taken", len(text), maxCollateral)
	}
	certs, err := pemCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("its chain: %w", err)
	}
	problem := errors.New("no certificate of " + nameSigner)
	for _, c := range append(certs, all...) {
		if c.Subject.CommonName != nameSigner {
			continue
		}
		if err := issued(c, root); err != nil {
			problem = err
			continue
		}
		if c.IsCA || c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			problem = fmt.Errorf("the certificate of %q is not for signing", nameSigner)
			continue
		}
		return c, nil
	}
	return nil, problem
}
