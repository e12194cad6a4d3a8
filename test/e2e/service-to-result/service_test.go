// Package service shows that two people get from an invitation to a verified result
// through a service of two processes on one PostgreSQL database: the host's Manager
// is connected to one of them, the people are signed in at the other.
package service

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

const secret = "nobody else's business"

// line is one of what `computations watch --json` prints.
type line struct {
	Type       string            `json:"type"`
	Position   int64             `json:"position"`
	Source     string            `json:"source"`
	Sequence   int64             `json:"sequence"`
	Kind       string            `json:"kind"`
	Attributes map[string]string `json:"attributes"`
	State      string            `json:"state"`
	Agent      string            `json:"agent_address"`
	Simulated  bool              `json:"simulated"`
}

func TestServiceToResult(t *testing.T) {
	database := "COMPUTATIONS_DATABASE=" + storetest.PostgreSQL(t).URL
	hosts := harness.StartService(t, nil, database)
	people := harness.StartService(t, hosts, database)
	if people.Fingerprint != hosts.Fingerprint || people.URL != hosts.URL || people.GRPC == hosts.GRPC {
		t.Fatalf("%+v, %+v", hosts, people)
	}

	alice, bob := harness.NewPerson(t, "alice"), harness.NewPerson(t, "bob")
	password := alice.File("password", []byte("a long and winding road\n"))
	login := func(p *harness.Party, link string, more ...string) {
		t.Helper()
		p.MustCLI(append([]string{"login", link, "--grpc", people.GRPC, "--fingerprint", people.Fingerprint, "--name", p.Name, "--password-file", password}, more...)...)
	}
	login(alice, firstLink(t, hosts, people), "--email", "alice@example.org")
	token, _ := alice.MustCLI("hosts", "enroll-token", "rack-7")
	h := harness.StartEnrolled(t, hosts, strings.TrimSpace(token), harness.Env("MANAGER_QEMU_ENABLE_SIM=true"))

	algorithm, data := harness.Algorithm(t), bob.File("data.txt", []byte(secret))
	alice.MustCLI("workspaces", "create", "Harbour")
	alice.MustCLI("keys", "register", alice.KeyFile)
	alice.MustCLI("assets", "add", algorithm, "--kind", "algorithm")
	alice.MustCLI("computations", "create", "sums", "--tee", "sim", "--algorithm", "alice@example.org", "--arg", "sum",
		"--dataset", "data.txt", "--consumer", "alice@example.org")
	alice.MustCLI("computations", "supply", "sums", "--algorithm", filepath.Base(algorithm))
	link, _ := alice.MustCLI("invitations", "create", "bob@example.org", "--computation", "sums", "--part", "dataset-provider")
	login(bob, strings.TrimSpace(link))
	bob.MustCLI("keys", "register", bob.KeyFile)
	bob.MustCLI("assets", "add", data, "--kind", "dataset")
	bob.MustCLI("computations", "supply", "sums", "--dataset", "data.txt=data.txt")

	digest, _ := alice.MustCLI("computations", "freeze", "sums")
	digest = strings.TrimSpace(digest)
	if _, _, err := bob.CLI("computations", "approve", "sums", "--key", bob.KeyFile); err == nil || !strings.Contains(err.Error(), alice.Key.Fingerprint()) {
		t.Errorf("Bob approves a key that he doesn't know: %v", err)
	}
	alice.Knows(bob)
	bob.Knows(alice)
	manifest := map[*harness.Party]string{}
	for _, p := range []*harness.Party{alice, bob} {
		manifest[p] = filepath.Join(p.Dir, "manifest.json")
		p.MustCLI("computations", "approve", "sums", "--key", p.KeyFile, "--digest", digest, "--out", manifest[p])
	}

	h.Until("the host to connect", harness.BootLimit, func() bool { return connected(t, alice) })
	alice.MustCLI("computations", "dry-run", "sums")
	run, _ := alice.MustCLI("computations", "run", "sums")
	watch, end := bob.Follow("computations", "watch", strings.TrimSpace(run), "--json")
	told := &story{t: t, lines: bufio.NewScanner(watch)}
	told.until("the agent is ready", func(l line) bool { return l.Kind == vm.EventReady })
	told.until("its address", func(line) bool { return told.agent != "" })

	policy := map[*harness.Party]string{}
	for _, p := range []*harness.Party{alice, bob} {
		out, _ := p.MustCLI("policy", "init", "--tee", "sim", "--image", filepath.Dir(harness.Image(t, "image.json")), "--vcpus", "1",
			"--manifest", manifest[p], "--sim-root", filepath.Join(h.StateDir, vm.SimDir, sim.RootFile), "--accept-simulation", attest.SimConsent)
		policy[p] = p.File("policy.json", []byte(out))
	}
	call := func(p *harness.Party, args ...string) {
		t.Helper()
		p.MustCLI(append(args, "--agent", told.agent, "--key", p.KeyFile, "--manifest", manifest[p], "--policy", policy[p])...)
	}
	call(alice, "algo", algorithm)
	call(bob, "data", data)
	told.until("the result", func(l line) bool { return l.Kind == vm.EventState && l.Attributes["to"] == "ResultReady" })
	result := filepath.Join(alice.Dir, "result")
	call(alice, "result", "--out", result)
	if got, want := h.Read(result, "results", "sums.txt"), fmt.Sprintf("%x", sha256.Sum256([]byte(secret))); !strings.Contains(got, want) {
		t.Errorf("the result is %q, without %s", got, want)
	}
	alice.MustCLI("receipt", "verify", result+".receipt.json", "--policy", policy[alice], "--manifest", manifest[alice], "--result", result)
	alice.MustCLI("computations", "receipt", "submit", "sums", result+".receipt.json")
	if _, _, err := bob.CLI("computations", "receipt", "get", "sums", "--out", filepath.Join(bob.Dir, "receipt.json"), "--json"); err == nil || !strings.Contains(err.Error(), `"reason":"DENIED"`) {
		t.Errorf("Bob, who is no consumer, gets the receipt: %v", err)
	}

	alice.MustCLI("computations", "stop", "sums", "--yes")
	told.until("the end", func(l line) bool { return l.Type == "run" && l.State == "finished" })
	for told.next() { // there is no more after the end but its end
	}
	if err := end(); err != nil {
		t.Errorf("the watch of a run that finished: %v", err)
	}
	told.whole()
	// The folder outlives the event by the moment that its acknowledgement takes.
	h.Until("the VM's folder to go", harness.EndLimit, func() bool {
		left, err := filepath.Glob(filepath.Join(h.StateDir, vm.VMsDir, "*"))
		return err == nil && len(left) == 0
	})
	for _, s := range []*harness.Service{hosts, people} {
		if out, err := s.Command("audit-verify"); err != nil || !strings.Contains(out, "each with the hash of the one before") {
			t.Errorf("the audit log: %v: %s", err, out)
		}
	}
}

