package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

type userInfo struct {
	ID       string     `json:"id"`
	Email    string     `json:"email"`
	Name     string     `json:"name"`
	Operator bool       `json:"operator"`
	Disabled bool       `json:"disabled"`
	Issuer   string     `json:"issuer,omitempty"`
	Verified bool       `json:"email_verified"`
	Created  *time.Time `json:"created"`
}

func infoOfUser(u *computationsv1.User) userInfo {
	return userInfo{u.GetId(), u.GetEmail(), u.GetName(), u.GetOperator(), u.GetDisabled(), u.GetIssuer(), u.GetEmailVerified(), moment(u.GetCreated())}
}

// state is what there is to say of an account beside who has it.
func (i userInfo) state() string {
	var all []string
	for _, s := range []struct {
		is   bool
		text string
	}{{i.Disabled, "disabled"}, {i.Operator, "operator"}, {!i.Verified, "address not verified"}} {
		if s.is {
			all = append(all, s.text)
		}
	}
	return strings.Join(all, ", ")
}

func (a *app) usersCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "users",
		Short: "Look after the accounts of a service, as its operator",
	}
	group(cmd, a.usersListCmd(), a.usersCreateCmd(), a.usersResetCmd(),
		a.usersDisableCmd("disable EMAIL", "Lock an account, and end its sessions and tokens", true),
		a.usersDisableCmd("enable EMAIL", "Open a locked account again", false))
	return cmd
}

func (s *service) users(ctx context.Context, limit int) ([]userInfo, error) {
	return pages(func(token string) ([]userInfo, string, error) {
		r, err := s.accounts.ListUsers(ctx, &computationsv1.ListUsersRequest{PageSize: int32(min(limit, maxPage)), PageToken: token})
		if err != nil {
			return nil, "", s.explain("listing the accounts", err)
		}
		return each(r.GetUsers(), infoOfUser), r.GetNextPageToken(), nil
	}, limit)
}

// person finds the one of an address or an id.
func (s *service) person(ctx context.Context, named string) (userInfo, error) {
	all, err := s.users(ctx, maxListed)
	if err != nil {
		return userInfo{}, err
	}
	i := slices.IndexFunc(all, func(u userInfo) bool { return strings.EqualFold(u.Email, named) || u.ID == named })
	if i < 0 {
		return userInfo{}, advise(fmt.Errorf("there is no account %q", named), "cocos-cli users list shows what there is")
	}
	return all[i], nil
}

func (a *app) usersListCmd() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the accounts",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxListed {
				return usagef("leave it out for the first 100", "--limit %d: expected 1 to %d", limit, maxListed)
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				all, err := s.users(ctx, limit)
				if err != nil {
					return err
				}
				return listed(a, "users", all, []string{"EMAIL", "NAME", "STATE", "CREATED", "ID"}, func(u userInfo) []string {
					return []string{u.Email, u.Name, u.state(), when(u.Created), u.ID}
				}, "nobody")
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "show at most `N`")
	return cmd
}

// linkOut prints the address with which a person sets a password.
func (a *app) linkOut(u userInfo, link string) error {
	if err := a.out.result(struct {
		userInfo
		Link string `json:"link"`
	}{u, link}, "%s\n", clean(link)); err != nil {
		return err
	}
	a.out.hint("shown this once, and good for a week: whoever opens it becomes %s. Give it to that person alone, who sets a password there, or with: cocos-cli login LINK", u.Email)
	return nil
}

