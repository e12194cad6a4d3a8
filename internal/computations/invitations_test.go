package computations_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

func TestInvitationsAreForOneAddress(t *testing.T) {
	p := newPlay(t)
	inv, secret, err := p.Invite(p.ctx, p.alice.Identity, c.Invite{
		Workspace: p.ws.ID, Email: " Erin@Example.org ", Computation: p.id, Parts: []c.Part{c.PartViewer, c.PartConsumer},
	})
	p.ok(err)
	if !strings.HasPrefix(secret, "ci_") || inv.Hash != ([32]byte{}) || inv.Role != c.RoleMember || inv.Expires.Sub(inv.Sent) != 7*24*time.Hour {
		t.Errorf("invited: %+v", inv)
	}
	v, err := p.InvitationByLink(p.ctx, secret)
	p.ok(err)
	if v.Email != "erin@example.org" || v.WorkspaceName != "Hospitals" || v.ComputationName != "Mean of it all" || v.ByEmail != p.alice.Email {
		t.Errorf("the link shows %+v", v)
	}
	_, err = p.AcceptInvitation(p.ctx, p.bob.Identity, secret)
	refused(t, err, c.Denied, "another address")
	stranger := p.person("stranger")
	_, err = p.AcceptInvitation(p.ctx, stranger.Identity, secret)
	refused(t, err, c.Denied, "another address")
	_, err = p.AcceptMyInvitation(p.ctx, stranger.Identity, inv.ID)
	refused(t, err, c.NotFound, "no such invitation")
	refused(t, p.DeclineMyInvitation(p.ctx, stranger.Identity, inv.ID), c.NotFound, "no such invitation")

	erin := p.person("erin")
	if all, err := p.MyInvitations(p.ctx, erin.Identity); err != nil || len(all) != 1 || all[0].ID != inv.ID {
		t.Errorf("hers: %+v, %v", all, err)
	}
	// Whoever has the link, and who invited has, isn't told that she has an account.
	if with, err := p.InvitationByLink(p.ctx, secret); err != nil || !reflect.DeepEqual(with, v) {
		t.Errorf("with an account: %+v, %v", with, err)
	}
	_, _, err = p.AcceptAsNew(p.ctx, secret, "Erin", password, "test")
	refused(t, err, c.Conflict, "sign in")
	done, err := p.AcceptInvitation(p.ctx, erin.Identity, secret)
	p.ok(err)
	if done.State != c.InvitationAccepted || done.AnsweredBy != erin.User {
		t.Errorf("accepted: %+v", done)
	}
	look := p.view(erin)
	if fmt.Sprint(look.Mine) != "[viewer consumer]" || len(look.Draft.Consumers) != 2 || look.Draft.Consumers[1] != erin.User {
		t.Errorf("she is %v, and the draft has the consumers %v", look.Mine, look.Draft.Consumers)
	}
	_, err = p.AcceptInvitation(p.ctx, erin.Identity, secret)
	refused(t, err, c.Conflict, "was accepted")
}

