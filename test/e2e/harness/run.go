package harness

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

// Run is one run, submitted to the Manager.
type Run struct {
	ID       string
	Manifest manifest.Frozen
	// Address and Key of the agent; set by Ready.
	Address, Key string

	h            *Host
	c            server.Computation
	keyFile      string
	manifestFile string
}

// Submit makes a key pair and a manifest for c, lets change, if any, alter the
// manifest, and asks for a run.
func (h *Host) Submit(c server.Computation, change func(*manifest.Manifest)) *Run {
	h.t.Helper()
	r := &Run{ID: uuid.NewString(), h: h, c: c}
	dir := filepath.Join(h.dir, r.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if _, _, err := h.CLI("keys", "--out", filepath.Join(dir, "owner")); err != nil {
		h.t.Fatal(err)
	}
	r.keyFile, r.manifestFile = filepath.Join(dir, "owner.pem"), filepath.Join(dir, "manifest.json")
	pem, err := os.ReadFile(filepath.Join(dir, "owner.pub.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	if r.c.Owner, err = keys.ParsePublicPEM(pem); err != nil {
		h.t.Fatal(err)
	}
	frozen, err := r.c.Freeze()
	if err != nil {
		h.t.Fatal(err)
	}
	if change != nil {
		m := frozen.Manifest
		change(&m)
		if frozen, err = manifest.Freeze(m); err != nil {
			h.t.Fatal(err)
		}
	}
	r.Manifest = frozen
	if err := os.WriteFile(r.manifestFile, frozen.Raw, 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.Server.Submit(&managerv1.RunRequest{RunId: r.ID, Manifest: frozen.Raw})
	h.runs = append(h.runs, r)
	return r
}

// SubmitApproved asks for a run of a manifest that parties have approved.
func (h *Host) SubmitApproved(m manifest.Frozen, approvals ...manifest.Approval) *Run {
	h.t.Helper()
	r := &Run{ID: uuid.NewString(), Manifest: m, h: h}
	request := &managerv1.RunRequest{RunId: r.ID, Manifest: m.Raw}
	for _, a := range approvals {
		request.Approvals = append(request.Approvals, &managerv1.Approval{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature})
	}
	h.Server.Submit(request)
	h.runs = append(h.runs, r)
	return r
}

// Dir is the VM's folder.
func (r *Run) Dir() vm.Dir { return vm.DirOf(r.h.StateDir, r.ID) }

// Ready waits until the agent can be called.
func (r *Run) Ready() {
	r.h.t.Helper()
	ctx, cancel := r.h.within(BootLimit)
	defer cancel()
	reply, address, err := r.h.Server.Reply(ctx, r.ID)
	if err != nil {
		r.h.t.Fatal(err)
	}
	if reply.GetRefusal() != nil {
		r.h.t.Fatalf("the run was refused: %v", reply.GetRefusal())
	}
	ready := r.until(ctx, "agent.ready", func(e *eventv1.Event) bool { return e.GetKind() == vm.EventReady })
	r.Address, r.Key = address, ready.GetAttributes()["agent_key"]
}

// Event waits for an event of this kind.
func (r *Run) Event(kind string, limit time.Duration) *eventv1.Event {
	r.h.t.Helper()
	ctx, cancel := r.h.within(limit)
	defer cancel()
	e, err := r.h.Server.EventOfKind(ctx, r.ID, kind)
	if err != nil {
		r.h.t.Fatalf("%v; so far:\n%s", err, r.History())
	}
	return e
}

// State waits until the computation is in this state, and fails as soon as the
// VM ends without.
func (r *Run) State(state string) *eventv1.Event {
	r.h.t.Helper()
	ctx, cancel := r.h.within(RunLimit)
	defer cancel()
	return r.until(ctx, "state "+state, func(e *eventv1.Event) bool {
		return e.GetKind() == vm.EventState && e.GetAttributes()["to"] == state
	})
}

// until waits for an event, and fails as soon as the VM ends without it.
func (r *Run) until(ctx context.Context, what string, match func(*eventv1.Event) bool) *eventv1.Event {
	r.h.t.Helper()
	e, err := r.h.Server.Event(ctx, r.ID, what, func(e *eventv1.Event) bool {
		return match(e) || e.GetKind() == vm.EventExited || e.GetKind() == vm.EventLost
	})
	if err != nil || !match(e) {
		r.h.t.Fatalf("waiting for %s: %v %v; so far:\n%s", what, err, e, r.History())
	}
	return e
}

// History is every event so far, a line each.
func (r *Run) History() string {
	var s strings.Builder
	for _, e := range r.h.Server.Events(r.ID) {
		s.WriteString(e.String() + "\n")
	}
	for _, l := range r.h.Server.Logs(r.ID) {
		s.WriteString(l.String() + "\n")
	}
	return s.String()
}

func (r *Run) removed() bool {
	for _, e := range r.h.Server.Events(r.ID) {
		if e.GetKind() == vm.EventRemoved {
			return true
		}
	}
	return false
}

// CLI calls the agent.
func (r *Run) CLI(args ...string) (stdout, stderr string, err error) {
	return r.h.CLI(append(args, "--agent", r.Address, "--agent-key", r.Key, "--key", r.keyFile, "--manifest", r.manifestFile)...)
}

// MustCLI calls the agent and returns what it printed.
func (r *Run) MustCLI(args ...string) string {
	r.h.t.Helper()
	out, _, err := r.CLI(args...)
	if err != nil {
		r.h.t.Fatalf("%v; so far:\n%s", err, r.History())
	}
	return out
}

// Upload hands in the algorithm, the files beside it and every dataset.
func (r *Run) Upload() {
	r.h.t.Helper()
	algo := []string{"algo", r.c.Algorithm}
	for _, f := range r.c.Files {
		algo = append(algo, "--file", f)
	}
	r.MustCLI(algo...)
	for _, d := range r.c.Data {
		r.MustCLI("data", d)
	}
}

// Result downloads the result into a folder and returns it.
func (r *Run) Result() string {
	r.h.t.Helper()
	dir := filepath.Join(r.h.t.TempDir(), "result")
	r.MustCLI("result", "--out", dir)
	return dir
}

// Failure downloads what a failed computation left; the command says that it
// failed.
func (r *Run) Failure() string {
	r.h.t.Helper()
	dir := filepath.Join(r.h.t.TempDir(), "result")
	if _, stderr, err := r.CLI("result", "--out", dir); err == nil || !strings.Contains(stderr, "failed") {
		r.h.t.Errorf("fetching what a failed computation left: %v, and it said %s", err, stderr)
	}
	return dir
}

// Stop ends the run and waits until nothing of it is left.
func (r *Run) Stop() {
	r.h.t.Helper()
	if err := r.h.Server.Stop(r.ID); err != nil {
		r.h.t.Fatal(err)
	}
	r.Gone()
}

// Gone waits until nothing of the VM is left on the host. The folder outlives
// the event that says so by the moment that the server takes to acknowledge it.
func (r *Run) Gone() {
	r.h.t.Helper()
	r.Event(vm.EventRemoved, EndLimit)
	for deadline := time.Now().Add(EndLimit); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(string(r.Dir())); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			r.h.t.Fatalf("the VM's folder %s is still there", r.Dir())
		}
	}
}

// Read returns the text of a file of the result.
func (h *Host) Read(elem ...string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}
