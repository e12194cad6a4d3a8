package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// TestManagerScripts runs the sessions of testdata/manager against a Manager that
// is made up; the real one is operated in test/e2e/operator-view.
func TestManagerScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/manager",
		Setup: func(e *testscript.Env) error {
			// Unix sockets need a short path.
			dir, err := os.MkdirTemp("", "cm")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("SOCKET", filepath.Join(dir, "c.sock"))
			e.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"manager": cmdManager,
			"asked":   cmdAsked,
			"stale":   cmdStale,
			"chmod0":  cmdClose,
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", name)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// fakeManager answers as one with two runs does. Its words are as in mode.
type fakeManager struct {
	controlv1.UnimplementedControlServiceServer
	mode string

	mu    sync.Mutex
	asked []string
}

var managers sync.Map

// manager [MODE] starts one and sets COCOS_MANAGER_SOCKET: alone has no runs and
// no server, hostile says what a terminal must not see, old knows no call,
// broken fails.
func cmdManager(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: manager [MODE]")
	}
	m := &fakeManager{mode: strings.Join(args, "")}
	socket := ts.Getenv("SOCKET")
	l, err := net.Listen("unix", socket)
	ts.Check(err)
	s := grpc.NewServer()
	if m.mode != "old" {
		controlv1.RegisterControlServiceServer(s, m)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	ts.Defer(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			ts.Fatalf("the fake Manager: %v", err)
		}
	})
	ts.Setenv("COCOS_MANAGER_SOCKET", socket)
	managers.Store(ts, m)
}

// asked TEXT checks what the last stop asked for.
func cmdAsked(ts *testscript.TestScript, neg bool, args []string) {
	m, ok := managers.Load(ts)
	if !ok || len(args) > 1 {
		ts.Fatalf("usage: [!] asked [TEXT], after manager")
	}
	f := m.(*fakeManager)
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(f.asked, "; "); neg && len(f.asked) > 0 || !neg && (len(f.asked) == 0 || got != args[0]) {
		ts.Fatalf("asked for %q", got)
	}
	f.asked = nil
}

