package computations_test

import (
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// What owners are told of files beside an algorithm and of datasets that the VM
// fetches: by their own client's hand, by a broker, or without a key.
func TestTodoOfInputs(t *testing.T) {
	j := &journal{play: newPlay(t)}
	script, err := j.CreateAsset(j.ctx, j.dave.Identity, packaged(j.ws.ID))
	j.ok(err)
	d := j.draft()
	d.Algorithm.Asset, d.Datasets = script.ID, nil
	add := func(name string, who *person, change func(*c.Asset)) {
		t.Helper()
		a := fetched(j.ws.ID)
		a.Name, a.Size = name, 1<<20
		change(&a)
		a, err := j.CreateAsset(j.ctx, who.Identity, a)
		j.ok(err)
		d.Datasets = append(d.Datasets, c.DatasetSlot{Name: name, Provider: who.User, Asset: a.ID})
	}
	byHand := func(a *c.Asset) { a.Source.Broker, a.Source.Resource = "", "" }
	add("brokered", j.bob, func(*c.Asset) {})
	add("also", j.bob, func(a *c.Asset) {
		a.SHA256, a.Commitment, a.Source.Resource = manifest.Digest{}, manifest.Commitment{5}, "default/key/also"
	})
	add("handed", j.carol, byHand)
	add("hidden", j.carol, func(a *c.Asset) {
		byHand(a)
		a.SHA256, a.Commitment = manifest.Digest{}, manifest.Commitment{6}
	})
	add("layer", j.carol, func(a *c.Asset) {
		a.Source = manifest.Source{URL: "oci://registry.example/scans@sha256:" + strings.Repeat("ab", 32), Encryption: manifest.OCICrypt}
	})
	add("open", j.carol, func(a *c.Asset) { a.Source = manifest.Source{URL: "https://data.example/open.csv"} })
	j.ok(empty(j.EditDraft(j.ctx, j.alice.Identity, j.id, 1, d)))
	j.ready()
	j.stage("All have approved", j.bob, j.carol)
	run := j.run()
	j.put(run.ID, func(r *c.Run) {
		r.State, r.AgentAddress, r.AgentState = c.RunRunning, "host-1.example.org:6100", "AwaitingInputs"
	})
	j.stage("The agent waits for inputs", j.bob, j.carol, j.dave)
	events := int64(0)
	says := func(kind, name string) {
		events++
		j.ok(j.store.Update(j.ctx, func(w c.Writer) error {
			_, err := w.Append([]c.Entry{{Run: run.ID, Type: c.EntryEvent, Source: "agent", Sequence: events, Time: j.clock.Now(), Level: "info", Kind: vm.EventInput, Attributes: map[string]string{"kind": kind, "name": name}}})
			return err
		}))
	}
	says("algorithm", "")
	for _, name := range []string{"requirements.txt", "wheels"} {
		says("file", name)
	}
	for _, name := range []string{"brokered", "hidden", "layer", "open"} {
		says("dataset", name)
	}
	j.stage("Some is there, and one file isn't", j.bob, j.carol, j.dave)
	says("file", "weights")
	says("dataset", "also")
	j.stage("All of theirs is there", j.bob, j.dave)
	j.holds("testdata/todo-inputs.txt")
}

// A broker appraises by its owner's policy in runs without attested TLS, too: whoever
// is to serve one is told to have a policy first.
func TestTodoOfABrokerNeedsAPolicy(t *testing.T) {
	p := newPlay(t)
	data, err := p.CreateAsset(p.ctx, p.dave.Identity, fetched(p.ws.ID))
	p.ok(err)
	other := fetched(p.ws.ID)
	other.SHA256 = manifest.Digest{8}
	other, err = p.CreateAsset(p.ctx, p.bob.Identity, other)
	p.ok(err)
	d := p.draft()
	d.AttestedTLS, d.Approvers = false, []c.ID{p.bob.User, p.dave.User}
	d.Datasets = []c.DatasetSlot{{Name: "one", Provider: p.dave.User, Asset: data.ID}, {Name: "other", Provider: p.bob.User, Asset: other.ID}}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.dave.User, []c.Part{c.PartAlgorithm, c.PartDataset, c.PartRunner}))
	p.freeze()
	p.approve(p.bob, p.dave)
	check := func(when string, who *person, want bool) {
		t.Helper()
		policy, serve := -1, -1
		for i, todo := range p.view(who).Todo {
			soundCommand(t, todo)
			switch {
			case strings.HasPrefix(todo.Command, "cocos-cli policy check "+c.PolicyFile):
				policy = i
			case strings.HasPrefix(todo.Command, "cocos-cli broker serve ") && strings.Contains(todo.Command, "--policy "+c.PolicyFile):
				serve = i
			}
		}
		if (serve >= 0) != want || (policy >= 0) != want || policy > serve {
			t.Errorf("%s, %s: the policy is at %d, the broker at %d", when, who.Email, policy, serve)
		}
	}
	check("before the run", p.dave, true) // who also starts it
	check("before the run", p.bob, true)
	check("before the run", p.carol, false)
	run := p.run()
	p.put(run.ID, func(r *c.Run) {
		r.State, r.AgentAddress, r.AgentState, r.AgentKey = c.RunRunning, "host-1.example.org:6100", "AwaitingInputs", "sha256:"+strings.Repeat("ab", 32)
	})
	check("in the run", p.dave, true)
	check("in the run", p.bob, true)
	check("in the run", p.carol, false)
}
