package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

type workspaces struct {
	computationsv1.UnimplementedWorkspacesServiceServer
	svc *computations.Service
}

func (s workspaces) CreateWorkspace(ctx context.Context, q *computationsv1.CreateWorkspaceRequest) (*computationsv1.CreateWorkspaceResponse, error) {
	w, err := s.svc.CreateWorkspace(ctx, who(ctx), q.GetName())
	return &computationsv1.CreateWorkspaceResponse{Workspace: workspace(w)}, err
}

func (s workspaces) ListWorkspaces(ctx context.Context, _ *computationsv1.ListWorkspacesRequest) (*computationsv1.ListWorkspacesResponse, error) {
	list, err := s.svc.Workspaces(ctx, who(ctx))
	return &computationsv1.ListWorkspacesResponse{Workspaces: each(list, workspace)}, err
}

func (s workspaces) GetWorkspace(ctx context.Context, q *computationsv1.GetWorkspaceRequest) (*computationsv1.GetWorkspaceResponse, error) {
	w, role, err := s.svc.Workspace(ctx, who(ctx), computations.ID(q.GetWorkspaceId()))
	return &computationsv1.GetWorkspaceResponse{Workspace: workspace(w), Role: string(role)}, err
}

func (s workspaces) RenameWorkspace(ctx context.Context, q *computationsv1.RenameWorkspaceRequest) (*computationsv1.RenameWorkspaceResponse, error) {
	return &computationsv1.RenameWorkspaceResponse{}, s.svc.RenameWorkspace(ctx, who(ctx), computations.ID(q.GetWorkspaceId()), q.GetName())
}

func (s workspaces) SetRetention(ctx context.Context, q *computationsv1.SetRetentionRequest) (*computationsv1.SetRetentionResponse, error) {
	keep, err := length("keep_entries", q.GetKeepEntries())
	if err != nil {
		return nil, err
	}
	return &computationsv1.SetRetentionResponse{}, s.svc.SetRetention(ctx, who(ctx), computations.ID(q.GetWorkspaceId()), keep)
}

func (s workspaces) ListMembers(ctx context.Context, q *computationsv1.ListMembersRequest) (*computationsv1.ListMembersResponse, error) {
	list, err := s.svc.Members(ctx, who(ctx), computations.ID(q.GetWorkspaceId()))
	return &computationsv1.ListMembersResponse{Members: each(list, func(m computations.Member) *computationsv1.Member {
		return &computationsv1.Member{UserId: string(m.User), Email: m.Email, Name: m.Name, Role: string(m.Role), Joined: stamp(m.Joined)}
	})}, err
}

func (s workspaces) SetMemberRole(ctx context.Context, q *computationsv1.SetMemberRoleRequest) (*computationsv1.SetMemberRoleResponse, error) {
	return &computationsv1.SetMemberRoleResponse{}, s.svc.SetMemberRole(ctx, who(ctx),
		computations.ID(q.GetWorkspaceId()), computations.ID(q.GetUserId()), computations.Role(q.GetRole()))
}

func (s workspaces) RemoveMember(ctx context.Context, q *computationsv1.RemoveMemberRequest) (*computationsv1.RemoveMemberResponse, error) {
	return &computationsv1.RemoveMemberResponse{}, s.svc.RemoveMember(ctx, who(ctx), computations.ID(q.GetWorkspaceId()), computations.ID(q.GetUserId()))
}

func workspace(w computations.Workspace) *computationsv1.Workspace {
	return &computationsv1.Workspace{Id: string(w.ID), Name: w.Name, Created: stamp(w.Created), KeepEntries: span(w.KeepEntries)}
}
