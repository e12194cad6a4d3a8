package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/atls"
)

// loginFlags are those of login.
type loginFlags struct {
	email, passwordFile, tokenFile string
	name                           string
	ca, fingerprint, grpc          string
}

// accountInfo is what login and whoami print as JSON.
type accountInfo struct {
	Service  string `json:"service"`
	Address  string `json:"address"`
	User     string `json:"user_id"`
	Email    string `json:"email"`
	Name     string `json:"name"`
	Operator bool   `json:"operator"`
	// Credential is the ID of what this program is let in by, Kind its kind.
	Credential string `json:"credential_id"`
	Kind       string `json:"credential_kind"`
}

func (i accountInfo) text() string {
	var r rows
	r.add("service", "%s", i.Service)
	who := i.Email
	if i.Name != "" && i.Name != i.Email {
		who = i.Name + " <" + i.Email + ">"
	}
	if i.Operator {
		who += ", operator of the service"
	}
	r.add("account", "%s", who)
	r.add("signed in", "by %s", map[string]string{"session": "password, or with a link", "token": "access token"}[i.Kind])
	return r.String()
}

func (a *app) loginCmd() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login URL",
		Short: "Sign in to a Computation Management service",
		Long: `Sign in to a Computation Management service. URL is the address of its console; a link
that somebody gave you will do, too: one that sets your password, or an invitation,
which makes your account.

The password is asked for on a terminal, and not shown. --password-file and
--token-file take a file, or - for standard input. What lets this program in is kept
in service.json beside the address book, for you alone (mode 0600).

The service is known by its certificate. Where that comes from no authority that your
system trusts, give --fingerprint, which the service prints at its start, or --ca.
Keys are registered with the address that you give here, and with no other.`,
		Example: `  cocos-cli login https://cocos.example.org
  cocos-cli login https://cocos.example.org --token-file token
  cocos-cli login http://127.0.0.1:7080/link/cl_… --fingerprint sha256:…`,
		Args: exactly("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.login(cmd.Context(), args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.email, "email", "", "the account's `ADDRESS`; with the first administrator's link, the one to have from now on")
	flags.StringVar(&f.passwordFile, "password-file", "", "read the password from a `FILE`, or - for standard input")
	flags.StringVar(&f.tokenFile, "token-file", "", "sign in by the access token in a `FILE`, or - for standard input")
	flags.StringVar(&f.name, "name", "", "with a link: your `NAME`")
	flags.StringVar(&f.ca, "ca", "", "`FILE` of the CA that signed the service's certificate")
	flags.StringVar(&f.fingerprint, "fingerprint", "", "or `sha256:HEX` of that certificate, or of its authority's")
	flags.StringVar(&f.grpc, "grpc", "", "`HOST:PORT` of the service's gRPC (default: port "+defaultGRPCPort+" of the host in URL)")
	return cmd
}

func (a *app) login(ctx context.Context, address string, f loginFlags) error {
	l, link, err := a.wanted(address, &f)
	if err != nil {
		return err
	}
	s, err := a.reach(l)
	if err != nil {
		return err
	}
	defer s.close()
	if l.Service, err = s.isNamed(ctx); err != nil {
		return err
	}
	if l.Secret, err = a.letIn(ctx, s, link, &f); err != nil {
		return err
	}
	in, err := a.reach(l)
	if err != nil {
		return err
	}
	defer in.close()
	info, err := in.account(ctx)
	if err != nil {
		return err
	}
	l.Email, l.Kind = info.Email, info.Kind
	// In a file of its own: what stood there may not even be readable.
	if err := a.forgetLogin(); err != nil {
		return err
	}
	var kept login
	if err := a.updateHome(loginFile, &kept, func() error { kept = l; return nil }); err != nil {
		return err
	}
	if err := a.out.result(info, "%s", info.text()); err != nil {
		return err
	}
	if strings.HasPrefix(link, invitationPrefix) {
		a.out.hint("you have an account now, and the invitation is accepted: cocos-cli computations list")
	}
	return nil
}

// What the secrets of links begin with.
const (
	linkPrefix       = "cl_"
	invitationPrefix = "ci_"
)

