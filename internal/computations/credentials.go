package computations

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	sessionIdle = 12 * time.Hour
	sessionLife = 14 * 24 * time.Hour
	maxTokenTTL = 365 * 24 * time.Hour
	// maxCredentials of each kind that a user has at once.
	maxCredentials = 100
	// touchEvery is how often a credential's last use is written down.
	touchEvery = time.Minute
)

// bearer finds whose credential it is, if it holds now.
func (s *Service) bearer(r Reader, hash [32]byte) (User, Credential, error) {
	c, err := r.Credential(hash)
	if errors.Is(err, ErrNoRow) {
		return User{}, Credential{}, errUnauthenticated
	}
	if err != nil {
		return User{}, Credential{}, err
	}
	now := s.now()
	switch {
	case c.Kind != Session && c.Kind != AccessToken, !now.Before(c.Expires):
		return User{}, Credential{}, errUnauthenticated
	case c.Kind == Session && !now.Before(c.Used.Add(sessionIdle)):
		return User{}, Credential{}, errUnauthenticated
	}
	u, err := r.User(c.User)
	if errors.Is(err, ErrNoRow) || err == nil && u.Disabled {
		return User{}, Credential{}, errUnauthenticated
	}
	return u, c, err
}

// Authenticate finds out who bears a session's or a token's secret. It notes the
// use at most once a minute.
func (s *Service) Authenticate(ctx context.Context, secret string) (Identity, error) {
	hash, ok := secretOf(sessionPrefix, secret)
	if !ok {
		if hash, ok = secretOf(tokenPrefix, secret); !ok {
			return Identity{}, errUnauthenticated
		}
	}
	var who Identity
	var used time.Time
	err := s.store.View(ctx, func(r Reader) error {
		u, c, err := s.bearer(r, hash)
		if err != nil {
			return err
		}
		used = c.Used
		who = Identity{User: u.ID, Credential: c.ID, Kind: c.Kind, Email: u.Email, Name: u.Name, Operator: u.Operator, Password: u.PasswordHash != "", hash: hash}
		return nil
	})
	if err != nil {
		return Identity{}, err
	}
	if now := s.now(); now.Sub(used) >= touchEvery {
		if err := s.change(ctx, func(w Writer) error { return w.TouchCredential(who.Credential, now) }); err != nil && !errors.Is(err, ErrNoRow) {
			return Identity{}, err
		}
	}
	return who, nil
}

// newSession lets a user in. The oldest session ends where there are too many.
func (s *Service) newSession(w Writer, user ID, client string) (secret string, err error) {
	all, err := w.Credentials(user)
	if err != nil {
		return "", err
	}
	sessions := slices.DeleteFunc(all, func(c Credential) bool { return c.Kind != Session })
	slices.SortFunc(sessions, func(a, b Credential) int { return b.Used.Compare(a.Used) })
	for _, c := range sessions[min(len(sessions), maxCredentials-1):] {
		if err := w.DeleteCredential(user, c.ID); err != nil {
			return "", err
		}
	}
	now := s.now()
	secret, hash := newSecret(sessionPrefix)
	return secret, w.PutCredential(Credential{
		ID: NewID(), User: user, Kind: Session, Hash: hash, Client: plain(client, maxClient),
		Created: now, Expires: now.Add(sessionLife), Used: now,
	})
}

// SignOut ends the credential that is asked with.
func (s *Service) SignOut(ctx context.Context, who Identity) error {
	return s.change(ctx, func(w Writer) error {
		u, c, err := s.bearer(w, who.hash)
		if err != nil {
			return err
		}
		if err := w.DeleteCredential(u.ID, c.ID); err != nil {
			return err
		}
		return s.note(w, "", u.ID, "sign-out", c.ID)
	})
}

// needSession is for what a token, which lies in some file, must not do.
func needSession(c Credential) error {
	if c.Kind != Session {
		return &Error{Kind: Denied, Message: "an access token can't do this", Hint: "sign in as a person"}
	}
	return nil
}

// CreateToken makes an access token for a program; its secret is shown once.
func (s *Service) CreateToken(ctx context.Context, who Identity, name string, ttl time.Duration) (string, Credential, error) {
	var secret string
	made, err := update(ctx, s, func(w Writer) (Credential, error) {
		u, c, err := s.bearer(w, who.hash)
		if err != nil {
			return Credential{}, err
		}
		if err := needSession(c); err != nil {
			return Credential{}, err
		}
		var f faults
		f.add(checkText("name", name, 1, maxTitle, false))
		if ttl < time.Minute || ttl > maxTokenTTL {
			f.add(invalid("ttl", "is %v; expected a minute to %d days", ttl, int(maxTokenTTL.Hours()/24)))
		}
		if err := f.err(); err != nil {
			return Credential{}, err
		}
		all, err := w.Credentials(u.ID)
		if err != nil {
			return Credential{}, err
		}
		if len(slices.DeleteFunc(all, func(c Credential) bool { return c.Kind != AccessToken })) >= maxCredentials {
			return Credential{}, &Error{Kind: Limited, Message: "you have as many access tokens as one can have", Hint: "revoke those that you no longer need"}
		}
		now := s.now()
		t := Credential{ID: NewID(), User: u.ID, Kind: AccessToken, Name: name, Created: now, Expires: now.Add(ttl), Used: now}
		secret, t.Hash = newSecret(tokenPrefix)
		if err := w.PutCredential(t); err != nil {
			return Credential{}, err
		}
		t.Hash = [32]byte{}
		return t, s.note(w, "", u.ID, "token.create", t.ID, "name", name, "expires", t.Expires.Format(time.RFC3339))
	})
	if err != nil {
		return "", Credential{}, err
	}
	return secret, made, nil
}

// Credentials are the asker's sessions and tokens, without what could be used.
func (s *Service) Credentials(ctx context.Context, who Identity) ([]Credential, error) {
	return view(ctx, s, func(r Reader) ([]Credential, error) {
		u, err := s.asker(r, who)
		if err != nil {
			return nil, err
		}
		all, err := r.Credentials(u.ID)
		if err != nil {
			return nil, err
		}
		now := s.now()
		all = slices.DeleteFunc(all, func(c Credential) bool {
			return c.Kind == SignInLink || !now.Before(c.Expires) || c.Kind == Session && !now.Before(c.Used.Add(sessionIdle))
		})
		for i := range all {
			all[i].Hash = [32]byte{}
		}
		return all, nil
	})
}

// RevokeCredential ends one of the asker's sessions or tokens. A token can end
// itself alone.
func (s *Service) RevokeCredential(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		u, c, err := s.bearer(w, who.hash)
		if err != nil {
			return err
		}
		if c.ID != id {
			if err := needSession(c); err != nil {
				return err
			}
		}
		if err := w.DeleteCredential(u.ID, id); errors.Is(err, ErrNoRow) {
			return notFound("session or token")
		} else if err != nil {
			return err
		}
		return s.note(w, "", u.ID, "credential.revoke", id)
	})
}
