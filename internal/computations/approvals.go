package computations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// frozen reads the manifest of a frozen computation.
func frozen(c *Computation) (*manifest.Frozen, error) {
	if c.Manifest == nil {
		return nil, &Error{Kind: Conflict, Message: "the computation is a draft", Hint: "freeze it first"}
	}
	f, err := manifest.Parse(c.Manifest)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of computation %s: %w", c.ID, err)
	}
	if f.Digest != c.Digest {
		return nil, fmt.Errorf("the manifest of computation %s has the digest %s and not %s", c.ID, f.Digest, c.Digest)
	}
	return &f, nil
}

// Approve takes the asker's approval of a frozen manifest. A second one of the
// same key changes nothing.
func (s *Service) Approve(ctx context.Context, who Identity, id ID, a manifest.Approval) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onComputation(w, who, id, ComputationApprove)
		if err != nil {
			return err
		}
		c := &x.computation
		f, err := frozen(c)
		if err != nil {
			return err
		}
		if !c.Archived.IsZero() {
			return changeable(c)
		}
		if err := ownKey(w, &x, a.PublicKey); err != nil {
			return err
		}
		if err := f.CheckApproval(a); err != nil {
			e := invalid("signature", "%v", err)
			if !f.HasRole(a.PublicKey, manifest.Approver) {
				e.Field = "public_key"
			}
			return e
		}
		all, err := w.Approvals(id)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(b Approval) bool { return b.PublicKey.Equal(a.PublicKey) }) {
			return nil
		}
		if err := w.PutApproval(Approval{Computation: id, User: x.user.ID, Approval: a, At: s.now()}); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(c.Workspace))
		return s.did(w, &x, ComputationApprove, id, "digest", f.Digest.String(), "key", a.PublicKey.Fingerprint())
	})
}

// ownKey wants a key in use that is the asker's, and the one with which the asker
// is in the manifest.
func ownKey(r Reader, x *access, public keys.Public) error {
	notYours := &Error{Kind: Denied, Field: "public_key", Message: "this is not your key in this computation", Hint: "approve with the key that the manifest has of you; nobody can approve for another"}
	if public.IsZero() {
		return invalid("public_key", "is missing")
	}
	pinned, err := r.Key(x.computation.Draft.Keys[x.user.ID])
	if errors.Is(err, ErrNoRow) || err == nil && (pinned.User != x.user.ID || !pinned.Public.Equal(public)) {
		return notYours
	}
	if err != nil {
		return err
	}
	k, err := r.KeyByFingerprint(public.Fingerprint())
	if errors.Is(err, ErrNoRow) || err == nil && k.User != x.user.ID {
		return &Error{Kind: Conflict, Field: "public_key", Message: "this key is revoked", Hint: "copy the computation, with another key"}
	}
	return err
}

// approvals are those given, as manifest.CheckApprovals wants them.
func approvals(all []Approval) []manifest.Approval {
	given := make([]manifest.Approval, len(all))
	for i := range all {
		given[i] = all[i].Approval
	}
	return given
}

// revokedKeys are those of the manifest that are in use no more, by what they are
// called.
func revokedKeys(r Reader, c *Computation, f *manifest.Frozen) ([]string, error) {
	var revoked []string
	for _, user := range c.Draft.users() {
		u, err := r.User(user)
		if err != nil {
			return nil, err
		}
		pinned, err := r.Key(c.Draft.Keys[user])
		if err != nil {
			return nil, err
		}
		if len(f.RolesOf(pinned.Public)) == 0 {
			return nil, fmt.Errorf("computation %s has a key of %s that isn't in its manifest", c.ID, user)
		}
		now, err := r.KeyByFingerprint(pinned.Public.Fingerprint())
		if errors.Is(err, ErrNoRow) || err == nil && now.User != user {
			revoked = append(revoked, fmt.Sprintf("%s of %s", pinned.Public.Fingerprint(), u.Email))
		} else if err != nil {
			return nil, err
		}
	}
	return revoked, nil
}

// absent says of each party of a frozen computation who is no member any more, or
// whose account is disabled.
func absent(r Reader, c *Computation) ([]string, error) {
	var absent []string
	for _, user := range c.Draft.users() {
		why, err := gone(r, c.Workspace, user)
		if err != nil {
			return nil, err
		}
		if why != "" {
			absent = append(absent, why)
		}
	}
	return absent, nil
}

// gone says why a user can be no party; empty: the user can.
func gone(r Reader, workspace, user ID) (why string, err error) {
	u, err := r.User(user)
	if err != nil {
		return "", err
	}
	if _, err := r.Member(workspace, user); errors.Is(err, ErrNoRow) {
		return u.Email + " is no member of the workspace any more", nil
	} else if err != nil {
		return "", err
	}
	if u.Disabled {
		return "the account of " + u.Email + " is disabled", nil
	}
	return "", nil
}

// Withdrawn says who of a frozen computation's parties has left or revoked the key
// since it could be run, for whoever is about to give a run to a host; empty:
// nobody has.
func Withdrawn(r Reader, computation ID) (string, error) {
	c, err := r.Computation(computation)
	if err != nil {
		return "", err
	}
	f, err := frozen(&c)
	if err != nil {
		return "", err
	}
	why, err := absent(r, &c)
	if err != nil {
		return "", err
	}
	revoked, err := revokedKeys(r, &c, f)
	if err != nil {
		return "", err
	}
	if len(revoked) > 0 {
		why = append(why, "revoked: "+strings.Join(revoked, ", "))
	}
	return strings.Join(why, "; "), nil
}
