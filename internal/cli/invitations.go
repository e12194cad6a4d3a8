package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

type invitationInfo struct {
	ID          string     `json:"id"`
	Workspace   string     `json:"workspace_id"`
	Email       string     `json:"email"`
	Role        string     `json:"role"`
	Computation string     `json:"computation_id,omitempty"`
	Parts       []string   `json:"parts,omitempty"`
	State       string     `json:"state"`
	Expires     *time.Time `json:"expires"`
	// Names, where the service tells them.
	WorkspaceName   string `json:"workspace_name,omitempty"`
	ComputationName string `json:"computation_name,omitempty"`
	By              string `json:"by,omitempty"`
}

func infoOf1Invitation(i *computationsv1.Invitation) invitationInfo {
	return invitationInfo{
		ID: i.GetId(), Workspace: i.GetWorkspaceId(), Email: i.GetEmail(), Role: i.GetRole(), Computation: i.GetComputationId(),
		Parts: i.GetParts(), State: i.GetState(), Expires: moment(i.GetExpires()),
	}
}

func infoOfInvitation(v *computationsv1.InvitationView) invitationInfo {
	i := infoOf1Invitation(v.GetInvitation())
	i.WorkspaceName, i.ComputationName, i.By = v.GetWorkspaceName(), v.GetComputationName(), v.GetByEmail()
	return i
}

// state is for people: what nobody answered in time waits for nothing.
func (i invitationInfo) state(now time.Time) string {
	if i.State == "pending" && i.Expires != nil && now.After(*i.Expires) {
		return "expired"
	}
	return i.State
}

// question is what the person is asked.
func (i invitationInfo) question() string {
	s := fmt.Sprintf("%s invites %s into the workspace %q as %s", i.By, i.Email, i.WorkspaceName, i.Role)
	if i.ComputationName != "" {
		s += fmt.Sprintf(", and into the computation %q as %s", i.ComputationName, strings.Join(i.Parts, ", "))
	}
	return packed(clean(s))
}

func (a *app) invitationsCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "invitations",
		Short: "See who invites you, invite others",
		Long: `List the invitations that wait for you; with --workspace those of a workspace, for
those who may invite.`,
		Example: `  cocos-cli invitations
  cocos-cli invitations create bob@example.org --computation iris --part dataset-provider
  cocos-cli invitations accept 0193…`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				if workspace != "" {
					return a.listInvitations(ctx, s, workspace)
				}
				r, err := s.invitations.ListMyInvitations(ctx, &computationsv1.ListMyInvitationsRequest{})
				if err != nil {
					return s.explain("listing your invitations", err)
				}
				return listed(a, "invitations", each(r.GetInvitations(), infoOfInvitation), []string{"FROM", "WORKSPACE", "ROLE", "COMPUTATION", "PARTS", "EXPIRES", "ID"},
					func(i invitationInfo) []string {
						return []string{i.By, i.WorkspaceName, i.Role, i.ComputationName, strings.Join(i.Parts, ", "), when(i.Expires), i.ID}
					}, "nobody invites you at the moment; to see those of a workspace: --workspace NAME")
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.AddCommand(a.invitationsCreateCmd(), a.invitationsAcceptCmd(), a.invitationsDeclineCmd(), a.invitationsResendCmd(), a.invitationsWithdrawCmd())
	return cmd
}

func (a *app) listInvitations(ctx context.Context, s *service, workspace string) error {
	w, err := s.workspace(ctx, workspace)
	if err != nil {
		return err
	}
	r, err := s.invitations.ListInvitations(ctx, &computationsv1.ListInvitationsRequest{WorkspaceId: w.ID})
	if err != nil {
		return s.explain("listing the invitations", err)
	}
	return listed(a, "invitations", each(r.GetInvitations(), infoOf1Invitation), []string{"EMAIL", "STATE", "ROLE", "PARTS", "EXPIRES", "ID"},
		func(i invitationInfo) []string {
			return []string{i.Email, i.state(a.out.now()), i.Role, strings.Join(i.Parts, ", "), when(i.Expires), i.ID}
		}, "nobody was invited yet: cocos-cli invitations create EMAIL")
}