// The link of somebody who has no account makes one.
func TestAcceptAsNew(t *testing.T) {
	p := newPlay(t)
	_, secret, err := p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: "erin@example.org", Role: c.RoleManager})
	p.ok(err)
	hashes := 0
	c.CountHashes(p.Service, func(c.PasswordCost) { hashes++ })
	_, _, err = p.AcceptAsNew(p.ctx, "ci_"+strings.Repeat("A", 43), "Erin", password, "test")
	refused(t, err, c.NotFound, "no such invitation")
	_, _, err = p.AcceptAsNew(p.ctx, secret, "", "password1234", "test")
	refused(t, err, c.Invalid, "name: ")
	refused(t, err, c.Invalid, "password: ")
	if hashes != 0 {
		t.Error("who has no link, or no password, makes the service work")
	}
	session, inv, err := p.AcceptAsNew(p.ctx, secret, "Erin", password, "test")
	erin := p.signedIn(session, err)
	if erin.Email != "erin@example.org" || erin.Operator || inv.Workspace != p.ws.ID {
		t.Errorf("made %+v for %+v", erin.Identity, inv)
	}
	_, role, err := p.Workspace(p.ctx, erin.Identity, p.ws.ID)
	if err != nil || role != c.RoleManager {
		t.Errorf("she is %q, %v", role, err)
	}

	// Where there is an account, it takes no work to say so; operators see who asked,
	// and nobody asks for ever.
	inv, secret, err = p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: p.op.Email})
	p.ok(err)
	hashes = 0
	for range 5 {
		_, _, err = p.AcceptAsNew(p.ctx, secret, "Mallory", password, "test")
		refused(t, err, c.Conflict, "has an account already")
	}
	_, _, err = p.AcceptAsNew(p.ctx, secret, "Mallory", password, "test")
	refused(t, err, c.Limited, "tried too often")
	if hashes != 0 {
		t.Errorf("%d passwords were hashed for nothing", hashes)
	}
	noted, err := p.Audit(p.ctx, p.op.Identity, c.AuditFilter{Action: "invitation.has-account"})
	p.ok(err)
	if len(noted) != 5 || noted[0].Object != inv.ID || noted[0].Detail["by"] != string(p.alice.User) {
		t.Errorf("noted %+v", noted)
	}
}

// Who invites, and so can learn of one address after the other whether it has an
// account, does so sixty times, and about a hundred times more in a day.
func TestInvitingIsLimited(t *testing.T) {
	p := newPlay(t)
	invite := func(i int) c.Kind {
		_, _, err := p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: fmt.Sprintf("u%d@example.org", i)})
		return kindOf(err)
	}
	n := 0
	for i := range 110 {
		if invite(i) == "OK" {
			n++
		}
	}
	if n != 60 {
		t.Errorf("%d invitations at once", n)
	}
	p.clock.pass(24 * time.Hour)
	p.alice = p.again(p.alice)
	for i := range 110 {
		switch got := invite(1000 + i); got {
		case "OK":
			n++
		case c.Limited:
		default:
			t.Errorf("got %s", got)
		}
	}
	if n != 120 {
		t.Errorf("%d invitations until the next day", n)
	}
	p.clock.pass(time.Hour)
	if got := invite(2000); got != "OK" {
		t.Errorf("an hour later: %s", got)
	}
}

