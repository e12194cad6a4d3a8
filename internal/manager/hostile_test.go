package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// chosenBad is what this shim does wrong: the first one does, the others don't.
func chosenBad() (string, error) {
	bad := strings.ReplaceAll(os.Getenv(envBad), "_", " ")
	if bad == "" {
		return "", nil
	}
	f, err := os.OpenFile(os.Getenv(envCounts)+".bad", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	return bad, f.Close()
}

// rawServers answer a shim's socket without gRPC.
var rawServers = map[string]func(net.Listener) error{
	"says nothing":    func(l net.Listener) error { return eachConn(l, func(net.Conn) bool { return true }) },
	"hangs up":        func(l net.Listener) error { return eachConn(l, func(c net.Conn) bool { return c.Close() != nil }) },
	"garbage":         func(l net.Listener) error { return eachConn(l, write(bytes.Repeat([]byte{0xff, 0, 'x'}, 99), 1)) },
	"endless garbage": func(l net.Listener) error { return eachConn(l, write(make([]byte, 64<<10), 1<<20)) },
}

func eachConn(l net.Listener, serve func(net.Conn) bool) error {
	var kept []net.Conn
	defer func() { runtime.KeepAlive(kept) }() // or the collector would close them
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if serve(c) {
			kept = append(kept, c)
		}
	}
}

func write(b []byte, times int) func(net.Conn) bool {
	return func(c net.Conn) bool {
		go func() {
			for range times {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
		return true
	}
}

// bad is a shim that speaks the protocol and does one thing wrong.
type bad struct{ *fakeVM }

func badShim(s *fakeVM) shimv1.ShimServiceServer {
	if s.bad == "" {
		return s
	}
	return bad{s}
}

func (b bad) Status(ctx context.Context, r *shimv1.StatusRequest) (*shimv1.StatusResponse, error) {
	s, err := b.fakeVM.Status(ctx, r)
	switch b.bad {
	case "another version":
		s.ProtocolVersion = 99
	case "another run":
		s.RunId = goodID
	case "unknown state":
		s.State = "dancing"
	case "calls hang":
		<-ctx.Done()
		return nil, ctx.Err() // an answer could come in just before the caller gives up
	}
	return s, err
}

func (b bad) Stop(ctx context.Context, r *shimv1.StopRequest) (*shimv1.StopResponse, error) {
	if b.bad == "stop does nothing" {
		return &shimv1.StopResponse{}, nil
	}
	if b.bad == "another run" {
		return nil, status.Error(codes.Internal, "a stop came to a shim that said it is another run's")
	}
	return b.fakeVM.Stop(ctx, r)
}

func (b bad) Release(ctx context.Context, r *shimv1.ReleaseRequest) (*shimv1.ReleaseResponse, error) {
	if b.bad == "stays when released" {
		return &shimv1.ReleaseResponse{}, nil
	}
	return b.fakeVM.Release(ctx, r)
}

// wrongItems are what a shim sends first.
var wrongItems = map[string]func(run string) *shimv1.FollowResponse{
	"event without a sequence": func(run string) *shimv1.FollowResponse { return anEvent(run, shimSource, 0, vm.EventBooting, "") },
	"event of another run":     func(string) *shimv1.FollowResponse { return anEvent(goodID, shimSource, 1, vm.EventBooting, "") },
	"event of the Manager": func(run string) *shimv1.FollowResponse {
		return anEvent(run, eventv1.Source_SOURCE_MANAGER, 2, vm.EventRemoved, "")
	},
	"says it is removed":   func(run string) *shimv1.FollowResponse { return anEvent(run, shimSource, 1, vm.EventRemoved, "") },
	"agent says it exited": func(run string) *shimv1.FollowResponse { return anEvent(run, agentSource, 1, vm.EventExited, "") },
	"huge event": func(run string) *shimv1.FollowResponse {
		return anEvent(run, shimSource, 1, vm.EventBooting, strings.Repeat("x", 3<<20))
	},
	"nothing in the message": func(string) *shimv1.FollowResponse { return &shimv1.FollowResponse{} },
	"log of another run": func(string) *shimv1.FollowResponse {
		return &shimv1.FollowResponse{Item: &shimv1.FollowResponse_Log{Log: &eventv1.Log{RunId: goodID, Source: shimSource}}}
	},
	"drained while it lives": func(string) *shimv1.FollowResponse {
		return &shimv1.FollowResponse{Item: &shimv1.FollowResponse_Drained{Drained: &shimv1.Drained{}}}
	},
}

func anEvent(run string, source eventv1.Source, sequence uint64, kind, message string) *shimv1.FollowResponse {
	return &shimv1.FollowResponse{Item: &shimv1.FollowResponse_Event{Event: &eventv1.Event{RunId: run, Source: source, Sequence: sequence, Kind: kind, Message: message}}}
}

func (b bad) Follow(stream grpc.BidiStreamingServer[shimv1.FollowRequest, shimv1.FollowResponse]) error {
	if first := wrongItems[b.bad]; first != nil {
		if err := stream.Send(first(b.run)); err != nil {
			return err
		}
	}
	switch b.bad {
	case "logs without end":
		for {
			if err := stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Log{Log: &eventv1.Log{
				RunId: b.run, Source: agentSource, Message: strings.Repeat("x", 1000)}}}); err != nil {
				return err
			}
		}
	case "sequences that jump":
		for n := uint64(1); ; n *= 3 {
			if err := stream.Send(anEvent(b.run, agentSource, n, vm.EventState, "")); err != nil || n > 1<<60 {
				<-stream.Context().Done()
				return err
			}
		}
	case "unknown kinds":
		if err := stream.Send(anEvent(b.run, agentSource, 1, "agent.novelty", "")); err != nil {
			return err
		}
	case "ends the stream":
		return nil
	}
	return b.fakeVM.Follow(stream)
}

