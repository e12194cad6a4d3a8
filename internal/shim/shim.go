// Package shim is a VM's own process on the host: QEMU's parent, the host's end
// of the guest's session, and the keeper of its events until the Manager has
// passed them on.
//
//   - A shim owns its VM's folder (a lock on it, then the socket) before it does
//     anything else. A folder is for one VM, started once.
//   - An event is acknowledged to the agent, or shown to the Manager, only when
//     it is on disk. A full spool holds the agent up; events are never dropped.
//     Logs are kept in memory, bounded, and dropped oldest first.
//   - One goroutine, runVM, decides over the VM's life; the table in states.go
//     holds its transitions. QEMU dies with the shim, however that ends, and a
//     QEMU of root's, through sudo, is ended by the Manager then.
//   - The guest may be hostile: what it sends is capped and checked; it can't
//     name another run, another source or the host's own kinds of events. Log
//     lines and the console lose their control characters; events are kept as
//     they came, for whoever shows them to quote.
//   - The shim lives until Release, which is refused until the VM has ended and
//     every event is acknowledged, or until its context ends: then it ends the
//     VM in order and leaves the spool for the Manager to read.
package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

// Host is the host's end of the VM's vsock.
type Host interface {
	// GuestCID is the guest's address, settled when the host was made.
	GuestCID() uint32
	Listen(port uint32) (net.Listener, error)
	Close() error
}

// Config of a shim. Only Dir is required.
type Config struct {
	Dir vm.Dir
	// Log; default slog.Default().
	Log *slog.Logger
	// ReadyTimeout is how long the agent may take until it dials, where the
	// specification does not say; default 5 minutes.
	ReadyTimeout time.Duration
	// StopGrace is how long the guest may take to power off; default 30 s.
	StopGrace time.Duration
	// NewHost makes the host's end of the vsock and names the descriptors that
	// QEMU inherits from 3 on; default NewHost.
	NewHost func(spec vm.Spec, dir vm.Dir, log *slog.Logger) (Host, []*os.File, error)
}

const (
	defaultReady = 5 * time.Minute
	defaultGrace = 30 * time.Second
)

// Run is the shim of the VM whose specification stands in c.Dir. It returns when
// the Manager has released it, or once ctx has ended and the VM with it.
func Run(ctx context.Context, c Config) error {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = defaultReady
	}
	if c.StopGrace == 0 {
		c.StopGrace = defaultGrace
	}
	if c.NewHost == nil {
		c.NewHost = NewHost
	}
	s := &shim{
		Config:   c,
		begun:    time.Now(),
		watchers: make(chan struct{}, maxWatchers),
		changed:  make(chan struct{}),
		ready:    make(chan struct{}),
		released: make(chan struct{}),
		closing:  make(chan struct{}),
		stops:    make(chan time.Duration, 1),
		deaf:     make(chan error, 1),
		retry:    make(chan struct{}, 1),
		logs:     newLogRing(maxLogLines, maxLogBytes),
	}
	return s.run(ctx)
}

type shim struct {
	Config
	begun    time.Time
	watchers chan struct{} // one token for each Watch
	spec     vm.Spec
	launch   *guestv1.Launch
	spool    *spool.Spool
	// quiet is Log for what the Manager hears in another way.
	quiet  *slog.Logger
	logs   *logRing
	wg     sync.WaitGroup
	cancel context.CancelCauseFunc

	ready     chan struct{} // closed with the first session
	readyOnce sync.Once
	dials     atomic.Int64  // sessions of the agent so far
	released  chan struct{} // closed by Release
	closing   chan struct{} // closed when the API ends
	stops     chan time.Duration
	deaf      chan error    // why the guest can't dial any more
	retry     chan struct{} // asks keepSyncing to try again

	mu      sync.Mutex
	state   vm.State
	changed chan struct{} // closed and replaced with state
	pid     int
	exit    int
	release bool
	session *session
	// guestStops: each session of the agent is asked to stop.
	guestStops bool
	follower   *follower
}

