package computations

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	// bootstrapEmail is the first operator's, until it is changed with the link.
	bootstrapEmail = "admin@localhost"
	linkLife       = 7 * 24 * time.Hour

	actionOperatorLink = "operator.link"
)

// link is the address that a sign-in link's secret is sent as.
func (s *Service) link(secret string) string { return s.name + "/link/" + secret }

// newLink gives a user a link to set a password with, in place of earlier ones.
func (s *Service) newLink(w Writer, user ID) (link string, err error) {
	if err := w.DeleteCredentials(user, SignInLink); err != nil {
		return "", err
	}
	now := s.now()
	secret, hash := newSecret(linkPrefix)
	return s.link(secret), w.PutCredential(Credential{
		ID: NewID(), User: user, Kind: SignInLink, Hash: hash, Created: now, Expires: now.Add(linkLife), Used: now,
	})
}

// Bootstrap makes the first operator, who has no password, and returns the
// address that lets a person become that operator, once. Where nobody has used it
// yet, there is a new one each time; else it is empty.
func (s *Service) Bootstrap(ctx context.Context) (link string, err error) {
	var refusal *Error
	if link, err = s.bootstrap(ctx); errors.As(err, &refusal) && refusal.Kind == Conflict {
		return s.bootstrap(ctx) // another process began at the same moment
	}
	return link, err
}

func (s *Service) bootstrap(ctx context.Context) (link string, err error) {
	return update(ctx, s, func(w Writer) (string, error) {
		n, err := w.CountUsers()
		if err != nil || n > 1 {
			return "", err
		}
		u, err := w.UserByEmail(bootstrapEmail)
		switch {
		case errors.Is(err, ErrNoRow) && n == 0:
			u = User{ID: NewID(), Email: bootstrapEmail, EmailVerified: true, Name: "Administrator", Operator: true, Created: s.now()}
			if err := w.PutUser(u); err != nil {
				return "", err
			}
			if err := s.note(w, "", "", string(UserCreate), u.ID, "email", u.Email); err != nil {
				return "", err
			}
		case errors.Is(err, ErrNoRow):
			return "", nil
		case err != nil:
			return "", err
		case u.PasswordHash != "" || u.Issuer != "":
			return "", nil
		}
		link, err := s.newLink(w, u.ID)
		if err != nil {
			return "", err
		}
		return link, s.note(w, "", "", actionOperatorLink, u.ID, "email", u.Email)
	})
}

// linked finds whose link it is, if it holds now.
func (s *Service) linked(r Reader, secret string) (User, error) {
	gone := &Error{Kind: NotFound, Message: "this link is not valid, or not any more", Hint: "it is good once, for a week, and a newer one ends it: ask an operator of the service for another"}
	hash, ok := secretOf(linkPrefix, secret)
	if !ok {
		return User{}, gone
	}
	c, err := r.Credential(hash)
	if errors.Is(err, ErrNoRow) || err == nil && (c.Kind != SignInLink || !s.now().Before(c.Expires)) {
		return User{}, gone
	}
	if err != nil {
		return User{}, err
	}
	u, err := r.User(c.User)
	if errors.Is(err, ErrNoRow) || err == nil && u.Disabled {
		return User{}, gone
	}
	return u, err
}

// LinkInfo tells whose sign-in link it is.
func (s *Service) LinkInfo(ctx context.Context, secret string) (User, error) {
	return view(ctx, s, func(r Reader) (User, error) {
		u, err := s.linked(r, secret)
		return shown(u), err
	})
}

// shown is a user without what nobody needs to see.
func shown(u User) User {
	u.PasswordHash = ""
	return u
}