// logBook keeps what a Manager logs.
type logBook struct {
	testWriter
	mu    sync.Mutex
	lines []string
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, string(p))
	return b.testWriter.Write(p)
}

func (b *logBook) count(parts ...string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, line := range b.lines {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			n++
		}
	}
	return n
}

// hasty makes the Manager lose patience with shims soon.
func hasty(c *Config) {
	c.call, c.overdue = 4*time.Second, time.Second
	c.Host.Machine.Limits.Stop = 1
}

// TestHostileShims: whatever one shim does, the Manager says so and not again
// and again, other runs go on, and a stop ends the VM.
func TestHostileShims(t *testing.T) {
	kinds := []string{"another version", "another run", "unknown state", "calls hang", "stop does nothing", "logs without end",
		"sequences that jump", "unknown kinds", "ends the stream"}
	for name := range rawServers {
		kinds = append(kinds, name)
	}
	for name := range wrongItems {
		kinds = append(kinds, name)
	}
	// What these do is no fault that shows before they are stopped.
	quiet := []string{"stop does nothing", "logs without end", "unknown kinds"}
	for _, kind := range kinds {
		t.Run(strings.ReplaceAll(kind, " ", "-"), func(t *testing.T) {
			l := newLab(t, nil, envBad+"="+strings.ReplaceAll(kind, " ", "_"))
			l.change = hasty
			book := &logBook{testWriter: testWriter{t}}
			stop := l.insideLogging(book)
			first := l.submit()
			l.accepted(first)
			for len(l.shims()) == 0 && l.ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			// Another run begins, lives and ends meanwhile.
			second := l.submit()
			l.accepted(second)
			l.waitShim(second)
			l.stop(second)
			if !slices.Contains(quiet, kind) {
				for book.count("level=ERROR", first) == 0 && l.ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			}
			if n := book.count("level=ERROR", first); n > maxComplaints {
				t.Errorf("the Manager complained %d times", n)
			}
			if err := l.server.Stop(first); err != nil {
				t.Fatal(err)
			}
			reply, err := l.server.StopReply(l.ctx, first, 1)
			if err != nil || reply.GetRefusal() != nil {
				t.Errorf("the stop is answered %v, %v", reply, err)
			}
			l.event(first, vm.EventRemoved)
			l.empty()
			for _, pid := range l.shims() {
				if isFakeShim(pid) {
					t.Error("the shim lives on")
				}
			}
			stop()
		})
	}
}

// TestShimThatStaysWhenReleased is killed, as it has nothing left to do.
func TestShimThatStaysWhenReleased(t *testing.T) {
	l := newLab(t, nil, envEnds+"=yes", envBad+"=stays_when_released")
	l.change = hasty
	l.inside()
	id := l.submit()
	kinds := l.complete(id)
	l.empty()
	if count(kinds, vm.EventExited) != 1 || count(kinds, vm.EventLost) != 0 {
		t.Errorf("events: %v", kinds)
	}
}

// freeze stops a process, and waits until each of its threads stands.
func (l *lab) freeze(pid int) {
	l.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		l.t.Fatal(err)
	}
	for moving := true; moving && l.ctx.Err() == nil; {
		moving = false
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			l.t.Fatal(err)
		}
		for _, name := range threads {
			b, err := os.ReadFile(name)
			_, rest, _ := strings.Cut(string(b), ") ")
			moving = moving || (err == nil && !strings.HasPrefix(rest, "T"))
		}
	}
}

// TestFrozenShim: a shim that is stopped holds up nobody else, is told from one
// that answers, and its VM can be ended; a Manager that starts finds it so, too.
func TestFrozenShim(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			l := newLab(t, nil)
			var m *Manager
			began := make(chan struct{}, 2)
			l.change = func(c *Config) { hasty(c); c.began = func(made *Manager) { m = made; began <- struct{}{} } }
			stop := l.inside()
			<-began
			frozen := l.submit()
			l.accepted(frozen)
			l.waitShim(frozen)
			l.freeze(l.shims()[0])
			if restart {
				stop()
				stop = l.inside()
				<-began
				if _, err := l.server.Hello(l.ctx, 2); err != nil {
					t.Fatal(err)
				}
			}
			other := l.submit()
			l.accepted(other)
			l.waitShim(other)
			for _, s := range m.report(l.ctx) {
				if s.Silent != (s.RunID == frozen) {
					t.Errorf("%+v, and %s is the frozen one", s, frozen)
				}
			}
			l.stop(other)
			if err := l.server.Stop(frozen); err != nil {
				t.Fatal(err)
			}
			if reply, err := l.server.StopReply(l.ctx, frozen, 1); err != nil || reply.GetRefusal() != nil {
				t.Errorf("the stop is answered %v, %v", reply, err)
			}
			kinds := l.complete(frozen)
			if count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventState) != 5 {
				t.Errorf("events: %v", kinds)
			}
			l.empty()
			stop()
		})
	}
}
