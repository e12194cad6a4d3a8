package computations_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

func TestWorkspaces(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.person("alice"), w.person("bob"), w.person("carol")
	ws := w.workspace(alice)
	w.join(ws, alice, bob, c.RoleMember)
	w.join(ws, alice, carol, c.RoleManager)
	other := w.workspace(bob)
	if all, err := w.Workspaces(w.ctx, bob.Identity); err != nil || len(all) != 2 {
		t.Errorf("bob is in %+v, %v", all, err)
	}
	if all, err := w.Workspaces(w.ctx, alice.Identity); err != nil || len(all) != 1 || all[0].ID != ws.ID {
		t.Errorf("alice is in %+v, %v", all, err)
	}
	_, _, err := w.Workspace(w.ctx, alice.Identity, other.ID)
	refused(t, err, c.NotFound, "")
	w.ok(w.RenameWorkspace(w.ctx, alice.Identity, ws.ID, "Clinics"))
	now, role, err := w.Workspace(w.ctx, carol.Identity, ws.ID)
	if err != nil || now.Name != "Clinics" || role != c.RoleManager {
		t.Errorf("carol sees %+v as %s, %v", now, role, err)
	}
	for _, keep := range []time.Duration{-1, 1, time.Minute, 11 * 365 * 24 * time.Hour} {
		refused(t, w.SetRetention(w.ctx, alice.Identity, ws.ID, keep), c.Invalid, "retention: ")
	}
	w.ok(w.SetRetention(w.ctx, alice.Identity, ws.ID, 24*time.Hour))
	w.ok(w.SetRetention(w.ctx, alice.Identity, ws.ID, 0))
}

// A workspace keeps an administrator, whoever leaves and in whatever order.
func TestLastAdministrator(t *testing.T) { storetest.Each(t, lastAdministrator) }

func lastAdministrator(t *testing.T, fresh func(testing.TB) store.Config) {
	w := worldOn(t, fresh)
	alice, bob := w.person("alice"), w.person("bob")
	ws := w.workspace(alice)
	w.join(ws, alice, bob, c.RoleMember)
	refused(t, w.SetMemberRole(w.ctx, alice.Identity, ws.ID, alice.User, c.RoleMember), c.Conflict, "no administrator")
	refused(t, w.RemoveMember(w.ctx, alice.Identity, ws.ID, alice.User), c.Conflict, "no administrator")
	refused(t, w.SetMemberRole(w.ctx, alice.Identity, ws.ID, w.op.User, c.RoleManager), c.NotFound, "is no member")
	w.ok(w.SetMemberRole(w.ctx, alice.Identity, ws.ID, bob.User, c.RoleAdministrator))
	// Both go at the same moment: one of them stays.
	for range 10 {
		var group sync.WaitGroup
		errs := make([]error, 2)
		for i, p := range []*person{alice, bob} {
			group.Go(func() { errs[i] = w.SetMemberRole(w.ctx, p.Identity, ws.ID, p.User, c.RoleMember) })
		}
		group.Wait()
		stays, goes := alice, bob
		if errs[0] == nil {
			stays, goes = bob, alice
		}
		if kinds := []c.Kind{kindOf(errs[0]), kindOf(errs[1])}; !slices.Contains(kinds, c.Conflict) || !slices.Contains(kinds, c.Kind("OK")) {
			t.Fatalf("got %v", errs)
		}
		w.ok(w.SetMemberRole(w.ctx, stays.Identity, ws.ID, goes.User, c.RoleAdministrator))
	}
	// One whose account is disabled is none.
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, alice.User, true))
	w.ok(w.SetMemberRole(w.ctx, w.again(bob).Identity, ws.ID, bob.User, c.RoleAdministrator))
	refused(t, w.RemoveMember(w.ctx, bob.Identity, ws.ID, bob.User), c.Conflict, "no administrator")
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, alice.User, false))
	w.ok(w.RemoveMember(w.ctx, bob.Identity, ws.ID, bob.User))
	_, _, err := w.Workspace(w.ctx, bob.Identity, ws.ID)
	refused(t, err, c.NotFound, "")
}

// Who is removed has no part any more, and gets none back by coming back.
func TestRemovedMembersLoseTheirParts(t *testing.T) {
	p := newPlay(t)
	p.ok(p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, p.bob.User))
	_, err := p.Computation(p.ctx, p.bob.Identity, p.id)
	refused(t, err, c.NotFound, "no such computation")
	if v := p.view(p.alice); !slices.Contains(v.Missing, "bob@example.org is no member of the workspace any more") {
		t.Errorf("missing: %q", v.Missing)
	}
	p.join(p.ws, p.alice, p.bob, c.RoleMember)
	_, err = p.Computation(p.ctx, p.bob.Identity, p.id)
	refused(t, err, c.NotFound, "no such computation")
}

// A party that leaves keeps what is frozen from running, and so does one whose
// account is disabled. Who comes back gets the part that the manifest has of them,
// and no other.
func TestPartiesThatLeave(t *testing.T) {
	p := newPlay(t)
	p.freeze()
	p.approve(p.carol, p.dave)
	approval := p.approval(p.bob)
	start := func() error { return empty(p.StartRun(p.ctx, p.alice.Identity, p.id)) }
	p.ok(p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, p.bob.User))
	refused(t, start(), c.Conflict, "2 of 3")
	invite := func(email string, part c.Part) (c.Invitation, error) {
		inv, _, err := p.Invite(p.ctx, p.alice.Identity, c.Invite{Workspace: p.ws.ID, Email: email, Computation: p.id, Parts: []c.Part{part}})
		return inv, err
	}
	for email, part := range map[string]c.Part{p.bob.Email: c.PartConsumer, "erin@example.org": c.PartDataset, p.carol.Email: c.PartDataset} {
		_, err := invite(email, part)
		refused(t, err, c.Conflict, "parts: the computation is frozen")
	}
	inv, err := invite(p.bob.Email, c.PartDataset)
	p.ok(err)
	p.ok(empty(p.AcceptMyInvitation(p.ctx, p.bob.Identity, inv.ID)))
	p.ok(p.Approve(p.ctx, p.bob.Identity, p.id, approval))

	// Away again, after all approved.
	p.ok(p.RemoveMember(p.ctx, p.bob.Identity, p.ws.ID, p.bob.User))
	refused(t, start(), c.Conflict, "bob@example.org is no member of the workspace any more")
	p.join(p.ws, p.alice, p.bob, c.RoleMember)
	refused(t, p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, []c.Part{c.PartDataset, c.PartConsumer}), c.Conflict, "frozen")
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, []c.Part{c.PartDataset}))
	refused(t, p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, nil), c.Conflict, "frozen")

	p.ok(p.SetUserDisabled(p.ctx, p.op.Identity, p.dave.User, true))
	refused(t, start(), c.Conflict, "the account of dave@example.org is disabled")
	p.ok(p.SetUserDisabled(p.ctx, p.op.Identity, p.dave.User, false))
	p.run()
}

func TestTooManyWorkspaces(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	w.ok(w.store.Update(w.ctx, func(x c.Writer) error {
		for range 100 {
			ws := c.Workspace{ID: c.NewID(), Name: "x"}
			if err := errors.Join(x.PutWorkspace(ws), x.PutMember(c.Member{Workspace: ws.ID, User: alice.User, Role: c.RoleMember})); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err := w.CreateWorkspace(w.ctx, alice.Identity, "one more")
	refused(t, err, c.Limited, "as many workspaces")
}