// wanted is where to sign in, as the command line says; link is the secret of one.
func (a *app) wanted(address string, f *loginFlags) (l login, link string, err error) {
	address, link = splitLink(address)
	if l.Service, err = serviceName(address); err != nil {
		return l, "", usage(fmt.Errorf("URL %w", err), "give the address of the service's console")
	}
	u, err := url.Parse(l.Service)
	if err != nil {
		return l, "", err
	}
	l.Address = f.grpc
	if l.Address == "" {
		l.Address = net.JoinHostPort(u.Hostname(), defaultGRPCPort)
	}
	if host, port, err := net.SplitHostPort(l.Address); err != nil || host == "" || port == "" {
		return l, "", usagef("for example --grpc cocos.example.org:7001", "--grpc %q is not HOST:PORT", l.Address)
	}
	switch {
	case f.ca != "" && f.fingerprint != "":
		return l, "", usagef("give one of them", "--ca and --fingerprint exclude each other")
	case f.tokenFile != "" && (f.passwordFile != "" || f.email != "" || link != ""):
		return l, "", usagef("a token says by itself whose it is", "--token-file excludes --email, --password-file and links")
	case f.name != "" && link == "":
		return l, "", usagef("leave it out", "--name is of use with a link only")
	case f.fingerprint != "":
		if err := checkFingerprint(f.fingerprint); err != nil {
			return l, "", usage(fmt.Errorf("--fingerprint %w", err), "copy it whole, as the service prints it at its start")
		}
		l.Fingerprint = f.fingerprint
	case f.ca != "":
		b, err := readSmall(f.ca, maxPEM)
		if err != nil {
			return l, "", fmt.Errorf("--ca: %w", err)
		}
		if _, err := atls.LoadCAs(b); err != nil {
			return l, "", fmt.Errorf("--ca %s: %w", f.ca, err)
		}
		l.CA = string(b)
	}
	return l, link, nil
}

// splitLink finds the secret in the address of a link.
func splitLink(address string) (service, secret string) {
	for _, part := range []string{"/link/" + linkPrefix, "/invitation/" + invitationPrefix} {
		if i := strings.LastIndex(address, part); i >= 0 {
			return address[:i], address[strings.LastIndex(address, "/")+1:]
		}
	}
	return address, ""
}

// isNamed wants the service to call itself as this person calls it: a key that is
// registered with another name could be registered there by whoever answers here.
// It returns the name in the service's own letters.
func (s *service) isNamed(ctx context.Context) (string, error) {
	r, err := s.accounts.GetService(ctx, &computationsv1.GetServiceRequest{})
	if err != nil {
		return "", s.explain("signing in", err)
	}
	name, err := serviceName(r.GetName())
	if err == nil && name == s.Service {
		return r.GetName(), nil
	}
	hint := "if that is the service that you mean, sign in by that address: cocos-cli login " + clean(r.GetName()) + " --grpc " + s.Address
	if err != nil {
		hint = "it is no Computation Management service that this program can use: ask its operator"
	}
	return "", &problem{reason: reasonServiceName, hint: hint,
		err: fmt.Errorf("signing in: the service at %s calls itself %s, and you call it %s", s.Address, clean(r.GetName()), s.Service)}
}

// letIn returns the secret that lets this program in.
func (a *app) letIn(ctx context.Context, s *service, link string, f *loginFlags) (secret string, err error) {
	const doing = "signing in"
	switch {
	case f.tokenFile != "":
		return a.secretFrom("--token-file", f.tokenFile)
	case strings.HasPrefix(link, linkPrefix):
		r, err := s.accounts.GetLink(ctx, &computationsv1.GetLinkRequest{Secret: link})
		if err != nil {
			return "", s.explain(doing, err)
		}
		a.out.hint("this link sets the password of %s", clean(r.GetEmail()))
		if r.GetName() == "" {
			if err := a.wantName(ctx, f); err != nil {
				return "", err
			}
		}
		password, err := a.newPassword(ctx, f.passwordFile)
		if err != nil {
			return "", err
		}
		in, err := s.accounts.RedeemLink(ctx, &computationsv1.RedeemLinkRequest{Secret: link, Name: f.name, Email: f.email, Password: password, Client: a.client()})
		if err != nil {
			return "", s.explain(doing, err)
		}
		return in.GetSession(), nil
	case strings.HasPrefix(link, invitationPrefix):
		return a.newAccount(ctx, s, link, f)
	}
	email, password, err := a.credentials(ctx, f)
	if err != nil {
		return "", err
	}
	r, err := s.accounts.SignIn(ctx, &computationsv1.SignInRequest{Email: email, Password: password, Client: a.client()})
	if err != nil {
		return "", s.explain(doing, err)
	}
	return r.GetSession(), nil
}

