package main

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name string
		args []string
		want string // in the error
	}{
		{"nothing", nil, "--session is missing"},
		{"no scheme", []string{"--session", "x.sock", "--dir", dir}, "want unix:PATH"},
		{"other scheme", []string{"--session", "vsock:3", "--dir", dir}, "want unix:PATH"},
		{"no path", []string{"--session", "unix:", "--dir", dir}, "want unix:PATH"},
		{"no folder", []string{"--session", "unix:x"}, "--dir is missing"},
		{"no port", []string{"--session", "unix:x", "--dir", dir, "--listen", "127.0.0.1"}, "--listen"},
		{"no simulated TEE", []string{"--session", "unix:x", "--dir", dir, "--simulated-report", "x"}, "--simulated-report"},
		{"no such runtime", []string{"--session", "unix:x", "--dir", dir, "--runtime", dir + "/x"}, "--runtime"},
		{"unknown flag", []string{"--verbose"}, "see cocos-agent --help"},
		{"argument", []string{"--session", "unix:x", "--dir", dir, "more"}, `unexpected argument "more"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := run(t.Context(), append([]string{"cocos-agent"}, tt.args...), new(bytes.Buffer), new(bytes.Buffer))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("run: %v; want %q in it", err, tt.want)
			}
		})
	}
	for _, args := range [][]string{{"--help"}, {"version"}} {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"cocos-agent"}, args...), &out, new(bytes.Buffer)); err != nil || !strings.HasPrefix(out.String(), "cocos-agent ") {
			t.Errorf("%q: %v, %q", args, err, out.String())
		}
	}
}

// fakeShim hands one launch out and takes events.
type fakeShim struct {
	guestv1.UnimplementedGuestServiceServer
	launch *guestv1.Launch
	events chan *eventv1.Event
	stop   chan struct{}
}

func (f *fakeShim) Session(s guestv1.GuestService_SessionServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := s.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Launch{Launch: f.launch}}); err != nil {
		return err
	}
	received := make(chan *guestv1.SessionRequest)
	go func() {
		defer close(received)
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			received <- m
		}
	}()
	stop := f.stop
	for {
		select {
		case <-stop:
			stop = nil
			if err := s.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Stop{Stop: &guestv1.Stop{}}}); err != nil {
				return err
			}
		case m, ok := <-received:
			if !ok {
				return nil
			}
			if e := m.GetEvent(); e != nil {
				f.events <- e
				ack := &guestv1.EventAck{Sequence: e.GetSequence()}
				if err := s.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_EventAck{EventAck: ack}}); err != nil {
					return err
				}
			}
		}
	}
}

// startShim serves launch on a unix socket, whose path it returns.
func startShim(t *testing.T, launch *guestv1.Launch) (*fakeShim, string) {
	t.Helper()
	f := &fakeShim{launch: launch, events: make(chan *eventv1.Event, 64), stop: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	guestv1.RegisterGuestServiceServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return f, path
}

func aLaunch(t *testing.T, change func(*manifest.Manifest)) *guestv1.Launch {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.Manifest{
		Version: manifest.Version, ID: "c", Name: "c", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Sum(nil), Size: 1, Provider: k.Public()},
		Consumers: []keys.Public{k.Public()},
	}
	change(&m)
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	return &guestv1.Launch{
		RunId: "00000000-0000-4000-8000-000000000001", Manifest: f.Raw,
		Config: &guestv1.AgentConfig{Port: vm.AgentPort, LogLevel: "info"},
	}
}

// nextEvent fails the test if none comes.
func nextEvent(t *testing.T, f *fakeShim) *eventv1.Event {
	t.Helper()
	select {
	case e := <-f.events:
		return e
	case <-time.After(time.Minute):
		t.Fatal("no event came")
		return nil
	}
}

func startAgent(t *testing.T, path string, more ...string) (ended <-chan error, console *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	console = new(bytes.Buffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		args := []string{"cocos-agent", "--session", "unix:" + path, "--dir", filepath.Join(t.TempDir(), "agent"), "--listen", "127.0.0.1:0"}
		result <- run(ctx, append(args, more...), new(bytes.Buffer), console)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return result, console
}

func wait(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the agent goes on")
		return nil
	}
}

func TestProcessServesUntilStopped(t *testing.T) {
	launch := aLaunch(t, func(*manifest.Manifest) {})
	shim, path := startShim(t, launch)
	ended, console := startAgent(t, path)
	ready := nextEvent(t, shim)
	digest := manifest.Sum(launch.GetManifest()).String()
	if ready.GetKind() != vm.EventReady || ready.GetSequence() != 1 || ready.GetAttributes()["manifest_digest"] != digest ||
		!strings.HasPrefix(ready.GetAttributes()["agent_key"], "sha256:") {
		t.Errorf("first event %v", ready)
	}
	close(shim.stop)
	if err := wait(t, ended); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	if last := nextEvent(t, shim); last.GetKind() != vm.EventState || last.GetAttributes()["to"] != "Stopped" {
		t.Errorf("last event %v", last)
	}
	if !strings.Contains(console.String(), "cocos: serving on 127.0.0.1:") {
		t.Errorf("console: %s", console)
	}
}

func TestProcessRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*manifest.Manifest)
		told   string // to the host
		want   string // in the agent's own error
	}{
		"a TEE":              {func(m *manifest.Manifest) { m.TEE = manifest.TEESNP }, "tee", "/tee"},
		"attested TLS":       {func(m *manifest.Manifest) { m.TEE, m.AttestedTLS = manifest.TEESNP, true }, "tee", "/tee"},
		"a missing approval": {func(m *manifest.Manifest) { m.Approvals = m.Consumers }, "/approvals", "/approvals"},
		"no room":            {func(m *manifest.Manifest) { m.Algorithm.Size = manifest.MaxInputSize }, "room", "room"},
	} {
		t.Run(name, func(t *testing.T) {
			shim, path := startShim(t, aLaunch(t, tt.change))
			ended, _ := startAgent(t, path)
			e := nextEvent(t, shim)
			if e.GetKind() != vm.EventRefused || !strings.Contains(e.GetAttributes()["reason"], tt.told) {
				t.Errorf("first event %v; want a refusal with %q", e, tt.told)
			}
			if err := wait(t, ended); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the agent ended with %v; want %q in it", err, tt.want)
			}
		})
	}
}

func TestProcessRefusesABrokenLaunch(t *testing.T) {
	launch := aLaunch(t, func(*manifest.Manifest) {})
	launch.Manifest = append(launch.Manifest, ' ')
	_, path := startShim(t, launch)
	ended, _ := startAgent(t, path)
	if err := wait(t, ended); err == nil || !strings.Contains(err.Error(), "launch.manifest") {
		t.Errorf("the agent ended with %v", err)
	}
}

func TestDefaultLimits(t *testing.T) {
	for memory, want := range map[int64]manifest.Limits{
		1 << 30:   {MemoryBytes: 1<<30 - reserve, OutputBytes: 1 << 28},
		256 << 20: {MemoryBytes: 128 << 20, OutputBytes: 64 << 20},
		64 << 30:  {MemoryBytes: 64<<30 - reserve, OutputBytes: 2 << 30},
	} {
		if got := defaultLimits(memory); got != want {
			t.Errorf("of %d bytes: %+v; want %+v", memory, got, want)
		}
	}
}
