package computations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

const (
	maxInvitationTTL = 30 * 24 * time.Hour
	maxPending       = 500 // in one workspace
)

// Invite is what somebody is invited to.
type Invite struct {
	Workspace ID
	Email     string
	// Role in the workspace; empty: member.
	Role Role
	// Computation and Parts in it; may be empty.
	Computation ID
	Parts       []Part
	// TTL zero: as the setting "invitation-days" says.
	TTL time.Duration
}

// InvitationView is an invitation with what its reader needs to decide.
type InvitationView struct {
	Invitation
	WorkspaceName   string
	ComputationName string
	ByName, ByEmail string
}

// InvitationLink is the address that an invitation's secret is sent as.
func (s *Service) InvitationLink(secret string) string { return s.name + "/invitation/" + secret }

// mayInvite decides whether x may hand out what the invitation promises. It is
// asked again when it is accepted: what somebody may no longer give, nobody gets.
func mayInvite(x *access, inv *Invitation) error {
	// An editor of a computation may ask people to it; they become plain members.
	if inv.Role == RoleMember && inv.Computation != "" && Allow(x.standing, ComputationInvite) {
		return nil
	}
	if !Allow(x.standing, InvitationCreate) {
		return denied(InvitationCreate)
	}
	// Nobody makes others more than an administrator would have to.
	if inv.Role != RoleMember && !Allow(x.standing, MemberRole) {
		return &Error{Kind: Denied, Field: "role", Message: "you may invite members only", Hint: "administrators can invite managers and administrators"}
	}
	if inv.Computation != "" && !Allow(x.standing, ComputationInvite) {
		return denied(ComputationInvite)
	}
	return nil
}

// inviting bounds how often one user invites, and so how many addresses one can
// try for whether they have an account: sixty at once, and about a hundred more in a day.
func (s *Service) inviting(who Identity) error {
	if wait := s.invites.take(string(who.User)); wait > 0 {
		return &Error{Kind: Limited, Message: "you have invited as many people as one can for now", Hint: fmt.Sprintf("try again in %v", wait.Round(time.Second)+time.Second)}
	}
	return nil
}

// Invite sends nothing by itself: the secret is shown once to whoever invites.
func (s *Service) Invite(ctx context.Context, who Identity, ask Invite) (Invitation, string, error) {
	if err := s.inviting(who); err != nil {
		return Invitation{}, "", err
	}
	var secret string
	made, err := update(ctx, s, func(w Writer) (Invitation, error) {
		u, err := s.asker(w, who)
		if err != nil {
			return Invitation{}, err
		}
		x, err := s.toInvite(w, u, ask)
		if err != nil {
			return Invitation{}, err
		}
		inv := Invitation{
			ID: NewID(), Workspace: ask.Workspace, Email: foldEmail(ask.Email), Role: ask.Role,
			Computation: ask.Computation, Parts: slices.Clone(ask.Parts), State: InvitationPending, By: u.ID,
			Created: s.now(), Sent: s.now(),
		}
		if inv.Role == "" {
			inv.Role = RoleMember
		}
		if err := mayInvite(&x, &inv); err != nil {
			return Invitation{}, err
		}
		if err := s.checkInvite(w, &x, &inv, ask.TTL); err != nil {
			return Invitation{}, err
		}
		secret, inv.Hash = newSecret(invitationPrefix)
		if err := w.PutInvitation(inv); err != nil {
			return Invitation{}, err
		}
		w.Signal(WorkspaceTopic(inv.Workspace))
		return withoutHash(inv), s.did(w, &x, InvitationCreate, inv.ID, "email", inv.Email, "role", string(inv.Role),
			"computation", string(inv.Computation), "parts", join(inv.Parts))
	})
	if err != nil {
		return Invitation{}, "", err
	}
	return made, secret, nil
}

func withoutHash(inv Invitation) Invitation {
	inv.Hash = [32]byte{}
	return inv
}

// toInvite finds the workspace and the computation, if there is one.
func (s *Service) toInvite(r Reader, u User, ask Invite) (access, error) {
	if ask.Computation == "" {
		x, err := s.enter(r, u, ask.Workspace)
		return x.decide("workspace", WorkspaceShow, WorkspaceShow, err)
	}
	x, err := s.at(r, u, ask.Computation)
	if err == nil && x.workspace.ID != ask.Workspace {
		err = ErrNoRow
	}
	return x.decide("computation", ComputationShow, ComputationShow, err)
}

