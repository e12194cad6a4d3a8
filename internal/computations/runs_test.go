package computations_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/manifest"
)

// An approval counts if it is one signature, of this manifest, by the key that
// the manifest has of whoever hands it in.
func TestApprovals(t *testing.T) {
	p := newPlay(t)
	p.freeze()
	good := p.approval(p.bob)
	other := newPlay(t)
	other.freeze()
	foreign := func() manifest.Approval {
		f, err := manifest.Parse(other.view(other.bob).Manifest)
		p.ok(err)
		a, err := f.Approve(p.bob.key)
		p.ok(err)
		return a
	}()
	spare := newKey(t)
	_, err := p.RegisterKey(p.ctx, p.bob.Identity, p.proof(p.bob, spare, "spare"))
	p.ok(err)
	spared := func() manifest.Approval {
		f, err := manifest.Parse(p.view(p.bob).Manifest)
		p.ok(err)
		a, err := f.Approve(spare)
		p.ok(err)
		return a
	}()
	bent := good
	bent.Signature = slices.Clone(good.Signature)
	bent.Signature[3] ^= 1
	for name, tt := range map[string]struct {
		who  *person
		what manifest.Approval
		kind c.Kind
		why  string
	}{
		"no key":                 {p.bob, manifest.Approval{Signature: good.Signature}, c.Invalid, "public_key: is missing"},
		"no signature":           {p.bob, manifest.Approval{PublicKey: good.PublicKey}, c.Invalid, "signature: "},
		"bent":                   {p.bob, bent, c.Invalid, "does not verify"},
		"of another manifest":    {p.bob, foreign, c.Invalid, "does not verify"},
		"handed in by another":   {p.carol, good, c.Denied, "not your key"},
		"another's signature":    {p.bob, manifest.Approval{PublicKey: good.PublicKey, Signature: p.approval(p.carol).Signature}, c.Invalid, "does not verify"},
		"by another of his keys": {p.bob, spared, c.Denied, "not your key"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, p.Approve(p.ctx, tt.who.Identity, p.id, tt.what), tt.kind, tt.why) })
	}
	if v := p.view(p.alice); len(v.Approvals) != 0 || v.Stage != c.StageApprovals {
		t.Fatalf("refused approvals are there: %+v", v.Approvals)
	}
	p.approve(p.bob)
	p.clock.pass(time.Hour)
	p.approve(p.bob) // again changes nothing
	v := p.view(p.alice)
	if len(v.Approvals) != 1 || v.Approvals[0].User != p.bob.User || p.clock.Now().Sub(v.Approvals[0].At) != time.Hour {
		t.Errorf("approvals: %+v", v.Approvals)
	}
	p.approve(p.carol, p.dave)
	v = p.view(p.alice)
	if v.Stage != c.StageReady || v.Frozen.CheckApprovals([]manifest.Approval{v.Approvals[0].Approval, v.Approvals[1].Approval, v.Approvals[2].Approval}) != nil {
		t.Errorf("it is %s with %+v", v.Stage, v.Approvals)
	}
}

// A key that is revoked approves nothing and runs nothing, nor does it when
// another user has registered it since.
func TestRevokedKeys(t *testing.T) {
	p := newPlay(t)
	p.freeze()
	given := p.approval(p.bob)
	p.approve(p.carol, p.dave)
	p.ok(p.RevokeKey(p.ctx, p.bob.Identity, p.bob.keyID))
	refused(t, p.Approve(p.ctx, p.bob.Identity, p.id, given), c.Conflict, "this key is revoked")
	erin := p.person("erin")
	p.join(p.ws, p.alice, erin, c.RoleMember)
	p.ok(empty(p.RegisterKey(p.ctx, erin.Identity, p.proof(erin, p.bob.key, "found"))))
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error { return w.SetParts(p.id, erin.User, []c.Part{c.PartDataset}) }))
	refused(t, p.Approve(p.ctx, erin.Identity, p.id, given), c.Denied, "not your key")
	refused(t, p.Approve(p.ctx, p.bob.Identity, p.id, given), c.Conflict, "this key is revoked")

	q := newPlay(t)
	q.ready()
	q.ok(q.RevokeKey(q.ctx, q.dave.Identity, q.dave.keyID))
	_, err := q.StartRun(q.ctx, q.alice.Identity, q.id)
	refused(t, err, c.Conflict, "revoked: "+q.dave.key.Public().Fingerprint()+" of dave@example.org")
	// The same key registered again by the same person is in use again.
	q.ok(empty(q.RegisterKey(q.ctx, q.dave.Identity, q.proof(q.dave, q.dave.key, "again"))))
	q.run()
}

