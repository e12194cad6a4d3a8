package fleet

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// The audit log's words for what hosts do.
const (
	actionEnrolled = "host.enrolled"
	actionRenewed  = "host.renewed"
)

// enrolService lets hosts in.
type enrolService struct {
	managerv1.UnimplementedEnrolServiceServer
	f *Fleet
}

// maxToken bounds a token, in bytes.
const maxToken = 256

// Enrol implements managerv1.EnrolServiceServer. The token is used up in the
// transaction that makes the host.
func (s enrolService) Enrol(ctx context.Context, in *managerv1.EnrolRequest) (*managerv1.EnrolResponse, error) {
	f := s.f
	if v := in.GetHello().GetProtocolVersion(); v != ProtocolVersion {
		return nil, status.Errorf(codes.FailedPrecondition, "protocol version %d is not spoken here; use %d", v, ProtocolVersion)
	}
	if n := len(in.GetToken()); n == 0 || n > maxToken {
		return nil, refusedToken
	}
	hash := computations.HashSecret(in.GetToken())
	// Strangers get nothing signed.
	if err := f.cfg.Store.View(ctx, func(r computations.Reader) error { _, err := f.goodToken(r, hash); return err }); err != nil {
		return nil, f.hidden(err, "looking for an enrolment token")
	}
	id := computations.NewID()
	cert, err := f.sign(id, in.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	host := computations.Host{ID: id, Serial: cert.Serial, CertificateExpires: cert.Expires, Enrolled: f.now(), Report: reportOf(in.GetHello())}
	if p, ok := peer.FromContext(ctx); ok {
		host.Address = p.Addr.String()
	}
	err = f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		t, err := f.goodToken(w, hash)
		if err != nil {
			return err
		}
		host.Name, t.Host = t.Name, id
		if err := w.PutHost(host); err != nil {
			return err
		}
		if err := w.PutEnrolToken(t); err != nil {
			return err
		}
		return w.AppendAudit(computations.AuditEntry{At: f.now(), Action: actionEnrolled, Object: id,
			Detail: map[string]string{"host": host.Name, "token": string(t.ID), "from": host.Address, "serial": cert.Serial}})
	})
	if err != nil {
		return nil, f.hidden(err, "letting a host in")
	}
	f.log.Info("a host has joined", "host", host.Name, "id", string(id), "from", host.Address)
	return &managerv1.EnrolResponse{HostId: string(id), HostName: host.Name, Certificate: cert.PEM, Authorities: f.cfg.ServerAuthorities}, nil
}

var refusedToken = status.Error(codes.PermissionDenied, "the token is not one of this service; ask its operator for one")

// goodToken finds a token that lets a host in. Whoever has one may know why it
// doesn't.
func (f *Fleet) goodToken(r computations.Reader, hash [32]byte) (computations.EnrolToken, error) {
	t, err := r.EnrolToken(hash)
	switch {
	case errors.Is(err, computations.ErrNoRow):
		return t, refusedToken
	case err != nil:
		return t, err
	case t.Host != "":
		return t, status.Error(codes.PermissionDenied, "the token was used already; ask for another one")
	case !f.now().Before(t.Expires):
		return t, status.Errorf(codes.PermissionDenied, "the token expired at %s; ask for another one", t.Expires.UTC().Format(time.RFC3339))
	}
	return t, nil
}

func (f *Fleet) sign(id computations.ID, request []byte) (authority.HostCertificate, error) {
	cert, err := f.cfg.Authority.SignHost(string(id), request)
	var refused *authority.RequestError
	if errors.As(err, &refused) {
		return cert, status.Error(codes.InvalidArgument, "certificate_request: "+strings.TrimPrefix(refused.Error(), "the certificate request "))
	}
	if err != nil {
		f.log.Error("a host's certificate can't be signed", "error", err)
		return cert, status.Error(codes.Internal, "the service can't sign certificates; its operator must see to it")
	}
	return cert, nil
}

// Renew implements managerv1.EnrolServiceServer. The certificate that was shown
// stays good until the new one was: the answer may be lost.
func (s enrolService) Renew(ctx context.Context, in *managerv1.RenewRequest) (*managerv1.RenewResponse, error) {
	f := s.f
	who, err := certificateOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.cfg.Store.View(ctx, func(r computations.Reader) error { _, err := hostOf(r, who); return err }); err != nil {
		return nil, f.hidden(err, "looking for a host")
	}
	// Each renewal is an entry of the audit log, which keeps all.
	if left := who.expires.Sub(f.now()); left > authority.HostLife/2 {
		return nil, status.Errorf(codes.FailedPrecondition, "the certificate is good for another %v; a host renews it in the second half of its life", left.Round(time.Hour))
	}
	if !f.renewals.allow(who.host) {
		return nil, status.Error(codes.ResourceExhausted, "this host has renewed its certificate again and again; try again in some minutes")
	}
	cert, err := f.sign(who.host, in.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	err = f.cfg.Store.Update(ctx, func(w computations.Writer) error {
		h, err := hostOf(w, who)
		if err != nil {
			return err
		}
		h.PreviousSerial, h.Serial, h.CertificateExpires = who.serial, cert.Serial, cert.Expires
		if err := w.PutHost(h); err != nil {
			return err
		}
		return w.AppendAudit(computations.AuditEntry{At: f.now(), Action: actionRenewed, Object: h.ID,
			Detail: map[string]string{"host": h.Name, "serial": cert.Serial}})
	})
	if err != nil {
		return nil, f.hidden(err, "renewing a host's certificate")
	}
	f.log.Info("a host's certificate was renewed", "host", string(who.host), "expires", cert.Expires)
	return &managerv1.RenewResponse{Certificate: cert.PEM, Authorities: f.cfg.ServerAuthorities}, nil
}