// newAccount accepts an invitation as somebody who has no account yet.
func (a *app) newAccount(ctx context.Context, s *service, link string, f *loginFlags) (secret string, err error) {
	const doing = "accepting the invitation"
	r, err := s.invitations.GetInvitation(ctx, &computationsv1.GetInvitationRequest{Secret: link})
	if err != nil {
		return "", s.explain(doing, err)
	}
	v := infoOfInvitation(r.GetInvitation())
	a.out.hint("%s", v.question())
	a.out.hint("if %s has an account here: cocos-cli login %s --email %s, then: cocos-cli invitations accept LINK", clean(v.Email), s.Service, clean(v.Email))
	if f.email != "" {
		return "", usagef("leave it out: the account is made for the address that was invited", "--email is of no use with an invitation")
	}
	if err := a.wantName(ctx, f); err != nil {
		return "", err
	}
	password, err := a.newPassword(ctx, f.passwordFile)
	if err != nil {
		return "", err
	}
	in, err := s.invitations.AcceptAsNew(ctx, &computationsv1.AcceptAsNewRequest{Secret: link, Name: f.name, Password: password, Client: a.client()})
	if err != nil {
		return "", s.explain(doing, err)
	}
	return in.GetSession(), nil
}

// wantName asks what somebody is called who has no name at the service yet.
func (a *app) wantName(ctx context.Context, f *loginFlags) (err error) {
	if f.name != "" {
		return nil
	}
	if !a.interactive() {
		return usagef("say what you are called", "--name is missing")
	}
	f.name, err = a.ask(ctx, "Your name: ")
	return err
}

// credentials asks for what no flag says.
func (a *app) credentials(ctx context.Context, f *loginFlags) (email, password string, err error) {
	email = f.email
	if email == "" {
		if !a.interactive() {
			return "", "", usagef("give the address of your account", "--email is missing")
		}
		if email, err = a.ask(ctx, "Email address: "); err != nil {
			return "", "", err
		}
	}
	if f.passwordFile != "" {
		password, err = a.secretFrom("--password-file", f.passwordFile)
		return email, password, err
	}
	if !a.interactive() {
		return "", "", usagef("give the password in a file, or an access token with --token-file", "--password-file is missing, and there is no terminal to ask at")
	}
	password, err = a.askPassword(ctx, "Password: ")
	return email, password, err
}

// newPassword asks for a password twice, or reads it.
func (a *app) newPassword(ctx context.Context, file string) (string, error) {
	if file != "" {
		return a.secretFrom("--password-file", file)
	}
	if !a.interactive() {
		return "", usagef("give the new password in a file", "--password-file is missing, and there is no terminal to ask at")
	}
	first, err := a.askPassword(ctx, "New password: ")
	if err != nil {
		return "", err
	}
	again, err := a.askPassword(ctx, "Once more: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", advise(errors.New("the two passwords differ"), "run the command again")
	}
	return first, nil
}

// account is who this program acts for.
func (s *service) account(ctx context.Context) (accountInfo, error) {
	r, err := s.accounts.GetAccount(ctx, &computationsv1.GetAccountRequest{})
	if err != nil {
		return accountInfo{}, s.explain("asking who is signed in", err)
	}
	return accountInfo{
		Service: s.Service, Address: s.Address, User: r.GetUserId(), Email: r.GetEmail(), Name: r.GetName(), Operator: r.GetOperator(),
		Credential: r.GetCredentialId(), Kind: r.GetCredentialKind(),
	}, nil
}

func (a *app) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Sign out of the service, and forget what let this program in",
		Long: `Sign out of the service, and forget what let this program in. A session ends there,
too; an access token stays good for whoever else has it: cocos-cli tokens revoke.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.anyLogin()
			var p *problem
			if errors.As(err, &p) && p.reason == reasonNotSignedIn {
				return err
			}
			// Whatever else happens, nothing stays here.
			if err := a.forgetLogin(); err != nil {
				return err
			}
			if err != nil {
				return then(err, "it is removed now, and what it let in by is not ended at the service: the console's settings do that")
			}
			out := struct {
				Service string `json:"service"`
				// Ended: the credential is good no more.
				Ended bool `json:"ended"`
			}{l.Service, false}
			if l.Kind == "session" {
				if err := a.signOut(cmd.Context(), l); err != nil {
					return then(err, "this program has forgotten the session all the same; the console's settings end it there")
				}
				out.Ended = true
			}
			if err := a.out.result(out, "%s\n", l.Service); err != nil {
				return err
			}
			if !out.Ended {
				a.out.hint("the access token is still good; cocos-cli tokens revoke ends it, after signing in by password")
			}
			return nil
		},
	}
}

func (a *app) signOut(ctx context.Context, l login) error {
	s, err := a.reach(l)
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.accounts.SignOut(ctx, &computationsv1.SignOutRequest{}); err != nil {
		return s.explain("signing out", err)
	}
	return nil
}

func (a *app) whoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show who is signed in, and to which service",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				info, err := s.account(ctx)
				if err != nil {
					return err
				}
				return a.out.result(info, "%s", info.text())
			})
		},
	}
}
