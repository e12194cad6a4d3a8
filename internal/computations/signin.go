package computations

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errWrong is the one answer for an account that isn't there, one that is
// disabled, one without a password, and a wrong password.
var errWrong = &Error{Kind: Unauthenticated, Message: "the email address or the password is wrong"}

// SignIn begins a session. from is the address that it is asked from; attempts
// are bounded for each address and for each account, whether it exists or not.
func (s *Service) SignIn(ctx context.Context, email, password, client, from string) (session string, err error) {
	email = foldEmail(email)
	if checkEmail("email", email) != nil {
		email = "" // the work is the same, and all of these share a limit
	}
	address := addressKey(from)
	if err := s.attempt(email, address); err != nil {
		return "", err
	}
	u, err := view(ctx, s, func(r Reader) (User, error) {
		u, err := r.UserByEmail(email)
		if errors.Is(err, ErrNoRow) {
			return User{}, nil
		}
		return u, err
	})
	if err != nil {
		return "", err
	}
	ok, weak, err := s.passwords.verify(ctx, u.PasswordHash, password)
	if err != nil {
		return "", err
	}
	if !ok || u.ID == "" || u.Disabled {
		return "", s.failed(ctx, u.ID, address)
	}
	better := u.PasswordHash
	if weak {
		if better, err = s.passwords.hash(ctx, password); err != nil {
			return "", err
		}
	}
	session, err = update(ctx, s, func(w Writer) (string, error) {
		now, err := w.User(u.ID)
		if err != nil {
			return "", err
		}
		if now.Disabled || now.PasswordHash != u.PasswordHash {
			return "", errWrong
		}
		if weak {
			now.PasswordHash = better
			if err := w.PutUser(now); err != nil {
				return "", err
			}
		}
		secret, err := s.newSession(w, u.ID, client)
		if err != nil {
			return "", err
		}
		return secret, s.note(w, "", u.ID, "sign-in", u.ID, "from", address, "client", plain(client, maxClient))
	})
	if err != nil {
		return "", err
	}
	s.succeeded(email, address)
	return session, nil
}

// attempt counts one against the limits of the address, of the account from this
// address, and, wider so that one stranger can't lock its owner out, of the
// account.
func (s *Service) attempt(email, address string) error {
	wait := s.byAddress.take(address)
	if wait == 0 {
		wait = s.byBoth.take(email + " " + address)
	}
	if wait == 0 {
		wait = s.byEmail.take(email)
	}
	if wait > 0 {
		return &Error{Kind: Limited, Message: "there were too many attempts to sign in", Hint: fmt.Sprintf("try again in %v", wait.Round(time.Second)+time.Second)}
	}
	return nil
}

// succeeded takes an attempt out of the count again.
func (s *Service) succeeded(email, address string) {
	s.byAddress.giveBack(address)
	s.byBoth.giveBack(email + " " + address)
	s.byEmail.giveBack(email)
}

// failed notes an attempt, and not what was typed: it may be a password in the
// wrong field.
func (s *Service) failed(ctx context.Context, user ID, address string) error {
	if err := s.change(ctx, func(w Writer) error {
		return s.note(w, "", "", "sign-in.failed", user, "from", address)
	}); err != nil {
		return err
	}
	return errWrong
}

// ExternalUser is what an OpenID Connect provider says of a person.
type ExternalUser struct {
	Issuer, Subject string
	Email           string
	EmailVerified   bool
	Name            string
}

// SignInExternal begins a session for a person whom a provider vouches for: with
// the account that is linked to them; else with that of their verified address,
// which is linked; else with a new one, where the setting "sign-up" says so or an
// invitation waits for the address. ended tells that nobody had vouched for the
// address of the account that was linked: its password, sessions, tokens and keys have
// ended.
func (s *Service) SignInExternal(ctx context.Context, e ExternalUser, client string) (session string, ended bool, err error) {
	e.Email = foldEmail(e.Email)
	if e.Issuer == "" || e.Subject == "" {
		return "", false, errUnauthenticated
	}
	session, err = update(ctx, s, func(w Writer) (string, error) {
		u, err := w.UserBySubject(e.Issuer, e.Subject)
		ended = false
		if errors.Is(err, ErrNoRow) {
			u, ended, err = s.linkExternal(w, e)
		}
		if err != nil {
			return "", err
		}
		if u.Disabled {
			return "", errNoAccount
		}
		secret, err := s.newSession(w, u.ID, client)
		if err != nil {
			return "", err
		}
		return secret, s.note(w, "", u.ID, "sign-in", u.ID, "issuer", e.Issuer, "client", plain(client, maxClient))
	})
	return session, ended && err == nil, err
}

var errNoAccount = &Error{Kind: Denied, Message: "there is no account for you here", Hint: "ask somebody who is here for an invitation to the address that your provider has of you"}

// linkExternal finds or makes the account of a person who signs in for the first
// time; ended is as of SignInExternal.
func (s *Service) linkExternal(w Writer, e ExternalUser) (u User, ended bool, err error) {
	if !e.EmailVerified || checkEmail("email", e.Email) != nil {
		return User{}, false, errNoAccount
	}
	u, err = w.UserByEmail(e.Email)
	switch {
	case err == nil && (u.Issuer != "" || u.Disabled):
		return User{}, false, errNoAccount // another person of the same address
	case err == nil:
		ended = !u.EmailVerified
		if err := s.vouch(w, &u); err != nil {
			return User{}, false, err
		}
	case errors.Is(err, ErrNoRow):
		if err := s.maySignUp(w, e.Email); err != nil {
			return User{}, false, err
		}
		u = User{ID: NewID(), Email: e.Email, EmailVerified: true, Created: s.now()}
	default:
		return User{}, false, err
	}
	u.Issuer, u.Subject = e.Issuer, e.Subject
	if u.Name == "" {
		if u.Name = plain(e.Name, maxTitle); u.Name == "" {
			u.Name = u.Email
		}
	}
	if err := w.PutUser(u); err != nil {
		return User{}, false, err
	}
	return u, ended, s.note(w, "", u.ID, "user.link", u.ID, "issuer", e.Issuer)
}

func (s *Service) maySignUp(r Reader, email string) error {
	how, err := setting(r, settingSignUp)
	if err != nil || how == signUpOIDC {
		return err
	}
	all, err := r.InvitationsFor(email)
	if err != nil {
		return err
	}
	for _, inv := range all {
		if inv.State == InvitationPending && s.now().Before(inv.Expires) {
			return nil
		}
	}
	return errNoAccount
}

// vouch notes that the address is its account's. Until now anybody with a link
// could have made the account: what they left in it ends.
func (s *Service) vouch(w Writer, u *User) error {
	if u.EmailVerified {
		return nil
	}
	u.EmailVerified, u.PasswordHash = true, ""
	if err := s.endAll(w, u.ID); err != nil {
		return err
	}
	ks, err := w.KeysOf(u.ID)
	if err != nil {
		return err
	}
	for _, k := range ks {
		if k.Revoked.IsZero() {
			k.Revoked = s.now()
			if err := w.PutKey(k); err != nil {
				return err
			}
			if err := s.note(w, "", "", "key.revoke", k.ID, "because", "the account's address had not been verified"); err != nil {
				return err
			}
		}
	}
	return nil
}

// endAll ends all that lets somebody act as the user.
func (s *Service) endAll(w Writer, user ID) error {
	for _, kind := range []CredentialKind{Session, AccessToken, SignInLink} {
		if err := w.DeleteCredentials(user, kind); err != nil {
			return err
		}
	}
	return nil
}
