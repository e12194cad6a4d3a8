package manager

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

func (l *lab) resubmit(id string) {
	l.t.Helper()
	l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: freeze(l.t, testManifest()).Raw})
}

// killShim kills the shim that was started last, and waits for its end.
func (l *lab) killShim() {
	l.t.Helper()
	pids := l.shims()
	if len(pids) == 0 {
		l.t.Fatal("there is no shim")
	}
	pid := pids[len(pids)-1]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	for !closed(pid) {
		time.Sleep(time.Millisecond)
	}
}

// closed tells whether a process has closed its files: it is no more, or waits
// for its parent with the last of its threads.
func closed(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return strings.HasPrefix(rest, "Z") && len(threads) <= 1
}

// waitShim waits until the run's shim listens and has told all that it tells
// before it is stopped.
func (l *lab) waitShim(id string) {
	l.t.Helper()
	for l.ctx.Err() == nil {
		c, err := dialShim(l.ctx, vm.DirOf(l.state, id))
		if err == nil {
			s, err := c.status(l.ctx, id)
			_ = c.conn.Close()
			if err == nil && s == vm.Running {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Fatal("the shim does not come up")
}

func TestRunFromRequestToRemoval(t *testing.T) {
	l := newLab(t, nil)
	stop := l.inside()
	id := l.submit()
	reply, address, err := l.server.Reply(l.ctx, id)
	if err != nil || reply.GetRefusal() != nil {
		t.Fatalf("%v, %v", reply, err)
	}
	accepted := l.event(id, vm.EventAccepted)
	if !strings.HasSuffix(address, ":"+accepted.GetAttributes()["agent_port"]) {
		t.Errorf("the reply says %s, the event %v", address, accepted.GetAttributes())
	}
	l.event(id, vm.EventState)
	spec, err := vm.ReadSpec(vm.DirOf(l.state, id))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(vm.DirOf(l.state, id).Spec()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("spec.json: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(string(vm.DirOf(l.state, id))); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the VM's folder: %v, %v", info.Mode(), err)
	}
	if spec.RunID != id || spec.Agent.Port != vm.AgentPort || spec.Agent.LogLevel != "info" {
		t.Errorf("specification: %+v", spec)
	}
	if err := l.server.Stop(id); err != nil {
		t.Fatal(err)
	}
	stopped, err := l.server.StopReply(l.ctx, id, 1)
	if err != nil || stopped.GetRefusal() != nil {
		t.Fatalf("%v, %v", stopped, err)
	}
	kinds := l.complete(id)
	want := []string{vm.EventStarting, vm.EventBooting, vm.EventStopping, vm.EventExited}
	for _, k := range want {
		if count(kinds, k) != 1 {
			t.Errorf("%s: %v", k, kinds)
		}
	}
	l.empty()
	l.answeredAsBefore(id)

	// Another manifest under the same run_id is somebody's mistake.
	m := testManifest()
	m.Name = "Another"
	l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: freeze(t, m).Raw})
	reply, _, err = l.server.Reply(l.ctx, id)
	if err != nil || len(reply.GetRefusal().GetFaults()) != 1 || reply.GetRefusal().GetFaults()[0].GetReason() != string(AlreadyExists) {
		t.Errorf("%v, %v", reply, err)
	}
	// Stopping what has ended is no fault, and what never was is one.
	if err := l.server.Stop(id); err != nil {
		t.Fatal(err)
	}
	if r, err := l.server.StopReply(l.ctx, id, 2); err != nil || r.GetRefusal() != nil {
		t.Errorf("%v, %v", r, err)
	}
	const stranger = "6a2c1f0e-6e0a-4d7e-9d3f-1c1b0d9a8b7c"
	if err := l.server.Stop(stranger); err != nil {
		t.Fatal(err)
	}
	if r, err := l.server.StopReply(l.ctx, stranger, 1); err != nil || r.GetRefusal().GetFaults()[0].GetReason() != string(NotFound) {
		t.Errorf("%v, %v", r, err)
	}
	stop()
}

func TestEndingTheManagerEndsNoVM(t *testing.T) {
	l := newLab(t, nil)
	stop := l.inside()
	id := l.submit()
	l.event(id, vm.EventState)
	l.waitShim(id)
	stop()
	pids := l.shims()
	if len(pids) != 1 || !isFakeShim(pids[0]) {
		t.Fatalf("shims: %v", pids)
	}
	l.inside()
	hello, err := l.server.Hello(l.ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(hello.GetRuns()) != 1 || hello.GetRuns()[0].GetRunId() != id || hello.GetRuns()[0].GetState() != string(vm.Running) {
		t.Errorf("the second hello lists %v", hello.GetRuns())
	}
	l.resubmit(id)
	if reply, _, err := l.server.Reply(l.ctx, id); err != nil || reply.GetRefusal() != nil {
		t.Errorf("%v, %v", reply, err)
	}
	if err := l.server.Stop(id); err != nil {
		t.Fatal(err)
	}
	l.complete(id)
	l.empty()
	if len(l.shims()) != 1 {
		t.Error("a second shim was started")
	}
}

func TestShimKilledUnderALivingManager(t *testing.T) {
	l := newLab(t, nil)
	l.inside()
	id := l.submit()
	l.waitShim(id)
	l.killShim()
	kinds := l.complete(id)
	l.empty()
	if count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventState) != 5 {
		t.Errorf("events: %v", kinds)
	}
	if lost := l.event(id, vm.EventLost); !strings.Contains(lost.GetMessage(), "signal 9") {
		t.Errorf("the event says %q", lost.GetMessage())
	}
}

// TestShimKilledAfterItsVM: the VM's end was told, so that the VM is not lost
// although its shim is.
func TestShimKilledAfterItsVM(t *testing.T) {
	held := make(chan struct{})
	l := newLab(t, func(e *eventv1.Event) server.Verdict {
		select {
		case <-held:
			return server.Ack
		default:
		}
		if e.GetKind() == vm.EventExited {
			return server.Withhold
		}
		return server.Ack
	}, envEnds+"=yes")
	l.inside()
	id := l.submit()
	l.event(id, vm.EventExited)
	l.killShim()
	close(held)
	l.server.Disconnect()
	kinds := l.complete(id)
	l.empty()
	if count(kinds, vm.EventLost) != 0 || count(kinds, vm.EventExited) != 1 {
		t.Errorf("events: %v", kinds)
	}
}

// watcher closes seen at the first log line with the text.
type watcher struct {
	testWriter
	text string
	seen chan struct{}
	once *sync.Once
}

func (w watcher) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return w.testWriter.Write(b)
}

