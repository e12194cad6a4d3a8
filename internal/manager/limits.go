package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// Limits of all VMs of this host together; 0 means none.
type Limits struct {
	MaxVMs       int
	MaxMemoryMiB int
	MaxVCPUs     int
	// MinFreeDisk is what must stay free on the state directory's file system,
	// in bytes, beside what the VMs may still write.
	MinFreeDisk int64
	// MaxScratch is what the scratch disks of all VMs may have together, in bytes;
	// 0: no VM gets one, NoLimit: as much as there is room for.
	MaxScratch int64
	// MaxLife is how long a VM may live, and how long one lives whose request
	// does not say.
	MaxLife time.Duration
}

// NoLimit as MaxScratch: what is free is the limit.
const NoLimit = math.MaxInt64

// demand is what one VM takes of its host, or what several take together.
type demand struct {
	vms, memoryMiB, vcpus int
	// disk is what may still be written to the state directory, in bytes; scratch
	// is the size of scratch disks, whether written to or not.
	disk, scratch int64
}

func (d demand) plus(e demand) demand {
	return demand{vms: d.vms + e.vms, memoryMiB: d.memoryMiB + e.memoryMiB, vcpus: d.vcpus + e.vcpus, disk: d.disk + e.disk, scratch: d.scratch + e.scratch}
}

// What a VM's folder may grow to, in bytes, beside its firmware variables, its
// overlay and its scratch disk: two spools, of which the shim's is the one that can fill, the
// console's two halves, the specification, and the shim's log.
const (
	maxSpool   = 256<<20 + 4<<20
	maxConsole = 2 << 20
	maxRest    = 16 << 20
)

// demandOf is what a VM on this machine may take at most.
func demandOf(m vm.Machine) (demand, error) {
	d := demand{vms: 1, memoryMiB: m.Memory.MiB, vcpus: m.VCPUs, scratch: m.ScratchBytes, disk: maxSpool + maxConsole + maxRest + m.ScratchBytes}
	if f := m.Boot.Firmware; f != nil && f.Vars.File != "" {
		info, err := os.Stat(f.Vars.File)
		if err != nil {
			return d, fmt.Errorf("the firmware's variables (MANAGER_QEMU_OVMF_VARS_FILE): %w", err)
		}
		d.disk += info.Size()
	}
	if b := m.Boot.Disk; b != nil {
		size, err := qcow2.VirtualSize(b.Image, b.Format)
		if err != nil {
			return d, fmt.Errorf("the disk image (MANAGER_QEMU_DISK_IMG_FILE): %w", err)
		}
		d.disk += size
	}
	return d, nil
}

