package authority

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	// HostLife is how long a host's certificate lasts; its Manager renews it when
	// a third of that is left.
	HostLife = 30 * 24 * time.Hour
	// HostURI begins the name of a host in its certificate; the host's ID follows.
	HostURI = "urn:cocos:host:"
	// maxRequest bounds a certificate request, in bytes.
	maxRequest = 16 << 10
)

// HostCertificate is a client certificate that was made for a host.
type HostCertificate struct {
	PEM     []byte
	Serial  string
	Expires time.Time
}

// SignHost makes the client certificate of a host, for the key of a certificate
// request in DER. An error about the request is a *RequestError.
func (a *Authority) SignHost(id string, request []byte) (HostCertificate, error) {
	r, err := parseRequest(request)
	if err != nil {
		return HostCertificate{}, &RequestError{err}
	}
	c, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: id, Organization: []string{"Cocos host"}},
		URIs:        []*url.URL{{Scheme: "urn", Opaque: strings.TrimPrefix(HostURI, "urn:") + id}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, r.PublicKey, HostLife)
	if err != nil {
		return HostCertificate{}, err
	}
	return HostCertificate{PEM: encode(c.Raw), Serial: SerialOf(c), Expires: c.NotAfter}, nil
}

// RequestError is what is wrong with a certificate request.
type RequestError struct{ err error }

func (e *RequestError) Error() string { return "the certificate request " + e.err.Error() }
func (e *RequestError) Unwrap() error { return e.err }

func parseRequest(der []byte) (*x509.CertificateRequest, error) {
	if len(der) == 0 || len(der) > maxRequest {
		return nil, fmt.Errorf("has %d bytes; expected PKCS #10 in DER of at most %d", len(der), maxRequest)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("is not signed by its own key: %w", err)
	}
	switch k := r.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, fmt.Errorf("has a key on the curve %s; use P-256 or P-384", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("has a key of the type %s; use ECDSA or Ed25519", r.PublicKeyAlgorithm)
	}
	if len(r.Extensions) > 0 {
		return nil, errors.New("asks for extensions; what a certificate says is the service's to decide")
	}
	return r, nil
}

// SerialOf is a certificate's serial as hosts' rows have it.
func SerialOf(c *x509.Certificate) string { return fmt.Sprintf("%032x", c.SerialNumber) }

// HostOf is the host that a verified certificate names; false if it is not a
// host's.
func HostOf(c *x509.Certificate) (id string, ok bool) {
	if c.IsCA || len(c.URIs) != 1 {
		return "", false
	}
	id, ok = strings.CutPrefix(c.URIs[0].String(), HostURI)
	return id, ok && id != ""
}
