package computations_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// journal writes down what everybody is told, stage by stage.
type journal struct {
	*play
	b     strings.Builder
	names []string // IDs, each with what stands for it
}

var fingerprints = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func (j *journal) stage(title string, who ...*person) {
	j.t.Helper()
	fmt.Fprintf(&j.b, "# %s\n", title)
	names := strings.NewReplacer(append([]string{string(j.id), "COMPUTATION", j.id.Short(), "SHORT", string(j.ws.ID), "WORKSPACE"}, j.names...)...)
	for _, p := range who {
		v := j.view(p)
		if len(v.Todo) == 0 {
			j.t.Errorf("%s: %s is told nothing", title, p.Email)
		}
		fmt.Fprintf(&j.b, "\n%s, %v\n", strings.TrimSuffix(p.Email, "@example.org"), v.Mine)
		for _, todo := range v.Todo {
			line := names.Replace(todo.Text)
			if todo.Command != "" {
				line += "\n    $ " + fingerprints.ReplaceAllString(names.Replace(todo.Command), "sha256:…")
			}
			fmt.Fprintf(&j.b, "  - %s\n", line)
			soundCommand(j.t, todo)
		}
	}
	j.b.WriteString("\n")
}

// weakens has what no command that a service shows may say: whatever makes a
// client accept more than its user's own policy, address book and manifest do.
var weakens = []string{
	"--accept", "--new-instance", "--skip-check", "--force", "--replace", "--yes", "--insecure", "--fingerprint", "--agent-ca", "--image", "--sim-root",
	"policy init", "policy from-evidence", "contacts add", "contacts remove", "instances forget", "SIMULATED",
}

func soundCommand(t *testing.T, todo c.Todo) {
	t.Helper()
	if todo.Text == "" || !strings.HasSuffix(todo.Text, ".") || todo.Action == "" {
		t.Errorf("not a sentence of an action: %+v", todo)
	}
	for _, bad := range weakens {
		if strings.Contains(todo.Command, bad) {
			t.Errorf("a command weakens a check with %s: %s", bad, todo.Command)
		}
	}
	if todo.Command != "" && !strings.HasPrefix(todo.Command, "cocos-cli ") || strings.ContainsAny(todo.Command, "\n\r") {
		t.Errorf("not one command: %q", todo.Command)
	}
}

// What everybody is told from the invitation to the receipt, as people read it. A
// newcomer gets along by this alone.
func TestTodo(t *testing.T) { storetest.Each(t, journey) }

