package computations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestRefusedDrafts(t *testing.T) {
	p := newPlay(t)
	stranger := p.withKey(p.person("stranger"))
	elsewhere := p.asset(stranger, p.workspace(stranger), c.AssetDataset, "secret.csv")
	bobs := p.asset(p.bob, p.ws, c.AssetDataset, "old.csv")
	p.ok(p.RetireAsset(p.ctx, p.bob.Identity, bobs.ID))
	for name, tt := range map[string]struct {
		change func(*c.Draft)
		want   string
	}{
		"no name":              {func(d *c.Draft) { d.Name = "" }, "name: is missing"},
		"no TEE":               {func(d *c.Draft) { d.TEE = "" }, "tee: is \"\""},
		"no such TEE":          {func(d *c.Draft) { d.TEE = "enclave" }, "tee: is \"enclave\""},
		"dataset's name":       {func(d *c.Draft) { d.Datasets[0].Name = "../etc" }, "datasets/0/name: is"},
		"two of one name":      {func(d *c.Draft) { d.Datasets = append(d.Datasets, d.Datasets[0]) }, "datasets/1/name: is"},
		"a stranger provides":  {func(d *c.Draft) { d.Datasets[0].Provider = stranger.User }, "datasets/0/provider: is no member"},
		"nobody provides":      {func(d *c.Draft) { d.Datasets[0].Provider = c.NewID() }, "datasets/0/provider: is no member"},
		"a stranger consumes":  {func(d *c.Draft) { d.Consumers = append(d.Consumers, stranger.User) }, "consumers/1: is no member"},
		"a consumer twice":     {func(d *c.Draft) { d.Consumers = append(d.Consumers, p.carol.User) }, "consumers/1: is empty, or named twice"},
		"a stranger approves":  {func(d *c.Draft) { d.Approvers = []c.ID{stranger.User} }, "approvers/0: is no member"},
		"another's asset":      {func(d *c.Draft) { d.Datasets[0].Provider = p.carol.User }, "datasets/0/asset: is not its provider's own"},
		"another workspace's":  {func(d *c.Draft) { d.Datasets[0].Asset = elsewhere.ID }, "datasets/0/asset: is no asset of this workspace"},
		"of another kind":      {func(d *c.Draft) { d.Datasets[0].Asset = p.algorithm.ID }, "datasets/0/asset: is of kind \"algorithm\""},
		"a retired one":        {func(d *c.Draft) { d.Datasets[0].Asset = bobs.ID }, "datasets/0/asset: is retired"},
		"own key is another's": {func(d *c.Draft) { d.Keys = map[c.ID]c.ID{p.alice.User: p.bob.keyID} }, "is no key of this user"},
		"limits":               {func(d *c.Draft) { d.Algorithm.Limits.Seconds = -1 }, "algorithm/limits/seconds: is -1"},
		"image":                {func(d *c.Draft) { d.Image = "sha256:00" }, "image: is"},
		"ttl":                  {func(d *c.Draft) { d.TTL = time.Second }, "ttl: is 1s"},
		"many arguments":       {func(d *c.Draft) { d.Algorithm.Args = make([]string, 1025) }, "algorithm/args: has 1025"},
		"binary argument":      {func(d *c.Draft) { d.Algorithm.Args = []string{"\xff"} }, "algorithm/args/0: is not UTF-8"},
		"variable's name":      {func(d *c.Draft) { d.Algorithm.Env = map[string]string{"A-B": ""} }, "algorithm/env: has \"A-B\""},
		"long texts":           {func(d *c.Draft) { d.Algorithm.Args = []string{strings.Repeat("x", 300<<10)} }, "bytes"},
		"name that hides":      {func(d *c.Draft) { d.Name = "a\u202eb" }, "name: has control"},
	} {
		d := p.draft()
		tt.change(&d)
		t.Run(name, func(t *testing.T) {
			_, err := p.CreateComputation(p.ctx, p.alice.Identity, p.ws.ID, d)
			refused(t, err, c.Invalid, tt.want)
			_, err = p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)
			refused(t, err, c.Invalid, tt.want)
		})
	}
}

