package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

// enrolToken lets one host join, once; the service shows its secret when it is made.
type enrolToken struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Created *time.Time `json:"created"`
	Expires *time.Time `json:"expires"`
}

// enrolTokens are those by which a host may still join.
func (s *service) enrolTokens(ctx context.Context) ([]enrolToken, error) {
	r, err := s.hosts.ListEnrolTokens(ctx, &computationsv1.ListEnrolTokensRequest{})
	if err != nil {
		return nil, s.explain("listing the tokens", err)
	}
	all := slices.DeleteFunc(r.GetTokens(), func(t *computationsv1.EnrolToken) bool {
		return t.GetHostId() != "" || !s.app.out.now().Before(t.GetExpires().AsTime())
	})
	return each(all, func(t *computationsv1.EnrolToken) enrolToken {
		return enrolToken{t.GetId(), t.GetName(), moment(t.GetCreated()), moment(t.GetExpires())}
	}), nil
}

func (a *app) hostsTokensCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "tokens",
		Short: "List the tokens by which a host may still join",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.enrolTokens(ctx)
				if err != nil {
					return err
				}
				return listed(a, "tokens", all, []string{"NAME", "CREATED", "EXPIRES", "ID"}, func(t enrolToken) []string {
					return []string{t.Name, when(t.Created), when(t.Expires), t.ID}
				}, "none: cocos-cli hosts enroll-token NAME")
			})
		},
	}
}

func (a *app) hostsWithdrawTokenCmd() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "withdraw-token TOKEN",
		Short: "Let no host join any more by a token that none has used, named by its host's name or its id",
		Args:  exactly("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.enrolTokens(ctx)
				if err != nil {
					return err
				}
				i := slices.IndexFunc(all, func(t enrolToken) bool { return t.ID == args[0] })
				var t enrolToken
				if i >= 0 {
					t = all[i]
				} else if t, err = only(all, args[0], "token", "cocos-cli hosts tokens", func(t enrolToken) string { return t.Name }); err != nil {
					return err
				}
				if !sure {
					if err := a.agree(ctx, "Withdraw the token for %s? The command that was made with it lets no host in any more.", t.Name); err != nil {
						return err
					}
				}
				if _, err := s.hosts.WithdrawEnrolToken(ctx, &computationsv1.WithdrawEnrolTokenRequest{TokenId: t.ID}); err != nil {
					return s.explain("withdrawing the token", err)
				}
				return a.out.result(t, "%s\n", clean(t.Name))
			})
		},
	}
	yesFlag(cmd, &sure)
	return cmd
}