func TestStartRun(t *testing.T) { storetest.Each(t, startRun) }

func startRun(t *testing.T, fresh func(testing.TB) store.Config) {
	p := playOn(t, fresh)
	start := func() error { return empty(p.StartRun(p.ctx, p.alice.Identity, p.id)) }
	refused(t, start(), c.Conflict, "the computation is a draft that can be frozen")
	p.freeze()
	refused(t, start(), c.Conflict, "0 of 3 approvals are there")
	p.approve(p.bob, p.carol)
	refused(t, start(), c.Conflict, "missing: dave@example.org")
	p.approve(p.dave)
	p.ok(p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, true))
	refused(t, start(), c.Conflict, "archived")
	p.ok(p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, false))

	queue, cancel := p.store.Listen(c.TopicQueue)
	defer cancel()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	run, err := p.StartRun(trace.ContextWithSpanContext(p.ctx, span), p.alice.Identity, p.id)
	p.ok(err)
	if run.State != c.RunQueued || run.Number != 1 || run.TTL != time.Hour || run.By != p.alice.User || run.Host != "" ||
		run.Trace != "00-01000000000000000000000000000000-0200000000000000-01" {
		t.Errorf("started %+v", run)
	}
	select {
	case <-queue:
	case <-time.After(time.Minute):
		t.Error("the scheduler isn't told")
	}
	es, err := p.Entries(p.ctx, p.carol.Identity, run.ID, c.EntryFilter{})
	p.ok(err)
	if len(es) != 1 || es[0].Source != c.ServiceSource || es[0].Sequence != 1 || es[0].Kind != "run.queued" {
		t.Errorf("entries: %+v", es)
	}
	refused(t, start(), c.Conflict, "run 1 has not ended")
	p.put(run.ID, func(r *c.Run) { r.State, r.Ended = c.RunFailed, p.clock.Now() })
	// Many at the same moment: one of them.
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() { errs[i] = start() })
	}
	group.Wait()
	started := 0
	for _, err := range errs {
		if err == nil {
			started++
		} else {
			refused(t, err, c.Conflict, "")
		}
	}
	runs, err := p.Runs(p.ctx, p.bob.Identity, p.id, c.Page{})
	p.ok(err)
	if started != 1 || len(runs) != 2 || runs[0].Number != 2 {
		t.Errorf("%d started, and there are %+v", started, runs)
	}
	if v := p.view(p.alice); v.Stage != c.Stage(c.RunQueued) || v.LastRun != c.RunQueued {
		t.Errorf("it is %s", v.Stage)
	}
	refused(t, p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, true), c.Conflict, "run 2 has not ended")
}

