package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// run is one accepted run, from its folder's appearance to its removal.
type run struct {
	m   *Manager
	id  string
	dir vm.Dir
	log *slog.Logger

	digest manifest.Digest
	port   uint16
	// forward is where the host listens for the agent.
	forward netip.AddrPort
	cid     uint32
	// program is QEMU, which sudo may start.
	program string
	sudo    bool
	// demand is what the VM takes of the host until it is over.
	demand demand
	// grace is how long its guest may take to stop.
	grace time.Duration
	hold  *portHold
	// story is what is told of the run to those who look.
	story *story

	// own holds the Manager's events, which mine tracks; theirs is for those of
	// shim and agent.
	own          *spool.Spool
	mine, theirs *tracker
	child        atomic.Pointer[child]
	// owner locks the folder once the shim is gone: none can come any more.
	owner *os.File

	// final is the Manager's last sequence, once it is known; 0 before.
	final atomic.Uint64
	// over: the VM has ended, whether or not all is told yet.
	over    atomic.Bool
	removed atomic.Bool
	// free: the VM's port and CID are anybody's again.
	free atomic.Bool
	// left is closed when the run is forgotten.
	left chan struct{}
	// ended is closed when the VM is over.
	ended chan struct{}
	// process is the shim's, once it has proved itself.
	process atomic.Pointer[os.Process]
	// woken has a token when what is waited for may have come sooner.
	woken chan struct{}

	mu    sync.Mutex
	known vm.State
	// stopBy is when a VM that is being stopped must have ended; zero: it is not.
	stopBy time.Time
}

// open reads a run from its folder. hold may be nil.
func (m *Manager) open(id string, hold *portHold) (*run, error) {
	dir := vm.DirOf(m.cfg.StateDir, id)
	r := &run{m: m, id: id, dir: dir, log: m.cfg.Log.With("run", id), mine: newTracker(), theirs: newTracker(), known: vm.Starting,
		left: make(chan struct{}), ended: make(chan struct{}), woken: make(chan struct{}, 1)}
	if e, ended := m.state.ended(id); ended {
		// Being removed: the specification may be gone.
		r.digest, r.port = e.digest, e.port
		r.story = m.witness.story(id, dir, nil, r.log)
		r.setState(vm.Exited)
	} else {
		spec, err := vm.ReadSpec(dir)
		if err != nil {
			return nil, err
		}
		r.digest, r.port, r.cid = digestOf(spec.Manifest), spec.Machine.Net.Forward.Port(), spec.Machine.Vsock.GuestCID
		r.story = m.witness.story(id, dir, &spec, r.log)
		r.forward = spec.Machine.Net.Forward
		r.program, r.sudo = spec.Machine.QEMU, spec.Machine.Sudo
		r.grace = cmp.Or(time.Duration(spec.Machine.Limits.Stop)*time.Second, defaultGrace)
		if r.demand, err = demandOf(spec.Machine); err != nil {
			r.log.Warn("what the VM may still write to disk can't be told in full", "error", err)
		}
		if r.exited() {
			r.setState(vm.Exited)
		} else if hold == nil {
			// Of an earlier Manager. Where QEMU listens it holds the port itself.
			hold, _ = holdPort(r.forward, false)
		}
	}
	own, err := openOwnSpool(dir)
	if err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	if own.Last(events.Manager) == 0 {
		return nil, errors.Join(hold.Close(), fmt.Errorf("%s lacks the run's first event", dir.ManagerSpool()), own.Close())
	}
	r.own, r.hold = own, hold
	return r, nil
}

func (r *run) reply() Reply { return Reply{RunID: r.id, Port: r.port} }

func (r *run) identity() ending { return ending{digest: r.digest, port: r.port} }

func (r *run) gone() bool { return r.removed.Load() }

func (r *run) ack(source eventv1.Source, sequence uint64) bool {
	if source == eventv1.Source_SOURCE_MANAGER {
		return r.mine.ack(source, sequence)
	}
	return r.theirs.ack(source, sequence)
}

// supervise is the run's life under this Manager.
func (r *run) supervise(ctx context.Context) {
	defer r.hold.Close()
	ownCtx, endOwn := context.WithCancel(ctx)
	defer endOwn()
	var own sync.WaitGroup
	own.Go(func() { r.deliverOwn(ownCtx) })
	r.serveVM(ctx)
	r.retire(ctx)
	if r.delivered() { // by an earlier Manager: nothing will come that wakes it
		endOwn()
	}
	own.Wait()
	if err := r.own.Close(); err != nil {
		r.log.Error("closing the Manager's spool failed", "error", err)
	}
	defer r.owner.Close()
	if ctx.Err() != nil && !r.delivered() {
		return
	}
	r.retry(ctx, "removing the run's folder", func() error {
		if err := os.RemoveAll(string(r.dir)); err != nil {
			return err
		}
		return syncPath(filepath.Dir(string(r.dir)))
	})
	r.m.at("run.gone")
	r.removed.Store(true)
	r.story.silence()
	r.log.Info("the run is over; nothing of its VM is left")
}

