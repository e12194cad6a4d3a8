// Package crash shows what a host finds that has crashed under its VMs: every
// run has a true end, and nothing of it is left.
package crash

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestHostCrash(t *testing.T) {
	h := harness.Start(t)
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}
	// One whose agent works, and one that is still booting.
	ready := h.Submit(c, nil)
	ready.Ready()
	booting := h.Submit(c, nil)
	booting.Event(vm.EventBooting, harness.BootLimit)

	h.KillManager()
	for _, r := range []*harness.Run{ready, booting} {
		qemu, err := strconv.Atoi(r.Event(vm.EventBooting, harness.EndLimit).GetAttributes()["qemu_pid"])
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range []int{harness.Parent(t, qemu), qemu} {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
		for deadline := time.Now().Add(harness.EndLimit); harness.Alive(qemu); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("QEMU does not end")
			}
		}
		leave(t, filepath.Join(string(r.Dir()), "spec.json.new"), `{"run`)
	}
	leave(t, filepath.Join(h.StateDir, vm.EndedFile), "0b9c7d3e-5a1f-4c2b-8e6d-7f0a1b2c3d4e sha256:12")

	h.StartManager()
	for _, r := range []*harness.Run{ready, booting} {
		r.Event(vm.EventLost, harness.EndLimit)
		r.Gone()
		for _, e := range h.Server.Events(r.ID) {
			if e.GetKind() == vm.EventExited {
				t.Errorf("a VM that nobody saw end is said to have ended:\n%s", r.History())
			}
		}
	}
	l, err := net.Listen("tcp", ready.Address)
	if err != nil {
		t.Errorf("the agent's port is not free: %v", err)
	} else {
		l.Close()
	}
	if left, err := os.ReadDir(filepath.Join(h.StateDir, vm.VMsDir)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(h.StateDir, vm.EndedFile)); err != nil || strings.Count(string(b), "\n") != 2 || strings.Contains(string(b), "sha256:12\n") {
		t.Errorf("the ledger is %q, %v", b, err)
	}
	// The host serves on.
	next := h.Submit(c, nil)
	next.Event(vm.EventBooting, harness.BootLimit)
	next.Stop()
}

// leave appends to a file what was being written when the host crashed.
func leave(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
