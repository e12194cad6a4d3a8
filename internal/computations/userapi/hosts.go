package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

type hosts struct {
	computationsv1.UnimplementedHostsServiceServer
	svc *computations.Service
}

func (s hosts) ListHosts(ctx context.Context, _ *computationsv1.ListHostsRequest) (*computationsv1.ListHostsResponse, error) {
	list, err := s.svc.Hosts(ctx, who(ctx))
	return &computationsv1.ListHostsResponse{Hosts: each(list, func(h computations.Host) *computationsv1.Host {
		h.Report.Findings = nil // as long as all the rest of many hosts
		return host(h)
	})}, err
}

func (s hosts) GetHost(ctx context.Context, q *computationsv1.GetHostRequest) (*computationsv1.GetHostResponse, error) {
	h, list, err := s.svc.Host(ctx, who(ctx), computations.ID(q.GetHostId()))
	return &computationsv1.GetHostResponse{Host: host(h), Runs: each(list, func(r computations.Run) *computationsv1.HostRun {
		return &computationsv1.HostRun{RunId: string(r.ID), State: string(r.State), Created: stamp(r.Created), Started: stamp(r.Started)}
	})}, err
}

func (s hosts) CreateEnrolToken(ctx context.Context, q *computationsv1.CreateEnrolTokenRequest) (*computationsv1.CreateEnrolTokenResponse, error) {
	ttl, err := length("ttl", q.GetTtl())
	if err != nil {
		return nil, err
	}
	t, secret, err := s.svc.CreateEnrolToken(ctx, who(ctx), q.GetName(), ttl)
	return &computationsv1.CreateEnrolTokenResponse{Token: enrolToken(t), Secret: secret}, err
}

func (s hosts) ListEnrolTokens(ctx context.Context, _ *computationsv1.ListEnrolTokensRequest) (*computationsv1.ListEnrolTokensResponse, error) {
	list, err := s.svc.EnrolTokens(ctx, who(ctx))
	return &computationsv1.ListEnrolTokensResponse{Tokens: each(list, enrolToken)}, err
}

func (s hosts) WithdrawEnrolToken(ctx context.Context, q *computationsv1.WithdrawEnrolTokenRequest) (*computationsv1.WithdrawEnrolTokenResponse, error) {
	return &computationsv1.WithdrawEnrolTokenResponse{}, s.svc.WithdrawEnrolToken(ctx, who(ctx), computations.ID(q.GetTokenId()))
}

func (s hosts) CordonHost(ctx context.Context, q *computationsv1.CordonHostRequest) (*computationsv1.CordonHostResponse, error) {
	return &computationsv1.CordonHostResponse{}, s.svc.CordonHost(ctx, who(ctx), computations.ID(q.GetHostId()), q.GetCordoned())
}

func (s hosts) DrainHost(ctx context.Context, q *computationsv1.DrainHostRequest) (*computationsv1.DrainHostResponse, error) {
	return &computationsv1.DrainHostResponse{}, s.svc.DrainHost(ctx, who(ctx), computations.ID(q.GetHostId()), q.GetDraining())
}

func (s hosts) RevokeHost(ctx context.Context, q *computationsv1.RevokeHostRequest) (*computationsv1.RevokeHostResponse, error) {
	return &computationsv1.RevokeHostResponse{}, s.svc.RevokeHost(ctx, who(ctx), computations.ID(q.GetHostId()))
}

func host(h computations.Host) *computationsv1.Host {
	r := &h.Report
	return &computationsv1.Host{
		Id: string(h.ID), Name: h.Name, Serial: h.Serial, CertificateExpires: stamp(h.CertificateExpires), Enrolled: stamp(h.Enrolled),
		Revoked: stamp(h.Revoked), Cordoned: h.Cordoned, Draining: h.Draining, Contact: stamp(h.Contact), Connected: h.Connected,
		Address: h.Address, Active: int32(h.Active),
		Report: &computationsv1.HostReport{
			Instance: r.Instance, Version: r.Version, Eos: r.EOS, Tees: texts(r.TEEs), Capacity: int32(r.Capacity), Running: int32(r.Running),
			MemoryFree: r.MemoryFree, MemoryTotal: r.MemoryTotal, Cpus: int32(r.CPUs), Load: r.Load,
			Images: each(r.Images, func(i computations.Image) *computationsv1.HostImage {
				return &computationsv1.HostImage{Digest: i.Digest, Measurements: i.Measurements}
			}),
			Findings: each(r.Findings, func(f computations.Finding) *computationsv1.HostFinding {
				return &computationsv1.HostFinding{Name: f.Name, Verdict: f.Verdict, Found: f.Found, Needed: f.Needed, Mend: f.Mend}
			}),
		},
	}
}

func enrolToken(t computations.EnrolToken) *computationsv1.EnrolToken {
	return &computationsv1.EnrolToken{
		Id: string(t.ID), Name: t.Name, By: string(t.By), Created: stamp(t.Created), Expires: stamp(t.Expires), HostId: string(t.Host),
	}
}