// RedeemLink sets the password of the account that the link is for, ends all its
// sessions and tokens, and begins a session. The bootstrap operator also takes
// the own address; an empty name or email keeps what is there.
func (s *Service) RedeemLink(ctx context.Context, secret, name, email, password, client string) (session string, err error) {
	email = foldEmail(email)
	checked := func(r Reader) (User, error) {
		u, err := s.linked(r, secret)
		if err != nil {
			return User{}, err
		}
		var f faults
		if email != "" && email != u.Email {
			if u.Email != bootstrapEmail || !u.Operator { // that address may be anybody's later
				f.add(invalid("email", "can't be changed with this link"))
			}
			f.add(checkEmail("email", email))
			u.Email = email
		}
		if name != "" || u.Name == "" {
			f.add(checkText("name", name, 1, maxTitle, false))
			u.Name = name
		}
		f.add(checkPassword("password", password, u.Email))
		return u, f.err()
	}
	u, err := view(ctx, s, checked)
	if err != nil {
		return "", err
	}
	hash, err := s.passwords.hash(ctx, "link of "+string(u.ID), password)
	if err != nil {
		return "", err
	}
	return update(ctx, s, func(w Writer) (string, error) {
		u, err := checked(w)
		if err != nil {
			return "", err
		}
		before, err := w.User(u.ID)
		if err != nil {
			return "", err
		}
		u.PasswordHash = hash
		if err := w.PutUser(u); errors.Is(err, ErrTaken) {
			return "", &Error{Kind: Conflict, Field: "email", Message: "another account has this address"}
		} else if err != nil {
			return "", err
		}
		if err := s.endAll(w, u.ID); err != nil {
			return "", err
		}
		session, err := s.newSession(w, u.ID, client)
		if err != nil {
			return "", err
		}
		detail := []string{"client", plain(client, maxClient)}
		if u.Email != before.Email {
			detail = append(detail, "email", u.Email, "email-before", before.Email)
		}
		return session, s.note(w, "", u.ID, "link.redeem", u.ID, detail...)
	})
}

// ChangePassword sets another password and ends all other sessions, and links.
func (s *Service) ChangePassword(ctx context.Context, who Identity, old, changed string) error {
	u, err := view(ctx, s, func(r Reader) (User, error) {
		u, c, err := s.bearer(r, who.hash)
		if err != nil {
			return User{}, err
		}
		if err := needSession(c); err != nil {
			return User{}, err
		}
		if u.PasswordHash == "" {
			return User{}, &Error{Kind: Conflict, Message: "your account has no password: you sign in with " + u.Issuer}
		}
		if e := checkPassword("new", changed, u.Email); e != nil {
			return User{}, e
		}
		return u, nil
	})
	if err != nil {
		return err
	}
	// Who found a session open may not find out the password by trying.
	session := "session of " + string(u.ID)
	here := place{session, session}
	if err := s.attempt(ctx, u.Email, here); err != nil {
		return err
	}
	ok, _, err := s.passwords.verify(ctx, session, u.PasswordHash, old)
	if err != nil {
		return err
	}
	if !ok {
		return invalid("old", "is not your password")
	}
	s.succeeded(u.Email, here)
	hash, err := s.passwords.hash(ctx, session, changed)
	if err != nil {
		return err
	}
	return s.change(ctx, func(w Writer) error {
		now, own, err := s.bearer(w, who.hash)
		if err != nil {
			return err
		}
		if now.PasswordHash != u.PasswordHash {
			return &Error{Kind: Conflict, Message: "your password was changed meanwhile"}
		}
		now.PasswordHash = hash
		if err := w.PutUser(now); err != nil {
			return err
		}
		all, err := w.Credentials(now.ID)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Kind == AccessToken || c.ID == own.ID {
				continue
			}
			if err := w.DeleteCredential(now.ID, c.ID); err != nil {
				return err
			}
		}
		return s.note(w, "", now.ID, "password.change", now.ID)
	})
}

// SetName changes what the asker is called.
func (s *Service) SetName(ctx context.Context, who Identity, name string) error {
	return s.change(ctx, func(w Writer) error {
		u, err := s.asker(w, who)
		if err != nil {
			return err
		}
		if e := checkText("name", name, 1, maxTitle, false); e != nil {
			return e
		}
		u.Name = name
		if err := w.PutUser(u); err != nil {
			return err
		}
		return s.note(w, "", u.ID, "user.name", u.ID)
	})
}

