package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"sync"
	"time"
)

// serverLife is how long a server certificate lasts.
const serverLife = 30 * 24 * time.Hour

// Server is a server certificate that renews itself.
type Server struct {
	authority *Authority
	names     []string

	mu      sync.Mutex
	current *tls.Certificate
}

// Server makes a certificate for host names and IP addresses, with a key that
// never leaves the process.
func (a *Authority) Server(names ...string) (*Server, error) {
	if len(names) == 0 {
		return nil, errors.New("a server certificate needs a name")
	}
	s := &Server{authority: a, names: names}
	_, err := s.Certificate(nil)
	return s, err
}

// Certificate is for tls.Config.GetCertificate. The authority is part of what is
// shown, so that it can be recognised by its fingerprint.
func (s *Server) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && s.authority.now().Before(s.current.Leaf.NotAfter.Add(-serverLife/3)) {
		return s.current, nil
	}
	c, err := s.issue()
	if err != nil {
		if s.current != nil {
			return s.current, nil // it may still be valid; whoever connects judges
		}
		return nil, err
	}
	s.current = c
	return c, nil
}

func (s *Server) issue() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.names[0], Organization: []string{"Cocos service"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range s.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	leaf, err := s.authority.sign(template, key.Public(), serverLife)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, s.authority.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// TLS is the configuration of a listener for people and Managers: TLS 1.3, and a
// client certificate of this authority where one is shown. There is no
// resumption, which would outlast certificates.
func (a *Authority) TLS(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         certificate,
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              a.Pool(),
		SessionTicketsDisabled: true,
		Time:                   a.now,
	}
}