// Two who change the draft at once: the second is told, and nothing is lost.
func TestEditsCollide(t *testing.T) {
	p := newPlay(t)
	before := p.view(p.alice)
	first, second := p.draft(), p.draft()
	first.Description, second.Description = "first", "second"
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, before.Revision, first)))
	_, err := p.EditDraft(p.ctx, p.alice.Identity, p.id, before.Revision, second)
	refused(t, err, c.Conflict, "changed meanwhile")
	_, err = p.Freeze(p.ctx, p.alice.Identity, p.id, before.Revision)
	refused(t, err, c.Conflict, "changed meanwhile")
	if v := p.view(p.alice); v.Draft.Description != "first" || v.Revision != before.Revision+1 || v.Draft.TTL != time.Hour {
		t.Errorf("the draft is %+v", v.Draft)
	}
}

// Parts follow the draft, and the draft follows parts.
func TestPartsAndDraft(t *testing.T) {
	p := newPlay(t)
	parts := func(who *person) string {
		for _, party := range p.view(p.alice).Parties {
			if party.User == who.User {
				return fmt.Sprint(party.Parts)
			}
		}
		return "[]"
	}
	for who, want := range map[*person]string{p.alice: "[creator]", p.bob: "[dataset-provider]", p.carol: "[consumer]", p.dave: "[algorithm-provider]"} {
		if got := parts(who); got != want {
			t.Errorf("%s is %s, want %s", who.Email, got, want)
		}
	}
	// The draft changes.
	d := p.draft()
	d.Consumers, d.Algorithm.Provider, d.Algorithm.Asset = []c.ID{p.bob.User, p.alice.User}, "", ""
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	for who, want := range map[*person]string{p.alice: "[creator consumer]", p.bob: "[dataset-provider consumer]", p.carol: "[]", p.dave: "[]"} {
		if got := parts(who); got != want {
			t.Errorf("%s is now %s, want %s", who.Email, got, want)
		}
	}
	_, err := p.Computation(p.ctx, p.carol.Identity, p.id)
	refused(t, err, c.NotFound, "")
	// Parts change.
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.dave.User, []c.Part{c.PartRunner, c.PartAlgorithm}))
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.carol.User, []c.Part{c.PartConsumer, c.PartViewer}))
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, []c.Part{c.PartEditor}))
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.alice.User, nil)) // stays creator
	v := p.view(p.alice)
	if d := v.Draft; d.Algorithm.Provider != p.dave.User || !slices.Equal(d.Consumers, []c.ID{p.carol.User}) || d.Datasets[0].Provider != "" || d.Datasets[0].Asset != "" {
		t.Errorf("the draft is %+v", d)
	}
	if parts(p.alice) != "[creator]" || parts(p.dave) != "[runner algorithm-provider]" || parts(p.bob) != "[editor]" {
		t.Errorf("parties: %+v", v.Parties)
	}
	refused(t, p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, []c.Part{c.PartCreator}), c.Invalid, "comes with creating")
	refused(t, p.SetParts(p.ctx, p.alice.Identity, p.id, p.op.User, []c.Part{c.PartViewer}), c.Invalid, "is no member")
	// An editor edits; a provider doesn't.
	d = v.Draft
	d.Description = "by bob"
	p.ok(empty(p.EditDraft(p.ctx, p.bob.Identity, p.id, v.Revision, d)))
	_, err = p.EditDraft(p.ctx, p.dave.Identity, p.id, v.Revision+1, d)
	refused(t, err, c.Denied, "creator, editor")
}

