package computations_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

func TestHosts(t *testing.T) {
	p := newPlay(t)
	p.ready()
	run := p.run()
	host := c.Host{ID: c.NewID(), Name: "host-1", Connected: true}
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error { return w.PutHost(host) }))
	p.put(run.ID, func(r *c.Run) {
		r.State, r.Host, r.Reason, r.AgentAddress = c.RunRunning, host.ID, "private", "192.0.2.1:1"
	})
	// An operator sees that the host has a run, and nothing of whose it is.
	h, runs, err := p.Host(p.ctx, p.op.Identity, host.ID)
	p.ok(err)
	if h.Active != 1 || len(runs) != 1 || runs[0].ID != run.ID || runs[0].State != c.RunRunning {
		t.Errorf("%+v has %+v", h, runs)
	}
	if r := runs[0]; r.Workspace != "" || r.Computation != "" || r.By != "" || r.Reason != "" || r.AgentAddress != "" || r.AgentKey != "" || r.Trace != "" {
		t.Errorf("an operator sees %+v", r)
	}
	_, err = p.Computation(p.ctx, p.op.Identity, p.id)
	refused(t, err, c.NotFound, "")
	told, cancel := p.store.Listen(c.HostTopic(host.ID))
	defer cancel()
	for name, tt := range map[string]struct {
		do   func(bool) error
		look func(c.Host) bool
	}{
		"cordon": {func(on bool) error { return p.CordonHost(p.ctx, p.op.Identity, host.ID, on) }, func(h c.Host) bool { return h.Cordoned }},
		"drain":  {func(on bool) error { return p.DrainHost(p.ctx, p.op.Identity, host.ID, on) }, func(h c.Host) bool { return h.Draining }},
	} {
		for _, on := range []bool{true, false} {
			p.ok(tt.do(on))
			select {
			case <-told:
			case <-time.After(time.Minute):
				t.Fatalf("%s: the host isn't told", name)
			}
			if h, _, err := p.Host(p.ctx, p.op.Identity, host.ID); err != nil || tt.look(h) != on || !h.Connected {
				t.Errorf("%s %t: %+v, %v", name, on, h, err)
			}
		}
	}
	p.ok(p.RevokeHost(p.ctx, p.op.Identity, host.ID))
	refused(t, p.RevokeHost(p.ctx, p.op.Identity, host.ID), c.Conflict, "is revoked")
	refused(t, p.CordonHost(p.ctx, p.op.Identity, host.ID, true), c.Conflict, "is revoked")
	_, _, err = p.Host(p.ctx, p.op.Identity, c.NewID())
	refused(t, err, c.NotFound, "no such host")
}

