package fleet

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// shown is what a caller's connection proves.
type shown struct {
	host    computations.ID
	serial  string
	expires time.Time
	// address is where the caller is seen from.
	address string
}

// certificateOf looks at the caller's verified certificate.
func certificateOf(ctx context.Context) (shown, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return shown{}, status.Error(codes.Unauthenticated, "the connection has no peer")
	}
	address, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		address = p.Addr.String()
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.PeerCertificates) == 0 {
		return shown{}, status.Error(codes.Unauthenticated, "this call needs the certificate that a host gets when it joins: cocos-manager enroll")
	}
	c := info.State.PeerCertificates[0]
	id, ok := authority.HostOf(c)
	if !ok {
		return shown{}, status.Error(codes.PermissionDenied, "the certificate is no host's")
	}
	return shown{host: computations.ID(id), serial: authority.SerialOf(c), expires: c.NotAfter, address: address}, nil
}

// hostOf finds the row of a host that may connect. Other errors than refusals are
// the store's.
func hostOf(r computations.Reader, s shown) (computations.Host, error) {
	h, err := r.HostBySerial(s.serial)
	switch {
	case errors.Is(err, computations.ErrNoRow):
		return h, status.Error(codes.PermissionDenied, "this host's certificate is not known here, or was replaced by a newer one")
	case err != nil:
		return h, err
	case h.ID != s.host:
		return h, status.Error(codes.PermissionDenied, "this host's certificate is another host's")
	case !h.Revoked.IsZero():
		return h, revoked(h)
	}
	return h, nil
}

func revoked(h computations.Host) error {
	return status.Errorf(codes.PermissionDenied, "this host, %s, was revoked on %s", h.Name, h.Revoked.UTC().Format(time.RFC3339))
}

// hidden is a store's error for a caller: its text stays here.
func (f *Fleet) hidden(err error, doing string) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if !errors.Is(err, context.Canceled) {
		f.log.Error(doing+" failed", "error", err)
	}
	return status.Error(codes.Unavailable, "the service has trouble of its own; try again")
}
