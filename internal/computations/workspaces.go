package computations

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	maxWorkspaces = 100
	minKeep       = time.Hour
	maxKeep       = 10 * 365 * 24 * time.Hour
)

// CreateWorkspace makes a workspace with the asker as its administrator.
func (s *Service) CreateWorkspace(ctx context.Context, who Identity, name string) (Workspace, error) {
	return update(ctx, s, func(w Writer) (Workspace, error) {
		x, err := s.onService(w, who, WorkspaceCreate)
		if err != nil {
			return Workspace{}, err
		}
		if e := checkText("name", name, 1, maxTitle, false); e != nil {
			return Workspace{}, e
		}
		own, err := w.WorkspacesOf(x.user.ID)
		if err != nil {
			return Workspace{}, err
		}
		if len(own) >= maxWorkspaces {
			return Workspace{}, &Error{Kind: Limited, Message: "you are in as many workspaces as one can be"}
		}
		x.workspace = Workspace{ID: NewID(), Name: name, Created: s.now()}
		if err := w.PutWorkspace(x.workspace); err != nil {
			return Workspace{}, err
		}
		if err := w.PutMember(Member{Workspace: x.workspace.ID, User: x.user.ID, Role: RoleAdministrator, Joined: s.now()}); err != nil {
			return Workspace{}, err
		}
		return x.workspace, s.did(w, &x, WorkspaceCreate, x.workspace.ID, "name", name)
	})
}

// Workspaces are those that the asker is a member of.
func (s *Service) Workspaces(ctx context.Context, who Identity) ([]Workspace, error) {
	return view(ctx, s, func(r Reader) ([]Workspace, error) {
		u, err := s.asker(r, who)
		if err != nil {
			return nil, err
		}
		return r.WorkspacesOf(u.ID)
	})
}

// Workspace is one of them, with the asker's role in it.
func (s *Service) Workspace(ctx context.Context, who Identity, workspace ID) (Workspace, Role, error) {
	x, err := view(ctx, s, func(r Reader) (access, error) { return s.inWorkspace(r, who, workspace, WorkspaceShow) })
	return x.workspace, x.standing.Role, err
}

// RenameWorkspace changes a workspace's name.
func (s *Service) RenameWorkspace(ctx context.Context, who Identity, workspace ID, name string) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.inWorkspace(w, who, workspace, WorkspaceRename)
		if err != nil {
			return err
		}
		if e := checkText("name", name, 1, maxTitle, false); e != nil {
			return e
		}
		x.workspace.Name = name
		if err := w.PutWorkspace(x.workspace); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(workspace))
		return s.did(w, &x, WorkspaceRename, workspace, "name", name)
	})
}

// SetRetention says how long the entries of ended runs are kept; zero: for ever.
func (s *Service) SetRetention(ctx context.Context, who Identity, workspace ID, keep time.Duration) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.inWorkspace(w, who, workspace, WorkspaceRetain)
		if err != nil {
			return err
		}
		if keep != 0 && (keep < minKeep || keep > maxKeep) {
			return invalid("retention", "is %v; expected 0, which keeps everything, or an hour to ten years", keep)
		}
		x.workspace.KeepEntries = keep
		if err := w.PutWorkspace(x.workspace); err != nil {
			return err
		}
		return s.did(w, &x, WorkspaceRetain, workspace, "retention", keep.String())
	})
}

// Members lists a workspace's members.
func (s *Service) Members(ctx context.Context, who Identity, workspace ID) ([]Member, error) {
	return view(ctx, s, func(r Reader) ([]Member, error) {
		if _, err := s.inWorkspace(r, who, workspace, MemberList); err != nil {
			return nil, err
		}
		return r.Members(workspace)
	})
}

// member finds a member for those who may list members.
func member(r Reader, workspace, user ID) (Member, error) {
	m, err := r.Member(workspace, user)
	if errors.Is(err, ErrNoRow) {
		return Member{}, &Error{Kind: NotFound, Field: "user", Message: "is no member of the workspace"}
	}
	return m, err
}

// keepAdministrator refuses to leave a workspace without one who can sign in.
func keepAdministrator(r Reader, leaving Member) error {
	if leaving.Role != RoleAdministrator {
		return nil
	}
	all, err := r.Members(leaving.Workspace)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(m Member) bool { return m.Role == RoleAdministrator && m.User != leaving.User && !m.Disabled }) {
		return &Error{Kind: Conflict, Message: "the workspace would have no administrator", Hint: "make somebody else administrator first"}
	}
	return nil
}

// SetMemberRole changes a member's role.
func (s *Service) SetMemberRole(ctx context.Context, who Identity, workspace, user ID, role Role) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.inWorkspace(w, who, workspace, MemberRole)
		if err != nil {
			return err
		}
		if !slices.Contains(allRoles, role) {
			return invalid("role", "is %q; expected one of %q", role, allRoles)
		}
		m, err := member(w, workspace, user)
		if err != nil {
			return err
		}
		if m.Role == role {
			return nil
		}
		if err := keepAdministrator(w, m); err != nil {
			return err
		}
		was := m.Role
		m.Role = role
		if err := w.PutMember(m); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(workspace))
		return s.did(w, &x, MemberRole, user, "from", string(was), "to", string(role))
	})
}

// RemoveMember takes a member out of the workspace, with all parts in its
// computations; oneself, too.
func (s *Service) RemoveMember(ctx context.Context, who Identity, workspace, user ID) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.inWorkspace(w, who, workspace, WorkspaceShow)
		if err != nil {
			return err
		}
		if user != x.user.ID && !Allow(x.standing, MemberRemove) {
			return denied(MemberRemove)
		}
		m, err := member(w, workspace, user)
		if err != nil {
			return err
		}
		if err := keepAdministrator(w, m); err != nil {
			return err
		}
		if err := w.DropParts(workspace, user); err != nil {
			return err
		}
		if err := w.DeleteMember(workspace, user); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(workspace))
		return s.did(w, &x, MemberRemove, user, "role", string(m.Role))
	})
}
