package computations_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// faultsOf are the fields and messages of a refusal.
func faultsOf(err error) map[string]string {
	found := map[string]string{}
	var all c.Errors
	if errors.As(err, &all) {
		for _, e := range all {
			found[e.Field] = e.Message
		}
		return found
	}
	var one *c.Error
	if errors.As(err, &one) {
		found[one.Field] = one.Message
	}
	return found
}

func TestFreezeMakesTheManifest(t *testing.T) {
	p := newPlay(t)
	d := p.draft()
	d.Consumers = append(d.Consumers, p.bob.User)
	d.Outputs = manifest.Outputs{ResultMax: 1 << 20}
	d.Algorithm.Limits = manifest.Limits{Seconds: 60}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	done := p.freeze()
	m, err := manifest.Parse(done.Manifest)
	p.ok(err)
	if m.Digest != done.Digest || !done.Frozen.Equal(p.clock.Now()) || m.Nonce == (manifest.Nonce{}) {
		t.Errorf("frozen at %v with %s and the nonce %s", done.Frozen, done.Digest, m.Nonce)
	}
	bob, carol, dave := p.bob.key.Public(), p.carol.key.Public(), p.dave.key.Public()
	want := manifest.Manifest{
		Version: 1, ID: string(p.id), Name: d.Name, Description: d.Description, Nonce: m.Nonce, TEE: manifest.TEESim, AttestedTLS: true,
		Approvals: []keys.Public{dave, bob, carol},
		Algorithm: manifest.Algorithm{
			Type: manifest.Python, Args: []string{"--fast"}, Env: map[string]string{"A": "b"}, Limits: d.Algorithm.Limits,
			SHA256: p.algorithm.SHA256, Size: p.algorithm.Size, Provider: dave,
		},
		Datasets:  []manifest.Dataset{{Name: "iris.csv", Provider: bob, SHA256: p.dataset.SHA256, Size: p.dataset.Size}},
		Consumers: []keys.Public{carol, bob},
		Outputs:   d.Outputs,
	}
	f, err := manifest.Freeze(want)
	p.ok(err)
	if f.Digest != m.Digest {
		t.Errorf("the manifest is\n%s\nwant\n%s", m.Raw, f.Raw)
	}
	if v := p.view(p.carol); v.Stage != c.StageApprovals || len(v.Missing) > 0 || v.Frozen.Digest != m.Digest {
		t.Errorf("the view has %s, %v", v.Stage, v.Missing)
	}
}

// What a container's asset says of its image is in the manifest.
func TestFreezeOfAContainer(t *testing.T) {
	p := newPlay(t)
	a := c.Asset{Workspace: p.ws.ID, Name: "stats", SHA256: manifest.Digest{7}, Size: 100}
	container(&a)
	a, err := p.CreateAsset(p.ctx, p.dave.Identity, a)
	p.ok(err)
	d := p.draft()
	d.Algorithm.Asset = a.ID
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	m, err := manifest.Parse(p.freeze().Manifest)
	p.ok(err)
	if want := (manifest.Image{Name: "stats:1", Config: a.ImageConfig, UnpackedMax: 1 << 20}); m.Algorithm.Type != manifest.Container || m.Algorithm.Image != want {
		t.Errorf("the algorithm is %+v", m.Algorithm)
	}
}

// Approvals are those of every party where it is attested, else nobody's; or of
// those who are named.
func TestWhoMustApprove(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*play, *c.Draft)
		want   string
	}{
		"attested": {func(*play, *c.Draft) {}, "bob carol dave"},
		"plain":    {func(_ *play, d *c.Draft) { d.TEE, d.AttestedTLS = manifest.TEENone, false }, ""},
		"named":    {func(p *play, d *c.Draft) { d.Approvers = []c.ID{p.bob.User} }, "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			d := p.draft()
			tt.change(p, &d)
			p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
			p.freeze()
			v := p.view(p.alice)
			var must []string
			for _, party := range v.Parties {
				if party.MustApprove {
					must = append(must, strings.TrimSuffix(party.Email, "@example.org"))
				}
			}
			slices.Sort(must)
			if got := strings.Join(must, " "); got != tt.want || len(v.Frozen.Approvals) != len(must) {
				t.Errorf("%q must approve, and the manifest has %d", got, len(v.Frozen.Approvals))
			}
			if ready := v.Stage == c.StageReady; ready != (tt.want == "") {
				t.Errorf("it is %s", v.Stage)
			}
		})
	}
}

