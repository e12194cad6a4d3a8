package cli

import (
	"context"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
)

func (a *app) accountCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "account",
		Short: "Change your name or your password",
	}
	group(cmd, a.accountNameCmd(), a.accountPasswordCmd())
	return cmd
}

func (a *app) accountNameCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "name NAME",
		Short: "Say what others see you called",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				if _, err := s.accounts.SetName(ctx, &computationsv1.SetNameRequest{Name: args[0]}); err != nil {
					return s.explain("changing your name", err)
				}
				info, err := s.account(ctx)
				if err != nil {
					return err
				}
				return a.out.result(info, "%s\n", info.Name)
			})
		},
	}
}

func (a *app) accountPasswordCmd() *cobra.Command {
	var old, fresh string
	cmd := &cobra.Command{
		Use:   "password",
		Short: "Change your password, and end your other sessions",
		Long: `Change your password. Your other sessions end; access tokens stay good. Without files
both passwords are asked for, at a terminal. Whoever has forgotten the old one asks an
operator of the service for a link (cocos-cli users reset-password).`,
		Example: `  cocos-cli account password
  cocos-cli account password --old-password-file old --password-file new`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				q := &computationsv1.ChangePasswordRequest{}
				var err error
				switch {
				case old != "":
					q.OldPassword, err = a.secretFrom("--old-password-file", old)
				case a.interactive():
					q.OldPassword, err = a.askPassword(ctx, "Old password: ")
				default:
					err = usagef("give the old password in a file", "--old-password-file is missing, and there is no terminal to ask at")
				}
				if err != nil {
					return err
				}
				if q.NewPassword, err = a.newPassword(ctx, fresh); err != nil {
					return err
				}
				if _, err := s.accounts.ChangePassword(ctx, q); err != nil {
					return s.explain("changing your password", err)
				}
				return a.out.result(map[string]string{"service": s.Service}, "changed\n")
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&old, "old-password-file", "", "read the old password from a `FILE`, or - for standard input")
	f.StringVar(&fresh, "password-file", "", "read the new password from a `FILE`")
	return cmd
}