func TestEnrolTokens(t *testing.T) {
	w := newWorld(t)
	for name, ttl := range map[string]time.Duration{"": time.Hour, "Host": time.Hour, "-x": time.Hour, "a b": time.Hour, strings.Repeat("x", 64): time.Hour, "short": time.Second, "long": 8 * 24 * time.Hour} {
		_, _, err := w.CreateEnrolToken(w.ctx, w.op.Identity, name, ttl)
		refused(t, err, c.Invalid, "expected")
	}
	token, secret, err := w.CreateEnrolToken(w.ctx, w.op.Identity, "host-1.example.org", time.Hour)
	w.ok(err)
	if !strings.HasPrefix(secret, "ce_") || token.Hash != ([32]byte{}) || token.Expires.Sub(token.Created) != time.Hour {
		t.Errorf("made %+v", token)
	}
	w.ok(w.store.View(w.ctx, func(r c.Reader) error {
		kept, err := r.EnrolToken(c.HashSecret(secret))
		if err == nil && kept.ID != token.ID {
			t.Errorf("the secret is that of %+v", kept)
		}
		return err
	}))
	all, err := w.EnrolTokens(w.ctx, w.op.Identity)
	if err != nil || len(all) != 1 || all[0].Hash != ([32]byte{}) {
		t.Errorf("tokens: %+v, %v", all, err)
	}
	// What nobody has used is taken back, once; what a host has used is the host's.
	w.ok(w.WithdrawEnrolToken(w.ctx, w.op.Identity, token.ID))
	w.ok(w.store.View(w.ctx, func(r c.Reader) error {
		kept, err := r.EnrolToken(c.HashSecret(secret))
		if err == nil && w.clock.Now().Before(kept.Expires) {
			t.Errorf("the token is good until %v", kept.Expires)
		}
		return err
	}))
	refused(t, w.WithdrawEnrolToken(w.ctx, w.op.Identity, token.ID), c.Conflict, "good no more already")
	refused(t, w.WithdrawEnrolToken(w.ctx, w.op.Identity, c.NewID()), c.NotFound, "no such enrolment token")
	_, secret, err = w.CreateEnrolToken(w.ctx, w.op.Identity, "host-2", time.Hour)
	w.ok(err)
	var used c.EnrolToken
	w.ok(w.store.Update(w.ctx, func(x c.Writer) error {
		host := c.Host{ID: c.NewID(), Name: "host-2"}
		if used, err = x.EnrolToken(c.HashSecret(secret)); err != nil {
			return err
		}
		used.Host = host.ID
		return errors.Join(x.PutHost(host), x.PutEnrolToken(used))
	}))
	refused(t, w.WithdrawEnrolToken(w.ctx, w.op.Identity, used.ID), c.Conflict, "a host has used this token")
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	for _, tt := range [][2]string{{"sign-up", "everybody"}, {"sign-up", ""}, {"invitation-days", "0"}, {"invitation-days", "31"}, {"invitation-days", "+7"}, {"invitation-days", "x"}, {"color", "red"}} {
		refused(t, w.SetSetting(w.ctx, w.op.Identity, tt[0], tt[1]), c.Invalid, "")
	}
	all, err := w.Settings(w.ctx, w.op.Identity)
	w.ok(err)
	if len(all) != 2 || all["sign-up"] != "invitation" || all["invitation-days"] != "7" {
		t.Errorf("settings: %v", all)
	}
	w.ok(w.SetSetting(w.ctx, w.op.Identity, "invitation-days", "3"))
	alice := w.person("alice")
	inv, _, err := w.Invite(w.ctx, alice.Identity, c.Invite{Workspace: w.workspace(alice).ID, Email: "x@example.org"})
	w.ok(err)
	if inv.Expires.Sub(inv.Sent) != 3*24*time.Hour {
		t.Errorf("invited until %v", inv.Expires)
	}
}

// Upkeep deletes what no longer counts, and nothing else.
func TestUpkeep(t *testing.T) {
	p := newPlay(t)
	p.ready()
	old := p.run()
	p.tell(old.ID, "agent", 0, 2500)
	p.put(old.ID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, p.clock.Now() })
	p.ok(p.SetRetention(p.ctx, p.alice.Identity, p.ws.ID, 2*time.Hour))
	token, _, err := p.CreateToken(p.ctx, p.bob.Identity, "short", time.Hour)
	p.ok(err)
	rows := func() int {
		n := 0
		p.ok(p.store.View(p.ctx, func(r c.Reader) error {
			all, err := r.Credentials(p.bob.User)
			n = len(all)
			return err
		}))
		return n
	}
	entries := func(run c.ID) int {
		es, err := p.Entries(p.ctx, p.bob.Identity, run, c.EntryFilter{})
		p.ok(err)
		return len(es)
	}
	p.clock.pass(2 * time.Hour)
	young := p.run()
	p.tell(young.ID, "agent", 0, 3)
	p.ok(p.Upkeep(p.ctx))
	if entries(old.ID) != 1000 || rows() != 1 || p.lives(token) {
		t.Errorf("to the second: %d entries, %d credentials", entries(old.ID), rows())
	}
	p.clock.pass(time.Second)
	p.ok(p.Upkeep(p.ctx))
	if entries(old.ID) != 0 || entries(young.ID) != 4 {
		t.Errorf("entries: %d of the old, %d of the young run", entries(old.ID), entries(young.ID))
	}
	p.ok(empty(p.Authenticate(p.ctx, p.carol.session)))
	p.clock.pass(11 * time.Hour)
	p.ok(p.Upkeep(p.ctx))
	if rows() != 0 || !p.lives(p.carol.session) {
		t.Errorf("%d credentials of bob's are left, and carol's lives is %t", rows(), p.lives(p.carol.session))
	}
}
