// Package manager runs virtual machines on one host for a computations server.
//
// The Manager is the server's client. It keeps one stream to it, opened again
// for as long as it takes, and answers run requests: each is judged as a whole
// before anything is started. An accepted run has a folder in the state
// directory (internal/vm draws it) and a shim, a process of its own that owns
// the VM and outlives the Manager. The invariants:
//
//   - A run exists from the moment its complete folder appears under its name,
//     and ends with a line in the ledger of ended runs, which is kept. Whatever
//     a killed Manager leaves in between, the next one repairs or removes, and
//     a run_id that was ever accepted starts nothing a second time.
//   - The Manager keeps no event in memory that is nowhere on disk. The shim's
//     spool holds the VM's events, the Manager's own spool those of the
//     Manager; each is trimmed only after the server has committed the event.
//     Everything not acknowledged is sent again on every new stream.
//   - The Manager's own events of a run are run.accepted, vm.lost where the
//     shim died before its VM was seen to end, and vm.removed, in this order.
//   - A shim is alive when its socket is answered by a process of this user and
//     its folder is locked; process ids prove nothing. A shim that hangs or
//     talks nonsense holds up its own run alone, and a stop ends its VM still.
//   - Ending the Manager ends no VM.
//
// Generated types appear in link.go, session.go, shim.go and relay.go, where
// events pass through from one protocol to the other, and in control*.go, the
// API for people on this host: it decides nothing and keeps nothing that another
// part depends on.
package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// ProtocolVersion is that of cocos.manager.v1, and of cocos.shim.v1.
const ProtocolVersion = 1

// Clock tells the time and waits. Backoff and certificates depend on it.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// SystemClock is the host's clock.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config is all that a Manager needs, complete and checked. Every field is
// required unless it says otherwise.
type Config struct {
	// InstanceID names this Manager to the server.
	InstanceID string
	// Version is this software's, for people.
	Version string
	// EOSVersion is the operator's name of the guest image; may be empty.
	EOSVersion string
	// OVMFVersion is the operator's name of the firmware; may be empty.
	OVMFVersion string
	// StateDir is an absolute path; it is made if it is missing.
	StateDir string
	Server   Server
	Host     Host
	// QEMUVersion is what QEMU says of itself, and Digests are the SHA-256, in
	// hex, of the files that VMs are made of, by their paths; both are for people
	// only and may be empty.
	QEMUVersion string
	Digests     map[string]string
	// Shim is the command that serves one VM; the VM's folder is appended.
	Shim []string
	// ControlSocket is the path of the control API, empty: there is none. The
	// members of ControlGroup may use it, beside this process's user; empty:
	// nobody else.
	ControlSocket, ControlGroup string
	// HTTPAddr is where health and metrics are served, ADDRESS:PORT; empty:
	// nowhere.
	HTTPAddr string
	// Ready, if not nil, is called once: when the VMs of earlier Managers were
	// found and operators are served, before the server is reached.
	Ready func() error
	// Tracing makes the spans of runs; nil: what the process has set for all
	// (package otel).
	Tracing trace.TracerProvider
	Clock   Clock
	Log     *slog.Logger

	// Findings looks at the host for the server, once for each connection; it
	// must come back in time. Nil: nothing is told.
	Findings func(context.Context) []Finding
	// Images tells the server which guest images this host starts, and what they
	// measure as; as Findings.
	Images func(context.Context) []Image

	// Tests set these; the zero value stands for what a host does.
	freeDisk func(path string) (int64, error)
	// call bounds one call to a shim, overdue is what a shim that stops its VM
	// gets beside the grace period until it is killed.
	call, overdue time.Duration
	// began is told of the Manager before it connects.
	began func(*Manager)
}

// Finding is what was found of one thing on this host, as hostcheck says it.
type Finding struct{ Name, Verdict, Found, Needed, Mend string }