func (s *shim) run(ctx context.Context) (err error) {
	owner, err := own(s.Dir)
	if err != nil {
		return err
	}
	defer owner.Close()
	listener, err := listen(s.Dir.ShimSocket())
	if err != nil {
		return err
	}
	defer os.Remove(s.Dir.ShimSocket())
	defer listener.Close()
	if s.spec, err = vm.ReadSpec(s.Dir); err != nil {
		return fmt.Errorf("starting shim: %w", err)
	}
	s.limits()
	s.launch = launchOf(s.spec)
	if s.spool, err = spool.Open(s.Dir.Spool()); err != nil {
		return fmt.Errorf("starting shim: %w", err)
	}
	defer func() { err = errors.Join(err, s.spool.Close()) }()
	if s.spool.Last(events.Shim) > 0 {
		return fmt.Errorf("starting shim: the VM of %s was started before; a VM is started once", s.Dir)
	}
	s.quiet = s.Log.With(telemetry.Run, s.spec.RunID, telemetry.Source, "shim")
	s.Log = slog.New(newTee(s.quiet.Handler(), s.tell))

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.cancel = cancel
	// What serves outlives ctx: the VM's end is still to be told.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer s.wg.Wait()
	defer stopServing()
	s.wg.Go(func() { s.keepSyncing(serving) })
	if err := s.setState(vm.Starting, "starting QEMU", teeOf(s.spec.Machine)); err != nil {
		return err
	}
	stopAPI := s.serveAPI(listener)
	defer stopAPI()
	if err := s.runVM(ctx); err != nil {
		return err
	}
	select {
	case <-s.released:
		s.Log.Info("released")
		return nil
	case <-ctx.Done():
		var f *fatal
		if errors.As(context.Cause(ctx), &f) {
			return f
		}
		s.Log.Info("ended before its release; its events stay in the spool", "unacknowledged", s.spool.Unacknowledged())
		return nil
	}
}

// teeOf names the VM's TEE in an event; nil for a plain VM.
func teeOf(m vm.Machine) map[string]string {
	if m.TEE == nil {
		return nil
	}
	a := map[string]string{"tee": string(m.TEE.Kind)}
	if m.TEE.Kind == vm.Simulated {
		a["simulated"] = "true"
	}
	return a
}

// fatal is a reason to end the shim that leaves nothing to wait for.
type fatal struct{ error }

func (s *shim) fail(err error) { s.cancel(&fatal{err}) }

// own locks the VM's folder for this process.
func own(dir vm.Dir) (io.Closer, error) {
	f, err := os.Open(string(dir))
	if err != nil {
		return nil, fmt.Errorf("starting shim: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("starting shim: %s has a shim already", dir)
		}
		return nil, fmt.Errorf("starting shim: locking %s: %w", dir, err)
	}
	return f, nil
}

// listen makes the unix socket at path, for this user alone from its first
// moment on. The caller owns the folder: a socket that is there is a dead one.
func listen(path string) (net.Listener, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

// emit puts one of the shim's own events on disk. Where the disk is full the
// event waits for keepSyncing.
func (s *shim) emit(kind, message string, attributes map[string]string) {
	payload, err := events.Encode(events.Event{Time: time.Now(), Kind: kind, Message: message, Attributes: attributes})
	if err == nil {
		_, err = s.spool.Append(events.Shim, payload)
	}
	s.quiet.Info(kind, "message", message)
	if err != nil {
		s.Log.Error("an event is not on disk yet", "kind", kind, "error", err)
		select {
		case s.retry <- struct{}{}:
		default:
		}
	}
}

// syncDelay is the time between attempts to write to a full disk.
const syncDelay = time.Second

// keepSyncing brings to disk what a full disk has held up. A spool that is
// broken for good ends the shim, and its VM with it: nothing could be told of it.
func (s *shim) keepSyncing(ctx context.Context) {
	for {
		select {
		case <-s.retry:
		case <-ctx.Done():
			return
		}
		for s.spool.Sync() != nil {
			if err := s.spool.Broken(); err != nil {
				s.fail(fmt.Errorf("keeping events: %w", err))
				return
			}
			select {
			case <-time.After(syncDelay):
			case <-ctx.Done():
				return
			}
		}
	}
}

// limits puts what the specification sets in place of the defaults.
func (s *shim) limits() {
	if n := s.spec.Machine.Limits.Ready; n > 0 {
		s.ReadyTimeout = time.Duration(n) * time.Second
	}
	if n := s.spec.Machine.Limits.Stop; n > 0 {
		s.StopGrace = time.Duration(n) * time.Second
	}
}

// maxSeconds bounds a limit: some 68 years.
const maxSeconds = 1<<31 - 1

// validate judges the specification before anything is started. A guest CID of
// 0 leaves the choice to the vsock's host.
func validate(spec vm.Spec) error {
	l := spec.Machine.Limits
	for _, v := range []struct {
		path string
		n    int
	}{{"ready", l.Ready}, {"stop", l.Stop}, {"life", l.Life}} {
		if v.n < 0 || v.n > maxSeconds {
			return fmt.Errorf("machine.limits.%s: is %d; expected 0 to %d", v.path, v.n, maxSeconds)
		}
	}
	if spec.Machine.Vsock.GuestCID == 0 {
		spec.Machine.Vsock.GuestCID = vsock.DefaultGuestCID
	}
	return qemu.Validate(spec)
}