// Everything that is missing is said at once, each with its field, and by View in
// the same words.
func TestFreezeNamesEverythingMissing(t *testing.T) {
	p := newPlay(t)
	erin, fred := p.person("erin"), p.withKey(p.person("fred"))
	for _, m := range []*person{erin, fred} {
		p.join(p.ws, p.alice, m, c.RoleMember)
	}
	p.withKey(fred) // now has two, and chose none
	d := p.draft()
	d.Algorithm.Provider, d.Algorithm.Asset = "", ""
	d.Datasets = append(d.Datasets, c.DatasetSlot{Name: "b"}, c.DatasetSlot{Name: "d", Provider: erin.User}, c.DatasetSlot{Name: "e", Provider: fred.User})
	d.Approvers = []c.ID{p.alice.User, p.bob.User}
	d.TEE = manifest.TEENone
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	p.ok(p.RetireAsset(p.ctx, p.bob.Identity, p.dataset.ID))
	p.ok(p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, p.carol.User))
	p.ok(p.RevokeKey(p.ctx, p.bob.Identity, p.bob.keyID))
	_, err := p.Freeze(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision)
	want := map[string]string{
		"algorithm/provider":  "nobody is named to bring the algorithm",
		"datasets/0/asset":    "the asset that is named as the dataset iris.csv is retired",
		"datasets/0/provider": "bob@example.org has registered no key",
		"datasets/1/provider": "nobody is named to bring the dataset b",
		"datasets/2/asset":    "erin@example.org has not said which asset is the dataset d",
		"datasets/2/provider": "erin@example.org has registered no key",
		"datasets/3/asset":    "fred@example.org has not said which asset is the dataset e",
		"datasets/3/provider": "fred@example.org has 2 keys, and must say which one to use here",
		"consumers/0":         "carol@example.org is no member of the workspace any more",
		"approvers/0":         "alice@example.org has registered no key",
		"attested_tls":        "/attested_tls is true, but /tee is \"none\": nothing could vouch for the VM",
	}
	got := faultsOf(err)
	if kindOf(err) != c.Invalid || !maps.Equal(got, want) {
		for field := range want {
			if got[field] != want[field] {
				t.Errorf("%s: got %q, want %q", field, got[field], want[field])
			}
		}
		t.Errorf("got %s with %d faults, want %d:\n%v", kindOf(err), len(got), len(want), err)
	}
	missing := p.view(p.alice).Missing
	for _, text := range want {
		if !slices.Contains(missing, text) {
			t.Errorf("the view lacks %q", text)
		}
	}
	if !slices.Contains(missing, "alice@example.org must approve, and brings nothing and gets nothing: only parties approve") {
		t.Errorf("missing: %q", missing)
	}
	refused(t, p.Approve(p.ctx, p.bob.Identity, p.id, manifest.Approval{PublicKey: p.bob.key.Public(), Signature: []byte{1}}), c.Conflict, "is a draft")
	// One by one.
	for name, tt := range map[string]struct {
		change func(*c.Draft)
		want   string
	}{
		"nobody consumes": {func(d *c.Draft) { d.Consumers = nil }, "nobody is named to have the result"},
		"a long argument": {func(d *c.Draft) { d.Algorithm.Args = []string{strings.Repeat("x", 70<<10)} }, "/algorithm/args/0 has"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			d := p.draft()
			tt.change(&d)
			p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
			_, err := p.Freeze(p.ctx, p.alice.Identity, p.id, 2)
			refused(t, err, c.Invalid, tt.want)
		})
	}
}

// Keys that were rotated are followed; those that were revoked count for nothing.
func TestFreezeFollowsRotation(t *testing.T) {
	p := newPlay(t)
	p.ok(p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Key: p.bob.keyID}))
	old, next := p.bob.keyID, newKey(t)
	for range 2 {
		ask := p.proof(p.bob, next, "next")
		ask.Replaces = old
		k, err := p.RegisterKey(p.ctx, p.bob.Identity, ask)
		p.ok(err)
		old, p.bob.key, next = k.ID, next, newKey(t)
	}
	p.withKey(p.person("nobody")) // others' keys don't matter
	p.freeze()
	v := p.view(p.bob)
	if !v.Frozen.Datasets[0].Provider.Equal(p.bob.key.Public()) || v.Draft.Keys[p.bob.User] != old {
		t.Errorf("the manifest has %s", v.Frozen.Datasets[0].Provider.Fingerprint())
	}
	q := newPlay(t)
	q.ok(q.Supply(q.ctx, q.bob.Identity, q.id, c.Supply{Key: q.bob.keyID}))
	q.ok(q.RevokeKey(q.ctx, q.bob.Identity, q.bob.keyID))
	q.withKey(q.bob) // has another; the choice was the first
	_, err := q.Freeze(q.ctx, q.alice.Identity, q.id, q.view(q.alice).Revision)
	refused(t, err, c.Invalid, "has revoked the key that was chosen")
}

