package shim

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestLifeOfAVM(t *testing.T) {
	dir, spec := newVM(t, "")
	s := startShim(t, dir, nil)
	f := s.follow()
	if e := f.event(); e.GetKind() != vm.EventStarting || e.GetSequence() != 1 || e.GetRunId() != testRun {
		t.Fatalf("first event is %v", e)
	}
	if e := f.event(); e.GetKind() != vm.EventBooting || e.GetAttributes()["qemu_pid"] == "" {
		t.Fatalf("second event is %v", e)
	}
	g, launch := dialGuest(t, dir)
	if string(launch.GetManifest()) != string(spec.Manifest) || launch.GetRunId() != testRun ||
		launch.GetConfig().GetPort() != vm.AgentPort || launch.GetNetwork().GetAddress() != "10.0.2.15/24" {
		t.Fatalf("launch is %v", launch)
	}
	for n := range uint64(3) {
		g.event(n + 1)
	}
	g.acked(3)
	for n := range uint64(3) {
		e := f.event()
		if e.GetSequence() != n+1 || e.GetMessage() != agentEvent(n+1).GetMessage() || e.GetAttributes()["n"] != agentEvent(n + 1).GetAttributes()["n"] {
			t.Fatalf("agent event %d is %v", n+1, e)
		}
		f.ack(e)
	}
	st, err := s.api.Status(t.Context(), &shimv1.StatusRequest{})
	if err != nil || st.GetState() != string(vm.Running) || st.GetQemuPid() == 0 || st.GetProtocolVersion() != 1 {
		t.Fatalf("status %v, %v", st, err)
	}
	if _, err := s.api.Release(t.Context(), &shimv1.ReleaseRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("released while the VM runs: %v", err)
	}
	if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: 600}); err != nil {
		t.Fatal(err)
	}
	if g.next().GetStop() == nil {
		t.Fatal("the agent was not asked to stop")
	}
	if e := f.event(); e.GetKind() != vm.EventStopping {
		t.Fatalf("got %v", e)
	}
	control(t, dir, "exit 0")
	last := f.event()
	if last.GetKind() != vm.EventExited || last.GetAttributes()["exit_status"] != "0" {
		t.Fatalf("got %v", last)
	}
	if _, err := s.api.Release(t.Context(), &shimv1.ReleaseRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("released with events that nobody has acknowledged: %v", err)
	}
	f.ack(last)
	for f.next().GetDrained() == nil {
	}
	if _, err := s.api.Release(t.Context(), &shimv1.ReleaseRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	if err := Run(context.Background(), Config{Dir: dir, NewHost: unixHost}); err == nil {
		t.Fatal("a VM was started a second time in its folder")
	}
}
