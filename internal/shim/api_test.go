package shim

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestFollowRefusals(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	s.follow().until(vm.EventBooting)
	for name, c := range map[string]struct {
		messages []*shimv1.FollowRequest
		want     string
	}{
		"an ack at first":  {[]*shimv1.FollowRequest{{Source: eventv1.Source_SOURCE_SHIM, Sequence: 1}}, "first"},
		"the future":       {[]*shimv1.FollowRequest{{}, {Source: eventv1.Source_SOURCE_SHIM, Sequence: 3}}, "sequence"},
		"no agent yet":     {[]*shimv1.FollowRequest{{}, {Source: eventv1.Source_SOURCE_AGENT, Sequence: 1}}, "sequence"},
		"no source":        {[]*shimv1.FollowRequest{{}, {Sequence: 1}}, "source"},
		"another's source": {[]*shimv1.FollowRequest{{}, {Source: eventv1.Source_SOURCE_MANAGER, Sequence: 1}}, "source"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := s.api.Follow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.messages {
				_ = stream.Send(m)
			}
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSecondFollowTakesOver(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	first := s.follow()
	for _, want := range []string{vm.EventStarting, vm.EventBooting} {
		if e := first.event(); e.GetKind() != want {
			t.Fatalf("got %v", e)
		}
	}
	second := s.follow()
	if e := second.event(); e.GetKind() != vm.EventStarting {
		t.Fatalf("the second begins with %v", e)
	}
	if _, err := first.stream.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the first ended with %v", err)
	}
	second.ack(second.event())
	// What is acknowledged reaches no third one.
	for {
		st, err := s.api.Status(t.Context(), &shimv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if st.GetUnacknowledged() == 0 {
			break
		}
	}
	g, _ := dialGuest(t, dir)
	g.event(1)
	third := s.follow()
	for {
		e := third.event()
		if e.GetSource() == eventv1.Source_SOURCE_AGENT {
			break
		}
		// Allowed: it may have been read before the acknowledgement was kept.
		third.ack(e)
	}
	// Following may end and begin again at any time.
	third.cancel()
	if e := s.follow().event(); e.GetSource() != eventv1.Source_SOURCE_AGENT {
		t.Errorf("got %v", e)
	}
}

func TestFollowThatOnlyListens(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	f := s.follow()
	if err := f.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	f.event()
	f.event()
	control(t, dir, "exit 0")
	if e := f.event(); e.GetKind() != vm.EventExited {
		t.Errorf("got %v", e)
	}
}

func TestStates(t *testing.T) {
	all := []vm.State{vm.Starting, vm.Booting, vm.Running, vm.Stopping, vm.Exited}
	for from, tos := range transitions {
		for _, to := range tos {
			if slices.Index(all, to) <= slices.Index(all, from) {
				t.Errorf("%q leads back to %q", from, to)
			}
		}
		if from != vm.Exited && from != "" && !slices.Contains(tos, vm.Exited) {
			t.Errorf("%q does not lead to the end", from)
		}
	}
	if len(transitions) != len(all)+1 {
		t.Errorf("%d states in the table", len(transitions))
	}
	s := &shim{state: vm.Exited}
	if err := s.setState(vm.Running, "", nil); err == nil || s.state != vm.Exited {
		t.Errorf("a VM came back: %v", err)
	}
}

func TestConsoleIsBounded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "console.log")
	c, err := newConsole(name)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 999) + "\n"
	const lines = 3 * maxConsole / 1000
	for i := range lines {
		if n, err := fmt.Fprintf(c, "%06d %s", i, line); err != nil || n != 7+len(line) {
			t.Fatal(n, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("%06d %s", lines-1, line)
	if len(b) > maxConsole || len(b) < maxConsole/2 || !bytes.HasSuffix(b, []byte(last)) || !bytes.Contains(b[:100], []byte("not kept")) {
		t.Errorf("%d bytes, beginning with %.100q", len(b), b)
	}
	if got := c.lastLines(2); !strings.HasSuffix(got, strings.TrimSpace(last)) || strings.Count(got, "\n") != 1 {
		t.Errorf("the last lines are %q", got)
	}
	if len(c.b) > 2*tailBytes {
		t.Errorf("the tail has %d bytes", len(c.b))
	}
	// A disk that takes nothing holds nobody up.
	if n, err := c.Write([]byte("after the end\n")); n != 14 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if got := c.lastLines(1); got != "after the end" {
		t.Errorf("the last line is %q", got)
	}
	if _, err := newConsole(filepath.Join(name, "x")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

func TestTailOfATerminal(t *testing.T) {
	var c tail
	fmt.Fprint(&c, "\n\n10%\r20%\r100%\r\n  \r\ndone")
	if got := c.lastLines(3); got != "20%\n100%\ndone" {
		t.Errorf("got %q", got)
	}
	if got := new(tail).lastLines(3); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestQEMUsWordsAreBounded(t *testing.T) {
	var out bytes.Buffer
	told := 0
	w := &lineLog{tail: new(tail), log: slog.New(slog.NewTextHandler(&out, nil)), tell: func(slog.Level, string) { told++ }}
	for i := range 1000 {
		fmt.Fprintf(w, "line %d\nsecond", i)
		fmt.Fprintf(w, " half %d\n", i)
	}
	fmt.Fprint(w, strings.Repeat("x", maxMessage+1))
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != maxErrorLines || told != n-1 {
		t.Errorf("%d lines in the log, %d told", n, told)
	}
	if !strings.Contains(out.String(), `"second half 7"`) {
		t.Error("a line in two parts is not logged as one")
	}
	if len(w.part) > maxMessage {
		t.Errorf("%d bytes without a line's end are kept", len(w.part))
	}
}
