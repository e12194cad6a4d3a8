package computations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// InvitationByLink shows an invitation to whoever has its link.
func (s *Service) InvitationByLink(ctx context.Context, secret string) (InvitationView, error) {
	return view(ctx, s, func(r Reader) (InvitationView, error) {
		inv, err := invited(r, secret)
		if err != nil {
			return InvitationView{}, err
		}
		if err := s.open(inv); err != nil {
			return InvitationView{}, err
		}
		return s.describe(r, inv)
	})
}

func (s *Service) describe(r Reader, inv Invitation) (InvitationView, error) {
	v := InvitationView{Invitation: withoutHash(inv)}
	ws, err := r.Workspace(inv.Workspace)
	if err != nil {
		return v, err
	}
	by, err := r.User(inv.By)
	if err != nil {
		return v, err
	}
	v.WorkspaceName, v.ByName, v.ByEmail = ws.Name, by.Name, by.Email
	if inv.Computation != "" {
		c, err := r.Computation(inv.Computation)
		if err != nil {
			return v, err
		}
		v.ComputationName = c.Draft.Name
	}
	return v, nil
}

// MyInvitations are those that wait for the asker's address, if that has been
// verified: else having it proves nothing, and the link is needed.
func (s *Service) MyInvitations(ctx context.Context, who Identity) ([]InvitationView, error) {
	return view(ctx, s, func(r Reader) ([]InvitationView, error) {
		u, err := s.asker(r, who)
		if err != nil || !u.EmailVerified {
			return nil, err
		}
		all, err := r.InvitationsFor(u.Email)
		if err != nil {
			return nil, err
		}
		var mine []InvitationView
		for _, inv := range all {
			if s.open(inv) != nil {
				continue
			}
			v, err := s.describe(r, inv)
			if err != nil {
				return nil, err
			}
			mine = append(mine, v)
		}
		return mine, nil
	})
}

// mine finds one of MyInvitations.
func mine(r Reader, u User, id ID) (Invitation, error) {
	inv, err := r.Invitation(id)
	if errors.Is(err, ErrNoRow) || err == nil && (inv.Email != u.Email || !u.EmailVerified) {
		return Invitation{}, notFound("invitation")
	}
	return inv, err
}

// AcceptInvitation lets the asker, whose address it must be for, into what the
// link's invitation promises.
func (s *Service) AcceptInvitation(ctx context.Context, who Identity, secret string) (Invitation, error) {
	return update(ctx, s, func(w Writer) (Invitation, error) {
		u, err := s.asker(w, who)
		if err != nil {
			return Invitation{}, err
		}
		inv, err := invited(w, secret)
		if err != nil {
			return Invitation{}, err
		}
		return s.accept(w, u, inv)
	})
}

// AcceptMyInvitation accepts one of MyInvitations.
func (s *Service) AcceptMyInvitation(ctx context.Context, who Identity, id ID) (Invitation, error) {
	return update(ctx, s, func(w Writer) (Invitation, error) {
		u, err := s.asker(w, who)
		if err != nil {
			return Invitation{}, err
		}
		inv, err := mine(w, u, id)
		if err != nil {
			return Invitation{}, err
		}
		return s.accept(w, u, inv)
	})
}

// AcceptAsNew makes an account for the address of an invitation, accepts it, and
// begins a session. Where the address has one, it says so: whoever invites has the
// link, too, and can find out, with an invitation and an entry in the audit log for
// each address.
func (s *Service) AcceptAsNew(ctx context.Context, secret, name, password, client string) (session string, inv Invitation, err error) {
	checked := func(r Reader) (Invitation, error) {
		inv, err := invited(r, secret)
		if err != nil {
			return Invitation{}, err
		}
		if err := s.open(inv); err != nil {
			return Invitation{}, err
		}
		var f faults
		f.add(checkText("name", name, 1, maxTitle, false))
		f.add(checkPassword("password", password, inv.Email))
		return inv, f.err()
	}
	if inv, err = view(ctx, s, checked); err != nil {
		return "", Invitation{}, err
	}
	if wait := s.joins.take(string(inv.ID)); wait > 0 {
		return "", Invitation{}, &Error{Kind: Limited, Message: "this invitation was tried too often", Hint: fmt.Sprintf("try again in %v", wait.Round(time.Second)+time.Second)}
	}
	if err := s.unknown(ctx, inv); err != nil {
		return "", Invitation{}, err
	}
	hash, err := s.passwords.hash(ctx, "invited by "+string(inv.By), password)
	if err != nil {
		return "", Invitation{}, err
	}
	inv, err = update(ctx, s, func(w Writer) (Invitation, error) {
		inv, err := checked(w)
		if err != nil {
			return Invitation{}, err
		}
		u := User{ID: NewID(), Email: inv.Email, Name: name, PasswordHash: hash, Created: s.now()}
		if err := w.PutUser(u); errors.Is(err, ErrTaken) {
			return Invitation{}, errHasAccount
		} else if err != nil {
			return Invitation{}, err
		}
		if err := s.note(w, "", u.ID, string(UserCreate), u.ID, "email", u.Email, "invitation", string(inv.ID)); err != nil {
			return Invitation{}, err
		}
		if session, err = s.newSession(w, u.ID, client); err != nil {
			return Invitation{}, err
		}
		return s.accept(w, u, inv)
	})
	if err != nil {
		return "", Invitation{}, err
	}
	return session, inv, nil
}

