// Package killed shows that a Manager killed with SIGKILL loses neither its VM
// nor an event.
package killed

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestManagerKilled(t *testing.T) {
	data := filepath.Join(t.TempDir(), "one.txt")
	if err := os.WriteFile(data, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	// While mute, the server commits nothing and acknowledges nothing.
	var mu sync.Mutex
	mute := false
	setMute := func(on bool) { mu.Lock(); mute = on; mu.Unlock() }
	h := harness.Start(t, harness.Verdict(func(*eventv1.Event) server.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if mute {
			return server.Lose
		}
		return server.Ack
	}))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}, Data: []string{data}}, nil)

	// While the VM boots.
	r.Event(vm.EventBooting, harness.BootLimit)
	h.KillManager()
	h.StartManager()
	r.Ready()
	qemu := pidOf(t, r)

	// While nobody is there: the agent works, its events wait on disk.
	h.KillManager()
	r.Upload()
	h.StartManager()
	r.State("ResultReady")

	// With events that were sent and never acknowledged.
	setMute(true)
	dir := r.Result()
	h.KillManager()
	setMute(false)
	h.StartManager()
	r.State("Released")

	if got := pidOf(t, r); got != qemu {
		t.Errorf("QEMU was process %s and is %s: the VM was not the same", qemu, got)
	}
	if got := h.Read(dir, "results", "sums.txt"); got == "" {
		t.Error("the result is empty")
	}
	r.Stop()
	next := map[eventv1.Source]uint64{}
	for _, e := range h.Server.Events(r.ID) {
		next[e.GetSource()]++
		if e.GetSequence() != next[e.GetSource()] {
			t.Errorf("event %d of %v came as number %d:\n%s", e.GetSequence(), e.GetSource(), next[e.GetSource()], r.History())
		}
	}
}

// pidOf is QEMU's process as the shim told it.
func pidOf(t *testing.T, r *harness.Run) string {
	t.Helper()
	return r.Event(vm.EventBooting, harness.BootLimit).GetAttributes()["qemu_pid"]
}
