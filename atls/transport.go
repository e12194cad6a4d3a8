package atls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// patience is how long a connection may take to its first byte of gRPC. It is
// as long as gRPC's clients have by themselves.
const patience = 20 * time.Second

// Errors of a client that met a server of the other mode.
var (
	// ErrNotAttested: evidence was asked for, and the server is not in attested
	// mode.
	ErrNotAttested = errors.New("the server gives no evidence: it speaks plain TLS, where attested TLS was asked for")
	// ErrAttested: the server is in attested mode, and the client did not ask for
	// evidence.
	ErrAttested = errors.New("the server speaks attested TLS alone: appraise its evidence, by a policy and the manifest")
)

type transport struct {
	config    *tls.Config
	role      role
	prover    *Prover
	appraisal *Appraisal
	spki      [sha256.Size]byte // of this side
	patience  time.Duration
	shared    *shared // with copies, too
}

// attested tells the mode: whoever gives or demands evidence is in attested mode.
func (t *transport) attested() bool { return t.prover != nil || t.appraisal != nil }

func (t *transport) protocol() string {
	if t.attested() {
		return attestedProtocol
	}
	return plainProtocol
}

func (t *transport) otherProtocol() string {
	if t.attested() {
		return plainProtocol
	}
	return attestedProtocol
}

func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if t.role != client {
		return nil, nil, errors.New("TLS: a server's credentials can't dial")
	}
	c := t.config.Clone()
	if c.ServerName == "" {
		c.ServerName = authority
		if host, _, err := net.SplitHostPort(authority); err == nil {
			c.ServerName = host
		}
	}
	return t.establish(ctx, raw, tls.Client(raw, c))
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if t.role != server {
		return nil, nil, errors.New("TLS: a client's credentials can't serve")
	}
	conn, info, err := t.establish(context.Background(), raw, tls.Server(raw, t.config))
	if err == nil {
		tell(raw, Connected)
	}
	return conn, info, err
}

// establish ends in bounded time, with a connection that may carry calls, or
// closes it. It sets no deadlines: gRPC has its own on raw.
func (t *transport) establish(ctx context.Context, raw net.Conn, conn *tls.Conn) (net.Conn, credentials.AuthInfo, error) {
	slow := fmt.Errorf("the peer took longer than %s: %w", t.patience, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, t.patience, slow)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	info, err := t.handshake(ctx, conn)
	if !stop() { // closed under our hands: that is why it failed, if it did
		if err == nil {
			err = errors.New("TLS handshake")
		}
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	return conn, info, nil
}

func (t *transport) handshake(ctx context.Context, conn *tls.Conn) (Info, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return Info{}, fmt.Errorf("TLS handshake: %w", err)
	}
	state := conn.ConnectionState()
	switch {
	case state.Version != tls.VersionTLS13:
		return Info{}, errors.New("TLS handshake: not TLS 1.3")
	case state.DidResume:
		return Info{}, errors.New("TLS handshake: the session was resumed")
	case state.NegotiatedProtocol == t.protocol():
	case t.role == client && state.NegotiatedProtocol == plainProtocol:
		return Info{}, fmt.Errorf("TLS handshake: %w", ErrNotAttested)
	case t.role == client && state.NegotiatedProtocol == attestedProtocol:
		return Info{}, fmt.Errorf("TLS handshake: %w", ErrAttested)
	default:
		return Info{}, fmt.Errorf("TLS handshake: the peer speaks %q where %q is expected", state.NegotiatedProtocol, t.protocol())
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
	if t.attested() {
		if err := t.exchange(ctx, conn, &info); err != nil {
			return Info{}, fmt.Errorf("attested TLS: %w", err)
		}
	}
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
	c := *t
	c.config = t.config.Clone()
	return &c
}

// OverrideServerName is part of gRPC's interface and deprecated there.
func (t *transport) OverrideServerName(name string) error {
	t.config.ServerName = name
	return nil
}
