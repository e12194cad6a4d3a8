// Package dies shows what is reported of a VM that dies.
package dies

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestQEMUKilled(t *testing.T) {
	h := harness.Start(t)
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	r.Ready()
	pid, err := strconv.Atoi(r.Event(vm.EventBooting, harness.EndLimit).GetAttributes()["qemu_pid"])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exited := r.Event(vm.EventExited, harness.EndLimit).GetAttributes()
	if got, want := exited["exit_status"], strconv.Itoa(128+int(syscall.SIGKILL)); got != want {
		t.Errorf("exit status %q, want %q", got, want)
	}
	if strings.TrimSpace(exited["console"]) == "" {
		t.Error("no line of the console came with it")
	}
	r.Gone()
}

func TestGuestPanics(t *testing.T) {
	// A kernel that finds no first process says so on its console and ends.
	var empty bytes.Buffer
	if err := cpio.Write(&empty, []cpio.Entry{{Name: "dev", Mode: os.ModeDir | 0o755}}); err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(t.TempDir(), "rootfs.cpio")
	if err := os.WriteFile(rootfs, empty.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	h := harness.Start(t, harness.Env("MANAGER_QEMU_DISK_IMG_ROOTFS_FILE="+rootfs))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	exited := r.Event(vm.EventExited, harness.BootLimit).GetAttributes()
	if !strings.Contains(exited["console"], "Kernel panic") {
		t.Errorf("the console's last lines do not tell of the panic:\n%s", exited["console"])
	}
	r.Gone()
}

func TestShimKilled(t *testing.T) {
	h := harness.Start(t)
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	r.Ready()
	qemu, err := strconv.Atoi(r.Event(vm.EventBooting, harness.EndLimit).GetAttributes()["qemu_pid"])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(harness.Parent(t, qemu), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.Event(vm.EventLost, harness.EndLimit)
	r.Gone()
	// The kernel takes a moment to end a process with so much memory.
	for deadline := time.Now().Add(harness.EndLimit); harness.Alive(qemu); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("QEMU outlived its shim")
		}
	}
}