// Image is a guest image that this host starts.
type Image struct {
	// Digest is the SHA-256 of its image.json, in hexadecimal.
	Digest string
	// Measurements are what it measures as here, in hexadecimal, by register.
	Measurements map[string]string
}

// Manager is one Manager on one state directory.
type Manager struct {
	cfg   Config
	state *stateDir
	hub   hub
	// watched is for people who look on; see control_watch.go.
	watched *watched
	witness *witness

	// admission is held while a run request is judged and its folder made, so
	// that two never take the same place. It comes before mu, which nobody holds
	// while something is written.
	admission sync.Mutex

	mu    sync.Mutex
	runs  map[string]*run
	group sync.WaitGroup // one supervisor for each run
	stop  context.Context
	// draining: no run is accepted any more.
	draining bool
	// unread are folders that can't be read; their VMs may live.
	unread []vm.Dir

	// hook is called at each step between which a Manager may die; tests set it.
	hook func(point string)
}

// Run is the Manager's whole life: it takes the state directory, adopts the VMs
// in it and serves the computations server until ctx ends. VMs go on.
func Run(ctx context.Context, cfg Config) error { return runHooked(ctx, cfg, nil) }

func runHooked(ctx context.Context, cfg Config, hook func(string)) (err error) {
	if cfg.freeDisk == nil {
		cfg.freeDisk = freeDisk
	}
	cfg.call, cfg.overdue = cmp.Or(cfg.call, callTimeout), cmp.Or(cfg.overdue, overdue)
	watched := newWatched(cfg.Clock.Now())
	cfg.Log = slog.New(keepLines(cfg.Log.Handler(), watched.lines))
	w := newWitness(cfg)
	cfg.Log = cfg.Log.With(telemetry.Source, "manager")
	state, err := openState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	m := &Manager{cfg: cfg, state: state, watched: watched, witness: w, runs: map[string]*run{}, stop: ctx, hook: hook}
	defer m.group.Wait()
	defer cancel()
	control, err := m.openControl()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.close()) }()
	stopHTTP, err := m.serveHTTP()
	if err != nil {
		return err
	}
	defer stopHTTP()
	if err := m.adopt(); err != nil {
		return err
	}
	control.serve()
	if cfg.Ready != nil {
		if err := cfg.Ready(); err != nil {
			return err
		}
	}
	if cfg.began != nil {
		cfg.began(m)
	}
	l := &link{cfg: cfg.Server, instance: cfg.InstanceID, version: cfg.Version, eos: cfg.EOSVersion, tees: cfg.Host.TEEs(), findings: cfg.Findings, images: cfg.Images, clock: cfg.Clock, log: cfg.Log, service: witnessed{m}, hub: &m.hub, metrics: w.metrics, line: &m.watched.line}
	l.serve(ctx)
	if err := control.close(); err != nil {
		m.cfg.Log.Error("ending the control API failed", "error", err)
	}
	cancel()
	m.group.Wait()
	m.farewell()
	return nil
}

// at marks a step.
func (m *Manager) at(point string) {
	if m.hook != nil {
		m.hook(point)
	}
}

// adopt takes over every run that an earlier Manager left.
func (m *Manager) adopt() error {
	ids, err := m.state.sweep(m.cfg.Log)
	if err != nil {
		return err
	}
	for _, id := range ids {
		r, err := m.open(id, nil)
		if err != nil {
			// One damaged folder must not keep the others from being served, nor
			// its VM, if that lives, from being counted.
			m.unread = append(m.unread, vm.DirOf(m.cfg.StateDir, id))
			m.cfg.Log.Error("a VM's folder can't be read and is left as it is; repair or remove it, then restart the Manager",
				"run", id, "folder", string(vm.DirOf(m.cfg.StateDir, id)), "error", err)
			continue
		}
		m.start(r)
	}
	if n := len(m.runs); n > 0 {
		m.cfg.Log.Info("found the VMs of an earlier Manager", "count", n)
	}
	return nil
}

