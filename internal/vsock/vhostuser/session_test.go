package vhostuser_test

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/vhostuser"
	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest/frontend"
)

// handler is a device that does one thing with what it receives.
type handler struct {
	receive func(virtq.Buffers)
	reset   func() // if not nil
	resets  atomic.Int32
}

func (h *handler) Receive(b virtq.Buffers)    { h.receive(b) }
func (h *handler) Pending() bool              { return false }
func (h *handler) Transmit(virtq.Buffers) int { return 0 }
func (h *handler) MinBuffer() int             { return 1 }

func (h *handler) Reset(error) {
	h.resets.Add(1)
	if h.reset != nil {
		h.reset()
	}
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var cs [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		cs[i] = c.(*net.UnixConn)
	}
	return cs[0], cs[1]
}

func start(t *testing.T, h *handler, log *slog.Logger) (*frontend.Frontend, <-chan error) {
	t.Helper()
	ours, theirs := pair(t)
	s := vhostuser.New(ours, h, nil, log)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	f, err := frontend.New(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	return f, ended
}

func wait(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(frontend.Patience):
		t.Fatal("the session goes on")
		return nil
	}
}

// A page of guest memory that goes away (which the seals prevent) ends the
// session with an error that says so, and not the process: whether a queue's
// worker meets it or the control loop.
func TestFaultEndsTheSession(t *testing.T) {
	fd, err := frontend.Memfd(8192, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	gone, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(gone)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		t.Fatal(err)
	}
	const says = "fault while working on guest memory"
	t.Run("in a worker", func(t *testing.T) {
		h := &handler{receive: func(b virtq.Buffers) { b.CopyIn(0, gone[4096:]) }}
		f, ended := start(t, h, slog.New(slog.DiscardHandler))
		f.TX.Post([]byte("a packet"))
		if err := wait(t, ended); err == nil || !strings.Contains(err.Error(), "queue 1: "+says) {
			t.Errorf("the session ended with %v", err)
		}
	})
	t.Run("in the control loop", func(t *testing.T) {
		sum := byte(0)
		h := &handler{reset: func() { sum += gone[4096] }}
		f, ended := start(t, h, slog.New(slog.DiscardHandler))
		if err := f.Send(frontend.ResetOwner, 1, nil); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, ended); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the session ended with %v, after %d", err, sum)
		}
	})
}

// A guest that breaks its queue and resets the device, again and again, fills
// no log.
func TestLogOfBrokenQueuesIsBounded(t *testing.T) {
	var log bytes.Buffer
	h := &handler{receive: func(virtq.Buffers) {}}
	f, ended := start(t, h, slog.New(slog.NewTextHandler(&log, nil)))
	for range 50 {
		f.TX.Offer(0, frontend.RingSize+1) // an index that jumps
		if err := f.TX.Broken(); err != nil {
			t.Fatal(err)
		}
		if err := f.StopDevice(); err != nil {
			t.Fatal(err)
		}
		f.RX.Zero()
		f.TX.Zero()
		if err := f.StartDevice(); err != nil {
			t.Fatal(err)
		}
	}
	f.Conn.Close()
	if err := wait(t, ended); err != nil {
		t.Errorf("the session ended with %v", err)
	}
	if n := strings.Count(log.String(), "\n"); n != 21 || !strings.Contains(log.String(), "count=50") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// A device that is kicked before it may work waits until it may.
func TestQueueWaitsUntilEnabled(t *testing.T) {
	got := make(chan []byte, 10)
	h := &handler{receive: func(b virtq.Buffers) {
		p := make([]byte, b.Len())
		b.CopyOut(0, p)
		got <- p
	}}
	f, ended := start(t, h, slog.New(slog.DiscardHandler))
	set := func(on uint32) {
		t.Helper()
		if err := f.Set(frontend.SetVringEnable, frontend.Pair(1, on)); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	f.TX.Post([]byte("while off"))
	// The answer to a message shows that the worker had its chance.
	if _, err := f.Get(frontend.GetFeatures, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case p := <-got:
		t.Errorf("a queue that is off delivered %q", p)
	default:
	}
	set(1)
	if p := <-got; string(p) != "while off" {
		t.Errorf("received %q", p)
	}
	if n, err := f.Get(frontend.GetQueueNum, nil); err != nil || n[0] != 2 {
		t.Errorf("%v queues, %v", n, err)
	}
	f.Conn.Close()
	if err := wait(t, ended); err != nil {
		t.Errorf("the session ended with %v", err)
	}
}

// A pause brings the index back, a reset begins at 0.
func TestResetIsNotAPause(t *testing.T) {
	h := &handler{receive: func(virtq.Buffers) {}}
	f, ended := start(t, h, slog.New(slog.DiscardHandler))
	step := func(zero bool, want int32) {
		t.Helper()
		if err := f.SendBytes([]byte("a packet")); err != nil {
			t.Fatal(err)
		}
		if err := f.StopDevice(); err != nil {
			t.Fatal(err)
		}
		if f.TX.Base == 0 {
			t.Fatal("the stopped ring's index is 0")
		}
		if zero {
			f.RX.Zero()
			f.TX.Zero()
		}
		if err := f.StartDevice(); err != nil {
			t.Fatal(err)
		}
		if n := h.resets.Load(); n != want {
			t.Errorf("%d resets, not %d", n, want)
		}
	}
	step(false, 0)
	step(false, 0)
	step(true, 1)
	step(false, 1)
	f.Conn.Close()
	if err := wait(t, ended); err != nil {
		t.Errorf("the session ended with %v", err)
	}
}
