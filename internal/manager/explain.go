package manager

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// watchedTLS keeps why a handshake failed: gRPC hands on the text alone.
type watchedTLS struct {
	credentials.TransportCredentials
	mu   sync.Mutex
	last error
}

// ClientHandshake implements credentials.TransportCredentials.
func (w *watchedTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, conn)
	w.mu.Lock()
	w.last = err
	w.mu.Unlock()
	return c, info, err
}

func (w *watchedTLS) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// unconnected is a failure to connect, in words that name what to set.
type unconnected struct {
	text string
	err  error
}

func (e *unconnected) Error() string { return e.text }
func (e *unconnected) Unwrap() error { return e.err }

// explain says what an operator can do about a connection that failed.
// handshake is why TLS failed, if it did.
func explain(err, handshake error, address string) error {
	text := fmt.Sprint(err)
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		text = fmt.Sprintf("%s (%v)", s.Message(), s.Code())
	}
	if hint := hintFor(err, handshake, text, address); hint != "" {
		text += ": " + hint
	}
	return &unconnected{text: text, err: err}
}

func hintFor(err, handshake error, text, address string) string {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(handshake, &authority):
		return "MANAGER_GRPC_SERVER_CA_CERTS must hold the authority that signed the server's certificate, or MANAGER_GRPC_URL names another server"
	case errors.As(handshake, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the certificate of %q is valid from %s to %s: it must be renewed, or this host's clock is wrong",
			invalid.Cert.Subject.String(), utc(invalid.Cert.NotBefore), utc(invalid.Cert.NotAfter))
	case errors.As(handshake, &invalid):
		return "MANAGER_GRPC_SERVER_CA_CERTS holds an authority that may not vouch for this server"
	case errors.As(handshake, &name):
		return fmt.Sprintf("the server's certificate is not for the host of MANAGER_GRPC_URL=%q: use a name that it has, or renew it", address)
	case errors.As(handshake, &record):
		return fmt.Sprintf("who listens at MANAGER_GRPC_URL=%q speaks no TLS: is it the computations server's port?", address)
	case strings.Contains(text, "remote error: tls: protocol version not supported"):
		return fmt.Sprintf("the server at MANAGER_GRPC_URL=%q must speak TLS 1.3", address)
	case strings.Contains(text, "remote error: tls:"):
		// It may come after the handshake: the server judges our certificate
		// when we think that we are through.
		return "the server refuses this Manager's certificate: see MANAGER_GRPC_CLIENT_CERT and MANAGER_GRPC_CLIENT_KEY, or join with a token: cocos-manager enroll"
	case strings.Contains(text, unix.ECONNREFUSED.Error()), strings.Contains(text, "no such host"), strings.Contains(text, unix.EHOSTUNREACH.Error()), strings.Contains(text, unix.ENETUNREACH.Error()):
		return fmt.Sprintf("is the computations server running at MANAGER_GRPC_URL=%q?", address)
	case unwanted(err):
		return "ask the server's operator, or join anew with a token: cocos-manager enroll; this Manager asks again every few minutes, and its VMs go on"
	case status.Code(err) == codes.Unimplemented:
		return fmt.Sprintf("who listens at MANAGER_GRPC_URL=%q is no computations server", address)
	}
	return ""
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
