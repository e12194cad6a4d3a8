package manager

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

// running is a lab with so many VMs and the Manager that has them.
func running(t *testing.T, verdict func(*eventv1.Event) server.Verdict, n int) (*lab, *Manager, []string) {
	t.Helper()
	l := newLab(t, verdict)
	var m *Manager
	began := make(chan struct{})
	l.change = func(c *Config) { hasty(c); c.began = func(made *Manager) { m = made; close(began) } }
	l.inside()
	<-began
	var ids []string
	for range n {
		id := l.submit()
		l.accepted(id)
		l.waitShim(id)
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return l, m, ids
}

// TestHaltAll ends every VM, a frozen one, too, and accepts no run any more.
func TestHaltAll(t *testing.T) {
	l, m, ids := running(t, nil, 3)
	l.freeze(l.shims()[1])
	if err := m.haltAll(l.ctx, 0); err != nil {
		t.Errorf("%v", err)
	}
	lost := 0
	for _, id := range ids {
		lost += count(l.complete(id), vm.EventLost)
	}
	if lost != 1 {
		t.Errorf("%d VMs are lost; only the frozen one is", lost)
	}
	l.empty()
	l.refused(l.submit(), "shutting down")
	l.resubmit(ids[0]) // what was accepted stays so
	l.accepted(ids[0])
	if err := m.haltAll(l.ctx, 0); err != nil {
		t.Errorf("with nothing to do: %v", err)
	}
}

// TestHaltAllWithoutServer: the VMs end, and what was not told is kept for the
// next Manager.
func TestHaltAllWithoutServer(t *testing.T) {
	var mu sync.Mutex
	deaf := false
	l, m, ids := running(t, func(*eventv1.Event) server.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if deaf {
			return server.Lose
		}
		return server.Ack
	}, 2)
	mu.Lock()
	deaf = true
	mu.Unlock()
	ctx, cancel := context.WithTimeout(l.ctx, 8*time.Second)
	defer cancel()
	err := m.haltAll(ctx, 0)
	var left *Unfinished
	if !errors.As(err, &left) || !slices.Equal(left.Untold, ids) || len(left.Running) > 0 || !strings.Contains(err.Error(), ids[0]) {
		t.Fatalf("%v", err)
	}
	mu.Lock()
	deaf = false
	mu.Unlock()
	l.server.Disconnect() // what was lost is sent again on the next stream
	for _, id := range ids {
		if kinds := l.complete(id); count(kinds, vm.EventExited)+count(kinds, vm.EventLost) != 1 {
			t.Errorf("events: %v", kinds)
		}
	}
	l.empty()
}

// TestHaltAllThatMustNotWait says what still runs.
func TestHaltAllThatMustNotWait(t *testing.T) {
	l, m, ids := running(t, nil, 1)
	ctx, cancel := context.WithCancel(l.ctx)
	cancel()
	err := m.haltAll(ctx, 0)
	var left *Unfinished
	if !errors.As(err, &left) || !slices.Equal(left.Running, ids) || left.Err == nil {
		t.Fatalf("%v", err)
	}
	l.stop(ids[0])
	l.empty()
}

// erraticClock is set to and fro by years with every look, as no monotonic one
// is.
type erraticClock struct {
	hastyClock
	mu sync.Mutex
	n  int
}

func (c *erraticClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return time.Now().Round(0).AddDate([]int{0, 30, -20, 3, -3}[c.n%5], 0, 0)
}

// TestClockThatJumps: nothing ends earlier or later, or in another order, and
// nothing is said to be late, whatever the clock shows.
func TestClockThatJumps(t *testing.T) {
	l := newLab(t, nil)
	clock := &erraticClock{}
	l.change = func(c *Config) {
		c.Clock = clock
		connect := c.Server.TLS
		c.Server.TLS = func() (*tls.Config, error) { // certificates have tests of their own
			cfg, err := connect()
			cfg.Time = time.Now
			return cfg, err
		}
	}
	book := &logBook{testWriter: testWriter{t}}
	stop := l.insideLogging(book)
	stopped := l.submit()
	l.accepted(stopped)
	l.waitShim(stopped)
	lives := l.submit()
	l.accepted(lives)
	l.waitShim(lives)
	l.stop(stopped)
	stop()
	stop = l.insideLogging(book)
	if _, err := l.server.Hello(l.ctx, 2); err != nil {
		t.Fatal(err)
	}
	l.server.Disconnect()
	l.killShim()
	if kinds := l.complete(lives); count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventState) != 5 {
		t.Errorf("events: %v", kinds)
	}
	l.empty()
	stop()
	// That the shim does not answer may be seen before that it is gone.
	n := book.count("level=ERROR") - book.count("level=ERROR", "serving the VM failed")
	if n != 1 || book.count("level=ERROR", "the VM is lost") != 1 {
		t.Errorf("%d errors in the log; expected the lost VM alone", n)
	}
	if clock.n == 0 {
		t.Error("nobody looked at the clock")
	}
}