// stale leaves a socket on which nobody listens.
func cmdStale(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.Getenv("SOCKET"), Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// chmod0 closes the socket to everyone, its group too if it is so named.
func cmdClose(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(os.Chmod(ts.Getenv("SOCKET"), 0))
}

const (
	runA = "0b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e"
	runB = "7f0a1b2c-5a1f-4c2b-8e6d-0b9c7d3e5a1f"
)

var digest = strings.Repeat("ab", 32)

func (m *fakeManager) runs() []*controlv1.Run {
	name := "Iris"
	switch m.mode {
	case "alone":
		return nil
	case "hostile":
		name = "Iris\x1b[2J\nforged \u202eline"
	}
	accepted := timestamppb.New(time.Now().Add(-3 * time.Minute))
	return []*controlv1.Run{
		{RunId: runA, State: "running", Accepted: accepted, AgentAddress: "127.0.0.1:7020", Vcpus: 4, Memory: 4 << 30, QemuPid: 4711, ShimAnswers: true,
			Unacknowledged: 2, LifeLeft: durationpb.New(90 * time.Second), ManifestDigest: digest, ComputationId: "iris", ComputationName: name},
		{RunId: runB, State: "running", Accepted: accepted, AgentAddress: "127.0.0.1:6100", Vcpus: 1, Memory: 2 << 30, ShimProblem: "it does not answer",
			ManifestDigest: digest, ComputationId: "other", ComputationName: "Other"},
	}
}

func (m *fakeManager) find(name string) (*controlv1.Run, error) {
	if m.mode == "broken" {
		return nil, status.Error(codes.Internal, "the disk is gone")
	}
	for _, r := range m.runs() {
		if strings.HasPrefix(r.GetRunId(), name) {
			return r, nil
		}
	}
	return nil, rpcerr.New(codes.NotFound, rpcerr.Detail{Reason: rpcerr.RunUnknown, Field: "run", Hint: "cocos-cli manager list shows the runs"}, "run: this Manager has no run %s", name)
}

func (m *fakeManager) Status(context.Context, *controlv1.StatusRequest) (*controlv1.StatusResponse, error) {
	s := &controlv1.StatusResponse{
		InstanceId: "host-1", Version: "1.2.3", EosVersion: "eos 7", OvmfVersion: "ovmf-9", ProtocolVersion: 1, Pid: 42, Uptime: durationpb.New(2*time.Hour + 5*time.Minute),
		Server: &controlv1.Server{Address: "server.example.org:7001", Connected: true, Since: timestamppb.New(time.Now().Add(-time.Hour))},
		Qemu:   &controlv1.Qemu{Path: "/usr/bin/qemu-system-x86_64", Version: "10.0.2", Accelerator: "kvm"},
		Images: []*controlv1.Image{{Role: "kernel", Path: "/var/lib/cocos/img/bzImage", Size: 14 << 20, Sha256: digest}},
		Limits: []*controlv1.Limit{
			{Name: "vms", Used: 2, Limit: 10, Variable: "MANAGER_MAX_VMS"}, {Name: "vcpus", Used: 5, Variable: "MANAGER_MAX_VCPUS"},
			{Name: "memory", Unit: "bytes", Used: 6 << 30, Limit: 30 << 30, Variable: "MANAGER_MAX_VM_MEMORY"},
			{Name: "life", Unit: "seconds", Limit: 3600, Variable: "MANAGER_MAX_TTL"},
			{Name: "free disk", Unit: "bytes", Used: 20 << 30, Limit: 512 << 20, Variable: "MANAGER_MIN_FREE_DISK"},
		},
		StateDir: "/var/lib/cocos", DiskFree: 20 << 30, DiskSize: 100 << 30,
	}
	if m.mode == "alone" {
		s.Draining, s.Tee, s.Tees = true, "sim", []string{"sim"}
		s.Server = &controlv1.Server{Address: "server.example.org:7001", Since: s.GetServer().GetSince(), LastError: "connection\nrefused"}
	}
	return s, nil
}

func (m *fakeManager) List(context.Context, *controlv1.ListRequest) (*controlv1.ListResponse, error) {
	if m.mode == "broken" {
		return nil, status.Error(codes.Internal, "the disk is gone")
	}
	return &controlv1.ListResponse{Runs: m.runs()}, nil
}

func (m *fakeManager) Show(_ context.Context, q *controlv1.ShowRequest) (*controlv1.ShowResponse, error) {
	r, err := m.find(q.GetRun())
	if err != nil {
		return nil, err
	}
	event := func(source eventv1.Source, kind, message string, waiting bool) *controlv1.SeenEvent {
		return &controlv1.SeenEvent{Waiting: waiting, Event: &eventv1.Event{RunId: r.GetRunId(), Source: source, Sequence: 1, Kind: kind, Message: message,
			Time: timestamppb.New(time.Unix(1795500000, 0))}}
	}
	return &controlv1.ShowResponse{
		Run: r, Folder: "/var/lib/cocos/vms/" + r.GetRunId(), FolderSize: 3 << 20,
		Machine: &controlv1.Machine{Type: "q35", Cpu: "EPYC", Accelerator: "kvm", Vcpus: 4, MaxVcpus: 64, Memory: 4 << 30, Qemu: "/usr/bin/qemu-system-x86_64", Sudo: true,
			Images: []*controlv1.Image{{Role: "kernel", Path: "/k", Size: 1}}, CommandLine: "console=ttyS0", Vsock: "kernel", GuestCid: 3, Forward: "0.0.0.0:7020", AgentPort: 7002,
			Tee: "sev-snp", LaunchField: digest, ServerCertSha256: digest, MutualTls: true, LifeLimit: durationpb.New(time.Hour)},
		Events: []*controlv1.SeenEvent{event(eventv1.Source_SOURCE_MANAGER, "run.accepted", "the run is accepted", false),
			event(eventv1.Source_SOURCE_AGENT, "agent.state", "Running\x1b[31m\nforged: line", true)},
	}, nil
}

func (m *fakeManager) Logs(q *controlv1.LogsRequest, stream grpc.ServerStreamingServer[controlv1.LogsResponse]) error {
	if _, err := m.find(q.GetRun()); err != nil {
		return err
	}
	for _, l := range []*controlv1.LogsResponse{
		{Source: controlv1.LogSource_LOG_SOURCE_AGENT, Time: timestamppb.New(time.Unix(1795500000, 0)), Level: eventv1.Level_LEVEL_INFO, Message: fmt.Sprintf("%d lines of %v, follow %t", q.GetLines(), q.GetSources(), q.GetFollow())},
		{Source: controlv1.LogSource_LOG_SOURCE_CONSOLE, Message: "a\nb\x1b[2Jc", Missing: 3},
	} {
		if err := stream.Send(l); err != nil {
			return err
		}
	}
	return nil
}

func (m *fakeManager) Stop(_ context.Context, q *controlv1.StopRequest) (*controlv1.StopResponse, error) {
	out := &controlv1.StopResponse{}
	for _, name := range q.GetRuns() {
		r, err := m.find(name)
		if err != nil {
			return nil, err
		}
		out.Runs = append(out.Runs, &controlv1.Stopped{RunId: r.GetRunId(), Gone: q.GetWait()})
	}
	if q.GetAll() {
		for _, r := range m.runs() {
			s := &controlv1.Stopped{RunId: r.GetRunId(), Gone: q.GetWait() && r.GetShimAnswers()}
			if !r.GetShimAnswers() {
				s.Problem = "its shim\x1b hangs"
			}
			out.Runs = append(out.Runs, s)
		}
	}
	words := []string{strings.Join(q.GetRuns(), ",")}
	if q.GetAll() {
		words = []string{"all"}
	}
	if q.GetDrain() {
		words = append(words, "drain")
	}
	if q.GetWait() {
		words = append(words, "wait")
	}
	if q.GraceSeconds != nil {
		words = append(words, fmt.Sprintf("grace=%d", q.GetGraceSeconds()))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, strings.Join(words, " "))
	return out, nil
}

func (m *fakeManager) QemuArgs(_ context.Context, q *controlv1.QemuArgsRequest) (*controlv1.QemuArgsResponse, error) {
	name := "sample"
	if q.GetRun() != "" {
		r, err := m.find(q.GetRun())
		if err != nil {
			return nil, err
		}
		name = r.GetRunId()
	}
	return &controlv1.QemuArgsResponse{Argv: []string{"/usr/bin/qemu-system-x86_64", "-name", "guest=" + name, "-append", "a b", "-device", "vhost-vsock-pci,vhostfd=3"}}, nil
}
