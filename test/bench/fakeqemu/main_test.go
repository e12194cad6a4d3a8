package main

import (
	"testing"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestSocketsOfTheCommandLine: what passes for QEMU finds its sockets where the
// command line for the real one has them.
func TestSocketsOfTheCommandLine(t *testing.T) {
	dir := vm.Dir("/state, one/vms/run")
	args := qemu.Args(vm.Spec{RunID: "run", Machine: vm.Emulated()}, dir)
	for got, want := range map[string]string{
		monitorOf(args):           dir.QMPSocket(),
		socketOf(args, "console"): dir.ConsoleSocket(),
		socketOf(args, "vsock"):   dir.VhostSocket(),
	} {
		if got != want {
			t.Errorf("%q, want %q, in %q", got, want, args)
		}
	}
	if got := monitorOf([]string{"-qmp"}) + monitorOf(nil) + socketOf(args, "none"); got != "" {
		t.Errorf("found %q where there is none", got)
	}
}