func journey(t *testing.T, fresh func(testing.TB) store.Config) {
	j := &journal{play: playOn(t, fresh)}
	// Erin comes by invitation, with nothing.
	erin := j.person("erin")
	d := j.draft()
	d.Datasets = append(d.Datasets, c.DatasetSlot{Name: "more.csv"})
	j.ok(empty(j.EditDraft(j.ctx, j.alice.Identity, j.id, 1, d)))
	inv, _, err := j.Invite(j.ctx, j.alice.Identity, c.Invite{Workspace: j.ws.ID, Email: erin.Email, Computation: j.id, Parts: []c.Part{c.PartDataset}})
	j.ok(err)
	j.stage("A draft; erin is invited", j.alice, j.bob, j.carol)
	j.ok(empty(j.AcceptMyInvitation(j.ctx, erin.Identity, inv.ID)))
	j.stage("Erin has accepted", j.alice, erin)
	j.withKey(erin)
	more := j.asset(erin, j.ws, c.AssetDataset, "more $(data).csv")
	j.names = append(j.names, string(more.ID), "ASSET")
	j.stage("She has a key, and described her data", erin)
	j.withKey(erin)
	j.stage("She has another key", erin)
	j.ok(j.Supply(j.ctx, erin.Identity, j.id, c.Supply{Key: erin.keyID}))
	j.ok(j.Supply(j.ctx, erin.Identity, j.id, c.Supply{Slot: "datasets/more.csv", Asset: more.ID}))
	j.stage("She has said which it is", j.alice, erin)
	j.freeze()
	j.stage("Frozen", j.alice, erin, j.carol)
	j.approve(j.bob, j.carol, j.dave)
	j.stage("All but erin have approved", j.alice, erin, j.carol)
	j.approve(erin)
	j.stage("All have approved", j.alice, erin)
	run := j.run()
	j.put(run.ID, func(r *c.Run) { r.Reason = "no host has sim" })
	j.stage("The run waits", j.alice, erin)
	j.put(run.ID, func(r *c.Run) {
		r.State, r.Reason, r.AgentAddress, r.AgentState, r.Simulated = c.RunRunning, "", "host-1.example.org:6100", "AwaitingInputs", true
		r.AgentKey = "sha256:" + strings.Repeat("ab", 32)
	})
	j.stage("The agent waits for inputs", j.alice, j.bob, j.carol, j.dave, erin)
	events := 0
	says := func(kind string, attributes map[string]string) {
		events++
		j.ok(j.store.Update(j.ctx, func(w c.Writer) error {
			_, err := w.Append([]c.Entry{{Run: run.ID, Type: c.EntryEvent, Source: "agent", Sequence: int64(events), Time: j.clock.Now(), Level: "info", Kind: kind, Attributes: attributes}})
			return err
		}))
	}
	says(vm.EventInput, map[string]string{"kind": "algorithm"})
	says(vm.EventInput, map[string]string{"kind": "dataset", "name": "iris.csv"})
	j.stage("The algorithm and bob's data have arrived", j.bob, j.dave, erin)
	j.put(run.ID, func(r *c.Run) { r.AgentState = "ResultReady" })
	j.stage("The result is there", j.bob, j.carol)
	says(vm.EventReleased, map[string]string{"consumer": j.bob.key.Public().Fingerprint()})
	j.stage("Another has the result", j.carol)
	says(vm.EventReleased, map[string]string{"consumer": j.carol.key.Public().Fingerprint()})
	j.stage("Carol has it", j.carol)
	j.put(run.ID, func(r *c.Run) { r.State, r.Ended = c.RunFinished, j.clock.Now() })
	j.names = append(j.names, string(run.ID), "RUN")
	j.stage("The run has ended", j.alice, j.carol)
	run = j.run()
	j.put(run.ID, func(r *c.Run) { r.State, r.Reason, r.Ended = c.RunFailed, "the algorithm failed", j.clock.Now() })
	j.stage("The next one failed", j.alice, j.carol)

	j.holds("testdata/todo.txt")
}