// firstLink is that of the process which printed one last: the other's is dead.
func firstLink(t *testing.T, first, last *harness.Service) string {
	t.Helper()
	if first.Link == "" || last.Link == "" || first.Link == last.Link {
		t.Fatalf("the links are %q and %q", first.Link, last.Link)
	}
	return last.Link
}

// connected tells whether the people's process knows that the host is there.
func connected(t *testing.T, p *harness.Party) bool {
	t.Helper()
	out, _ := p.MustCLI("hosts", "list", "--json")
	var fleet struct {
		Hosts []struct {
			Name      string `json:"name"`
			Connected bool   `json:"connected"`
		} `json:"hosts"`
	}
	if err := json.Unmarshal([]byte(out), &fleet); err != nil || len(fleet.Hosts) != 1 || fleet.Hosts[0].Name != "rack-7" {
		t.Fatalf("%v: %s", err, out)
	}
	return fleet.Hosts[0].Connected
}

// story is what a watch tells.
type story struct {
	t     *testing.T
	lines *bufio.Scanner
	told  []line
	agent string
}

// until reads on until a line is there, or was.
func (s *story) until(what string, is func(line) bool) {
	s.t.Helper()
	for _, l := range s.told {
		if is(l) {
			return
		}
	}
	for s.next() {
		if is(s.told[len(s.told)-1]) {
			return
		}
	}
	s.t.Fatalf("the watch ended before %s: %+v", what, s.told)
}

// next reads a line; false when there is none any more.
func (s *story) next() bool {
	s.t.Helper()
	if !s.lines.Scan() {
		return false
	}
	var l line
	if err := json.Unmarshal(s.lines.Bytes(), &l); err != nil {
		s.t.Fatalf("%v: %s", err, s.lines.Text())
	}
	if l.Agent != "" {
		s.agent = l.Agent
	}
	s.told = append(s.told, l)
	return true
}

// whole wants every entry once, in order and without a gap, and each source's
// events likewise.
func (s *story) whole() {
	s.t.Helper()
	position, sequences, seen := int64(0), map[string]int64{}, map[string]bool{}
	for _, l := range s.told {
		if l.Type == "run" {
			continue
		}
		if position++; l.Position != position {
			s.t.Errorf("position %d is told where %d was to come", l.Position, position)
		}
		if l.Type != "event" {
			continue
		}
		seen[l.Kind] = true
		if l.Sequence == 0 {
			continue // the service's own
		}
		if sequences[l.Source]++; l.Sequence != sequences[l.Source] {
			s.t.Errorf("event %d of %s is told where %d was to come", l.Sequence, l.Source, sequences[l.Source])
		}
	}
	for _, kind := range []string{vm.EventAccepted, vm.EventStarting, vm.EventBooting, vm.EventReady, vm.EventInput, vm.EventState, vm.EventReleased, vm.EventStopping, vm.EventExited, vm.EventRemoved} {
		if !seen[kind] {
			s.t.Errorf("nothing is told of %s: %+v", kind, s.told)
		}
	}
	if last := s.told[len(s.told)-1]; !last.Simulated {
		s.t.Errorf("the run isn't said to be simulated: %+v", last)
	}
}
