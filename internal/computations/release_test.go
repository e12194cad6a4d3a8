package computations_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// divided is the play's draft, with an algorithm named by a commitment and a
// result that is divided between two consumers.
func divided(p *play) c.Draft {
	p.t.Helper()
	secret, err := p.CreateAsset(p.ctx, p.dave.Identity, c.Asset{
		Workspace: p.ws.ID, Name: "secret.py", Kind: c.AssetAlgorithm, Type: manifest.Python, Commitment: manifest.Commitment{9}, Size: 5,
	})
	p.ok(err)
	d := p.draft()
	d.Algorithm.Asset = secret.ID
	d.Algorithm.Limits.CPUMilli = 500
	d.Consumers = append(d.Consumers, p.bob.User)
	d.Outputs = manifest.Outputs{ResultMax: 1 << 20, Pad: true, OperatorOutput: true}
	d.Release = []c.ReleaseSlot{{Consumer: p.bob.User, Output: true}, {Consumer: p.carol.User, Files: []string{"reports/**"}}}
	return d
}

func TestReleaseIsFrozen(t *testing.T) {
	p := newPlay(t)
	d := divided(p)
	d.AttestedTLS = false
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	m, err := manifest.Parse(p.freeze().Manifest)
	p.ok(err)
	bob, carol, dave := p.bob.key.Public(), p.carol.key.Public(), p.dave.key.Public()
	want := []manifest.Release{{Consumer: bob, Output: true}, {Consumer: carol, Files: []string{"reports/**"}}}
	if !reflect.DeepEqual(m.Outputs.Release, want) || !m.Outputs.Pad || !m.Outputs.OperatorOutput {
		t.Errorf("outputs %+v", m.Outputs)
	}
	if m.Algorithm.Commitment != (manifest.Commitment{9}) || m.Algorithm.SHA256 != (manifest.Digest{}) || m.Algorithm.Limits.CPUMilli != 500 {
		t.Errorf("algorithm %+v", m.Algorithm)
	}
	// Where the operator reads along, every party approves, attested or not.
	if !slices.EqualFunc(m.Approvals, []keys.Public{dave, bob, carol}, keys.Public.Equal) {
		t.Errorf("%d approvals", len(m.Approvals))
	}
	// What is exported and imported is the same draft.
	raw, err := p.ExportComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	again, err := p.ImportComputation(p.ctx, p.alice.Identity, p.ws.ID, raw)
	p.ok(err)
	if got := again.Draft; !reflect.DeepEqual(got.Release, d.Release) || got.Algorithm.Asset != d.Algorithm.Asset || !reflect.DeepEqual(got.Outputs, d.Outputs) {
		t.Errorf("imported %+v", got)
	}
}

func TestReleaseNeedsEveryConsumerAndParty(t *testing.T) {
	p := newPlay(t)
	d := divided(p)
	d.Release = d.Release[:1]
	d.Approvers = []c.ID{p.bob.User, p.carol.User} // not dave
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	_, err := p.Freeze(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision)
	if got := faultsOf(err)["consumers/0"]; !strings.Contains(got, "not what carol@example.org gets") {
		t.Errorf("freezing: %v", err)
	}
	d.Release = append(d.Release, c.ReleaseSlot{Consumer: p.carol.User})
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	_, err = p.Freeze(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision)
	if got := faultsOf(err)["outputs/operator_output"]; !strings.Contains(got, p.dave.key.Public().Fingerprint()) {
		t.Errorf("freezing: %v", err)
	}
}

func TestReleaseFollowsTheConsumers(t *testing.T) {
	p := newPlay(t)
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, divided(p))))
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, p.carol.User, nil))
	if got := p.view(p.alice).Draft.Release; len(got) != 1 || got[0].Consumer != p.bob.User {
		t.Errorf("without carol: %+v", got)
	}
}

// Each draft is right in all but one thing.
func TestReleaseThatIsRefused(t *testing.T) {
	p := newPlay(t)
	for name, tt := range map[string]struct {
		change func(*c.Draft)
		want   string
	}{
		"who gets nothing":  {func(d *c.Draft) { d.Release[0].Consumer = p.dave.User }, "release/0/consumer: "},
		"twice":             {func(d *c.Draft) { d.Release[0].Consumer = p.carol.User }, "release/1/consumer: "},
		"no pattern":        {func(d *c.Draft) { d.Release[1].Files = []string{"../x"} }, "release/1/files/0: "},
		"a pattern twice":   {func(d *c.Draft) { d.Release[1].Files = []string{"a", "a"} }, "release/1/files/1: "},
		"too many patterns": {func(d *c.Draft) { d.Release[1].Files = numbers(1025) }, "release: "},
		"by keys": {func(d *c.Draft) {
			d.Outputs.Release = []manifest.Release{{Consumer: p.carol.key.Public()}}
		}, "outputs/release: "},
		"too little processor": {func(d *c.Draft) { d.Algorithm.Limits.CPUMilli = 9 }, "algorithm/limits/cpu_milli: "},
		"negative processor":   {func(d *c.Draft) { d.Algorithm.Limits.CPUMilli = -1 }, "algorithm/limits/cpu_milli: "},
	} {
		d := divided(p)
		tt.change(&d)
		err := empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d))
		t.Run(name, func(t *testing.T) { refused(t, err, c.Invalid, tt.want) })
	}
}

func numbers(n int) (all []string) {
	for i := range n {
		all = append(all, strings.Repeat("x", 1+i%500)+strings.Repeat("y", i/500))
	}
	return all
}

// The command that brings an input says that it takes the salt.
func TestTodoTellsOfTheSalt(t *testing.T) {
	p := newPlay(t)
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, divided(p))))
	p.ready()
	run := p.run()
	p.put(run.ID, func(r *c.Run) { r.State, r.AgentAddress = c.RunRunning, "192.0.2.1:6100" })
	for who, want := range map[*person]string{
		p.dave: "cocos-cli algo secret.py --salt secret.py.salt --agent 192.0.2.1:6100 ",
		p.bob:  "cocos-cli data iris.csv --name iris.csv --agent 192.0.2.1:6100 ",
	} {
		if !slices.ContainsFunc(p.view(who).Todo, func(todo c.Todo) bool { return strings.HasPrefix(todo.Command, want) }) {
			t.Errorf("%+v lacks %q", p.view(who).Todo, want)
		}
	}
}