// Users lists all accounts, for operators.
func (s *Service) Users(ctx context.Context, who Identity, p Page) ([]User, error) {
	return view(ctx, s, func(r Reader) ([]User, error) {
		if _, err := s.onService(r, who, UserList); err != nil {
			return nil, err
		}
		all, err := r.Users(p.bounded())
		for i := range all {
			all[i] = shown(all[i])
		}
		return all, err
	})
}

// CreateUser makes an account; its person sets a password with the link, and a name
// if it has none. The operator who makes it vouches for the address.
func (s *Service) CreateUser(ctx context.Context, who Identity, email, name string, operator bool) (User, string, error) {
	var link string
	email = foldEmail(email)
	made, err := update(ctx, s, func(w Writer) (User, error) {
		x, err := s.inPerson(w, who, UserCreate)
		if err != nil {
			return User{}, err
		}
		var f faults
		f.add(checkEmail("email", email))
		f.add(checkText("name", name, 0, maxTitle, false))
		if err := f.err(); err != nil {
			return User{}, err
		}
		u := User{ID: NewID(), Email: email, EmailVerified: true, Name: name, Operator: operator, Created: s.now()}
		if err := w.PutUser(u); errors.Is(err, ErrTaken) {
			return User{}, &Error{Kind: Conflict, Field: "email", Message: "another account has this address"}
		} else if err != nil {
			return User{}, err
		}
		if link, err = s.newLink(w, u.ID); err != nil {
			return User{}, err
		}
		detail := []string{"email", email}
		if operator {
			detail = append(detail, "operator", "true")
		}
		return u, s.did(w, &x, UserCreate, u.ID, detail...)
	})
	if err != nil {
		return User{}, "", err
	}
	return made, link, nil
}

// SetUserDisabled locks an account and ends all that lets somebody act as its
// user; or opens it again. Nobody locks out themselves, so that an operator stays.
func (s *Service) SetUserDisabled(ctx context.Context, who Identity, id ID, disabled bool) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.inPerson(w, who, UserDisable)
		if err != nil {
			return err
		}
		u, err := s.account(w, id)
		if err != nil {
			return err
		}
		if u.ID == x.user.ID {
			return &Error{Kind: Conflict, Message: "you can't disable your own account", Hint: "ask another operator"}
		}
		if u.Disabled == disabled {
			return nil
		}
		u.Disabled = disabled
		if err := w.PutUser(u); err != nil {
			return err
		}
		if err := s.endAll(w, id); err != nil {
			return err
		}
		state := "enabled"
		if disabled {
			state = "disabled"
		}
		return s.did(w, &x, UserDisable, id, "state", state)
	})
}

func (s *Service) account(r Reader, id ID) (User, error) {
	u, err := r.User(id)
	if errors.Is(err, ErrNoRow) {
		return User{}, &Error{Kind: NotFound, Message: "there is no such user"}
	}
	return u, err
}

// ResetPassword ends the password, the sessions and the tokens of an account at
// once, and returns the address with which its person sets another password. Who
// resets it makes sure to give the address to that person: it vouches for them.
// Nobody resets their own: whoever found a session open would keep the account.
func (s *Service) ResetPassword(ctx context.Context, who Identity, id ID) (link string, err error) {
	return update(ctx, s, func(w Writer) (string, error) {
		x, err := s.inPerson(w, who, UserReset)
		if err != nil {
			return "", err
		}
		u, err := s.account(w, id)
		if err != nil {
			return "", err
		}
		if u.ID == x.user.ID {
			return "", &Error{Kind: Conflict, Message: "you can't reset your own password", Hint: "change it in your settings"}
		}
		if u.Disabled {
			return "", &Error{Kind: Conflict, Message: "the account is disabled", Hint: "enable it first"}
		}
		if err := s.vouch(w, &u); err != nil {
			return "", err
		}
		u.PasswordHash = ""
		if err := w.PutUser(u); err != nil {
			return "", err
		}
		if err := s.endAll(w, id); err != nil {
			return "", err
		}
		link, err := s.newLink(w, id)
		if err != nil {
			return "", err
		}
		return link, s.did(w, &x, UserReset, id)
	})
}

// sortedIDs is for what goes over a map in one order.
func sortedIDs[T any](m map[ID]T) []ID {
	ids := make([]ID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
