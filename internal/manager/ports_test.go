package manager

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestPortsThatAreUsedUp: a port is a run's from the answer to its request until
// its end. Without one a run is refused by the name of what to widen, leaves
// nothing, and is accepted as soon as a port is free.
func TestPortsThatAreUsedUp(t *testing.T) {
	l := newLab(t, nil)
	addr := ownAddress(l.state)
	last, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	taken := netip.MustParseAddrPort(last.Addr().String()).Port()
	l.change = func(c *Config) { c.Host.Forward = Forward{Addr: addr, First: taken - 1, Last: taken} }
	l.inside()
	first := l.submit()
	l.accepted(first)
	l.waitShim(first) // which listens on no port: only the Manager keeps it
	spec, err := vm.ReadSpec(vm.DirOf(l.state, first))
	if err != nil {
		t.Fatal(err)
	}
	held := netip.AddrPortFrom(addr, taken-1)
	if spec.Machine.Net.Forward != held {
		t.Errorf("the run has %v; only %v was free", spec.Machine.Net.Forward, held)
	}
	if h, err := holdPort(held, true); err == nil {
		h.Close()
		t.Error("somebody else can have the port of a run")
	}

	second := l.submit()
	reply, _, err := l.server.Reply(l.ctx, second)
	if err != nil {
		t.Fatal(err)
	}
	f := reply.GetRefusal().GetFaults()
	want := fmt.Sprintf("all 2 ports of %v for agents, from %d to %d, are in use", addr, taken-1, taken)
	if len(f) != 1 || f[0].GetReason() != string(NoCapacity) || f[0].GetMessage() != want || !strings.Contains(f[0].GetHint(), "MANAGER_QEMU_HOST_FWD_RANGE") {
		t.Fatalf("without a free port: %v", f)
	}
	if _, err := os.Stat(string(vm.DirOf(l.state, second))); !os.IsNotExist(err) {
		t.Errorf("a refused request left a folder: %v", err)
	}

	// A stranger goes, then a run ends: each gives its port to the next run.
	last.Close()
	l.resubmit(second)
	l.accepted(second)
	third := l.submit()
	l.refused(third, "are in use")
	l.stop(first)
	l.resubmit(third)
	l.accepted(third)
	l.waitShim(second)
	l.waitShim(third)
	l.stop(second)
	l.stop(third)
	l.empty()
}
