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

	"golang.org/x/sys/unix"

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

// startShim starts the shim and waits until it listens. If there is no way to
// start it, the VM is lost before it began.
func (r *run) startShim(ctx context.Context) error {
	if r.child == nil {
		c, err := launch(r.m.cfg.Shim, r.dir)
		if err != nil {
			return r.tellLost(err.Error())
		}
		r.child = c
		r.log.Info("shim started", "pid", c.pid)
		r.m.at("shim.started")
	}
	for ctx.Err() == nil {
		gone, how := r.child.ended()
		if f, err := r.facts(); err != nil {
			return err
		} else if f.alive || (gone && f.begun) {
			return nil
		}
		if gone {
			// It may have given way to one that an earlier Manager started.
			if owned, err := r.takeFolder(); err != nil {
				return err
			} else if owned {
				return r.tellLost(fmt.Sprintf("the shim %s before it listened; its last words: %s", how, lastWords(r.dir.ShimLog())))
			}
		}
		r.pause(ctx, startPause)
	}
	return nil
}

// follow passes on what the shim tells until it is gone or drained and released.
func (r *run) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := dialShim(ctx, r.dir.ShimSocket())
	if err != nil {
		return err
	}
	defer c.conn.Close()
	statusCtx, done := context.WithTimeout(ctx, callTimeout)
	state, err := c.status(statusCtx, r.id)
	done()
	if err != nil {
		return err
	}
	r.setState(state)
	var watch sync.WaitGroup
	watch.Go(func() { c.lost(ctx); cancel() })
	defer watch.Wait()
	defer cancel()
	for ctx.Err() == nil {
		s, changed := r.m.hub.get()
		if s == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		drained, err := r.relay(ctx, s, c)
		if drained {
			return r.release(ctx, c)
		}
		if err != nil && ctx.Err() == nil && s.ctx.Err() == nil {
			if alive, _ := shimAlive(r.dir.ShimSocket()); !alive {
				return nil // what is to be done now follows from the facts
			}
			return err
		}
		waitFor(ctx, s.ctx, changed)
	}
	return nil
}