// checkInvite completes an invitation, or says what is wrong with it.
func (s *Service) checkInvite(r Reader, x *access, inv *Invitation, ttl time.Duration) error {
	back, err := r.UserByEmail(inv.Email) // perhaps a party that left
	if err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	var f faults
	f.add(checkEmail("email", inv.Email))
	if !slices.Contains(allRoles, inv.Role) {
		f.add(invalid("role", "is %q; expected one of %q", inv.Role, allRoles))
	}
	f.add(checkGiven("parts", inv.Parts))
	switch {
	case inv.Computation == "" && len(inv.Parts) > 0:
		f.add(invalid("parts", "are of a computation, and none is named"))
	case inv.Computation != "" && len(inv.Parts) == 0:
		f.add(invalid("parts", "are missing: say what the person is asked to be in the computation"))
	case x.computation.Manifest != nil && slices.ContainsFunc(inv.Parts, func(p Part) bool { return ofManifest(p) && !restores(&x.computation, back.ID, p) }):
		f.add(&Error{Kind: Conflict, Field: "parts", Message: "the computation is frozen: its parties can't change", Hint: "copy it"})
	}
	if ttl == 0 {
		days, err := setting(r, settingInvitationDays)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(days)
		if err != nil {
			return fmt.Errorf("setting %q is %q: %w", settingInvitationDays, days, err)
		}
		ttl = time.Duration(n) * 24 * time.Hour
	}
	if ttl < time.Minute || ttl > maxInvitationTTL {
		f.add(invalid("ttl", "is %v; expected a minute to %d days", ttl, int(maxInvitationTTL.Hours()/24)))
	}
	inv.Expires = s.now().Add(ttl)
	if err := f.err(); err != nil {
		return err
	}
	if inv.Computation == "" {
		ms, err := r.Members(inv.Workspace)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(ms, func(m Member) bool { return m.Email == inv.Email }) {
			return &Error{Kind: Conflict, Field: "email", Message: inv.Email + " is a member of the workspace already"}
		}
	}
	pending, err := r.CountWaiting(inv.Workspace, s.now())
	if err != nil {
		return err
	}
	if pending >= maxPending {
		return &Error{Kind: Limited, Message: "too many invitations of this workspace wait for an answer", Hint: "withdraw some"}
	}
	return nil
}

// checkGiven wants parts that can be given to somebody, each once.
func checkGiven(field string, parts []Part) *Error {
	for i, p := range parts {
		switch {
		case p == PartCreator:
			return invalid(field, "have %q, which comes with creating a computation", p)
		case !slices.Contains(allParts, p):
			return invalid(field, "have %q; expected some of %q", p, allParts[1:])
		case slices.Contains(parts[:i], p):
			return invalid(field, "have %q twice", p)
		}
	}
	return nil
}

// ofManifest tells whether a part is one of the manifest's, too.
func ofManifest(p Part) bool { return slices.Contains(providers, p) }

// Invitations lists a workspace's invitations.
func (s *Service) Invitations(ctx context.Context, who Identity, workspace ID) ([]Invitation, error) {
	return view(ctx, s, func(r Reader) ([]Invitation, error) {
		if _, err := s.inWorkspace(r, who, workspace, InvitationList); err != nil {
			return nil, err
		}
		all, err := r.Invitations(workspace)
		for i := range all {
			all[i] = withoutHash(all[i])
		}
		return all, err
	})
}

// Invitation is one that the asker oversees or has sent.
func (s *Service) Invitation(ctx context.Context, who Identity, id ID) (Invitation, error) {
	return view(ctx, s, func(r Reader) (Invitation, error) {
		x, err := s.onInvitation(r, who, id, InvitationList)
		return withoutHash(x.invitation), err
	})
}

// ResendInvitation gives a pending or expired invitation a new secret and a new
// time; the old secret dies. Who sends it again stands for it from now on.
func (s *Service) ResendInvitation(ctx context.Context, who Identity, id ID) (secret string, err error) {
	if err := s.inviting(who); err != nil {
		return "", err
	}
	return update(ctx, s, func(w Writer) (string, error) {
		x, err := s.onInvitation(w, who, id, InvitationResend)
		if err != nil {
			return "", err
		}
		inv := x.invitation
		if inv.State != InvitationPending {
			return "", answered(inv)
		}
		if inv.Computation != "" {
			if x.standing.Parts, err = w.Parts(inv.Computation, x.user.ID); err != nil {
				return "", err
			}
		}
		if err := mayInvite(&x, &inv); err != nil {
			return "", err
		}
		ttl := inv.Expires.Sub(inv.Sent)
		inv.By, inv.Sent, inv.Expires = x.user.ID, s.now(), s.now().Add(ttl)
		secret, hash := newSecret(invitationPrefix)
		inv.Hash = hash
		if err := w.PutInvitation(inv); err != nil {
			return "", err
		}
		w.Signal(WorkspaceTopic(inv.Workspace))
		return secret, s.did(w, &x, InvitationResend, id)
	})
}

// answered says why an invitation can't be dealt with any more.
func answered(inv Invitation) error {
	return &Error{Kind: Conflict, Message: "this invitation was " + string(inv.State), Hint: "ask for a new one if that was a mistake"}
}

// WithdrawInvitation ends a pending invitation.
func (s *Service) WithdrawInvitation(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onInvitation(w, who, id, InvitationWithdraw)
		if err != nil {
			return err
		}
		if x.invitation.State != InvitationPending {
			return answered(x.invitation)
		}
		x.invitation.State = InvitationWithdrawn
		if err := w.PutInvitation(x.invitation); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(x.workspace.ID))
		return s.did(w, &x, InvitationWithdraw, id)
	})
}

// invited finds an invitation by its link, in whatever state it is.
func invited(r Reader, secret string) (Invitation, error) {
	gone := &Error{Kind: NotFound, Message: "there is no such invitation", Hint: "it may have been sent again: only the newest link counts"}
	hash, ok := secretOf(invitationPrefix, secret)
	if !ok {
		return Invitation{}, gone
	}
	inv, err := r.InvitationByHash(hash)
	if errors.Is(err, ErrNoRow) {
		return Invitation{}, gone
	}
	return inv, err
}

// open says why an invitation can't be answered, if it can't.
func (s *Service) open(inv Invitation) error {
	switch {
	case inv.State != InvitationPending:
		return answered(inv)
	case !s.now().Before(inv.Expires):
		return &Error{Kind: Conflict, Message: "this invitation expired on " + inv.Expires.Format("2 January 2006"), Hint: "ask for it to be sent again"}
	}
	return nil
}