// Each end of an invitation refuses what comes later, and says why.
func TestInvitationsEnd(t *testing.T) {
	p := newPlay(t)
	erin := p.person("erin")
	invite := func() (c.Invitation, string) {
		inv, secret, err := p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: erin.Email, TTL: time.Hour})
		p.ok(err)
		return inv, secret
	}
	for name, tt := range map[string]struct {
		end  func(c.Invitation, string)
		kind c.Kind
		why  string
	}{
		"withdrawn":        {func(inv c.Invitation, _ string) { p.ok(p.WithdrawInvitation(p.ctx, p.alice.Identity, inv.ID)) }, c.Conflict, "was withdrawn"},
		"declined by link": {func(_ c.Invitation, secret string) { p.ok(p.DeclineInvitation(p.ctx, secret)) }, c.Conflict, "was declined"},
		"declined":         {func(inv c.Invitation, _ string) { p.ok(p.DeclineMyInvitation(p.ctx, erin.Identity, inv.ID)) }, c.Conflict, "was declined"},
		"expired":          {func(c.Invitation, string) { p.clock.pass(time.Hour) }, c.Conflict, "expired on 29 November 2026"},
		"sent again":       {func(inv c.Invitation, _ string) { p.ok(empty(p.ResendInvitation(p.ctx, p.alice.Identity, inv.ID))) }, c.NotFound, "only the newest link counts"},
	} {
		t.Run(name, func(t *testing.T) {
			inv, secret := invite()
			tt.end(inv, secret)
			_, err := p.InvitationByLink(p.ctx, secret)
			refused(t, err, tt.kind, tt.why)
			_, err = p.AcceptInvitation(p.ctx, erin.Identity, secret)
			refused(t, err, tt.kind, tt.why)
			_, _, err = p.AcceptAsNew(p.ctx, secret, "Erin", password, "test")
			refused(t, err, tt.kind, tt.why)
			refused(t, p.DeclineInvitation(p.ctx, secret), tt.kind, tt.why)
			if name == "sent again" {
				p.ok(p.WithdrawInvitation(p.ctx, p.alice.Identity, inv.ID))
				return
			}
			_, err = p.AcceptMyInvitation(p.ctx, erin.Identity, inv.ID)
			refused(t, err, tt.kind, tt.why)
			refused(t, p.DeclineMyInvitation(p.ctx, erin.Identity, inv.ID), tt.kind, tt.why)
			if all, err := p.MyInvitations(p.ctx, erin.Identity); err != nil || len(all) != 0 {
				t.Errorf("still waits: %+v, %v", all, err)
			}
			if name == "expired" {
				again, err := p.ResendInvitation(p.ctx, p.alice.Identity, inv.ID)
				p.ok(err)
				p.ok(empty(p.InvitationByLink(p.ctx, again)))
				p.ok(p.WithdrawInvitation(p.ctx, p.alice.Identity, inv.ID))
				return
			}
			_, err = p.ResendInvitation(p.ctx, p.alice.Identity, inv.ID)
			refused(t, err, c.Conflict, strings.Fields(tt.why)[1])
			refused(t, p.WithdrawInvitation(p.ctx, p.alice.Identity, inv.ID), c.Conflict, strings.Fields(tt.why)[1])
		})
	}
	if ms, err := p.Members(p.ctx, p.alice.Identity, p.ws.ID); err != nil || len(ms) != 4 {
		t.Errorf("members: %+v, %v", ms, err)
	}
}

// Who may invite no more leaves no door open.
func TestInvitationsEndWithTheirSender(t *testing.T) {
	for name, lose := range map[string]func(*play, *person){
		"removed": func(p *play, m *person) { p.ok(p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, m.User)) },
		"demoted": func(p *play, m *person) {
			p.ok(p.SetMemberRole(p.ctx, p.alice.Identity, p.ws.ID, m.User, c.RoleMember))
		},
		"disabled": func(p *play, m *person) { p.ok(p.SetUserDisabled(p.ctx, p.op.Identity, m.User, true)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			mia, fred := p.person("mia"), p.person("fred")
			p.join(p.ws, p.alice, mia, c.RoleManager)
			inv, secret, err := p.Invite(p.ctx, mia.Identity, c.Invite{Workspace: p.ws.ID, Email: fred.Email})
			p.ok(err)
			lose(p, mia)
			_, err = p.AcceptInvitation(p.ctx, fred.Identity, secret)
			refused(t, err, c.Conflict, "may not invite to this any more")
			_, err = p.AcceptMyInvitation(p.ctx, fred.Identity, inv.ID)
			refused(t, err, c.Conflict, "may not invite to this any more")
			// Another who may sends it again, and stands for it.
			p.ok(empty(p.ResendInvitation(p.ctx, p.alice.Identity, inv.ID)))
			p.ok(empty(p.AcceptMyInvitation(p.ctx, fred.Identity, inv.ID)))
		})
	}
}

