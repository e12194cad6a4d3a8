package cli

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// errFingerprint is a chain without the certificate that was asked for.
var errFingerprint = errors.New("none of the certificates that were shown has the fingerprint that you trust")

// serviceTLS knows a service by the CA or the certificate that its user trusts,
// or else by the system's authorities.
func serviceTLS(l *login) (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(l.Address)
	if err != nil {
		return nil, fmt.Errorf("%q is not HOST:PORT", l.Address)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: host}
	switch {
	case l.Fingerprint != "":
		// The chain is verified here, up to the certificate that was named.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error {
			return trusts(s.PeerCertificates, l.Fingerprint, host, time.Now())
		}
	case l.CA != "":
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(l.CA)) {
			return nil, errors.New("there is no certificate in PEM")
		}
	}
	return credentials.NewTLS(c), nil
}

// trusts wants the certificate of this fingerprint in a chain: as that of the
// server itself, whatever its name, or as the authority that it comes from.
func trusts(chain []*x509.Certificate, fingerprint, host string, now time.Time) error {
	for i, cert := range chain {
		sum := sha256.Sum256(cert.Raw)
		if "sha256:"+hex.EncodeToString(sum[:]) != fingerprint {
			continue
		}
		o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
		o.Roots.AddCert(cert)
		if i > 0 {
			o.DNSName = host
		}
		for _, other := range chain[1:] {
			o.Intermediates.AddCert(other)
		}
		_, err := chain[0].Verify(o)
		return err
	}
	return errFingerprint
}
