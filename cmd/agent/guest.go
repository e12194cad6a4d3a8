package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/egress"
	"github.com/ultravioletrs/cocos/internal/guest"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/manifest"
)

// runGuest is the agent in a VM.
func runGuest(ctx context.Context, console io.Writer) error {
	m := new(guest.Machine)
	c := newComputation(func(ctx context.Context) (net.Conn, error) { return vsock.DialHost(ctx, vm.SessionPort) }, console)
	c.reports = func(ctx context.Context) (net.Conn, error) { return vsock.DialHost(ctx, vm.ReportPort) }
	// The guest's own network reaches nothing: the shim connects, if its operator
	// lets it.
	out := egress.Dialer{Host: func(ctx context.Context) (net.Conn, error) { return vsock.DialHost(ctx, vm.EgressPort) }}
	c.servers = out.DialContext
	c.checkGuest, c.findScratch = m.CheckGuest, m.FindScratch
	phases := append(m.Phases(), c.phases()...)
	phases = append(phases,
		guest.Phase{Name: "network", Run: func(context.Context) error {
			if err := guest.ConfigureNetwork(c.launch.Config); err != nil {
				return vm.Refuse(vm.RefusedNetwork, "%w", err)
			}
			return nil
		}},
		guest.Phase{Name: "agent", Run: func(ctx context.Context) error {
			runner, err := guestRunner(m)
			if err != nil {
				return err
			}
			at := netip.AddrPortFrom(c.launch.Config.Address.Addr(), c.launch.Config.Port)
			return c.serve(ctx, runner, guest.DataDir, at.String(), func(a net.Addr) { c.tell("serving on %v", a) })
		}},
	)
	err := guest.Run(ctx, phases)
	c.end(err)
	return err
}

// reserve is the memory that the kernel and the agent need beside an algorithm,
// in bytes.
const reserve = 192 << 20

// guestRunner gives the algorithm what the machine has, where the manifest sets
// no limit.
func guestRunner(m *guest.Machine) (*runtime.Runner, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("asking for the machine's memory: %w", err)
	}
	return &runtime.Runner{
		Root:         m.Runtime,
		Limits:       defaultLimits(int64(info.Totalram) * int64(info.Unit)),
		ScratchBytes: int64(info.Totalram) * int64(info.Unit) / 4,
		Cgroup:       guest.CgroupRoot,
	}, nil
}

// defaultLimits of a machine with so many bytes of memory. Output lies in
// memory, too.
func defaultLimits(memory int64) manifest.Limits {
	return manifest.Limits{
		MemoryBytes: max(memory-reserve, memory/2),
		OutputBytes: min(memory/4, 2<<30),
	}
}