func TestRefusedInvitations(t *testing.T) {
	p := newPlay(t)
	good := c.Invite{Workspace: p.ws.ID, Email: "erin@example.org", Computation: p.id, Parts: []c.Part{c.PartViewer}}
	for name, tt := range map[string]struct {
		change func(*c.Invite)
		kind   c.Kind
		why    string
	}{
		"no address":          {func(i *c.Invite) { i.Email = "" }, c.Invalid, "email: is missing"},
		"no such role":        {func(i *c.Invite) { i.Role = "king" }, c.Invalid, "role: is \"king\""},
		"creator":             {func(i *c.Invite) { i.Parts = []c.Part{c.PartCreator} }, c.Invalid, "parts: have \"creator\""},
		"no such part":        {func(i *c.Invite) { i.Parts = []c.Part{"king"} }, c.Invalid, "parts: have \"king\""},
		"a part twice":        {func(i *c.Invite) { i.Parts = []c.Part{c.PartViewer, c.PartViewer} }, c.Invalid, "twice"},
		"no parts":            {func(i *c.Invite) { i.Parts = nil }, c.Invalid, "parts: are missing"},
		"parts of nothing":    {func(i *c.Invite) { i.Computation = "" }, c.Invalid, "none is named"},
		"too short":           {func(i *c.Invite) { i.TTL = time.Second }, c.Invalid, "ttl: "},
		"too long":            {func(i *c.Invite) { i.TTL = 31 * 24 * time.Hour }, c.Invalid, "ttl: "},
		"a member":            {func(i *c.Invite) { i.Email, i.Computation, i.Parts = p.bob.Email, "", nil }, c.Conflict, "a member of the workspace already"},
		"no such computation": {func(i *c.Invite) { i.Computation = c.NewID() }, c.NotFound, "no such computation"},
		"no such workspace":   {func(i *c.Invite) { i.Workspace, i.Computation, i.Parts = c.NewID(), "", nil }, c.NotFound, "no such workspace"},
	} {
		ask := good
		tt.change(&ask)
		_, _, err := p.Invite(p.ctx, p.alice.Identity, ask)
		t.Run(name, func(t *testing.T) { refused(t, err, tt.kind, tt.why) })
	}
	p.ok(empty2(p.Invite(p.ctx, p.alice.Identity, good)))
	// A member can be asked to a computation, and keeps the role.
	ask := good
	ask.Email = p.bob.Email
	inv, _, err := p.Invite(p.ctx, p.alice.Identity, ask)
	p.ok(err)
	p.ok(empty(p.AcceptMyInvitation(p.ctx, p.bob.Identity, inv.ID)))
	if v := p.view(p.bob); fmt.Sprint(v.Mine) != "[viewer dataset-provider]" {
		t.Errorf("he is %v", v.Mine)
	}
}

// What was frozen meanwhile has no place for another party.
func TestInvitationIntoWhatIsFrozen(t *testing.T) {
	p := newPlay(t)
	erin := p.person("erin")
	ask := c.Invite{Workspace: p.ws.ID, Email: erin.Email, Computation: p.id, Parts: []c.Part{c.PartConsumer}}
	inv, _, err := p.Invite(p.ctx, p.alice.Identity, ask)
	p.ok(err)
	if v := p.view(p.alice); len(v.Invitations) != 1 || v.Invitations[0].Email != erin.Email {
		t.Errorf("the creator sees %+v", v.Invitations)
	}
	if v := p.view(p.bob); v.Invitations != nil {
		t.Error("a provider sees who is invited")
	}
	p.freeze()
	_, err = p.AcceptMyInvitation(p.ctx, erin.Identity, inv.ID)
	refused(t, err, c.Conflict, "frozen")
	_, _, err = p.Invite(p.ctx, p.alice.Identity, ask)
	refused(t, err, c.Conflict, "frozen")
	_, _, err = p.Workspace(p.ctx, erin.Identity, p.ws.ID)
	refused(t, err, c.NotFound, "")
	ask.Parts = []c.Part{c.PartRunner}
	inv, _, err = p.Invite(p.ctx, p.alice.Identity, ask)
	p.ok(err)
	p.ok(empty(p.AcceptMyInvitation(p.ctx, erin.Identity, inv.ID)))
}
