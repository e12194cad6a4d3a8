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
