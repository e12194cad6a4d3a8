// Package frozen shows that a VM whose shim hangs can be ended, and holds up no
// other one.
package frozen

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestShimFrozen(t *testing.T) {
	h := harness.Start(t)
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}
	r := h.Submit(c, nil)
	qemu, err := strconv.Atoi(r.Event(vm.EventBooting, harness.BootLimit).GetAttributes()["qemu_pid"])
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(qemu) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	shim, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	other := h.Submit(c, nil)
	other.Event(vm.EventBooting, harness.BootLimit)
	other.Stop()

	if err := h.Server.Stop(r.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.EndLimit)
	defer cancel()
	if reply, err := h.Server.StopReply(ctx, r.ID, 1); err != nil || reply.GetRefusal() != nil {
		t.Errorf("the stop is answered %v, %v", reply, err)
	}
	lost := r.Event(vm.EventLost, harness.EndLimit)
	r.Gone()
	if !strings.Contains(lost.GetMessage(), "signal 9") {
		t.Errorf("the event says %q", lost.GetMessage())
	}
	for deadline := time.Now().Add(harness.EndLimit); harness.Alive(qemu); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("QEMU outlived its shim")
		}
	}
}
