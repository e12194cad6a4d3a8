package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

type invitations struct {
	computationsv1.UnimplementedInvitationsServiceServer
	svc *computations.Service
}

func (s invitations) CreateInvitation(ctx context.Context, q *computationsv1.CreateInvitationRequest) (*computationsv1.CreateInvitationResponse, error) {
	ttl, err := length("ttl", q.GetTtl())
	if err != nil {
		return nil, err
	}
	inv, secret, err := s.svc.Invite(ctx, who(ctx), computations.Invite{
		Workspace: computations.ID(q.GetWorkspaceId()), Email: q.GetEmail(), Role: computations.Role(q.GetRole()),
		Computation: computations.ID(q.GetComputationId()), Parts: words[computations.Part](q.GetParts()), TTL: ttl,
	})
	return &computationsv1.CreateInvitationResponse{Invitation: invitation(inv), Secret: secret, Link: s.svc.InvitationLink(secret)}, err
}

func (s invitations) ListInvitations(ctx context.Context, q *computationsv1.ListInvitationsRequest) (*computationsv1.ListInvitationsResponse, error) {
	list, err := s.svc.Invitations(ctx, who(ctx), computations.ID(q.GetWorkspaceId()))
	return &computationsv1.ListInvitationsResponse{Invitations: each(list, invitation)}, err
}

func (s invitations) ListMyInvitations(ctx context.Context, _ *computationsv1.ListMyInvitationsRequest) (*computationsv1.ListMyInvitationsResponse, error) {
	list, err := s.svc.MyInvitations(ctx, who(ctx))
	return &computationsv1.ListMyInvitationsResponse{Invitations: each(list, invitationView)}, err
}

func (s invitations) GetInvitation(ctx context.Context, q *computationsv1.GetInvitationRequest) (*computationsv1.GetInvitationResponse, error) {
	v, err := s.svc.InvitationByLink(ctx, q.GetSecret())
	return &computationsv1.GetInvitationResponse{Invitation: invitationView(v)}, err
}

func (s invitations) AcceptInvitation(ctx context.Context, q *computationsv1.AcceptInvitationRequest) (*computationsv1.AcceptInvitationResponse, error) {
	inv, err := s.svc.AcceptInvitation(ctx, who(ctx), q.GetSecret())
	return &computationsv1.AcceptInvitationResponse{Invitation: invitation(inv)}, err
}

func (s invitations) AcceptMyInvitation(ctx context.Context, q *computationsv1.AcceptMyInvitationRequest) (*computationsv1.AcceptMyInvitationResponse, error) {
	inv, err := s.svc.AcceptMyInvitation(ctx, who(ctx), computations.ID(q.GetInvitationId()))
	return &computationsv1.AcceptMyInvitationResponse{Invitation: invitation(inv)}, err
}

func (s invitations) DeclineMyInvitation(ctx context.Context, q *computationsv1.DeclineMyInvitationRequest) (*computationsv1.DeclineMyInvitationResponse, error) {
	return &computationsv1.DeclineMyInvitationResponse{}, s.svc.DeclineMyInvitation(ctx, who(ctx), computations.ID(q.GetInvitationId()))
}

func (s invitations) AcceptAsNew(ctx context.Context, q *computationsv1.AcceptAsNewRequest) (*computationsv1.AcceptAsNewResponse, error) {
	session, inv, err := s.svc.AcceptAsNew(ctx, q.GetSecret(), q.GetName(), q.GetPassword(), q.GetClient())
	return &computationsv1.AcceptAsNewResponse{Session: session, Invitation: invitation(inv)}, err
}

func (s invitations) DeclineInvitation(ctx context.Context, q *computationsv1.DeclineInvitationRequest) (*computationsv1.DeclineInvitationResponse, error) {
	return &computationsv1.DeclineInvitationResponse{}, s.svc.DeclineInvitation(ctx, q.GetSecret())
}

func (s invitations) ResendInvitation(ctx context.Context, q *computationsv1.ResendInvitationRequest) (*computationsv1.ResendInvitationResponse, error) {
	secret, err := s.svc.ResendInvitation(ctx, who(ctx), computations.ID(q.GetInvitationId()))
	return &computationsv1.ResendInvitationResponse{Secret: secret, Link: s.svc.InvitationLink(secret)}, err
}

func (s invitations) WithdrawInvitation(ctx context.Context, q *computationsv1.WithdrawInvitationRequest) (*computationsv1.WithdrawInvitationResponse, error) {
	return &computationsv1.WithdrawInvitationResponse{}, s.svc.WithdrawInvitation(ctx, who(ctx), computations.ID(q.GetInvitationId()))
}

func invitation(i computations.Invitation) *computationsv1.Invitation {
	return &computationsv1.Invitation{
		Id: string(i.ID), WorkspaceId: string(i.Workspace), Email: i.Email, Role: string(i.Role),
		ComputationId: string(i.Computation), Parts: texts(i.Parts), State: string(i.State), By: string(i.By),
		Created: stamp(i.Created), Sent: stamp(i.Sent), Expires: stamp(i.Expires),
	}
}

func invitationView(v computations.InvitationView) *computationsv1.InvitationView {
	return &computationsv1.InvitationView{
		Invitation: invitation(v.Invitation), WorkspaceName: v.WorkspaceName, ComputationName: v.ComputationName,
		ByName: v.ByName, ByEmail: v.ByEmail,
	}
}
