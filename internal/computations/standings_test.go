package computations_test

import (
	"fmt"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

// seat is somebody at a table, and how they stand to what is on it.
type seat struct {
	name string
	who  c.Identity
	c.Standing
}

// seats has a person for each role and part, and those from outside.
func (s *stage) seats() []seat {
	all := []seat{{name: "operator", who: s.op.Identity, Standing: c.Standing{Operator: true}}}
	outside := func(name string) *person {
		p := s.person(name)
		all = append(all, seat{name: name, who: p.Identity})
		return p
	}
	outside("stranger")
	neighbour := outside("neighbour")
	s.workspace(neighbour) // administrator elsewhere
	removed := outside("removed")
	s.join(s.ws, s.alice, removed, c.RoleManager)
	s.ok(s.SetParts(s.ctx, s.alice.Identity, s.id, removed.User, []c.Part{c.PartEditor, c.PartRunner}))
	s.ok(s.RemoveMember(s.ctx, s.alice.Identity, s.ws.ID, removed.User))
	for i, role := range c.Roles() {
		for j, part := range append([]c.Part{""}, c.Parts()...) {
			p := s.person(fmt.Sprintf("p%d%d", i, j))
			s.join(s.ws, s.alice, p, role)
			st := c.Standing{Role: role}
			if part != "" {
				st.Parts = []c.Part{part}
				// Not by the service's own method: what is frozen keeps its parties.
				s.ok(s.store.Update(s.ctx, func(w c.Writer) error { return w.SetParts(s.id, p.User, st.Parts) }))
			}
			all = append(all, seat{name: string(role) + " and " + string(part), who: p.Identity, Standing: st})
		}
	}
	return all
}

// want is what Allow makes of a standing, in words of errors.
func (sc *scenario) want(st c.Standing) c.Kind {
	if sc.on == workspace {
		st.Parts = nil
	}
	switch {
	case sc.do == "":
		return "OK"
	case sc.on != service && !c.Allow(st, sc.see):
		return c.NotFound
	case !c.Allow(st, sc.do):
		return c.Denied
	}
	return "OK"
}

// Every use case asks Allow, for its own action, before it says anything else:
// each standing gets exactly what the table of roles says.
func TestEveryUseCaseForEveryStanding(t *testing.T) {
	s := newStage(t)
	seats := s.seats()
	identities(t, func(t *testing.T, name string, sc scenario) {
		for _, seat := range seats {
			err := sc.call(s, seat.who)
			got := kindOf(err)
			if got == c.Invalid || got == c.Conflict {
				got = "OK" // got through, to be told what else is wrong
			}
			if want := sc.want(seat.Standing); got != want {
				t.Errorf("%s got %s (%v), want %s", seat.name, got, err, want)
			}
		}
	})
}

// What an Identity says of itself counts for nothing: the credential does.
func TestIdentityCantBeDressedUp(t *testing.T) {
	s := newStage(t)
	p := s.person("mallory")
	id := p.Identity
	id.User, id.Email, id.Operator, id.Credential = s.alice.User, s.alice.Email, true, s.alice.Credential
	_, err := s.Users(s.ctx, id, c.Page{})
	refused(t, err, c.Denied, "operators")
	_, _, err = s.Workspace(s.ctx, id, s.ws.ID)
	refused(t, err, c.NotFound, "no such workspace")
	s.ok(s.SetName(s.ctx, id, "Mallory"))
	if v := s.view(s.alice); v.Parties == nil {
		t.Error("no parties")
	}
	members, err := s.Members(s.ctx, s.alice.Identity, s.ws.ID)
	s.ok(err)
	for _, m := range members {
		if m.Name == "Mallory" {
			t.Errorf("changed the name of %s", m.Email)
		}
	}
}

// Standings that the seats don't have: owners, and the log of the whole service.
func TestOtherStandings(t *testing.T) {
	s := newStage(t)
	_, err := s.Audit(s.ctx, s.op.Identity, c.AuditFilter{})
	s.ok(err)
	_, err = s.Audit(s.ctx, s.alice.Identity, c.AuditFilter{})
	refused(t, err, c.Denied, string(c.AuditServiceRead))

	s.ok(s.EditAsset(s.ctx, s.bob.Identity, s.dataset.ID, "Iris", "Flowers."))
	refused(t, s.EditAsset(s.ctx, s.alice.Identity, s.dataset.ID, "Iris", ""), c.Denied, "its owner")

	// An editor who is a plain member asks somebody to the computation, and may take
	// that back; into the workspace alone, or as more than a member, may not.
	erin := s.person("erin")
	s.join(s.ws, s.alice, erin, c.RoleMember)
	s.ok(s.SetParts(s.ctx, s.alice.Identity, s.id, erin.User, []c.Part{c.PartEditor}))
	ask := c.Invite{Workspace: s.ws.ID, Email: "fred@example.org", Computation: s.id, Parts: []c.Part{c.PartViewer}}
	inv, _, err := s.Invite(s.ctx, erin.Identity, ask)
	s.ok(err)
	_, err = s.ResendInvitation(s.ctx, erin.Identity, inv.ID)
	s.ok(err)
	s.ok(s.WithdrawInvitation(s.ctx, erin.Identity, inv.ID))
	more := ask
	more.Role = c.RoleManager
	_, _, err = s.Invite(s.ctx, erin.Identity, more)
	refused(t, err, c.Denied, string(c.InvitationCreate))
	_, _, err = s.Invite(s.ctx, erin.Identity, c.Invite{Workspace: s.ws.ID, Email: "fred@example.org"})
	refused(t, err, c.Denied, string(c.InvitationCreate))
	_, _, err = s.Invite(s.ctx, s.bob.Identity, ask)
	refused(t, err, c.Denied, string(c.InvitationCreate))
	// A manager is no editor, and makes nobody more than a member.
	mia := s.person("mia")
	s.join(s.ws, s.alice, mia, c.RoleManager)
	_, _, err = s.Invite(s.ctx, mia.Identity, ask)
	refused(t, err, c.Denied, string(c.ComputationInvite))
	_, _, err = s.Invite(s.ctx, mia.Identity, c.Invite{Workspace: s.ws.ID, Email: "fred@example.org", Role: c.RoleAdministrator})
	refused(t, err, c.Denied, "members only")
	// Nor does anybody reach into another workspace by naming both.
	other := s.workspace(s.bob)
	ask.Workspace = other.ID
	_, _, err = s.Invite(s.ctx, s.bob.Identity, ask)
	refused(t, err, c.NotFound, "no such computation")
	// Who leaves needs nobody's leave.
	s.ok(s.RemoveMember(s.ctx, erin.Identity, s.ws.ID, erin.User))
}