// TestSpoolThatCannotBeOpenedNow: what the host can't read for a while, as it
// has no file to spare, is not given up for lost.
func TestSpoolThatCannotBeOpenedNow(t *testing.T) {
	held := make(chan struct{})
	l := newLab(t, func(*eventv1.Event) server.Verdict {
		select {
		case <-held:
			return server.Ack
		default:
			return server.Withhold
		}
	})
	stop := l.inside()
	id := l.submit()
	l.event(id, vm.EventState)
	l.waitShim(id)
	stop()
	l.killShim()
	lock := filepath.Join(vm.DirOf(l.state, id).Spool(), "lock")
	if err := errors.Join(os.Rename(lock, lock+".away"), os.Mkdir(lock, 0o700)); err != nil {
		t.Fatal(err)
	}
	close(held)
	w := watcher{testWriter{t}, "reading what the shim left", make(chan struct{}), new(sync.Once)}
	l.insideLogging(w)
	select {
	case <-w.seen:
	case <-l.ctx.Done():
		t.Fatal("the Manager did not say that it can't read the spool")
	}
	if err := errors.Join(os.Remove(lock), os.Rename(lock+".away", lock)); err != nil {
		t.Fatal(err)
	}
	kinds := l.complete(id)
	l.empty()
	if count(kinds, vm.EventState) != 5 || count(kinds, vm.EventLost) != 1 {
		t.Errorf("events: %v", kinds)
	}
}