var errHasAccount = &Error{Kind: Conflict, Message: "this address has an account already", Hint: "sign in, and accept the invitation then"}

// unknown refuses an invitation whose address has an account, and notes for
// operators who found that out.
func (s *Service) unknown(ctx context.Context, inv Invitation) error {
	_, err := view(ctx, s, func(r Reader) (User, error) { return r.UserByEmail(inv.Email) })
	if errors.Is(err, ErrNoRow) {
		return nil
	}
	if err == nil {
		err = s.change(ctx, func(w Writer) error {
			return s.note(w, "", "", "invitation.has-account", inv.ID, "by", string(inv.By))
		})
	}
	if err != nil {
		return err
	}
	return errHasAccount
}

// accept makes u a member, with the parts that were promised.
func (s *Service) accept(w Writer, u User, inv Invitation) (Invitation, error) {
	if err := s.open(inv); err != nil {
		return Invitation{}, err
	}
	if u.Email != inv.Email {
		return Invitation{}, &Error{Kind: Denied, Message: "this invitation is for another address than that of your account", Hint: "sign in with the account of the address that it was sent to"}
	}
	x, err := s.stillMeant(w, inv)
	if err != nil {
		return Invitation{}, err
	}
	_, err = w.Member(inv.Workspace, u.ID)
	if errors.Is(err, ErrNoRow) {
		err = w.PutMember(Member{Workspace: inv.Workspace, User: u.ID, Role: inv.Role, Joined: s.now()})
	}
	if err != nil {
		return Invitation{}, err // a member keeps the role
	}
	if inv.Computation != "" {
		has, err := w.Parts(inv.Computation, u.ID)
		if err != nil {
			return Invitation{}, err
		}
		want := slices.Clone(has)
		for _, p := range inv.Parts {
			if !slices.Contains(want, p) {
				want = append(want, p)
			}
		}
		if err := s.give(w, x.computation, u.ID, has, want); err != nil {
			return Invitation{}, err
		}
	}
	inv.State, inv.AnsweredBy = InvitationAccepted, u.ID
	if err := w.PutInvitation(inv); err != nil {
		return Invitation{}, err
	}
	w.Signal(WorkspaceTopic(inv.Workspace))
	return withoutHash(inv), s.note(w, inv.Workspace, u.ID, "invitation.accept", inv.ID, "role", string(inv.Role), "parts", join(inv.Parts))
}

// stillMeant looks whether who invited could still do so: somebody who was shown
// out must not have left a door open.
func (s *Service) stillMeant(r Reader, inv Invitation) (access, error) {
	by, err := r.User(inv.By)
	if err != nil {
		return access{}, err
	}
	var x access
	if inv.Computation == "" {
		x, err = s.enter(r, by, inv.Workspace)
	} else {
		x, err = s.at(r, by, inv.Computation)
	}
	if err != nil {
		return access{}, err
	}
	if by.Disabled || mayInvite(&x, &inv) != nil {
		return access{}, &Error{Kind: Conflict, Message: "who sent this invitation may not invite to this any more", Hint: "ask somebody else there for a new one"}
	}
	return x, nil
}

// DeclineInvitation says no; whoever has the link can.
func (s *Service) DeclineInvitation(ctx context.Context, secret string) error {
	return s.change(ctx, func(w Writer) error {
		inv, err := invited(w, secret)
		if err != nil {
			return err
		}
		return s.decline(w, "", inv)
	})
}

// DeclineMyInvitation says no to one of MyInvitations.
func (s *Service) DeclineMyInvitation(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		u, err := s.asker(w, who)
		if err != nil {
			return err
		}
		inv, err := mine(w, u, id)
		if err != nil {
			return err
		}
		return s.decline(w, u.ID, inv)
	})
}

func (s *Service) decline(w Writer, user ID, inv Invitation) error {
	if err := s.open(inv); err != nil {
		return err
	}
	inv.State, inv.AnsweredBy = InvitationDeclined, user
	if err := w.PutInvitation(inv); err != nil {
		return err
	}
	w.Signal(WorkspaceTopic(inv.Workspace))
	return s.note(w, inv.Workspace, user, "invitation.decline", inv.ID)
}
