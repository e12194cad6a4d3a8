package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

type memberInfo struct {
	User   string     `json:"user_id"`
	Email  string     `json:"email"`
	Name   string     `json:"name"`
	Role   string     `json:"role"`
	Joined *time.Time `json:"joined"`
}

// memberRoles in the order in which texts show them.
var memberRoles = []string{"administrator", "manager", "member"}

func (s *service) members(ctx context.Context, workspace string) ([]memberInfo, error) {
	r, err := s.workspaces.ListMembers(ctx, &computationsv1.ListMembersRequest{WorkspaceId: workspace})
	if err != nil {
		return nil, s.explain("listing the members", err)
	}
	return each(r.GetMembers(), func(m *computationsv1.Member) memberInfo {
		return memberInfo{m.GetUserId(), m.GetEmail(), m.GetName(), m.GetRole(), moment(m.GetJoined())}
	}), nil
}

// member finds the one of an address.
func member(all []memberInfo, email string) (memberInfo, error) {
	i := slices.IndexFunc(all, func(m memberInfo) bool { return strings.EqualFold(m.Email, email) || m.User == email })
	if i < 0 {
		return memberInfo{}, advise(fmt.Errorf("%s is no member of the workspace", clean(email)), "cocos-cli invitations create %s", clean(email))
	}
	return all[i], nil
}

func (a *app) membersCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the members of a workspace, change roles, let somebody go",
		Example: `  cocos-cli members
  cocos-cli members role bob@example.org manager`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				all, err := s.members(ctx, w.ID)
				if err != nil {
					return err
				}
				return listed(a, "members", all, []string{"EMAIL", "NAME", "ROLE", "JOINED"}, func(m memberInfo) []string {
					return []string{m.Email, m.Name, m.Role, when(m.Joined)}
				}, "nobody")
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.AddCommand(a.membersRoleCmd(), a.membersRemoveCmd())
	return cmd
}

func (a *app) membersRoleCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "role EMAIL ROLE",
		Short: "Make a member administrator, manager or member",
		Args:  exactly("EMAIL", "ROLE"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return memberRoles, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withMember(cmd, workspace, args[0], func(ctx context.Context, s *service, w workspaceInfo, m memberInfo) error {
				if _, err := s.workspaces.SetMemberRole(ctx, &computationsv1.SetMemberRoleRequest{WorkspaceId: w.ID, UserId: m.User, Role: args[1]}); err != nil {
					return s.explain("changing the role", err)
				}
				m.Role = args[1]
				return a.out.result(m, "%s  %s\n", clean(m.Email), clean(m.Role))
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) membersRemoveCmd() *cobra.Command {
	var (
		workspace string
		sure      bool
	)
	cmd := &cobra.Command{
		Use:   "remove EMAIL",
		Short: "Take a member out of the workspace, with all parts in its computations",
		Args:  exactly("EMAIL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withMember(cmd, workspace, args[0], func(ctx context.Context, s *service, w workspaceInfo, m memberInfo) error {
				if !sure {
					if err := a.agree(cmd.Context(), "Take %s out of %q?", m.Email, w.Name); err != nil {
						return err
					}
				}
				if _, err := s.workspaces.RemoveMember(ctx, &computationsv1.RemoveMemberRequest{WorkspaceId: w.ID, UserId: m.User}); err != nil {
					return s.explain("removing the member", err)
				}
				return a.out.result(m, "%s\n", clean(m.Email))
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	yesFlag(cmd, &sure)
	return cmd
}

// yesFlag is for commands that ask before.
func yesFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "yes", false, "do not ask")
}

func (a *app) withMember(cmd *cobra.Command, workspace, email string, do func(context.Context, *service, workspaceInfo, memberInfo) error) error {
	return a.withService(cmd, func(ctx context.Context, s *service) error {
		w, err := s.workspace(ctx, workspace)
		if err != nil {
			return err
		}
		all, err := s.members(ctx, w.ID)
		if err != nil {
			return err
		}
		m, err := member(all, email)
		if err != nil {
			return err
		}
		return do(ctx, s, w, m)
	})
}