// waitFor returns at once unless s still lasts.
func waitFor(ctx, s context.Context, changed <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-changed:
	case <-s.Done():
		// Wait for the hub to say so, too.
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// relay is one Follow on one stream to the server.
func (r *run) relay(ctx context.Context, s *session, c *shimConn) (drained bool, err error) {
	err = r.pump(ctx, s, func(ctx context.Context) (feed, error) { return c.follow(ctx, r.id) }, r.theirs, r.observe)
	return err == nil, err
}

// pump is the function pump for as long as the stream to the server lasts.
func (r *run) pump(ctx context.Context, s *session, open func(context.Context) (feed, error), t *tracker, pass func(*eventv1.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	return pump(ctx, s, open, t, pass, r.m.at, r.log)
}

// release lets the shim go, now that it has nothing left to tell.
func (r *run) release(ctx context.Context, c *shimConn) error {
	r.m.at("vm.drained")
	callCtx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	_, err := c.api.Release(callCtx, &shimv1.ReleaseRequest{})
	r.m.at("shim.released")
	if alive, aliveErr := shimAlive(r.dir.ShimSocket()); err != nil && alive {
		return errors.Join(fmt.Errorf("releasing the shim: %w", err), aliveErr)
	}
	<-ctx.Done() // its connection ends with it
	return nil
}

// observe learns from what passes by. That the VM has ended is put on disk
// before it is told: afterwards nobody may say that it was lost.
func (r *run) observe(e *eventv1.Event) error {
	switch e.GetKind() {
	case vm.EventBooting:
		r.setState(vm.Booting)
	case vm.EventReady:
		r.setState(vm.Running)
	case vm.EventStopping:
		r.setState(vm.Stopping)
	case vm.EventExited:
		if e.GetSource() != eventv1.Source_SOURCE_SHIM {
			return nil // a guest's claim
		}
		return r.markExited()
	}
	return nil
}

func (r *run) markExited() error {
	r.over.Store(true)
	r.setState(vm.Exited)
	if r.exited() {
		return nil
	}
	if err := writeFile(r.dir.ExitedMark(), ""); err != nil {
		return fmt.Errorf("noting the VM's end: %w", err)
	}
	return syncPath(string(r.dir))
}

func (r *run) exited() bool {
	_, err := os.Lstat(r.dir.ExitedMark())
	return err == nil
}

// takeFolder locks the VM's folder, as shims do before anything else. It is
// false while a shim has it.
func (r *run) takeFolder() (bool, error) {
	if r.owner != nil {
		return true, nil
	}
	f, err := os.Open(string(r.dir))
	if err != nil {
		return false, fmt.Errorf("locking the VM's folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("locking %s: %w", r.dir, err)
	}
	r.owner = f
	return true, nil
}

// drain tells what a shim that is gone has left in its spool; then, unless the
// VM's end was seen, that it is lost.
func (r *run) drain(ctx context.Context) (done bool, err error) {
	if owned, err := r.takeFolder(); err != nil || !owned {
		r.pause(ctx, startPause) // it is on its way out, or in
		return false, err
	}
	if _, err := os.Lstat(r.dir.Spool()); err == nil {
		sp, err := spool.Open(r.dir.Spool())
		if errors.Is(err, spool.ErrLocked) {
			r.pause(ctx, startPause) // its files are being closed
			return false, nil
		}
		if err != nil {
			r.log.Error("events of the shim can't be read and are lost; the VM's folder was damaged", "error", err)
			return true, r.tellLost(fmt.Sprintf("the VM's shim is gone and its events can't be read: %v", err))
		}
		complete, err := r.drainSpool(ctx, sp)
		if err = errors.Join(err, sp.Close()); err != nil || !complete {
			return false, err
		}
	}
	how := r.reap(ctx)
	if r.exited() {
		return true, nil
	}
	if how == "" {
		how = "is gone"
	}
	return true, r.tellLost("the VM's shim " + how + ", and its VM with it")
}

// reap takes note of the end of a shim that this Manager started. It does not
// have the folder any more, so that it is about to end; if not, it is made to.
func (r *run) reap(ctx context.Context) string {
	deadline := r.m.cfg.Clock.Now().Add(callTimeout)
	for r.child != nil && ctx.Err() == nil {
		if ended, how := r.child.ended(); ended {
			return how
		}
		if r.m.cfg.Clock.Now().After(deadline) {
			r.log.Error("the shim does not end; it is killed", "pid", r.child.pid)
			_ = unix.Kill(r.child.pid, unix.SIGKILL) // a child that was not waited for: the id is its own
			deadline = deadline.Add(callTimeout)
		}
		r.pause(ctx, startPause)
	}
	return ""
}

func (r *run) drainSpool(ctx context.Context, sp *spool.Spool) (complete bool, err error) {
	if err := r.lookForEnd(sp); err != nil {
		return false, err
	}
	r.over.Store(true)
	if !r.exited() {
		r.setState(vm.Lost)
	}
	for ctx.Err() == nil {
		if sp.Unacknowledged() == 0 {
			return true, nil
		}
		s, changed := r.m.hub.get()
		if s == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		err := r.pump(ctx, s, openSpoolFeed(r.id, sp, func() bool { return true }), r.theirs, r.observe)
		if err != nil && ctx.Err() == nil && s.ctx.Err() == nil {
			return false, err
		}
		if err != nil {
			waitFor(ctx, s.ctx, changed)
		}
	}
	return false, nil
}

// lookForEnd reads a spool through for the event that says how the VM ended.
func (r *run) lookForEnd(sp *spool.Spool) error {
	for reader := sp.NewReader(); ; {
		record, ok, err := reader.TryNext()
		if err != nil || !ok {
			return err
		}
		e, err := events.Decode(record)
		if err != nil {
			return err
		}
		if err := r.observe(toProto(r.id, e)); err != nil {
			return err
		}
	}
}

// tellLost says, once, that the VM is lost.
func (r *run) tellLost(why string) error {
	r.over.Store(true)
	r.setState(vm.Lost)
	if r.own.Last(events.Manager) > 1 {
		return nil
	}
	r.log.Error("the VM is lost", "why", why)
	return r.tell(2, vm.EventLost, why)
}

// tell appends one of the Manager's events, durably; a repetition is ignored.
func (r *run) tell(sequence uint64, kind, message string) error {
	payload, err := events.Encode(events.Event{Time: r.m.cfg.Clock.Now(), Kind: kind, Message: message})
	if err != nil {
		return err
	}
	if err := r.own.Put(events.Manager, sequence, payload); err != nil {
		return fmt.Errorf("spooling %s: %w", kind, err)
	}
	if err := r.own.Sync(); err != nil {
		return fmt.Errorf("spooling %s: %w", kind, err)
	}
	return nil
}

// retire removes the VM: first the ledger says that it can only be removed, so
// that no half-removed folder is ever taken for a VM; then everything goes but
// the Manager's spool; then the run's last event is told from there.
func (r *run) retire(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	r.over.Store(true)
	r.retry(ctx, "ending the run", func() error {
		final := r.own.Last(events.Manager) + 1
		if err := r.m.state.end(r.id, ending{digest: r.digest, port: r.port, final: final}); err != nil {
			return err
		}
		r.m.at("run.ended")
		e, _ := r.m.state.ended(r.id)
		if err := r.clear(); err != nil {
			return err
		}
		r.m.at("run.cleared")
		if err := r.tell(e.final, vm.EventRemoved, "nothing of the VM is left on the host"); err != nil {
			return err
		}
		r.m.at("run.told")
		r.final.Store(e.final)
		return nil
	})
}

// clear removes all but the Manager's spool from the folder.
func (r *run) clear() error {
	entries, err := os.ReadDir(string(r.dir))
	if err != nil {
		return fmt.Errorf("clearing the VM's folder: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(string(r.dir), e.Name())
		if name == r.dir.ManagerSpool() {
			continue
		}
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("clearing the VM's folder: %w", err)
		}
	}
	return syncPath(string(r.dir))
}

func (r *run) delivered() bool {
	final := r.final.Load()
	return final > 0 && r.own.Acked(events.Manager) >= final
}

// deliverOwn sends the Manager's events until the last one is committed.
func (r *run) deliverOwn(ctx context.Context) {
	for ctx.Err() == nil && !r.delivered() {
		s, changed := r.m.hub.get()
		if s == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		err := r.pump(ctx, s, openSpoolFeed(r.id, r.own, r.delivered), r.mine, func(*eventv1.Event) error { return nil })
		if err != nil && ctx.Err() == nil {
			if s.ctx.Err() == nil {
				r.log.Error("telling the Manager's events failed; trying again", "error", err)
				r.pause(ctx, retryPause)
				continue
			}
			waitFor(ctx, s.ctx, changed)
		}
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
