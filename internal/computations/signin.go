package computations

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	at := placeOf(from)
	if err := s.attempt(ctx, email, at); err != nil {
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
	ok, weak, err := s.passwords.verify(ctx, at.network, u.PasswordHash, password)
	if err != nil {
		return "", err
	}
	if !ok || u.ID == "" || u.Disabled {
		return "", s.failed(ctx, u.ID, at.address)
	}
	better := u.PasswordHash
	if weak {
		if better, err = s.passwords.hash(ctx, at.network, password); err != nil {
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
		return secret, s.note(w, "", u.ID, actionSignIn, u.ID, signInFrom, at.address, "client", plain(client, maxClient))
	})
	if err != nil {
		return "", err
	}
	s.succeeded(email, at)
	return session, nil
}

// attempt counts one against the limits of the address, of its network, of the
// account from this address, and, wider, of the account. The last is for those who
// never signed in from there: strangers who use it up don't lock its owner out of
// where the owner was before.
func (s *Service) attempt(ctx context.Context, email string, at place) error {
	wait := s.byAddress.take(at.address)
	if wait == 0 {
		wait = s.byNetwork.take(at.network)
	}
	if wait == 0 {
		wait = s.byBoth.take(email + " " + at.address)
	}
	if wait == 0 {
		if wait = s.byEmail.take(email); wait > 0 {
			known, err := s.beenThere(ctx, email, at.address)
			if err != nil {
				return err
			}
			if known {
				wait = 0
			}
		}
	}
	if wait > 0 {
		return &Error{Kind: Limited, Message: "there were too many attempts to sign in", Hint: fmt.Sprintf("try again in %v", wait.Round(time.Second)+time.Second)}
	}
	return nil
}

// beenThere tells whether one of the account's latest sign-ins was from an address.
// An account that isn't there takes the same look.
func (s *Service) beenThere(ctx context.Context, email, address string) (bool, error) {
	return view(ctx, s, func(r Reader) (bool, error) {
		u, err := r.UserByEmail(email)
		if errors.Is(err, ErrNoRow) {
			u, err = User{ID: NewID()}, nil
		}
		if err != nil {
			return false, err
		}
		latest, err := r.Audit(AuditFilter{Actor: u.ID, Action: actionSignIn, Limit: signInsLookedAt})
		return slices.ContainsFunc(latest, func(e AuditEntry) bool { return e.Detail[signInFrom] == address }), err
	})
}

const (
	actionSignIn = "sign-in"
	// signInFrom is the detail of such an entry that has the address.
	signInFrom = "from"
	// signInsLookedAt is how many of them are looked at for a known address.
	signInsLookedAt = 50
)

// succeeded takes an attempt out of the count of the account again, and not of
// where it came from: checking a right password is as much work as a wrong one.
func (s *Service) succeeded(email string, at place) {
	s.byBoth.giveBack(email + " " + at.address)
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
		return secret, s.note(w, "", u.ID, actionSignIn, u.ID, "issuer", e.Issuer, "client", plain(client, maxClient))
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