// A frozen manifest stays as it is, whatever is called with whatever by whoever
// may most.
func TestFrozenNeverChanges(t *testing.T) {
	p := newPlay(t)
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.carol.User, []c.Part{c.PartConsumer, c.PartEditor}))
	p.freeze()
	before := p.view(p.alice)
	other := p.draft()
	other.Name = "Another"
	second := p.asset(p.bob, p.ws, c.AssetDataset, "second.csv")
	tried := map[string]bool{}
	for _, try := range []struct {
		method string
		do     func() error
	}{
		{"EditDraft", func() error { return empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, before.Revision, other)) }},
		{"EditDraft", func() error { return empty(p.EditDraft(p.ctx, p.carol.Identity, p.id, before.Revision, other)) }},
		{"Freeze", func() error { return empty(p.Freeze(p.ctx, p.alice.Identity, p.id, before.Revision)) }},
		{"SetParts", func() error { return p.SetParts(p.ctx, p.alice.Identity, p.id, p.alice.User, []c.Part{c.PartConsumer}) }},
		{"SetParts", func() error { return p.SetParts(p.ctx, p.alice.Identity, p.id, p.carol.User, nil) }},
		{"Supply", func() error {
			return p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Slot: "datasets/iris.csv", Asset: second.ID})
		}},
		{"Supply", func() error { return p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Key: p.bob.keyID}) }},
		{"Supply", func() error { return p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Slot: "datasets/iris.csv"}) }},
	} {
		tried[try.method] = true
		refused(t, try.do(), c.Conflict, "frozen")
	}
	// These go through, and change nothing of it.
	var run c.Run
	for _, step := range []struct {
		method string
		do     func() error
	}{
		{"Approve", func() error { p.approve(p.bob, p.carol, p.dave); return nil }},
		{"StartRun", func() error { run = p.run(); return nil }},
		{"SubmitReceipt", func() error {
			return p.SubmitReceipt(p.ctx, p.carol.Identity, run.ID, p.receiptOf(run.ID, newKey(t), before.Frozen))
		}},
		{"StopRun", func() error { return p.StopRun(p.ctx, p.alice.Identity, run.ID) }},
		{"SetParts", func() error {
			return p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, []c.Part{c.PartDataset, c.PartRunner})
		}},
		{"CopyComputation", func() error { return empty(p.CopyComputation(p.ctx, p.alice.Identity, p.id)) }},
		{"ArchiveComputation", func() error { return p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, true) }},
		{"ArchiveComputation", func() error { return p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, false) }},
		{"RetireAsset", func() error { return p.RetireAsset(p.ctx, p.bob.Identity, p.dataset.ID) }},
		{"EditAsset", func() error { return p.EditAsset(p.ctx, p.dave.Identity, p.algorithm.ID, "other.py", "") }},
		{"RevokeKey", func() error { return p.RevokeKey(p.ctx, p.dave.Identity, p.dave.keyID) }},
		{"SetName", func() error { return p.SetName(p.ctx, p.bob.Identity, "Robert") }},
		{"RemoveMember", func() error { return p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, p.carol.User) }},
	} {
		tried[step.method] = true
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.method, err)
		}
	}
	for name, sc := range scenarios {
		if sc.on == computation && !slices.Contains(readers, name) && !tried[name] {
			t.Errorf("%s wasn't tried", name)
		}
	}
	after := p.view(p.alice)
	if string(after.Manifest) != string(before.Manifest) || after.Digest != before.Digest || !after.Computation.Frozen.Equal(before.Computation.Frozen) ||
		after.Revision != before.Revision || fmt.Sprint(after.Draft) != fmt.Sprint(before.Draft) {
		t.Errorf("it was\n%+v\nand is\n%+v", before.Computation, after.Computation)
	}
	// Nor by the store's own means.
	err := p.store.Update(p.ctx, func(w c.Writer) error {
		row, err := w.Computation(p.id)
		if err != nil {
			return err
		}
		row.Manifest = append(slices.Clone(row.Manifest), ' ')
		row.Digest = manifest.Sum(row.Manifest)
		return w.PutComputation(row)
	})
	if !errors.Is(err, c.ErrTaken) {
		t.Errorf("the store let it through: %v", err)
	}
}

// A copy is a computation of its own: the same contents, another nonce and digest.
func TestCopy(t *testing.T) {
	p := newPlay(t)
	p.ready()
	made, err := p.CopyComputation(p.ctx, p.carol.Identity, p.id)
	p.ok(err)
	if made.Creator != p.carol.User || made.CopiedFrom != p.id || made.Manifest != nil || made.ID == p.id {
		t.Errorf("copied to %+v", made)
	}
	again, err := p.Freeze(p.ctx, p.carol.Identity, made.ID, made.Revision)
	p.ok(err)
	a, err := manifest.Parse(p.view(p.alice).Manifest)
	p.ok(err)
	b, err := manifest.Parse(again.Manifest)
	p.ok(err)
	if a.Nonce == b.Nonce || a.Digest == b.Digest {
		t.Error("the copy has the same nonce")
	}
	b.Manifest.Nonce, b.Manifest.ID = a.Nonce, a.ID
	same, err := manifest.Freeze(b.Manifest)
	p.ok(err)
	if same.Digest != a.Digest {
		t.Errorf("beside nonce and id, the copy differs:\n%s\n%s", a.Raw, b.Raw)
	}
	// What was approved is the other one.
	for _, appr := range p.view(p.alice).Approvals {
		if err := b.CheckApproval(appr.Approval); err == nil {
			t.Error("an approval holds for the copy")
		}
	}
	p.ok(p.RemoveMember(p.ctx, p.alice.Identity, p.ws.ID, p.bob.User))
	made, err = p.CopyComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	if slot := made.Draft.Datasets[0]; slot.Provider != "" || slot.Asset != "" || slot.Name != "iris.csv" {
		t.Errorf("the slot of who left is %+v", slot)
	}
}