// refuse names every limit that one more VM would break. free is what the state
// directory's file system has, in bytes; used.disk what is promised of that.
func (l Limits) refuse(used, want demand, free int64) []Fault {
	var faults []Fault
	refuse := func(hint, format string, args ...any) {
		faults = append(faults, Fault{Reason: NoCapacity, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	if l.MaxVMs > 0 && used.vms+want.vms > l.MaxVMs {
		refuse("stop a run, wait for one to end, or raise MANAGER_MAX_VMS",
			"%d of at most %d VMs are there (MANAGER_MAX_VMS)", used.vms, l.MaxVMs)
	}
	if l.MaxMemoryMiB > 0 && used.memoryMiB+want.memoryMiB > l.MaxMemoryMiB {
		refuse("stop a run, wait for one to end, lower MANAGER_QEMU_MEMORY_SIZE, or raise MANAGER_MAX_VM_MEMORY",
			"the VM needs %d MiB of memory, and %d of at most %d MiB are used (MANAGER_MAX_VM_MEMORY)", want.memoryMiB, used.memoryMiB, l.MaxMemoryMiB)
	}
	if l.MaxVCPUs > 0 && used.vcpus+want.vcpus > l.MaxVCPUs {
		refuse("stop a run, wait for one to end, lower MANAGER_QEMU_SMP_COUNT, or raise MANAGER_MAX_VCPUS",
			"the VM needs %d virtual CPUs, and %d of at most %d are used (MANAGER_MAX_VCPUS)", want.vcpus, used.vcpus, l.MaxVCPUs)
	}
	l.refuseScratch(used, want, refuse, &faults)
	if (l.MinFreeDisk > 0 || want.scratch > 0) && free-used.disk-want.disk < l.MinFreeDisk {
		const mib = 1 << 20
		refuse("make room on the file system of MANAGER_STATE_DIR, stop a run, or lower MANAGER_MIN_FREE_DISK",
			"the VM may write %d MiB, and of %d MiB free on the state directory's file system %d are kept for the VMs that are there and %d must stay free (MANAGER_MIN_FREE_DISK)",
			(want.disk+mib-1)/mib, free/mib, (used.disk+mib-1)/mib, (l.MinFreeDisk+mib-1)/mib)
	}
	return faults
}

// refuseScratch names a limit of scratch disks. What no VM of this host gets, now
// or later, is said of the request's field; what others have at present is not.
func (l Limits) refuseScratch(used, want demand, now func(hint, format string, args ...any), faults *[]Fault) {
	const field = "manifest/scratch_bytes"
	never := func(format string, args ...any) {
		*faults = append(*faults, Fault{Reason: NoCapacity, Field: field, Message: fmt.Sprintf(format, args...),
			Hint: "ask another host, or for smaller inputs; the host's operator can raise MANAGER_SCRATCH_MAX"})
	}
	switch {
	case want.scratch == 0:
	case l.MaxScratch == 0:
		never("is %d; VMs of this host have no scratch disk (MANAGER_SCRATCH_MAX)", want.scratch)
	case want.scratch > l.MaxScratch:
		never("is %d; all scratch disks of this host may have %d bytes together (MANAGER_SCRATCH_MAX)", want.scratch, l.MaxScratch)
	case want.scratch > l.MaxScratch-used.scratch:
		now("stop a run, wait for one to end, or raise MANAGER_SCRATCH_MAX",
			"the VM needs a scratch disk of %d MiB, and %d of at most %d MiB are used (MANAGER_SCRATCH_MAX)", want.scratch>>20, used.scratch>>20, l.MaxScratch>>20)
	}
}

// room tells what forbids one more VM on this host, with a scratch disk of so many
// bytes. m.admission is held.
func (m *Manager) room(scratch int64) ([]Fault, error) {
	m.mu.Lock()
	draining, used := m.draining, m.used()
	m.mu.Unlock()
	if draining {
		return []Fault{{Reason: NoCapacity, Message: "this host is shutting down",
			Hint: "ask another host, or this one when its Manager has been started again"}}, nil
	}
	machine := m.cfg.Host.Machine
	machine.ScratchBytes = scratch
	want, err := demandOf(machine)
	if err != nil {
		return nil, err
	}
	free, err := m.cfg.freeDisk(m.cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("measuring the free disk of MANAGER_STATE_DIR: %w", err)
	}
	return m.cfg.Host.Limits.refuse(used, want, free), nil
}

// used is what the VMs take that are not over. Of the disk it is what they may
// still write: what they have written is not free any more. m.mu is held.
func (m *Manager) used() demand {
	var total demand
	for _, dir := range m.unread {
		if alive, err := shimAlive(dir); alive || err != nil {
			// Who can't tell its own is taken for one of today's, with the scratch
			// disk that is there.
			machine := m.cfg.Host.Machine
			if info, err := os.Stat(dir.Scratch()); err == nil {
				machine.ScratchBytes = info.Size()
			}
			usual, _ := demandOf(machine)
			usual.disk = max(0, usual.disk-onDisk(string(dir)))
			total = total.plus(usual)
		}
	}
	for _, r := range m.runs {
		if r.over.Load() {
			continue
		}
		d := r.demand
		d.disk = max(0, d.disk-onDisk(string(r.dir)))
		total = total.plus(d)
	}
	return total
}

// onDisk is what a folder's files occupy, in bytes. What goes meanwhile, or
// can't be read, counts as nothing: then more is kept free, not less.
func onDisk(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				total += s.Blocks * 512
			}
		}
		return nil
	})
	return total
}

// freeDisk is what an ordinary user may still write to the file system of path,
// in bytes.
func freeDisk(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	if s.Bsize <= 0 {
		return 0, errors.New("its file system tells no block size")
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// DiskPerVM is what a VM on this machine may write to the state directory, in
// bytes.
func DiskPerVM(m vm.Machine) (int64, error) {
	d, err := demandOf(m)
	return d.disk, err
}