// phase is what is to be done with a run; decide derives it from facts alone,
// so that a Manager that starts anew goes on where the last one stopped.
type phase int

const (
	toStart  phase = iota // accepted; no shim was ever there
	toFollow              // the shim lives
	toDrain               // the shim is gone: tell what it left
	toRetire              // nothing more to tell of the VM: remove it
)

// facts are what can be seen of a run.
type facts struct {
	ended bool // the ledger says so
	alive bool // the shim's socket answers
	begun bool // a shim was there: its socket or spool exists
	told  bool // the Manager has said that the VM is lost
}

func decide(f facts) phase {
	switch {
	case f.ended:
		return toRetire
	case f.alive:
		return toFollow
	case f.begun || f.told:
		return toDrain
	}
	return toStart
}

func (r *run) facts() (facts, error) {
	_, ended := r.m.state.ended(r.id)
	var alive bool
	var err error
	if r.owner == nil { // else no shim can come any more
		alive, err = shimAlive(r.dir)
	}
	f := facts{ended: ended, alive: alive, told: r.own.Last(events.Manager) > 1}
	for _, name := range []string{r.dir.ShimSocket(), r.dir.Spool()} {
		if _, statErr := os.Lstat(name); statErr == nil {
			f.begun = true
		} else if !errors.Is(statErr, fs.ErrNotExist) {
			err = errors.Join(err, statErr)
		}
	}
	return f, err
}

// serveVM returns when the VM has ended and all of its events are committed.
func (r *run) serveVM(ctx context.Context) {
	var trouble complaint
	for ctx.Err() == nil {
		begin := time.Now()
		f, err := r.facts()
		done := false
		if err == nil {
			switch decide(f) {
			case toStart:
				err = r.startShim(ctx)
			case toFollow:
				err = r.follow(ctx)
			case toDrain:
				done, err = r.drain(ctx)
			case toRetire:
				done = true
			}
		}
		if done {
			return
		}
		if time.Since(begin) >= settled {
			trouble = complaint{}
		}
		if err != nil && ctx.Err() == nil {
			r.story.metrics.shimFailures.Inc()
			r.pause(ctx, trouble.about(r.log, "serving the VM failed; trying again", err))
			if trouble.times >= spent && r.over.Load() && f.alive {
				// Its events are on disk: they can be told without it.
				if err := r.insist("its VM has ended, and it can't be followed"); err != nil {
					r.log.Error("letting the shim go failed", "error", err)
				}
			}
		}
	}
}

// complaint says once what fails again and again, and tries it ever more seldom.
type complaint struct {
	said  []string
	times int
	pause time.Duration
}

// maxComplaints bounds what is said of one trouble, whose text may change.
const maxComplaints = 3

func (c *complaint) about(log *slog.Logger, what string, err error) (pause time.Duration) {
	level := slog.LevelDebug
	if text := err.Error(); len(c.said) < maxComplaints && !slices.Contains(c.said, text) {
		level, c.said = slog.LevelError, append(c.said, text)
	}
	c.times++
	c.pause = min(max(2*c.pause, retryPause), lastRetry)
	log.Log(context.Background(), level, what, "in", c.pause.String(), "error", err)
	return c.pause
}

const (
	// retryPause is between attempts at what failed on this host.
	retryPause = time.Second
	// spent is how often a shim may fail whose VM has ended.
	spent = 3
	// startPause is between looks at a shim that has just been started.
	startPause = 20 * time.Millisecond
)

func (r *run) pause(ctx context.Context, d time.Duration) {
	select {
	case <-r.m.cfg.Clock.After(d):
	case <-r.woken:
	case <-ctx.Done():
	}
}

// wake ends a pause.
func (r *run) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// retry repeats what must succeed.
func (r *run) retry(ctx context.Context, what string, do func() error) {
	var trouble complaint
	for {
		err := do()
		if err == nil {
			return
		}
		r.pause(ctx, trouble.about(r.log, what+" failed; trying again", err))
		if ctx.Err() != nil {
			return
		}
	}
}

// state asks the shim, and falls back on what was known last. answers is false
// where there should be a shim and it does not tell.
func (r *run) state(ctx context.Context) (state vm.State, answers bool) {
	answers = true
	if !r.over.Load() {
		ctx, cancel := context.WithTimeout(ctx, min(statusTimeout, r.m.cfg.call))
		defer cancel()
		c, err := dialShim(ctx, r.dir)
		if err == nil {
			defer c.conn.Close()
			var s vm.State
			if s, err = c.status(ctx, r.id); err == nil {
				r.setState(s)
			}
		}
		answers = err == nil || r.over.Load()
		if !answers {
			r.story.metrics.shimFailures.Inc()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known, answers
}

// setState notes a state; in that of a VM that has ended the run is over.
func (r *run) setState(s vm.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s == vm.Exited || s == vm.Lost {
		r.known = s
		if !r.over.Swap(true) {
			close(r.ended)
		}
	} else if !r.over.Load() {
		r.known = s
	}
}
