package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// Reasons that this side finds; the others are the agent's, of package rpcerr.
const (
	reasonUnreachable       = "UNREACHABLE"
	reasonAgentKey          = "AGENT_KEY_MISMATCH"
	reasonAgentCertificate  = "AGENT_CERTIFICATE"
	reasonClientCertificate = "CLIENT_CERTIFICATE"
	reasonSize              = "SIZE_MISMATCH"
	reasonDigest            = string(rpcerr.DigestMismatch)
	reasonNoResult          = string(rpcerr.NoResult)
	reasonSecondInstance    = "SECOND_INSTANCE"
	reasonNotAttested       = "NOT_ATTESTED"
	reasonContact           = "CONTACT_EXISTS"
	reasonKeyUnconfirmed    = "KEY_UNCONFIRMED"
)

// explain turns the error of a call into what happened and what to do next.
// doing is what the user wanted, such as "uploading iris.csv".
func (p *peer) explain(doing string, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if s.Code() == codes.Unavailable || s.Code() == codes.DeadlineExceeded {
		return p.unreachable(doing, s)
	}
	q := &problem{hint: defaultHint(s.Code())}
	if d, ok := rpcerr.DetailOf(err); ok {
		q.reason, q.field = string(d.Reason), d.Field
		if d.Hint != "" {
			q.hint = d.Hint
		}
	}
	message := s.Message()
	if q.field != "" && !strings.Contains(message, q.field) {
		message = q.field + ": " + message
	}
	q.err = fmt.Errorf("%s: the agent refused: %s", doing, message)
	if s.Code() == codes.Internal || s.Code() == codes.Unknown {
		q.err = fmt.Errorf("%s: the agent failed: %s", doing, message)
	}
	return q
}

func defaultHint(c codes.Code) string {
	switch c {
	case codes.Unauthenticated:
		return "check that --key, --manifest and --role are those of this computation: cocos-cli manifest check FILE shows who may do what"
	case codes.PermissionDenied:
		return "the manifest decides who may do this: cocos-cli manifest check FILE shows it"
	case codes.FailedPrecondition:
		return "cocos-cli state shows what the computation waits for"
	case codes.Unimplemented:
		return "the agent is of another version than this program: cocos-cli version"
	}
	return "cocos-cli events and cocos-cli logs may tell more"
}

// unreachable explains a connection that could not be made, or broke.
func (p *peer) unreachable(doing string, s *status.Status) error {
	cause := p.causes.last()
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dial      *net.OpError
		dns       *net.DNSError
	)
	if p.attested {
		if err := p.refused(doing, cause); err != nil {
			return err
		}
	}
	fail := func(hint, format string, args ...any) error {
		return &problem{err: fmt.Errorf(doing+": "+format, args...), hint: hint, reason: reasonUnreachable}
	}
	switch {
	case errors.Is(cause, atls.ErrServerKey):
		return &problem{reason: reasonAgentKey, err: fmt.Errorf("%s: whoever answers at %s is not the agent of --agent-key: %w", doing, p.address, cause),
			hint: "nothing was sent. Compare with agent_key of the latest agent.ready event of your run; if it is the same as --agent-key, somebody stands between"}
	case errors.As(cause, &authority), errors.As(cause, &hostname), errors.As(cause, &invalid):
		return &problem{reason: reasonAgentCertificate, err: fmt.Errorf("%s: the agent's certificate is not to be trusted: %w", doing, cause),
			hint: "nothing was sent. Check --agent-ca and --agent-name against what the run was started with"}
	case errors.As(cause, &record):
		return fail("check --agent: another program seems to listen there", "%s does not speak TLS", p.address)
	case mentionsCertificate(s.Message()):
		return &problem{reason: reasonClientCertificate, err: fmt.Errorf("%s: the agent did not accept this client's certificate: %s", doing, s.Message()),
			hint: "the run asks for mutual TLS: give --client-cert and --client-key, signed by the CA that the run was started with"}
	case errors.As(cause, &dns):
		return fail("check the host in --agent", "no address is known for %s: %w", p.address, cause)
	case errors.As(cause, &dial):
		return fail("check --agent, and whether the run's VM is up: its events say when it ended", "can't reach the agent at %s: %w", p.address, cause)
	case cause != nil:
		return fail("check --agent, and the run's events", "can't speak with the agent at %s: %w", p.address, cause)
	case s.Code() == codes.DeadlineExceeded:
		return fail("try again, or with a longer --timeout", "no answer from %s within %s", p.address, p.timeout)
	}
	hint := "try again; if it stays so, look at the run's events"
	if !p.mutual {
		// The alert that says so is often lost with the connection.
		hint += ", and if the run asks for mutual TLS, give --client-cert and --client-key"
	}
	return fail(hint, "the connection to %s broke: %s", p.address, s.Message())
}

// mentionsCertificate finds the alerts with which a server refuses a client's
// certificate. In TLS 1.3 they come after the client's side of the handshake is
// over, so that only gRPC's text carries them.
func mentionsCertificate(s string) bool {
	for _, alert := range []string{"certificate required", "bad certificate", "unknown certificate authority", "expired certificate"} {
		if strings.Contains(s, "remote error: tls: "+alert) {
			return true
		}
	}
	return false
}

// temporary tells whether another attempt may succeed: the connection broke, or
// another call is in the way.
func (p *peer) temporary(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	if d, ok := rpcerr.DetailOf(err); ok && d.Reason == rpcerr.OffsetMismatch {
		return true // another call was quicker; it is asked anew how far it is
	}
	if p.attested && p.refused("", p.causes.last()) != nil {
		return false
	}
	switch s.Code() {
	case codes.Aborted:
		return true
	case codes.Unavailable, codes.DeadlineExceeded:
		var dial *net.OpError
		cause := p.causes.last()
		return !mentionsCertificate(s.Message()) && (cause == nil || errors.As(cause, &dial) || errors.Is(cause, context.DeadlineExceeded) || errors.Is(cause, atls.ErrLater) || isEOF(cause))
	}
	return false
}