func (a *app) invitationsCreateCmd() *cobra.Command {
	var (
		workspace, role, computation string
		parts                        []string
		ttl                          time.Duration
	)
	cmd := &cobra.Command{
		Use:   "create EMAIL",
		Short: "Invite somebody, and print the link to send them",
		Long: `Invite somebody into a workspace, and perhaps into a computation. The link that is
printed is shown this once: send it to them yourself. Only an account of that address
can accept.`,
		Example: `  cocos-cli invitations create bob@example.org
  cocos-cli invitations create bob@example.org --computation iris --part dataset-provider`,
		Args: exactly("EMAIL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				q := &computationsv1.CreateInvitationRequest{Email: args[0], Role: role, Parts: parts}
				if ttl != 0 {
					q.Ttl = durationpb.New(ttl)
				}
				if computation != "" {
					c, err := s.computation(ctx, computation, workspace)
					if err != nil {
						return err
					}
					q.ComputationId, q.WorkspaceId = c.ID, c.Workspace
				} else {
					w, err := s.workspace(ctx, workspace)
					if err != nil {
						return err
					}
					q.WorkspaceId = w.ID
				}
				r, err := s.invitations.CreateInvitation(ctx, q)
				if err != nil {
					return s.explain("inviting", err)
				}
				return a.showLink(infoOf1Invitation(r.GetInvitation()), r.GetLink())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.StringVar(&role, "role", "member", "`ROLE` in the workspace: member, manager or administrator")
	f.StringVar(&computation, "computation", "", "`COMPUTATION` to take part in, by id or name")
	f.StringSliceVar(&parts, "part", nil, "`PART` in it (repeatable): "+strings.Join(computationParts, ", "))
	f.DurationVar(&ttl, "ttl", 0, "how long the link is good, a `DURATION` (default: as the service is set)")
	complete(cmd, "role", func() []string { return memberRoles })
	complete(cmd, "part", func() []string { return computationParts })
	return cmd
}

// showLink prints a link that is shown once.
func (a *app) showLink(i invitationInfo, link string) error {
	if err := a.out.result(struct {
		invitationInfo
		Link string `json:"link"`
	}{i, link}, "%s\n", clean(link)); err != nil {
		return err
	}
	a.out.hint("send this link to %s; it is shown this once, and good until %s", clean(i.Email), when(i.Expires))
	return nil
}

func (a *app) invitationsAcceptCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "accept INVITATION|LINK",
		Short: "Accept an invitation, with the account that you are signed in with",
		Long: `Accept an invitation, with the account that you are signed in with. Without an account,
cocos-cli login LINK makes one.`,
		Args: exactly("INVITATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				var inv *computationsv1.Invitation
				if secret := invitationSecret(args[0]); secret != "" {
					r, err := s.invitations.AcceptInvitation(ctx, &computationsv1.AcceptInvitationRequest{Secret: secret})
					if err != nil {
						return s.explain("accepting the invitation", err)
					}
					inv = r.GetInvitation()
				} else {
					r, err := s.invitations.AcceptMyInvitation(ctx, &computationsv1.AcceptMyInvitationRequest{InvitationId: args[0]})
					if err != nil {
						return s.explain("accepting the invitation", err)
					}
					inv = r.GetInvitation()
				}
				info := infoOf1Invitation(inv)
				if err := a.out.result(info, "%s\n", info.ID); err != nil {
					return err
				}
				if info.Computation != "" {
					a.out.hint("what to do next: cocos-cli computations show %s", clean(info.Computation))
				}
				return nil
			})
		},
	}
}

// invitationSecret finds the secret in a link, or in itself.
func invitationSecret(s string) string {
	_, secret := splitLink(s)
	if strings.HasPrefix(s, invitationPrefix) {
		secret = s
	}
	return secret
}

func (a *app) invitationsDeclineCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "decline INVITATION|LINK",
		Short: "Say no to an invitation",
		Args:  exactly("INVITATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) (err error) {
				if secret := invitationSecret(args[0]); secret != "" {
					_, err = s.invitations.DeclineInvitation(ctx, &computationsv1.DeclineInvitationRequest{Secret: secret})
				} else {
					_, err = s.invitations.DeclineMyInvitation(ctx, &computationsv1.DeclineMyInvitationRequest{InvitationId: args[0]})
				}
				if err != nil {
					return s.explain("declining the invitation", err)
				}
				return a.done("declined")
			})
		},
	}
}

// done is the answer of a command that has nothing to show.
func (a *app) done(what string) error {
	return a.out.result(map[string]string{"done": what}, "%s\n", what)
}

func (a *app) invitationsResendCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "resend INVITATION",
		Short: "Make a new link for an invitation; the one before is good no more",
		Args:  exactly("INVITATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				r, err := s.invitations.ResendInvitation(ctx, &computationsv1.ResendInvitationRequest{InvitationId: args[0]})
				if err != nil {
					return s.explain("sending the invitation again", err)
				}
				if err := a.out.result(map[string]string{"id": args[0], "link": r.GetLink()}, "%s\n", clean(r.GetLink())); err != nil {
					return err
				}
				a.out.hint("send this link to the person yourself; it is shown this once, and the one before is good no more")
				return nil
			})
		},
	}
}

func (a *app) invitationsWithdrawCmd() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "withdraw INVITATION",
		Short: "Take an invitation back; its link is good no more",
		Args:  exactly("INVITATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				if !sure {
					if err := a.agree(ctx, "Withdraw the invitation %s? The link that was sent stops working.", args[0]); err != nil {
						return err
					}
				}
				if _, err := s.invitations.WithdrawInvitation(ctx, &computationsv1.WithdrawInvitationRequest{InvitationId: args[0]}); err != nil {
					return s.explain("withdrawing the invitation", err)
				}
				return a.done("withdrawn")
			})
		},
	}
	yesFlag(cmd, &sure)
	return cmd
}