func (a *app) usersCreateCmd() *cobra.Command {
	var q computationsv1.CreateUserRequest
	cmd := &cobra.Command{
		Use:   "create EMAIL",
		Short: "Make an account, and print the link with which its person sets a password",
		Long: `Make an account for a person whose address you vouch for, and print the link with
which that person sets a password. Members of a workspace can invite people without it:
see cocos-cli invitations.`,
		Example: `  cocos-cli users create ada@example.org --name Ada`,
		Args:    exactly("EMAIL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				q.Email = args[0]
				r, err := s.accounts.CreateUser(ctx, &q)
				if err != nil {
					return s.explain("making the account", err)
				}
				return a.linkOut(infoOfUser(r.GetUser()), r.GetLink())
			})
		},
	}
	cmd.Flags().StringVar(&q.Name, "name", "", "what the person is called, a `NAME` (default: as they say with the link)")
	cmd.Flags().BoolVar(&q.Operator, "operator", false, "let the person look after the service: hosts, accounts, settings")
	return cmd
}

func (a *app) usersResetCmd() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{
		Use:   "reset-password EMAIL",
		Short: "End an account's password, sessions and tokens, and print a link to set another",
		Long: `End an account's password, sessions, tokens and earlier links at once, and print a link
with which its person sets another password. Where nobody has vouched for the address
yet, this does, and the account's keys are revoked: anybody with an invitation's link
could have registered them.`,
		Args: exactly("EMAIL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				u, err := s.person(ctx, args[0])
				if err != nil {
					return err
				}
				if !sure {
					what := "End the password, the sessions and the tokens of %s?"
					if !u.Verified {
						what = "End the password, the sessions and the tokens of %s, and revoke the keys, as nobody has vouched for the address yet?"
					}
					if err := a.agree(ctx, what, u.Email); err != nil {
						return err
					}
				}
				r, err := s.accounts.ResetPassword(ctx, &computationsv1.ResetPasswordRequest{UserId: u.ID})
				if err != nil {
					return s.explain("resetting the password", err)
				}
				return a.linkOut(u, r.GetLink())
			})
		},
	}
	yesFlag(cmd, &sure)
	return cmd
}

// usersDisableCmd locks or opens; only locking asks before.
func (a *app) usersDisableCmd(use, short string, disable bool) *cobra.Command {
	sure := !disable
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  exactly("EMAIL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				u, err := s.person(ctx, args[0])
				if err != nil {
					return err
				}
				if !sure {
					if err := a.agree(ctx, "Lock the account of %s, and end its sessions and tokens?", u.Email); err != nil {
						return err
					}
				}
				if _, err := s.accounts.SetUserDisabled(ctx, &computationsv1.SetUserDisabledRequest{UserId: u.ID, Disabled: disable}); err != nil {
					return s.explain("changing the account", err)
				}
				u.Disabled = disable
				return a.out.result(u, "%s\n", clean(u.Email))
			})
		},
	}
	if disable {
		yesFlag(cmd, &sure)
	}
	return cmd
}

type settingInfo struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (a *app) settingsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "List the settings of a service, as its operator, or change one",
		Example: `  cocos-cli settings
  cocos-cli settings set invitation-days 3`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				r, err := s.accounts.GetSettings(ctx, &computationsv1.GetSettingsRequest{})
				if err != nil {
					return s.explain("asking for the settings", err)
				}
				var all []settingInfo
				for _, name := range slices.Sorted(maps.Keys(r.GetSettings())) {
					all = append(all, settingInfo{name, r.GetSettings()[name]})
				}
				return listed(a, "settings", all, []string{"NAME", "VALUE"}, func(i settingInfo) []string { return []string{i.Name, i.Value} }, "none")
			})
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "set NAME VALUE",
		Short: "Change a setting",
		Long: `Change a setting: invitation-days, for how many days an invitation is good; or sign-up,
who gets an account: "invitation", only who was invited, or "oidc", everybody whom the
OpenID Connect provider vouches for.`,
		Args: exactly("NAME", "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				if _, err := s.accounts.SetSetting(ctx, &computationsv1.SetSettingRequest{Name: args[0], Value: args[1]}); err != nil {
					return s.explain("changing the setting", err)
				}
				return a.out.result(settingInfo{args[0], args[1]}, "%s  %s\n", clean(args[0]), clean(args[1]))
			})
		},
	})
	return cmd
}