func TestSupply(t *testing.T) {
	p := newPlay(t)
	// The creator leaves open who brings the data, and asks bob to.
	d := p.draft()
	d.Datasets = []c.DatasetSlot{{Name: "iris.csv"}, {Name: "more.csv", Provider: p.dave.User}}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.bob.User, []c.Part{c.PartDataset}))
	supply := func(who *person, with c.Supply) error { return p.Supply(p.ctx, who.Identity, p.id, with) }
	refused(t, supply(p.bob, c.Supply{}), c.Invalid, "name a key")
	refused(t, supply(p.bob, c.Supply{Slot: "datasets/none", Asset: p.dataset.ID}), c.Invalid, "slot: is")
	refused(t, supply(p.bob, c.Supply{Slot: "dataset", Asset: p.dataset.ID}), c.Invalid, "slot: is")
	refused(t, supply(p.bob, c.Supply{Slot: "algorithm", Asset: p.algorithm.ID}), c.Denied, "somebody else")
	refused(t, supply(p.bob, c.Supply{Slot: "datasets/more.csv", Asset: p.dataset.ID}), c.Denied, "somebody else")
	refused(t, supply(p.carol, c.Supply{Slot: "datasets/iris.csv", Asset: p.dataset.ID}), c.Denied, "somebody else")
	refused(t, supply(p.dave, c.Supply{Slot: "datasets/more.csv", Asset: p.dataset.ID}), c.Invalid, "asset: is not its provider's own")
	refused(t, supply(p.bob, c.Supply{Slot: "datasets/iris.csv", Asset: c.NewID()}), c.Invalid, "asset: is no asset")
	refused(t, supply(p.bob, c.Supply{Key: p.carol.keyID}), c.Invalid, "key: is no key of this user")
	old := p.bob.keyID
	p.withKey(p.bob)
	p.ok(supply(p.bob, c.Supply{Key: p.bob.keyID, Slot: "datasets/iris.csv", Asset: p.dataset.ID}))
	v := p.view(p.alice)
	if s := v.Draft.Datasets[0]; s.Provider != p.bob.User || s.Asset != p.dataset.ID || v.Draft.Keys[p.bob.User] != p.bob.keyID {
		t.Errorf("the slot is %+v with the keys %v", s, v.Draft.Keys)
	}
	p.ok(p.RevokeKey(p.ctx, p.bob.Identity, old))
	refused(t, supply(p.bob, c.Supply{Key: old}), c.Invalid, "key: is revoked")
	p.ok(supply(p.bob, c.Supply{Slot: "datasets/iris.csv"}))
	if s := p.view(p.alice).Draft.Datasets[0]; s.Provider != p.bob.User || s.Asset != "" {
		t.Errorf("emptied, the slot is %+v", s)
	}
	// An editor neither chooses nor takes away another's key.
	d = p.view(p.alice).Draft
	d.Keys = map[c.ID]c.ID{p.carol.User: p.carol.keyID}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	if ks := p.view(p.alice).Draft.Keys; len(ks) != 1 || ks[p.bob.User] != p.bob.keyID {
		t.Errorf("keys: %v", ks)
	}
}

func TestListsShowWhatOneMaySee(t *testing.T) {
	p := newPlay(t)
	mia := p.person("mia")
	p.join(p.ws, p.alice, mia, c.RoleManager)
	bare := c.Draft{Name: "Of bob alone", TEE: manifest.TEENone}
	p.ok(empty(p.CreateComputation(p.ctx, p.bob.Identity, p.ws.ID, bare)))
	for who, want := range map[*person]int{p.alice: 2, mia: 2, p.bob: 2, p.carol: 1} {
		list, err := p.Computations(p.ctx, who.Identity, c.ComputationFilter{Workspace: p.ws.ID}, c.Page{})
		p.ok(err)
		counts, err := p.CountComputations(p.ctx, who.Identity, p.ws.ID)
		p.ok(err)
		if len(list) != want || counts["draft"] != want {
			t.Errorf("%s sees %d, and counts %v", who.Email, len(list), counts)
		}
	}
	// Nobody looks through another's eyes.
	list, err := p.Computations(p.ctx, p.carol.Identity, c.ComputationFilter{Workspace: p.ws.ID, User: p.bob.User}, c.Page{})
	p.ok(err)
	if len(list) != 1 || list[0].ID != p.id {
		t.Errorf("carol sees %+v", list)
	}
	if list, err = p.Computations(p.ctx, mia.Identity, c.ComputationFilter{Workspace: p.ws.ID, User: p.carol.User}, c.Page{}); err != nil || len(list) != 1 {
		t.Errorf("a manager who asks for carol's sees %+v, %v", list, err)
	}
	p.ok(p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, true))
	if list, err = p.Computations(p.ctx, p.carol.Identity, c.ComputationFilter{Workspace: p.ws.ID}, c.Page{}); err != nil || len(list) != 0 {
		t.Errorf("archived, and listed: %+v, %v", list, err)
	}
	_, err = p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, p.draft())
	refused(t, err, c.Conflict, "archived")
	p.ok(p.ArchiveComputation(p.ctx, p.alice.Identity, p.id, false))
	p.freeze()
}
