package harness

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/shim"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// Finder finds emulators and firmware.
func Finder(t testing.TB) *emulator.Finder {
	t.Helper()
	f, err := emulator.New(os.Getenv, progress.New(t.Output(), false, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// simulatedSpec is a VM with the simulated TEE as an honest Manager would have
// it launched for m.
func simulatedSpec(t testing.TB, m manifest.Frozen) vm.Spec {
	t.Helper()
	img, err := hal.Load(filepath.Dir(Image(t, hal.ManifestFile)))
	if err != nil {
		t.Fatal(err)
	}
	bin, err := Finder(t).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hardware := vm.Emulated()
	hardware.QEMU, hardware.Runtime = bin, Image(t, hal.PythonFile)
	hardware.Boot = vm.Boot{
		Kernel: Image(t, hal.KernelFile), Initrd: Image(t, hal.InitrdFile), CommandLine: hal.CommandLine(img, true),
	}
	hardware.Net.Forward = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), FreePort(t))
	hardware.TEE = &vm.TEE{Kind: vm.Simulated, LaunchField: m.Digest[:], Root: filepath.Join(t.TempDir(), vm.SimDir)}
	hardware.Limits.Ready = int(BootLimit / time.Second)
	return vm.Spec{
		RunID: uuid.NewString(), Manifest: m.Raw, Machine: hardware,
		Agent: vm.AgentConfig{Port: vm.AgentPort, LogLevel: "info", Address: qemu.DefaultAddress, Gateway: qemu.DefaultGateway},
	}
}

// Shim is the shim of one VM, in the test's own process: what the test changes
// of it, a hostile host could.
type Shim struct {
	t      testing.TB
	dir    vm.Dir
	events chan *eventv1.Event
	seen   []*eventv1.Event
}

// StartSpec starts a VM with the simulated TEE for m as change makes it. The
// test's end ends it.
func StartSpec(t testing.TB, m manifest.Frozen, change func(*vm.Spec, *shim.Config)) *Shim {
	t.Helper()
	// Not t.TempDir: the sockets of a VM need a short path.
	folder, err := os.MkdirTemp("", "cocos-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	s := &Shim{t: t, dir: vm.Dir(folder), events: make(chan *eventv1.Event, 64)}
	spec := simulatedSpec(t, m)
	cfg := shim.Config{Dir: s.dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	change(&spec, &cfg)
	if err := vm.WriteSpec(s.dir, spec); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- shim.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the shim: %v", err)
		}
	})
	s.follow(ctx)
	return s
}

// follow reads the shim's events and acknowledges them.
func (s *Shim) follow(ctx context.Context) {
	s.t.Helper()
	conn, err := grpc.NewClient("unix:"+s.dir.ShimSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	stream, err := shimv1.NewShimServiceClient(conn).Follow(ctx, grpc.WaitForReady(true))
	if err == nil {
		err = stream.Send(&shimv1.FollowRequest{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(s.events)
		for {
			m, err := stream.Recv()
			if err != nil || m.GetDrained() != nil {
				return
			}
			e := m.GetEvent()
			if e == nil {
				continue
			}
			s.events <- e
			if err := stream.Send(&shimv1.FollowRequest{Source: e.GetSource(), Sequence: e.GetSequence()}); err != nil && err != io.EOF {
				return
			}
		}
	}()
	s.t.Cleanup(func() { conn.Close(); <-done })
}

// Event waits for an event of this kind, and fails once the VM has ended
// without.
func (s *Shim) Event(kind string) *eventv1.Event {
	s.t.Helper()
	late := time.After(BootLimit)
	for {
		select {
		case e, ok := <-s.events:
			if ok {
				s.seen = append(s.seen, e)
			}
			switch {
			case ok && e.GetKind() == kind:
				return e
			case !ok || e.GetKind() == vm.EventExited:
				s.t.Fatalf("the VM ended without %s:\n%s", kind, s.history())
			}
		case <-late:
			s.t.Fatalf("no %s came within %v:\n%s", kind, BootLimit, s.history())
		}
	}
}

// Never fails the test if an event of this kind has come so far.
func (s *Shim) Never(kind string) {
	s.t.Helper()
	for _, e := range s.seen {
		if e.GetKind() == kind {
			s.t.Errorf("%s came:\n%s", kind, s.history())
		}
	}
}

func (s *Shim) history() string {
	var b strings.Builder
	for _, e := range s.seen {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}
