package manager

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// points are the steps of a run, each with the times at which the Manager dies
// there. Together they lie at every boundary between spooling, sending and
// acknowledging, and at every step of making and removing a VM.
var points = []struct {
	name   string
	times  []string
	before bool // dies before the run is accepted: nothing of it may be left
}{
	{name: "run.judged", times: []string{"1"}, before: true},
	{name: "run.folder", times: []string{"1"}, before: true},
	{name: "run.spec", times: []string{"1"}, before: true},
	{name: "run.spooled", times: []string{"1"}, before: true},
	{name: "run.committed", times: []string{"1"}},
	{name: "shim.started", times: []string{"1"}},
	{name: "run.replied", times: []string{"1"}},
	{name: "event.received", times: []string{"1", "4", "9"}}, // spooled, not sent
	{name: "event.sent", times: []string{"1", "4", "9"}},     // sent, not acknowledged
	{name: "ack.received", times: []string{"1", "3"}},        // acknowledged, not trimmed
	{name: "ack.forwarded", times: []string{"1", "3"}},       // trimmed
	{name: "vm.drained", times: []string{"1"}},
	{name: "shim.released", times: []string{"1"}},
	{name: "run.ended", times: []string{"1"}},
	{name: "run.cleared", times: []string{"1"}},
	{name: "run.told", times: []string{"1"}},
	{name: "run.gone", times: []string{"1"}},
}

func TestKilledAtEachStep(t *testing.T) {
	for _, p := range points {
		for _, n := range p.times {
			t.Run(p.name+"-"+n, func(t *testing.T) {
				l := newLab(t, nil, envEnds+"=yes")
				id := l.submit()
				l.spawn(p.name + " " + n).killed(t)
				if p.before {
					l.nothingAccepted(id)
				}
				second := l.spawn("")
				kinds := l.complete(id)
				l.empty()
				if got := count(kinds, vm.EventState); got != 5 {
					t.Errorf("the agent's events arrived %d times; expected 5", got)
				}
				for _, kind := range []string{vm.EventAccepted, vm.EventStarting, vm.EventExited, vm.EventRemoved} {
					if got := count(kinds, kind); got != 1 {
						t.Errorf("%s came %d times", kind, got)
					}
				}
				if slices.Contains(kinds, vm.EventLost) {
					t.Error("a VM that ended was called lost")
				}
				if n := len(l.shims()); n != 1 {
					t.Errorf("%d shims owned the VM", n)
				}
				l.answeredAsBefore(id)
				second.kill(t)
			})
		}
	}
}

// nothingAccepted: no folder under the run's name, so no VM.
func (l *lab) nothingAccepted(id string) {
	l.t.Helper()
	if _, err := os.Stat(string(vm.DirOf(l.state, id))); !os.IsNotExist(err) {
		l.t.Errorf("the run's folder is there before the run was accepted: %v", err)
	}
	if n := len(l.shims()); n != 0 {
		l.t.Errorf("%d shims were started before the run was accepted", n)
	}
}

// answeredAsBefore sends a request again after the run is over.
func (l *lab) answeredAsBefore(id string) {
	l.t.Helper()
	_, before, err := l.server.Reply(l.ctx, id)
	if err != nil {
		l.t.Fatal(err)
	}
	shims := len(l.shims())
	l.resubmit(id)
	reply, after, err := l.server.Reply(l.ctx, id)
	if err != nil {
		l.t.Fatal(err)
	}
	if reply.GetRefusal() != nil || after != before {
		l.t.Errorf("the same request is answered %v, %s; first it was %s", reply.GetRefusal(), after, before)
	}
	if n := len(l.shims()); n != shims {
		l.t.Error("the same request started another shim")
	}
}

// TestBothKilled is a crash of the host: Manager and shim are gone at once.
func TestBothKilled(t *testing.T) {
	l := newLab(t, nil)
	id := l.submit()
	first := l.spawn("")
	l.event(id, vm.EventState)
	l.waitShim(id)
	first.kill(t)
	l.killShim()
	l.spawn("")
	kinds := l.complete(id)
	l.empty()
	if count(kinds, vm.EventState) != 5 || count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventExited) != 0 {
		t.Errorf("events: %v", kinds)
	}
	b, err := os.ReadFile(filepath.Join(l.state, vm.EndedFile))
	if err != nil || !strings.HasPrefix(string(b), id+" ") || strings.Count(string(b), "\n") != 1 {
		t.Errorf("ledger %q, %v", b, err)
	}
}

// TestKilledWhileLost: the Manager dies while it tells of a lost VM.
func TestKilledWhileLost(t *testing.T) {
	for _, point := range []string{"event.received 1", "event.sent 1", "ack.received 1", "ack.forwarded 1", "run.ended 1", "run.cleared 1", "run.told 1"} {
		t.Run(point, func(t *testing.T) {
			l := newLab(t, nil)
			id := l.submit()
			first := l.spawn("run.committed 1")
			first.killed(t)
			// The shim lives and spools without a Manager.
			second := l.spawn("shim.started 1")
			second.killed(t)
			l.waitShim(id)
			l.killShim()
			l.spawn(point).killed(t)
			l.spawn("")
			kinds := l.complete(id)
			l.empty()
			if count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventState) != 5 || count(kinds, vm.EventRemoved) != 1 {
				t.Errorf("events: %v", kinds)
			}
		})
	}
}