func TestShimThatDoesNotStart(t *testing.T) {
	t.Run("fails", func(t *testing.T) {
		l := newLab(t, nil, envFails+"=yes")
		l.inside()
		id := l.submit()
		kinds := l.complete(id)
		l.empty()
		if count(kinds, vm.EventLost) != 1 {
			t.Errorf("events: %v", kinds)
		}
		if lost := l.event(id, vm.EventLost); !strings.Contains(lost.GetMessage(), "exit status 1") {
			t.Errorf("the event says %q", lost.GetMessage())
		}
	})
	t.Run("is missing", func(t *testing.T) {
		l := newLab(t, nil)
		cfg, err := testConfig(l.state, l.address, l.ca, l.env)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Shim = []string{filepath.Join(l.dir, "no-such-program"), "shim"}
		ctx, cancel := context.WithCancel(l.ctx)
		done := make(chan error, 1)
		go func() { done <- Run(ctx, cfg) }()
		id := l.submit()
		l.complete(id)
		l.empty()
		if lost := l.event(id, vm.EventLost); !strings.Contains(lost.GetMessage(), "no-such-program") {
			t.Errorf("the event says %q", lost.GetMessage())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestServerThatBreaksOff: whatever the server does with the n-th event, all
// arrive, once each and in order.
func TestServerThatBreaksOff(t *testing.T) {
	for name, verdict := range map[string]server.Verdict{
		"acknowledges and cuts": server.AckAndCut,
		"commits and cuts":      server.Cut,
	} {
		for _, every := range []int{1, 2, 5} {
			t.Run(fmt.Sprintf("%s every %d", name, every), func(t *testing.T) {
				n := 0
				l := newLab(t, func(e *eventv1.Event) server.Verdict {
					if n++; n%every == 0 && n < 60 {
						return verdict
					}
					return server.Ack
				}, envEnds+"=yes")
				l.inside()
				id := l.submit()
				kinds := l.complete(id)
				l.empty()
				if count(kinds, vm.EventState) != 5 {
					t.Errorf("events: %v", kinds)
				}
			})
		}
	}
}

// TestServerThatLoses: an event that the server forgot is sent again on the
// next stream, and what was acknowledged after it does not hide it.
func TestServerThatLoses(t *testing.T) {
	lost := 0
	l := newLab(t, func(e *eventv1.Event) server.Verdict {
		if e.GetSource() == eventv1.Source_SOURCE_AGENT && e.GetSequence() == 2 && lost == 0 {
			lost++
			return server.Lose
		}
		return server.Ack
	})
	l.inside()
	id := l.submit()
	if _, err := l.server.Event(l.ctx, id, "the agent's event 5", func(e *eventv1.Event) bool {
		return e.GetSource() == eventv1.Source_SOURCE_AGENT && e.GetSequence() == 5
	}); err != nil {
		t.Fatal(err)
	}
	l.server.Disconnect()
	if _, err := l.server.Event(l.ctx, id, "the agent's event 2", func(e *eventv1.Event) bool {
		return e.GetSource() == eventv1.Source_SOURCE_AGENT && e.GetSequence() == 2
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.server.Stop(id); err != nil {
		// The stream may just be coming back.
		if _, err := l.server.Hello(l.ctx, 2); err != nil {
			t.Fatal(err)
		}
		if err := l.server.Stop(id); err != nil {
			t.Fatal(err)
		}
	}
	l.event(id, vm.EventRemoved)
	l.empty()
}

// TestServerAwayAndBack: a server that ends and comes back at its address gets
// what happened meanwhile.
func TestServerAwayAndBack(t *testing.T) {
	l := newLab(t, nil)
	cert, ca, err := server.SelfSigned("127.0.77.1")
	if err != nil {
		t.Fatal(err)
	}
	l.ca = ca
	journal := filepath.Join(l.dir, "journal")
	start := func(address string) (*server.Server, string, func()) {
		s, err := server.New(server.Config{TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}, Journal: journal})
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		at := listener.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, listener) }()
		return s, at, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	first, address, stopFirst := start("127.0.77.1:0") // an address of its own: nobody takes the port meanwhile
	l.server, l.address = first, address
	l.inside()
	id := l.submit()
	l.event(id, vm.EventAccepted)
	l.waitShim(id)
	stopFirst()
	l.killShim() // while nobody is there to be told
	second, _, stopSecond := start(address)
	defer stopSecond()
	l.server = second
	e, err := second.EventOfKind(l.ctx, id, vm.EventLost)
	if err != nil || e.GetSequence() != 2 {
		t.Fatalf("%v, %v", e, err)
	}
	if _, err := second.EventOfKind(l.ctx, id, vm.EventRemoved); err != nil {
		t.Fatal(err)
	}
	l.empty()
}

func TestTwoManagersOnOneStateDirectory(t *testing.T) {
	l := newLab(t, nil)
	l.inside()
	if _, err := l.server.Hello(l.ctx, 1); err != nil {
		t.Fatal(err)
	}
	cfg, err := testConfig(l.state, l.address, l.ca, l.env)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	err = Run(l.ctx, cfg)
	if err == nil || !strings.Contains(err.Error(), "used by another Manager") || !strings.Contains(err.Error(), "MANAGER_STATE_DIR") {
		t.Errorf("the second Manager says: %v", err)
	}
}
