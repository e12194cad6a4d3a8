package computations

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/keys"
)

const (
	// proofWindow is how far a proof of possession may be from now.
	proofWindow = 10 * time.Minute
	maxKeys     = 100 // that a user has in use
)

// RegisterKey is a public key with the proof that its holder registers it: a
// signature of keys.RegistrationText with the service's address, the user's email
// address and At.
type RegisterKey struct {
	Name      string
	Public    keys.Public
	At        time.Time
	Signature []byte
	// Replaces is a key of the user's that this one takes the place of; may be empty.
	Replaces ID
}

// RegisterKey makes a public key the asker's.
func (s *Service) RegisterKey(ctx context.Context, who Identity, ask RegisterKey) (Key, error) {
	return update(ctx, s, func(w Writer) (Key, error) {
		u, err := s.asker(w, who)
		if err != nil {
			return Key{}, err
		}
		if err := s.checkProof(u, &ask); err != nil {
			return Key{}, err
		}
		own, err := w.KeysOf(u.ID)
		if err != nil {
			return Key{}, err
		}
		own = slices.DeleteFunc(own, func(k Key) bool { return !k.Revoked.IsZero() })
		if len(own) >= maxKeys {
			return Key{}, &Error{Kind: Limited, Message: "you have as many keys as one can have", Hint: "revoke those that you no longer use"}
		}
		k := Key{ID: NewID(), User: u.ID, Name: ask.Name, Public: ask.Public, Created: s.now(), Email: u.Email}
		if err := s.keyFree(w, u, k.Public); err != nil {
			return Key{}, err
		}
		if ask.Replaces != "" {
			i := slices.IndexFunc(own, func(k Key) bool { return k.ID == ask.Replaces })
			if i < 0 {
				return Key{}, invalid("replaces", "is no key of yours that is in use")
			}
			old := own[i]
			old.Revoked, old.ReplacedBy = s.now(), k.ID
			// The new one first: the old one points to it.
			if err := errors.Join(w.PutKey(k), w.PutKey(old)); err != nil {
				return Key{}, err
			}
		} else if err := w.PutKey(k); err != nil {
			return Key{}, err
		}
		return k, s.note(w, "", u.ID, "key.register", k.ID, "fingerprint", k.Public.Fingerprint(), "replaces", string(ask.Replaces))
	})
}

// checkProof wants the signature to be of this key, for this account of this
// service, and made just now.
func (s *Service) checkProof(u User, ask *RegisterKey) error {
	var f faults
	f.add(checkText("name", ask.Name, 1, maxTitle, false))
	if ask.Public.IsZero() {
		f.add(invalid("public", "is missing"))
		return f.err()
	}
	if off := s.now().Sub(ask.At); off > proofWindow || off < -proofWindow {
		f.add(invalid("at", "is %s, and it is %s here: the proof must be made within %v", ask.At.UTC().Format(time.RFC3339), s.now().Format(time.RFC3339), proofWindow))
	} else if ask.Public.Verify(keys.RegistrationText(s.name, u.Email, ask.Public, ask.At), ask.Signature) != nil {
		e := invalid("signature", "is not one by this key for %s at %s", u.Email, s.name)
		e.Hint = "register the key with cocos-cli, at this very address, with the private key at hand"
		f.add(e)
	}
	return f.err()
}

// keyFree wants a key to be nobody's.
func (s *Service) keyFree(r Reader, u User, public keys.Public) error {
	k, err := r.KeyByFingerprint(public.Fingerprint())
	switch {
	case errors.Is(err, ErrNoRow):
		return nil
	case err != nil:
		return err
	case k.User == u.ID:
		return &Error{Kind: Conflict, Field: "public", Message: "this key is registered already, as " + k.Name}
	}
	return &Error{Kind: Conflict, Field: "public", Message: "this key is registered by another user", Hint: "make a key of your own: a key shared by two people names neither"}
}

// Keys are the asker's, revoked ones too.
func (s *Service) Keys(ctx context.Context, who Identity) ([]Key, error) {
	return view(ctx, s, func(r Reader) ([]Key, error) {
		u, err := s.asker(r, who)
		if err != nil {
			return nil, err
		}
		return r.KeysOf(u.ID)
	})
}

// RevokeKey ends the use of one of the asker's keys: nothing that names it can be
// frozen, approved or run any more.
func (s *Service) RevokeKey(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		u, err := s.asker(w, who)
		if err != nil {
			return err
		}
		k, err := w.Key(id)
		if errors.Is(err, ErrNoRow) || err == nil && k.User != u.ID {
			return notFound("key")
		}
		if err != nil {
			return err
		}
		if !k.Revoked.IsZero() {
			return &Error{Kind: Conflict, Message: "this key is revoked already"}
		}
		k.Revoked = s.now()
		if err := w.PutKey(k); err != nil {
			return err
		}
		return s.note(w, "", u.ID, "key.revoke", id, "fingerprint", k.Public.Fingerprint())
	})
}