// holds wants what was written down to be what a file has.
func (j *journal) holds(file string) {
	j.t.Helper()
	if *update {
		j.ok(os.WriteFile(file, []byte(j.b.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	j.ok(err)
	if string(want) != j.b.String() {
		j.t.Errorf("what people are told has changed; got\n%s", j.b.String())
	}
}

// Who signs in elsewhere has no password that a command could ask for.
func TestTodoWithoutPassword(t *testing.T) {
	p := newPlay(t)
	p.ok(p.SetSetting(p.ctx, p.op.Identity, "sign-up", "oidc"))
	session, _, err := p.SignInExternal(p.ctx, c.ExternalUser{Issuer: "https://id.example.org", Subject: "1", Email: "erin@example.org", EmailVerified: true, Name: "Erin"}, "test")
	erin := p.signedIn(session, err)
	p.join(p.ws, p.alice, erin, c.RoleMember)
	p.ok(p.SetParts(p.ctx, p.alice.Identity, p.id, erin.User, []c.Part{c.PartConsumer}))
	if erin.Password || !p.bob.Password {
		t.Errorf("Erin has a password: %v; Bob has one: %v", erin.Password, p.bob.Password)
	}
	var got []string
	for _, todo := range p.view(erin).Todo {
		soundCommand(t, todo)
		got = append(got, todo.Text+"$"+todo.Command)
	}
	for _, want := range []string{"make an access token in Settings", "$cocos-cli login " + serviceName + " --token-file -"} {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("lacks %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// A plain VM proves nothing: the command has the key that the host told, and the
// text says what that is worth.
func TestTodoWithoutAttestation(t *testing.T) {
	p := newPlay(t)
	d := p.draft()
	d.TEE, d.AttestedTLS = manifest.TEENone, false
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	p.freeze()
	run := p.run()
	key := "sha256:" + strings.Repeat("ab", 32)
	commands := func(change func(*c.Run)) string {
		p.put(run.ID, func(r *c.Run) {
			r.State, r.AgentAddress, r.AgentKey, r.AgentState = c.RunRunning, "192.0.2.1:6100", key, "AwaitingInputs"
			change(r)
		})
		var all []string
		for _, todo := range p.view(p.bob).Todo {
			soundCommand(t, todo)
			all = append(all, todo.Text+"$"+todo.Command)
		}
		return strings.Join(all, "\n")
	}
	got := commands(func(*c.Run) {})
	for _, want := range []string{
		"This computation is not attested: nothing but the host's word says who answers",
		"$cocos-cli computations manifest " + string(p.id) + " --out manifest-" + p.id.Short() + ".json",
		"$cocos-cli data iris.csv --name iris.csv --agent 192.0.2.1:6100 --agent-key " + key + " --key bob.pem --manifest manifest-" + p.id.Short() + ".json",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	// The host says where the agent is: what isn't an address and a key never
	// comes near a shell.
	for name, change := range map[string]func(*c.Run){
		"no address":       func(r *c.Run) { r.AgentAddress = "" },
		"no port":          func(r *c.Run) { r.AgentAddress = "192.0.2.1" },
		"port zero":        func(r *c.Run) { r.AgentAddress = "192.0.2.1:0" },
		"a port's name":    func(r *c.Run) { r.AgentAddress = "192.0.2.1:http" },
		"a flag":           func(r *c.Run) { r.AgentAddress = "--skip-check:1" },
		"another flag":     func(r *c.Run) { r.AgentAddress = "x --skip-check:1" },
		"a command":        func(r *c.Run) { r.AgentAddress = "$(id):1" },
		"two lines":        func(r *c.Run) { r.AgentAddress = "x\nid:1" },
		"no key":           func(r *c.Run) { r.AgentKey = "" },
		"something as key": func(r *c.Run) { r.AgentKey = key + " --skip-check" },
	} {
		if got := commands(change); strings.Contains(got, "--agent") || strings.Contains(got, "cocos-cli data") || !strings.Contains(got, "computations watch") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := commands(func(r *c.Run) { r.AgentAddress = "[2001:db8::1]:6100" }); !strings.Contains(got, "--agent '[2001:db8::1]:6100'") {
		t.Errorf("IPv6: %s", got)
	}
}

// Names that people chose are words to a shell, and nothing else.
func TestTodoQuotesNames(t *testing.T) {
	p := newPlay(t)
	bad := p.asset(p.bob, p.ws, c.AssetDataset, "-it's; rm -rf ~ `id` $(id) \"x\" --skip-check")
	p.ok(p.Supply(p.ctx, p.bob.Identity, p.id, c.Supply{Slot: "datasets/iris.csv", Asset: bad.ID}))
	p.ready()
	run := p.run()
	p.put(run.ID, func(r *c.Run) { r.State, r.AgentAddress = c.RunRunning, "192.0.2.1:6100" })
	want := `cocos-cli data './-it'\''s; rm -rf ~ ` + "`id`" + ` $(id) "x" --skip-check' --name iris.csv --agent 192.0.2.1:6100 --key bob.pem --manifest manifest-` + p.id.Short() + `.json --policy policy.json`
	for _, todo := range p.view(p.bob).Todo {
		if todo.Command == want {
			return
		}
	}
	t.Errorf("no %s in %+v", want, p.view(p.bob).Todo)
}