// start begins a run's supervision. m.mu is held, or nothing runs yet.
func (m *Manager) start(r *run) {
	m.runs[r.id] = r
	m.group.Go(func() {
		r.supervise(m.stop)
		if r.gone() {
			m.mu.Lock()
			delete(m.runs, r.id)
			m.mu.Unlock()
			m.watched.forget(r.id)
			close(r.left)
		}
	})
}

// accept answers a run request.
func (m *Manager) accept(req RunRequest) Reply {
	m.admission.Lock()
	defer m.admission.Unlock()
	log := m.cfg.Log.With("run", req.RunID)
	if reply, known := m.known(req); known {
		log.Info("run request repeats one that was answered before", "faults", len(reply.Faults))
		return reply
	}
	v, faults := judge(req, m.cfg.Host, m.cfg.Clock.Now())
	if req.Traceparent != "" && v.trace == "" {
		log.Debug("the request's traceparent is not one; it is dropped", "traceparent", req.Traceparent)
	}
	if len(faults) == 0 {
		var err error
		if faults, err = m.room(v.frozen.ScratchBytes); err != nil {
			log.Error("run request refused: this host can't serve it", "error", err)
			faults = []Fault{{Reason: Internal, Message: err.Error(), Hint: "the host's operator must see to the Manager's configuration"}}
		}
	}
	if len(faults) > 0 {
		log.Warn("run request refused", "faults", FaultsError(faults))
		return Reply{RunID: req.RunID, Faults: faults}
	}
	m.at("run.judged")
	hold, err := m.cfg.Host.Forward.choose(m.usedPorts())
	if err != nil {
		f := Fault{Reason: NoCapacity, Message: err.Error(), Hint: "stop a run, or widen MANAGER_QEMU_HOST_FWD_RANGE"}
		log.Warn("run request refused", "faults", f.Message)
		return Reply{RunID: req.RunID, Faults: []Fault{f}}
	}
	spec, err := m.cfg.Host.spec(req.RunID, v, hold.port, m.usedCIDs())
	if err != nil {
		hold.Close()
		f := Fault{Reason: NoCapacity, Message: err.Error(), Hint: "the host's operator must see to the Manager's configuration"}
		log.Error("run request refused: this host can't serve it", "error", err)
		return Reply{RunID: req.RunID, Faults: []Fault{f}}
	}
	accepted := events.Event{Time: m.cfg.Clock.Now(), Kind: vm.EventAccepted,
		Message:    fmt.Sprintf("the run is accepted; its agent will be on port %d", hold.port),
		Attributes: map[string]string{"agent_port": fmt.Sprint(hold.port)}}
	if err := m.state.create(spec, accepted, m.at); err != nil {
		hold.Close()
		log.Error("the run's folder can't be made", "error", err)
		return Reply{RunID: req.RunID, Faults: []Fault{{Reason: Internal, Message: err.Error(),
			Hint: "the host's operator must see to MANAGER_STATE_DIR; then send the request again"}}}
	}
	r, err := m.open(spec.RunID, hold)
	if err != nil { // it was just written: the disk is failing
		hold.Close()
		err = errors.Join(err, os.RemoveAll(string(vm.DirOf(m.cfg.StateDir, spec.RunID))))
		log.Error("the run's folder can't be read", "error", err)
		return Reply{RunID: req.RunID, Faults: []Fault{{Reason: Internal, Message: err.Error(),
			Hint: "the host's operator must see to MANAGER_STATE_DIR"}}}
	}
	log.Info("run accepted", "agent_port", hold.port, "manifest", v.frozen.Digest)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.start(r)
	return r.reply()
}

