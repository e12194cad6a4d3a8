package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

type credentialInfo struct {
	ID      string     `json:"id"`
	Kind    string     `json:"kind"`
	Name    string     `json:"name,omitempty"`
	Client  string     `json:"client,omitempty"`
	Created *time.Time `json:"created"`
	Expires *time.Time `json:"expires"`
	Used    *time.Time `json:"used,omitempty"`
	Current bool       `json:"current"`
}

func infoOfCredential(c *computationsv1.Credential) credentialInfo {
	return credentialInfo{
		c.GetId(), c.GetKind(), c.GetName(), c.GetClient(), moment(c.GetCreated()), moment(c.GetExpires()), moment(c.GetUsed()), c.GetCurrent(),
	}
}

func (a *app) tokensCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokens",
		Short: "Make access tokens for programs, and end what lets programs in",
	}
	group(cmd, a.tokensCreateCmd(), a.tokensListCmd(), a.tokensRevokeCmd())
	return cmd
}

func (a *app) tokensCreateCmd() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an access token, and print it",
		Long: `Make an access token, with which a program can act as you. It is printed this once.
It needs a session: a token makes no other tokens.`,
		Example: `  cocos-cli tokens create nightly --ttl 720h > token`,
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				r, err := s.accounts.CreateToken(ctx, &computationsv1.CreateTokenRequest{Name: args[0], Ttl: durationpb.New(ttl)})
				if err != nil {
					return s.explain("making the token", err)
				}
				info := infoOfCredential(r.GetCredential())
				if err := a.out.result(struct {
					credentialInfo
					Token string `json:"token"`
				}{info, r.GetSecret()}, "%s\n", clean(r.GetSecret())); err != nil {
					return err
				}
				a.out.hint("shown this once, and good until %s; whoever has it acts as you", when(info.Expires))
				return nil
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 30*24*time.Hour, "how long it is good, a `DURATION`")
	return cmd
}

func (a *app) tokensListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List your access tokens and sessions",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.credentials(ctx)
				if err != nil {
					return err
				}
				return listed(a, "credentials", all, []string{"KIND", "NAME", "USED", "EXPIRES", "THIS", "ID"}, func(c credentialInfo) []string {
					name := c.Name
					if name == "" {
						name = c.Client
					}
					return []string{c.Kind, name, when(c.Used), when(c.Expires), yes(c.Current, "*"), c.ID}
				}, "none")
			})
		},
	}
}

func (s *service) credentials(ctx context.Context) ([]credentialInfo, error) {
	r, err := s.accounts.ListCredentials(ctx, &computationsv1.ListCredentialsRequest{})
	if err != nil {
		return nil, s.explain("listing what lets programs in", err)
	}
	return each(r.GetCredentials(), infoOfCredential), nil
}

func (a *app) tokensRevokeCmd() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "End an access token or a session, by its name or id",
		Args:  exactly("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.credentials(ctx)
				if err != nil {
					return err
				}
				var found []credentialInfo
				for _, c := range all {
					if c.ID == args[0] || c.Kind == "token" && c.Name == args[0] {
						found = append(found, c)
					}
				}
				switch {
				case len(found) == 0:
					return advise(fmt.Errorf("you have no token or session %q", args[0]), "cocos-cli tokens list shows them")
				case len(found) > 1:
					return usagef("give its id; cocos-cli tokens list shows it", "several of your tokens are called %q", args[0])
				}
				c := found[0]
				if !sure {
					if err := a.agree(ctx, "End the %s %s?", c.Kind, c.Name); err != nil {
						return err
					}
				}
				if _, err := s.accounts.RevokeCredential(ctx, &computationsv1.RevokeCredentialRequest{CredentialId: c.ID}); err != nil {
					return s.explain("revoking the token", err)
				}
				return a.out.result(map[string]string{"id": c.ID}, "%s\n", c.ID)
			})
		},
	}
	yesFlag(cmd, &sure)
	return cmd
}
