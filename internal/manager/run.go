package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
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
	cid    uint32
	hold   *portHold

	// own holds the Manager's events, which mine tracks; theirs is for those of
	// shim and agent.
	own          *spool.Spool
	mine, theirs *tracker
	child        *child
	// owner locks the folder once the shim is gone: none can come any more.
	owner *os.File

	// final is the Manager's last sequence, once it is known; 0 before.
	final atomic.Uint64
	// over: the VM has ended, whether or not all is told yet.
	over    atomic.Bool
	removed atomic.Bool

	mu    sync.Mutex
	known vm.State
}

// open reads a run from its folder. hold may be nil.
func (m *Manager) open(id string, hold *portHold) (*run, error) {
	dir := vm.DirOf(m.cfg.StateDir, id)
	r := &run{m: m, id: id, dir: dir, log: m.cfg.Log.With("run", id), mine: newTracker(), theirs: newTracker(), known: vm.Starting}
	if e, ended := m.state.ended(id); ended {
		// Being removed: the specification may be gone.
		r.digest, r.port, r.known = e.digest, e.port, vm.Exited
	} else {
		spec, err := vm.ReadSpec(dir)
		if err != nil {
			return nil, err
		}
		r.digest, r.port, r.cid = digestOf(spec.Manifest), spec.Machine.Forward.Port(), spec.Machine.Vsock.GuestCID
	}
	own, err := openOwnSpool(dir)
	if err != nil {
		return nil, err
	}
	if own.Last(events.Manager) == 0 {
		return nil, errors.Join(fmt.Errorf("%s lacks the run's first event", dir.ManagerSpool()), own.Close())
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
	alive, err := shimAlive(r.dir.ShimSocket())
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
	for ctx.Err() == nil {
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
		if err != nil && ctx.Err() == nil {
			r.log.Error("serving the VM failed; trying again", "error", err)
			r.pause(ctx, retryPause)
		}
	}
}

const (
	// retryPause is between attempts at what failed on this host.
	retryPause = time.Second
	// startPause is between looks at a shim that has just been started.
	startPause = 20 * time.Millisecond
)

func (r *run) pause(ctx context.Context, d time.Duration) {
	select {
	case <-r.m.cfg.Clock.After(d):
	case <-ctx.Done():
	}
}

// retry repeats what must succeed.
func (r *run) retry(ctx context.Context, what string, do func() error) {
	for {
		err := do()
		if err == nil {
			return
		}
		r.log.Error(what+" failed; trying again", "error", err)
		r.pause(ctx, retryPause)
		if ctx.Err() != nil {
			return
		}
	}
}

func (r *run) setState(s vm.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = s
}

// state asks the shim, and falls back on what was known last.
func (r *run) state(ctx context.Context) vm.State {
	if !r.over.Load() {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		if c, err := dialShim(ctx, r.dir.ShimSocket()); err == nil {
			defer c.conn.Close()
			if s, err := c.status(ctx, r.id); err == nil {
				r.setState(s)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// halt asks the shim to end the VM. A VM that has ended needs nothing; one
// whose shim is just starting is waited for.
func (r *run) halt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		if r.over.Load() {
			return nil
		}
		c, err := dialShim(ctx, r.dir.ShimSocket())
		if err == nil {
			_, err = c.api.Stop(ctx, &shimv1.StopRequest{})
			_ = c.conn.Close()
		}
		if err == nil {
			r.log.Info("the VM is being stopped")
			return nil
		}
		r.pause(ctx, startPause)
		if ctx.Err() != nil {
			return err
		}
	}
}