// known answers a request whose run_id was accepted before: by this Manager,
// by an earlier one, and also after the run has ended.
func (m *Manager) known(req RunRequest) (Reply, bool) {
	var first ending
	m.mu.Lock()
	r, ok := m.runs[req.RunID]
	m.mu.Unlock()
	if ok {
		first = r.identity()
	} else if e, ok := m.state.ended(req.RunID); ok {
		first = e
	} else {
		return Reply{}, false
	}
	if first.digest != digestOf(req.Manifest) {
		return Reply{RunID: req.RunID, Faults: []Fault{{Reason: AlreadyExists, Field: "run_id",
			Message: fmt.Sprintf("belongs to a run of another manifest, %s", first.digest),
			Hint:    "use a new UUID for each run"}}}, true
	}
	return Reply{RunID: req.RunID, Port: first.port, repeated: true}, true
}

// halt answers a stop request. grace is how long the guest may take; 0: as long
// as this host gives.
func (m *Manager) halt(ctx context.Context, runID string, grace time.Duration) []Fault {
	m.mu.Lock()
	r, ok := m.runs[runID]
	m.mu.Unlock()
	if !ok {
		if _, ended := m.state.ended(runID); ended {
			return nil
		}
		return []Fault{{Reason: NotFound, Field: "run_id", Message: fmt.Sprintf("%q is not a run of this Manager", runID),
			Hint: "the Manager's hello lists its runs"}}
	}
	if err := r.halt(ctx, grace); err != nil {
		r.log.Error("stopping the VM failed", "error", err)
		return []Fault{{Reason: Internal, Field: "run_id", Message: fmt.Sprintf("stopping the VM: %v", err),
			Hint: "send the request again; if it fails again, the host's operator must end the VM's processes"}}
	}
	return nil
}

// ack takes the server's word that it has committed an event.
func (m *Manager) ack(e eventKey) {
	m.mu.Lock()
	r := m.runs[e.run]
	m.mu.Unlock()
	if r == nil || !r.ack(e.source, e.sequence) {
		// After vm.removed, or for something that was never sent: nothing to trim.
		m.cfg.Log.Debug("acknowledgement of an event that is not waiting for one", "run", e.run, "source", e.source, "sequence", e.sequence)
	}
}

// report lists the runs whose folders this Manager holds, in order.
func (m *Manager) report(ctx context.Context) []RunState {
	m.mu.Lock()
	runs := make([]*run, 0, len(m.runs))
	for _, r := range m.runs {
		runs = append(runs, r)
	}
	m.mu.Unlock()
	states := make([]RunState, len(runs))
	var group sync.WaitGroup
	for i, r := range runs {
		group.Go(func() {
			state, answers := r.state(ctx)
			states[i] = RunState{RunID: r.id, State: state, Silent: !answers}
		})
	}
	group.Wait()
	slices.SortFunc(states, func(a, b RunState) int { return strings.Compare(a.RunID, b.RunID) })
	return states
}

// RunState is a run as the Manager knows it.
type RunState struct {
	RunID string
	// State is the last known one where the shim is silent.
	State vm.State
	// Silent: the shim should answer and does not; it hangs or talks nonsense.
	Silent bool
}

func (m *Manager) usedPorts() map[uint16]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := map[uint16]bool{}
	for _, r := range m.runs {
		if !r.free.Load() {
			used[r.port] = true
		}
	}
	return used
}

func (m *Manager) usedCIDs() map[uint32]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := map[uint32]bool{}
	for _, r := range m.runs {
		if !r.free.Load() {
			used[r.cid] = true
		}
	}
	return used
}

// farewell says what goes on without the Manager.
func (m *Manager) farewell() {
	ids := make([]string, 0, len(m.runs))
	for id := range m.runs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) == 0 {
		m.cfg.Log.Info("the Manager ends; no VM is running", "pid", os.Getpid())
		return
	}
	m.cfg.Log.Info("the Manager ends; its VMs keep running and the next Manager on this state directory finds them",
		"count", len(ids), "runs", ids, "state_dir", m.cfg.StateDir)
}
