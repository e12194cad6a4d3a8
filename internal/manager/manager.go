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
//   - A shim is alive when its socket answers; process ids prove nothing.
//   - Ending the Manager ends no VM.
//
// Generated types appear in link.go, session.go, shim.go and relay.go, where
// events pass through from one protocol to the other.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/spool/events"
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
	// StateDir is an absolute path; it is made if it is missing.
	StateDir string
	Server   Server
	Host     Host
	// Shim is the command that serves one VM; the VM's folder is appended.
	Shim  []string
	Clock Clock
	Log   *slog.Logger
}

// Manager is one Manager on one state directory.
type Manager struct {
	cfg   Config
	state *stateDir
	hub   hub

	mu    sync.Mutex
	runs  map[string]*run
	group sync.WaitGroup // one supervisor for each run
	stop  context.Context

	// hook is called at each step between which a Manager may die; tests set it.
	hook func(point string)
}

// Run is the Manager's whole life: it takes the state directory, adopts the VMs
// in it and serves the computations server until ctx ends. VMs go on.
func Run(ctx context.Context, cfg Config) error { return runHooked(ctx, cfg, nil) }

func runHooked(ctx context.Context, cfg Config, hook func(string)) (err error) {
	state, err := openState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	m := &Manager{cfg: cfg, state: state, runs: map[string]*run{}, stop: ctx, hook: hook}
	defer m.group.Wait()
	defer cancel()
	if err := m.adopt(); err != nil {
		return err
	}
	l := &link{cfg: cfg.Server, instance: cfg.InstanceID, version: cfg.Version, clock: cfg.Clock, log: cfg.Log, service: m, hub: &m.hub}
	l.serve(ctx)
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
			// One damaged folder must not keep the others from being served.
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
		}
	})
}

// accept answers a run request.
func (m *Manager) accept(req RunRequest) Reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	log := m.cfg.Log.With("run", req.RunID)
	if reply, known := m.known(req); known {
		log.Info("run request repeats one that was answered before", "faults", len(reply.Faults))
		return reply
	}
	v, faults := judge(req, m.cfg.Host, m.cfg.Clock.Now())
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
	m.start(r)
	return r.reply()
}

// known answers a request whose run_id was accepted before: by this Manager,
// by an earlier one, and also after the run has ended.
func (m *Manager) known(req RunRequest) (Reply, bool) {
	var first ending
	if r, ok := m.runs[req.RunID]; ok {
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
	return Reply{RunID: req.RunID, Port: first.port}, true
}

// halt answers a stop request.
func (m *Manager) halt(ctx context.Context, runID string) []Fault {
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
	if err := r.halt(ctx); err != nil {
		r.log.Error("stopping the VM failed", "error", err)
		return []Fault{{Reason: Internal, Field: "run_id", Message: fmt.Sprintf("stopping the VM: %v", err), Hint: "send the request again"}}
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
		group.Go(func() { states[i] = RunState{RunID: r.id, State: r.state(ctx)} })
	}
	group.Wait()
	slices.SortFunc(states, func(a, b RunState) int { return strings.Compare(a.RunID, b.RunID) })
	return states
}

// RunState is a run as the Manager knows it.
type RunState struct {
	RunID string
	State vm.State
}

func (m *Manager) usedPorts() map[uint16]bool {
	used := map[uint16]bool{}
	for _, r := range m.runs {
		used[r.port] = true
	}
	return used
}

func (m *Manager) usedCIDs() map[uint32]bool {
	used := map[uint32]bool{}
	for _, r := range m.runs {
		used[r.cid] = true
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
