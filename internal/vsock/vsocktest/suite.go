package vsocktest

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
)

// Suite is one VM with its host's end, under test.
type Suite struct {
	Host     vsock.Host
	VM       *VM
	Size     Size
	Patience time.Duration // for the guest to boot
	Facts    []string      // that the guest must report
	// QuietReset: connections of a guest's earlier life may read as ended, which
	// is all that Linux itself tells of a reset.
	QuietReset bool

	sessions net.Listener
	session  *Session
}

// MachineCases are the names of what Run does to the VM besides Cases.
var MachineCases = []string{pauseCase, rebootCase, resetCase, powerOffCase}

const (
	pauseCase    = "pause and resume in mid-transfer"
	rebootCase   = "the guest reboots"
	resetCase    = "the reset button"
	powerOffCase = "power off"
)

// Listen makes the suite's listeners. Call it before the VM starts.
func (s *Suite) Listen(t *testing.T) {
	t.Helper()
	l, err := s.Host.Listen(ServerPort)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		NewServer().Serve(l)
		close(served)
	}()
	if s.sessions, err = s.Host.Listen(SessionPort); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		s.sessions.Close()
		s.Host.Close()
		<-served
	})
}

// Run runs everything and ends with the VM powered off.
func (s *Suite) Run(t *testing.T) {
	s.meet(t)
	s.cases(t, 0)
	s.pause(t)
	s.reboot(t)
	s.powerOff(t)
}

// RunCases runs the cases alone, and powers the VM off.
func (s *Suite) RunCases(t *testing.T) {
	s.meet(t)
	s.cases(t, 0)
	s.powerOff(t)
}

// meet waits for the guest.
func (s *Suite) meet(t *testing.T) {
	t.Helper()
	start := time.Now()
	session, err := acceptSession(s.sessions, s.Patience)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.VM.Console())
	}
	s.session = session
	t.Logf("guest up after %v: kernel %s, CID %d, %v", time.Since(start).Round(time.Millisecond), session.hello.Kernel, session.hello.CID, session.hello.Facts)
	if session.hello.CID != s.Host.GuestCID() {
		t.Errorf("the guest has CID %d, its host says %d", session.hello.CID, s.Host.GuestCID())
	}
	for _, f := range s.Facts {
		if !slices.Contains(session.hello.Facts, f) {
			t.Errorf("the guest does not report %q but %q", f, session.hello.Facts)
		}
	}
}

// cases runs every case both ways.
func (s *Suite) cases(t *testing.T, base uint64) {
	for i, c := range Cases {
		base := base + uint64(i+1)*100
		t.Run("host to guest/"+c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
			defer cancel()
			if err := c.Run(ctx, s.Host.Dial, s.Size, base); err != nil {
				t.Errorf("%v\n%s", err, s.VM.Console())
			}
		})
		t.Run("guest to host/"+c.Name, func(t *testing.T) {
			if err := s.session.tell(command{Case: c.Name, Small: s.Size == Small, Base: base}); err != nil {
				t.Errorf("%v\n%s", err, s.VM.Console())
			}
		})
	}
}

// pause stops the VM in the middle of transfers both ways, and lets it go on.
func (s *Suite) pause(t *testing.T) {
	t.Run(pauseCase, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
		defer cancel()
		down, err := open(ctx, s.Host.Dial, opSource, uint64(s.Size.Bytes))
		if err != nil {
			t.Fatal(err)
		}
		defer down.Close()
		up, err := open(ctx, s.Host.Dial, opDigest, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		got := patternDigest(0)
		half := s.Size.Bytes / 2
		source := newPattern(s.Size.Bytes)
		if _, err := transfer(got, io.LimitReader(down, half)); err != nil {
			t.Fatal(err)
		}
		if _, err := transfer(up, io.LimitReader(source, half)); err != nil {
			t.Fatal(err)
		}
		if err := s.VM.Pause(); err != nil {
			t.Fatal(err)
		}
		// The second halves begin while the guest stands, and end when it does not.
		uploaded := make(chan error, 1)
		go func() {
			_, err := transfer(up, source)
			uploaded <- errors.Join(err, up.CloseWrite())
		}()
		if err := s.VM.Resume(); err != nil {
			t.Fatal(err)
		}
		n, err := transfer(got, down)
		if err != nil || half+n != s.Size.Bytes {
			t.Fatalf("%d bytes came after the pause, of %d: %v", n, s.Size.Bytes-half, err)
		}
		if want := patternDigest(s.Size.Bytes); string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Error("the download arrived changed")
		}
		if err := <-uploaded; err != nil {
			t.Fatal(err)
		}
		if err := expectReport(up, s.Size.Bytes); err != nil {
			t.Error(err)
		}
	})
}

// reboot lets the guest reboot, then resets it, each time in the middle of a
// transfer: the old connections end, and all works again.
func (s *Suite) reboot(t *testing.T) {
	for i, how := range []string{rebootCase, resetCase} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), caseTimeout+s.Patience)
			defer cancel()
			old, err := open(ctx, s.Host.Dial, opSource, 1<<40)
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			if _, err := io.ReadFull(old, make([]byte, chunk)); err != nil {
				t.Fatal(err)
			}
			if how == rebootCase {
				err = s.session.tell(command{Action: "reboot"})
			} else {
				err = s.VM.Reset()
			}
			if err != nil {
				t.Fatal(err)
			}
			s.meet(t)
			if _, err := transfer(io.Discard, old); !errors.Is(err, syscall.ECONNRESET) && !(err == nil && s.QuietReset) {
				t.Errorf("a connection of the guest's earlier life ended with %v, not a reset", err)
			}
			if err := Cases[1].Run(ctx, s.Host.Dial, Small, uint64(i)*10000); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if err := s.session.tell(command{Case: Cases[1].Name, Small: true}); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func (s *Suite) powerOff(t *testing.T) {
	t.Run(powerOffCase, func(t *testing.T) {
		if err := s.session.tell(command{Action: "poweroff"}); err != nil {
			t.Fatal(err)
		}
		if err := s.VM.Wait(s.Patience); err != nil {
			t.Fatalf("%v\n%s", err, s.VM.Console())
		}
	})
}
