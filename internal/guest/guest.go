// Package guest makes a machine of a kernel that has just booted: it is the
// first process of the VM.
//
// The first process itself (Supervise) does three things: it starts the agent
// as its child, it reaps whatever ends, and it alone powers the machine off,
// when the agent has ended for whatever reason. Nothing else ever waits for a
// process of its own in it, so no exit status can be taken from its owner; and
// an agent that panics or is killed still ends in a line on the console and a
// clean power-off, never in a hang.
//
// The child boots by a literal list of phases, in order, each of which must
// succeed: the machine's (Machine.Phases), then those that the command adds. A
// phase that fails is one line on the console and the end of the VM.
//
// Everything that the host hands in is hostile: the kernel command line of a
// plain VM, its devices, its network. What is not expected refuses, and
// modules are loaded from the image's own list only, then loading is locked.
// In an attested guest, so are the buses of devices.
// Nothing reads a disk as a whole.
package guest

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// Fixed places in the guest.
const (
	// RuntimeRoot is where the runtime disk is mounted, read-only.
	RuntimeRoot = "/runtime"
	// DataDir is the agent's own memory file system.
	DataDir = "/data"
	// CgroupRoot is where control groups (version 2) are mounted.
	CgroupRoot = "/sys/fs/cgroup"
)

// Phase is one step of the boot.
type Phase struct {
	Name string
	Run  func(ctx context.Context) error
}

// Run runs the phases in order up to the first that fails, whose name the
// error has.
func Run(ctx context.Context, phases []Phase) error {
	for _, p := range phases {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("before phase %q: %w", p.Name, err)
		}
		if err := p.Run(ctx); err != nil {
			return fmt.Errorf("phase %q: %w", p.Name, err)
		}
	}
	return nil
}

// Machine is what the machine's phases found out.
type Machine struct {
	// CommandLine is set by the first phases.
	CommandLine CommandLine
	// Runtime is RuntimeRoot once the runtime disk is mounted; empty without one.
	Runtime string
}

// Phases are the machine's own, from a bare kernel up to a machine that lacks
// nothing but what the session brings.
func (m *Machine) Phases() []Phase {
	return []Phase{
		{"mounts", m.mounts},
		{"command line", m.commandLine},
		{"devices", m.devices},
		{"modules", loadModules},
		{"lock modules", lockModules},
		{"lock devices", m.lockDevices},
		{"late mounts", lateMounts},
		{"entropy", entropy},
		{"loopback", loopback},
		{"runtime disk", m.runtimeDisk},
	}
}

// Say writes one line to the console, whatever msg has in it.
func Say(console io.Writer, format string, args ...any) {
	msg := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	// A console that can't be written to has nobody who could be told.
	_, _ = fmt.Fprintf(console, "cocos: %s\n", msg)
}
