package atls

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc/credentials"
)

// What the two modes call themselves in TLS (ALPN, RFC 7301). A client offers
// both, to be able to say which one the server lacks, and goes on with its own
// alone.
const (
	plainProtocol    = "h2" // gRPC is nothing else
	attestedProtocol = "cocos-attested/1"
)

// ServerConfig of Server.
type ServerConfig struct {
	// Identity is the server's certificate and key; required.
	Identity Identity
	// ClientCAs set: mutual TLS. Not in attested mode.
	ClientCAs *x509.CertPool
	// Prover set: each client is given evidence before anything else, and one
	// that does not appraise it is not served. Identity must be of NewIdentity.
	Prover *Prover
	// Appraisal set: each client must give evidence that it accepts.
	Appraisal *Appraisal
}

// Server makes a server's credentials.
func Server(cfg ServerConfig) (credentials.TransportCredentials, error) {
	if cfg.Identity.cert.PrivateKey == nil {
		return nil, errors.New("TLS server: no certificate and key; make one with NewIdentity or load one with LoadIdentity")
	}
	t := &transport{role: server, prover: cfg.Prover, appraisal: cfg.Appraisal, spki: cfg.Identity.spki, patience: patience, shared: new(shared)}
	if err := t.check(cfg.Identity); err != nil {
		return nil, fmt.Errorf("TLS server: %w", err)
	}
	if t.attested() && cfg.ClientCAs != nil {
		return nil, errors.New("TLS server: client CAs are for plain TLS; in attested mode clients show evidence, or who they are by what they sign")
	}
	t.config = baseConfig(t.protocol())
	t.config.Certificates = []tls.Certificate{cfg.Identity.cert}
	t.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		tell(hello.Conn, Greeted)
		return nil, nil // this very one
	}
	switch {
	case cfg.ClientCAs != nil:
		t.config.ClientAuth = tls.RequireAndVerifyClientCert
		t.config.ClientCAs = cfg.ClientCAs
	case cfg.Appraisal != nil:
		t.config.ClientAuth = tls.RequireAnyClientCert // the evidence binds its key
	}
	return t, nil
}

// ClientConfig of Client: exactly one of ServerKey, ServerCAs and Appraisal.
type ClientConfig struct {
	// ServerKey is "sha256:" and 64 hexadecimal digits: the SHA-256 of the
	// server's SubjectPublicKeyInfo.
	ServerKey string
	// ServerCAs sign the server's certificate, which names ServerName (empty:
	// the name that was dialled).
	ServerCAs  *x509.CertPool
	ServerName string
	// Appraisal judges the server's evidence. A server that gives none is refused.
	Appraisal *Appraisal
	// Identity, if set, is the client's own certificate.
	Identity Identity
	// Prover set: the client gives evidence too, which the server must demand.
	// Identity must be of NewIdentity.
	Prover *Prover
}

// ErrServerKey says that the server has another key than the pinned one.
var ErrServerKey = errors.New("the server's key is not the pinned one")

// Client makes a client's credentials.
func Client(cfg ClientConfig) (credentials.TransportCredentials, error) {
	t := &transport{role: client, prover: cfg.Prover, appraisal: cfg.Appraisal, spki: cfg.Identity.spki, patience: patience, shared: new(shared)}
	if err := t.check(cfg.Identity); err != nil {
		return nil, fmt.Errorf("TLS client: %w", err)
	}
	c := baseConfig(t.protocol(), t.otherProtocol())
	c.ServerName = cfg.ServerName
	switch {
	case cfg.ServerKey != "" && cfg.ServerCAs != nil:
		return nil, errors.New("TLS client: both a server key and a CA are given; give one")
	case cfg.Appraisal != nil && (cfg.ServerKey != "" || cfg.ServerCAs != nil):
		return nil, errors.New("TLS client: both evidence is asked for and a server key or a CA given; in attested mode the evidence names the key")
	case cfg.ServerKey != "":
		pin, err := ParseKey(cfg.ServerKey)
		if err != nil {
			return nil, fmt.Errorf("TLS client: server key: %w", err)
		}
		// The certificate's names and dates are the server's own claims; its
		// key is what was learnt from elsewhere. crypto/tls checks that the
		// server holds it, on every handshake.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if got, ok := peerKey(s); !ok || got != pin {
				return fmt.Errorf("%w: expected %s, got %s", ErrServerKey, FormatKey(pin), FormatKey(got))
			}
			return nil
		}
	case cfg.ServerCAs != nil:
		c.RootCAs = cfg.ServerCAs
	case cfg.Appraisal != nil:
		// The evidence binds the server's key, which crypto/tls checks that it
		// holds; nothing is sent before it was accepted.
		c.InsecureSkipVerify = true
	default:
		return nil, errors.New("TLS client: neither a server key nor a CA is given, nor is evidence asked for: nothing would say who answers")
	}
	if cfg.Identity.cert.PrivateKey != nil {
		c.Certificates = []tls.Certificate{cfg.Identity.cert}
	}
	t.config = c
	return t, nil
}

// check refuses what could not attest, or would appraise nothing.
func (t *transport) check(id Identity) error {
	if t.prover != nil {
		switch {
		case id.cert.PrivateKey == nil:
			return errors.New("evidence is of a TLS key, and there is none; make one with NewIdentity")
		case !id.made:
			return errors.New("the TLS key was loaded; in attested mode it is made where the evidence is, with NewIdentity")
		}
	}
	if a := t.appraisal; a != nil {
		switch {
		case a.Verifier == nil:
			return errors.New("appraisal: there is no verifier, and nothing accepts evidence without one")
		case a.Launch.SHA256 == [sha256.Size]byte{}:
			return errors.New("appraisal: there are no digests of an approved manifest")
		}
	}
	return nil
}

func baseConfig(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		// Small records help pages load, not gigabytes.
		DynamicRecordSizingDisabled: true,
	}
}
