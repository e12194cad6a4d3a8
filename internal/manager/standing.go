package manager

import (
	"bufio"
	"context"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

// Standing is how the host stands, for the server's choice of a host.
type Standing struct {
	// Running counts VMs that have not ended, Capacity how many there can be with
	// what is free now.
	Running, Capacity int
	// Closed: no run is accepted at present.
	Closed bool
}

// standing counts what is there; it starts and refuses nothing.
func (m *Manager) standing() Standing {
	m.mu.Lock()
	draining, used := m.draining, m.used()
	m.mu.Unlock()
	s := Standing{Running: used.vms, Capacity: used.vms, Closed: true}
	want, err := demandOf(m.cfg.Host.Machine)
	if err != nil {
		return s
	}
	free, err := m.cfg.freeDisk(m.cfg.StateDir)
	if err != nil {
		return s
	}
	room := min(m.cfg.Host.Limits.room(used, want, free), max(0, len(m.cfg.Host.Forward.ports())-used.vms))
	s.Capacity += room
	s.Closed = draining || s.Capacity == 0
	return s
}

// room is how many more VMs the limits allow; see refuse.
func (l Limits) room(used, want demand, free int64) int {
	n := int64(math.MaxInt32)
	bound := func(limit, used, each int64) {
		if limit > 0 && each > 0 {
			n = min(n, max(0, (limit-used)/each))
		}
	}
	bound(int64(l.MaxVMs), int64(used.vms), 1)
	bound(int64(l.MaxMemoryMiB), int64(used.memoryMiB), int64(want.memoryMiB))
	bound(int64(l.MaxVCPUs), int64(used.vcpus), int64(want.vcpus))
	if l.MinFreeDisk > 0 {
		bound(max(1, free-l.MinFreeDisk), used.disk, want.disk)
	}
	return int(n)
}

// describe tells the server what there is on this host.
func (l *link) describe(ctx context.Context, hello *managerv1.Hello) {
	hello.Capacity = clamp(l.service.standing().Capacity)
	hello.Cpus = clamp(runtime.NumCPU())
	hello.MemoryBytes, _ = hostNow()
	if l.images == nil {
		return
	}
	for _, i := range l.images(ctx) {
		hello.Images = append(hello.Images, &managerv1.GuestImage{Digest: i.Digest, Measurements: i.Measurements})
	}
}

func clamp(n int) uint32 { return uint32(min(max(n, 0), math.MaxInt32)) }

// tellStanding tells the server how the host stands, as often as it asked for.
func (l *link) tellStanding(ctx context.Context, s *session, every time.Duration) {
	if every <= 0 {
		return
	}
	for {
		now := l.service.standing()
		status := &managerv1.HostStatus{Running: clamp(now.Running), Capacity: clamp(now.Capacity), Closed: now.Closed}
		_, status.Load = hostNow()
		status.MemoryFreeBytes = memoryFree()
		if s.put(ctx, s.status, &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_HostStatus{HostStatus: status}}) != nil {
			return
		}
		select {
		case <-l.clock.After(every):
		case <-ctx.Done():
			return
		}
	}
}

// hostNow is the host's memory in bytes and its load; zeros where the kernel
// doesn't say.
func hostNow() (memory uint64, load float64) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0, 0
	}
	return uint64(info.Totalram) * uint64(info.Unit), float64(info.Loads[0]) / (1 << 16)
}

// memoryFree is what programs can still have, in bytes; 0 where the kernel
// doesn't say.
func memoryFree() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}