// One workspace doesn't fill the queue; what ended doesn't count.
func TestActiveRunsAreBounded(t *testing.T) {
	p := newPlay(t)
	p.ready()
	first := p.run()
	p.put(first.ID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, p.clock.Now() })
	other, err := p.CopyComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	var last c.Run
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error {
		states := []c.RunState{c.RunQueued, c.RunOffered, c.RunStarting, c.RunRunning}
		for i := range 1000 {
			last = c.Run{ID: c.NewID(), Computation: other.ID, Workspace: p.ws.ID, Number: int64(i + 1), State: states[i%4], By: p.alice.User, Created: p.clock.Now()}
			if err := w.PutRun(last); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err = p.StartRun(p.ctx, p.alice.Identity, p.id)
	refused(t, err, c.Limited, "1000 runs of the workspace have not ended")
	p.put(last.ID, func(r *c.Run) { r.State, r.Ended = c.RunFailed, p.clock.Now() })
	p.run()
}

// Nobody fills the database at will.
func TestMakingIsLimited(t *testing.T) {
	p := newPlay(t)
	for i := range 2000 {
		if _, err := p.CreateAsset(p.ctx, p.bob.Identity, c.Asset{Workspace: p.ws.ID}); kindOf(err) != c.Invalid {
			t.Fatalf("the asset %d: %v", i, err)
		}
	}
	again := func() []error {
		return []error{
			empty(p.CreateAsset(p.ctx, p.bob.Identity, c.Asset{Workspace: p.ws.ID})),
			empty(p.CreateComputation(p.ctx, p.bob.Identity, p.ws.ID, p.draft())),
			empty(p.CopyComputation(p.ctx, p.bob.Identity, p.id)),
			empty(p.ImportComputation(p.ctx, p.bob.Identity, p.ws.ID, nil)),
		}
	}
	for _, err := range again() {
		refused(t, err, c.Limited, "as many computations and assets")
	}
	p.ok(empty(p.CopyComputation(p.ctx, p.alice.Identity, p.id)))
	p.clock.pass(time.Minute)
	for _, err := range again() {
		if kindOf(err) == c.Limited {
			t.Errorf("a minute later: %v", err)
		}
	}
}

func TestStopRun(t *testing.T) {
	p := newPlay(t)
	p.ready()
	run := p.run()
	p.ok(p.StopRun(p.ctx, p.alice.Identity, run.ID))
	got, err := p.Run(p.ctx, p.alice.Identity, run.ID)
	p.ok(err)
	if got.State != c.RunStopped || !got.Ended.Equal(p.clock.Now()) || !strings.Contains(got.Reason, "alice@example.org") {
		t.Errorf("a queued run became %+v", got)
	}
	refused(t, p.StopRun(p.ctx, p.alice.Identity, run.ID), c.Conflict, "ended already")
	host := c.Host{ID: c.NewID(), Name: "host-1"}
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error { return w.PutHost(host) }))
	run = p.run()
	p.put(run.ID, func(r *c.Run) { r.State, r.Host = c.RunOffered, host.ID })
	told, cancel := p.store.Listen(c.HostTopic(host.ID))
	defer cancel()
	p.ok(p.StopRun(p.ctx, p.alice.Identity, run.ID))
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Error("the host isn't told")
	}
	asked, err := p.Run(p.ctx, p.alice.Identity, run.ID)
	p.ok(err)
	if asked.State != c.RunOffered || !asked.StopAsked.Equal(p.clock.Now()) {
		t.Errorf("an offered run became %+v", asked)
	}
	p.clock.pass(time.Minute)
	p.ok(p.StopRun(p.ctx, p.alice.Identity, run.ID)) // asked for already
	again, err := p.Run(p.ctx, p.alice.Identity, run.ID)
	if p.ok(err); !again.StopAsked.Equal(asked.StopAsked) {
		t.Error("asked for twice")
	}
}

// A dry run says of each thing whether it is there, and runs nothing.
func TestDryRun(t *testing.T) {
	p := newPlay(t)
	check := func(want ...string) {
		t.Helper()
		all, err := p.DryRun(p.ctx, p.alice.Identity, p.id)
		p.ok(err)
		var got []string
		for _, each := range all {
			mark := "-"
			if each.OK {
				mark = "+"
			} else if each.Hint == "" {
				t.Errorf("%s has no hint", each.Name)
			}
			got = append(got, mark+each.Name+": "+each.Found)
		}
		if len(got) != len(want) {
			t.Fatalf("got %q", got)
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("got %q, want %q", got[i], want[i])
			}
		}
	}
	check("-manifest: the computation is a draft that can be frozen", "-host: no host has sim")
	p.ok(p.RetireAsset(p.ctx, p.bob.Identity, p.dataset.ID))
	check("-manifest: the computation is a draft, and lacks something: the asset that is named as the dataset iris.csv is retired", "-host: ")
	fresh := p.asset(p.bob, p.ws, c.AssetDataset, "iris2.csv")
	p.ok(p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Slot: "datasets/iris.csv", Asset: fresh.ID}))
	p.freeze()
	check("+manifest: frozen, digest ", "-approvals: 0 of 3", "+keys: ", "+parties: ", "+state: ", "-host: ")
	p.approve(p.bob, p.carol, p.dave)
	p.ok(p.store.Update(p.ctx, func(w c.Writer) error {
		return w.PutHost(c.Host{ID: c.NewID(), Name: "host-1", Connected: true, Contact: p.clock.Now(), Report: c.HostReport{TEEs: []manifest.TEE{manifest.TEESim}, Capacity: 1}})
	}))
	check("+manifest: frozen, digest ", "+approvals: all 3", "+keys: ", "+parties: ", "+state: ", "+host: ")
	p.ok(p.RevokeKey(p.ctx, p.bob.Identity, p.bob.keyID))
	check("+manifest: ", "+approvals: ", "-keys: revoked: ", "+parties: ", "+state: ", "+host: ")
	if runs, err := p.Runs(p.ctx, p.alice.Identity, p.id, c.Page{}); err != nil || len(runs) != 0 {
		t.Errorf("a dry run left %+v, %v", runs, err)
	}
}
