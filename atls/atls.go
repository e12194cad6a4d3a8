// Package atls is the agent's channel: gRPC transport credentials on TLS 1.3,
// and the value that names a connection.
//
// Today's trust comes from a pinned key or from a CA; the evidence of a TEE will
// come after the handshake, inside the channel, and bind the value that Info
// carries as Exporter (RFC 8446, section 7.5; RFC 9266): evidence inside the
// handshake can be relayed by whoever gets hold of the ephemeral key. The place
// for it is establish: both sides pass through it with a finished handshake and
// before gRPC says its first byte. Attested mode takes the place of the pin
// there.
//
// Invariants: TLS 1.3 and nothing older; no session tickets and no 0-RTT, so
// that each connection has an exporter value of its own; a client without
// exactly one reason to trust the server is an error; a server that is given a
// client CA talks to nobody without a certificate of it.
package atls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

const (
	// exporterLabel separates our use of the exporter from everybody's.
	exporterLabel = "EXPORTER-cocos-v1-channel"
	// ExporterSize in bytes.
	ExporterSize = 32

	protocol = "h2" // ALPN; gRPC is nothing else
)

// Info is what is known of an established connection. It is gRPC's AuthInfo.
type Info struct {
	credentials.CommonAuthInfo
	// Exporter is the same on both ends and on no other connection.
	Exporter [ExporterSize]byte
	// PeerSPKI is the SHA-256 of the peer's SubjectPublicKeyInfo; HasPeer is
	// false for a client that showed no certificate.
	PeerSPKI [sha256.Size]byte
	HasPeer  bool
}

// AuthType implements credentials.AuthInfo.
func (Info) AuthType() string { return "atls" }

// InfoFrom finds the connection of a call: on a server in the handler's
// context, on a client in the context of its per-call credentials.
func InfoFrom(ctx context.Context) (Info, error) {
	if r, ok := credentials.RequestInfoFromContext(ctx); ok {
		if info, ok := r.AuthInfo.(Info); ok {
			return info, nil
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(Info); ok {
			return info, nil
		}
	}
	return Info{}, errors.New("the call did not come over this package's TLS")
}

// ServerConfig of Server.
type ServerConfig struct {
	// Identity is the server's certificate and key; required.
	Identity Identity
	// ClientCAs set: mutual TLS.
	ClientCAs *x509.CertPool
}

// Server makes a server's credentials.
func Server(cfg ServerConfig) (credentials.TransportCredentials, error) {
	if cfg.Identity.cert.PrivateKey == nil {
		return nil, errors.New("TLS server: no certificate and key; make one with NewIdentity or load one with LoadIdentity")
	}
	c := baseConfig()
	c.Certificates = []tls.Certificate{cfg.Identity.cert}
	if cfg.ClientCAs != nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = cfg.ClientCAs
	}
	return &transport{config: c}, nil
}

// ClientConfig of Client: exactly one of ServerKey and ServerCAs.
type ClientConfig struct {
	// ServerKey is "sha256:" and 64 hexadecimal digits: the SHA-256 of the
	// server's SubjectPublicKeyInfo.
	ServerKey string
	// ServerCAs sign the server's certificate, which names ServerName (empty:
	// the name that was dialled).
	ServerCAs  *x509.CertPool
	ServerName string
	// Identity, if set, is the client's own certificate.
	Identity Identity
}

// ErrServerKey says that the server has another key than the pinned one.
var ErrServerKey = errors.New("the server's key is not the pinned one")

// Client makes a client's credentials.
func Client(cfg ClientConfig) (credentials.TransportCredentials, error) {
	c := baseConfig()
	c.ServerName = cfg.ServerName
	switch {
	case cfg.ServerKey != "" && cfg.ServerCAs != nil:
		return nil, errors.New("TLS client: both a server key and a CA are given; give one")
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
	default:
		return nil, errors.New("TLS client: neither a server key nor a CA is given: nothing would say who answers")
	}
	if cfg.Identity.cert.PrivateKey != nil {
		c.Certificates = []tls.Certificate{cfg.Identity.cert}
	}
	return &transport{config: c, client: true}, nil
}

func baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocol},
		SessionTicketsDisabled: true,
		// Small records help pages load, not gigabytes.
		DynamicRecordSizingDisabled: true,
	}
}

type transport struct {
	config *tls.Config
	client bool
}

func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if !t.client {
		return nil, nil, errors.New("TLS: a server's credentials can't dial")
	}
	c := t.config.Clone()
	if c.ServerName == "" {
		c.ServerName = authority
		if host, _, err := net.SplitHostPort(authority); err == nil {
			c.ServerName = host
		}
	}
	return establish(ctx, raw, tls.Client(raw, c))
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if t.client {
		return nil, nil, errors.New("TLS: a client's credentials can't serve")
	}
	// gRPC sets a deadline on raw.
	return establish(context.Background(), raw, tls.Server(raw, t.config))
}

// establish ends with a connection that may carry calls, or closes it.
func establish(ctx context.Context, raw net.Conn, conn *tls.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := handshake(ctx, conn)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	return conn, info, nil
}

func handshake(ctx context.Context, conn *tls.Conn) (Info, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return Info{}, fmt.Errorf("TLS handshake: %w", err)
	}
	state := conn.ConnectionState()
	switch {
	case state.Version != tls.VersionTLS13:
		return Info{}, errors.New("TLS handshake: not TLS 1.3")
	case state.DidResume:
		return Info{}, errors.New("TLS handshake: the session was resumed")
	case state.NegotiatedProtocol != protocol:
		return Info{}, fmt.Errorf("TLS handshake: the peer speaks %q where %q is expected", state.NegotiatedProtocol, protocol)
	}
	exporter, err := state.ExportKeyingMaterial(exporterLabel, nil, ExporterSize)
	if err != nil {
		return Info{}, fmt.Errorf("TLS exporter: %w", err)
	}
	info := Info{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Exporter:       [ExporterSize]byte(exporter),
	}
	info.PeerSPKI, info.HasPeer = peerKey(state)
	return info, nil
}

func peerKey(s tls.ConnectionState) (sum [sha256.Size]byte, ok bool) {
	if len(s.PeerCertificates) == 0 {
		return sum, false
	}
	return sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo), true
}

func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{config: t.config.Clone(), client: t.client}
}

// OverrideServerName is part of gRPC's interface and deprecated there.
func (t *transport) OverrideServerName(name string) error {
	t.config.ServerName = name
	return nil
}

// FormatKey is "sha256:" and 64 hexadecimal digits.
func FormatKey(sum [sha256.Size]byte) string { return keyPrefix + hex.EncodeToString(sum[:]) }

const keyPrefix = "sha256:"

// ParseKey takes what FormatKey returns.
func ParseKey(s string) (sum [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, keyPrefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(sum) || strings.ToLower(digits) != digits {
		return sum, fmt.Errorf("%q is not %q and %d lower-case hexadecimal digits", s, keyPrefix, 2*len(sum))
	}
	return [sha256.Size]byte(b), nil
}
