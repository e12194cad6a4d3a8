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

	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// Reasons of this side for what goes wrong with a service.
const (
	reasonNotSignedIn        = "NOT_SIGNED_IN"
	reasonServiceCertificate = "SERVICE_CERTIFICATE"
	reasonServiceName        = "SERVICE_NAME"
	reasonManifestDigest     = "MANIFEST_DIGEST"
)

// explain turns the error of a call into what happened and what to do next.
func (s *service) explain(doing string, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if d, ok := rpcerr.DetailOf(err); ok {
		return s.refused(doing, st, d, rpcerr.FaultsOf(err))
	}
	switch st.Code() {
	case codes.Canceled:
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case codes.Unavailable, codes.DeadlineExceeded:
		return s.unreachable(doing, st)
	case codes.Unimplemented:
		return advise(fmt.Errorf("%s: the service does not know this call", doing), "it is of another version than this program (cocos-cli version), or not a Computation Management service")
	}
	return advise(fmt.Errorf("%s: the service failed: %s", doing, st.Message()), "try again; if it stays so, ask the operator of the service")
}

func (s *service) refused(doing string, st *status.Status, d rpcerr.Detail, faults []rpcerr.Fault) error {
	q := &problem{reason: string(d.Reason), field: d.Field, hint: d.Hint}
	message := st.Message()
	switch {
	case st.Code() == codes.Internal:
		q.err = fmt.Errorf("%s: %s", doing, message)
		return q
	case d.Reason == rpcerr.SignInRequired && s.Secret != "":
		q.hint = "cocos-cli login " + s.Service
	case len(faults) > 0:
		q.faults = faults
		q.hint = ""
		message = fmt.Sprintf("%d things are wrong", len(faults))
	case d.Field != "":
		message = d.Field + ": " + message
	}
	q.err = fmt.Errorf("%s: the service refused: %s", doing, message)
	return q
}

// unreachable explains a connection that could not be made, or broke.
func (s *service) unreachable(doing string, st *status.Status) error {
	cause := s.causes.last()
	var (
		record tls.RecordHeaderError
		dial   *net.OpError
		dns    *net.DNSError
	)
	fail := func(hint, format string, args ...any) error {
		return &problem{err: fmt.Errorf(doing+": "+format, args...), hint: hint, reason: reasonUnreachable}
	}
	switch {
	case s.untrusted():
		return &problem{reason: reasonServiceCertificate, err: fmt.Errorf("%s: the certificate of %s is not to be trusted: %w", doing, s.Address, cause),
			hint: "nothing was sent. Ask the operator of the service for its certificate's fingerprint over another channel, which the service prints at its start, and sign in with --fingerprint sha256:…, or with --ca FILE"}
	case errors.As(cause, &record):
		return fail("check the address: another program seems to listen there, such as the console itself; --grpc HOST:PORT says where the service's gRPC is", "%s does not speak TLS", s.Address)
	case errors.As(cause, &dns):
		return fail("check the host in the address", "no address is known for %s: %w", s.Address, cause)
	case errors.As(cause, &dial):
		return fail("check whether the service runs; --grpc HOST:PORT of cocos-cli login says where its gRPC is", "can't reach the service at %s: %w", s.Address, cause)
	case cause != nil:
		return fail("check the address, and whether the service runs", "can't speak with the service at %s: %w", s.Address, cause)
	case st.Code() == codes.DeadlineExceeded:
		return fail("try again", "no answer from %s in time", s.Address)
	}
	return fail("try again", "the connection to %s broke: %s", s.Address, st.Message())
}

// untrusted tells whether the last connection failed for want of trust: another
// attempt won't help.
func (s *service) untrusted() bool {
	cause := s.causes.last()
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
	)
	return errors.Is(cause, errFingerprint) || errors.As(cause, &authority) || errors.As(cause, &hostname) || errors.As(cause, &invalid) || errors.As(cause, &verify)
}

// temporary tells whether another attempt may succeed.
func (s *service) temporary(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		var record tls.RecordHeaderError
		return !s.untrusted() && !errors.As(s.causes.last(), &record)
	case codes.Internal, codes.Unknown:
		// A broken stream, unless the service says that it failed.
		_, said := rpcerr.DetailOf(err)
		return !said && strings.Contains(err.Error(), "stream")
	}
	return false
}
