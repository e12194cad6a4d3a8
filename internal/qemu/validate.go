package qemu

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of a machine.
const (
	minMemoryMiB   = 128
	maxMemoryMiB   = 16 << 20 // 16 TiB
	maxMemorySlots = 256
	maxVCPUs       = 4096
	// A scratch disk is made of whole blocks, in bytes, of the largest size that
	// guests know.
	scratchBlock = 4096
	// maxCommandLine is COMMAND_LINE_SIZE of x86 kernels, in bytes.
	maxCommandLine = 2048
)

var (
	// identifier is what QEMU takes as an id.
	identifier = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)
	// pciAddress is QEMU's SLOT.FUNCTION, both hexadecimal.
	pciAddress = regexp.MustCompile(`^(?:0x)?([0-9a-fA-F]{1,2})(?:\.(?:0x)?[0-7])?$`)
)

// ids that Args uses itself, among those of devices and of disks.
const (
	scsiID    = "scsi"
	runtimeID = "runtime"
	scratchID = "scratch"
)

// Where files come from, for who lacks one.
const (
	fromHAL  = "build the image with make hal"
	fromOVMF = "install OVMF (the package ovmf), or name its files in MANAGER_QEMU_OVMF_CODE_FILE and MANAGER_QEMU_OVMF_VARS_FILE"
	fromDisk = "build the disk image with make hal-disk"
)

// Validate collects every fault of spec that concerns QEMU, each with its JSON
// path. It looks at the files that spec names.
func Validate(spec vm.Spec) error {
	var f faults
	f.text("run_id", spec.RunID, "a run's name")
	f.agent(spec.Agent)
	f.machine(spec.Machine)
	f.tee(spec.Machine)
	f.boot(spec.Machine.Boot)
	if spec.Machine.Runtime != "" {
		f.file("machine.runtime", spec.Machine.Runtime, fromHAL)
	}
	f.network(spec.Machine.Net)
	f.vsock(spec.Machine.Vsock)
	return errors.Join(f...)
}

type faults []error

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
}

// text wants a value that fits on a line.
func (f *faults) text(path, value, want string) {
	switch {
	case value == "":
		f.add(path, "is empty; expected %s", want)
	case strings.ContainsAny(value, "\x00\n\r"):
		f.add(path, "contains a NUL or a line break")
	}
}

// oneOf wants one of two values.
func (f *faults) oneOf(path, value, a, b string) {
	if value != a && value != b {
		f.add(path, "is %q; expected %q or %q", value, a, b)
	}
}

// between wants a number within bounds.
func (f *faults) between(path string, n, least, most int) {
	if n < least || n > most {
		f.add(path, "is %d; expected %d to %d", n, least, most)
	}
}

// id wants a name that QEMU takes, and that is not taken.
func (f *faults) id(path, value string, taken ...string) {
	switch {
	case !identifier.MatchString(value):
		f.add(path, "is %q; expected a letter, then letters, digits, dots, dashes and underscores", value)
	case slices.Contains(taken, value):
		f.add(path, "is %q, which another part of the VM is called", value)
	}
}

// file wants one that can be read and has content.
func (f *faults) file(path, name, hint string) {
	if strings.ContainsAny(name, "\x00\n\r") {
		f.add(path, "contains a NUL or a line break")
		return
	}
	if err := checkFile(name, hint); err != nil {
		f.add(path, "%w", err)
	}
}

func (f *faults) agent(a vm.AgentConfig) {
	if a.Port == 0 {
		f.add("agent.port", "is 0; expected 1 to 65535")
	}
	if !a.Address.IsValid() || !a.Address.Addr().Is4() {
		f.add("agent.address", "is not an IPv4 address with its prefix, such as %s", DefaultAddress)
	} else if !a.Gateway.Is4() || !a.Address.Contains(a.Gateway) || a.Gateway == a.Address.Addr() {
		f.add("agent.gateway", "is not another address in %s", a.Address.Masked())
	}
}

func (f *faults) machine(m vm.Machine) {
	f.text("machine.qemu", m.QEMU, "the path of qemu-system-x86_64")
	f.oneOf("machine.accel", m.Accel, vm.AccelKVM, vm.AccelTCG)
	f.text("machine.type", m.Type, `a machine type such as "q35"`)
	f.text("machine.cpu", m.CPU, `a model such as "max"`)
	f.between("machine.vcpus", m.VCPUs, 1, maxVCPUs)
	least := m.VCPUs
	if least < 1 || least > maxVCPUs {
		least = 1 // that is a fault of its own
	}
	f.between("machine.max_vcpus", m.MaxVCPUs, least, maxVCPUs)
	f.between("machine.memory.mib", m.Memory.MiB, minMemoryMiB, maxMemoryMiB)
	f.memoryToAdd(m.Memory)
	f.id("machine.memory.id", m.Memory.ID)
	if n := m.ScratchBytes; n < 0 || n > manifest.MaxInputSize || n%scratchBlock != 0 {
		f.add("machine.scratch_bytes", "is %d; expected a multiple of %d, up to %d", n, scratchBlock, int64(manifest.MaxInputSize))
	}
	f.oneOf("machine.monitor", m.Monitor, vm.MonitorPTY, vm.MonitorNone)
}

// memoryToAdd judges the room for memory beyond what the guest has.
func (f *faults) memoryToAdd(m vm.Memory) {
	switch {
	case m.Slots == 0 && m.MaxMiB == 0:
	case m.Slots < 1 || m.Slots > maxMemorySlots:
		f.add("machine.memory.slots", "is %d with max_mib %d; expected 1 to %d, or both 0", m.Slots, m.MaxMiB, maxMemorySlots)
	case m.MiB > maxMemoryMiB: // a fault of its own
	case m.MaxMiB <= m.MiB || m.MaxMiB > maxMemoryMiB:
		f.add("machine.memory.max_mib", "is %d with slots %d; expected more than mib, which is %d, and at most %d, or both 0", m.MaxMiB, m.Slots, m.MiB, maxMemoryMiB)
	}
}

// boot wants one of a disk, and kernel with initial RAM disk.
func (f *faults) boot(b vm.Boot) {
	if b.Firmware != nil {
		f.firmware(*b.Firmware)
	}
	if b.Disk == nil {
		f.file("machine.boot.kernel", b.Kernel, fromHAL)
		f.file("machine.boot.initrd", b.Initrd, fromHAL)
		if strings.ContainsAny(b.CommandLine, "\x00\n\r") {
			f.add("machine.boot.command_line", "contains a NUL or a line break")
		}
		if n := len(b.CommandLine); n >= maxCommandLine {
			f.add("machine.boot.command_line", "has %d bytes; the kernel takes %d", n, maxCommandLine-1)
		}
		return
	}
	for _, v := range []struct{ path, value string }{
		{"kernel", b.Kernel}, {"initrd", b.Initrd}, {"command_line", b.CommandLine},
	} {
		if v.value != "" {
			f.add("machine.boot."+v.path, "is set beside disk, which has its own; leave one of both out")
		}
	}
	if b.Firmware == nil {
		f.add("machine.boot.firmware", "is missing; a disk is booted through OVMF: %s", fromOVMF)
	}
	f.disk(*b.Disk)
}

func (f *faults) firmware(w vm.Firmware) {
	const path = "machine.boot.firmware."
	f.flash(path+"code", w.Code, 0)
	if !w.Code.ReadOnly {
		f.add(path+"code.read_only", "is false; a VM could change the firmware of all others")
	}
	if w.Vars.File != "" {
		f.flash(path+"vars", w.Vars, 1)
	}
}

// flash judges one chip. The CPU starts in unit 0.
func (f *faults) flash(path string, c vm.Flash, unit int) {
	if c.Interface != "pflash" {
		f.add(path+".if", `is %q; expected "pflash"`, c.Interface)
	}
	f.oneOf(path+".format", c.Format, vm.DiskRaw, vm.DiskQcow2)
	if c.Unit != unit {
		f.add(path+".unit", "is %d; expected %d", c.Unit, unit)
	}
	f.file(path+".file", c.File, fromOVMF)
}

func (f *faults) disk(d vm.Disk) {
	const path = "machine.boot.disk."
	if d.Interface != "none" {
		f.add(path+"if", `is %q; expected "none"`, d.Interface)
	}
	f.id(path+"id", d.ID, runtimeID, scratchID)
	if d.Format != vm.DiskQcow2 && d.Format != vm.DiskRaw {
		f.oneOf(path+"format", d.Format, vm.DiskQcow2, vm.DiskRaw)
		return
	}
	before := len(*f)
	f.file(path+"image", d.Image, fromDisk)
	if len(*f) > before {
		return
	}
	if _, err := qcow2.VirtualSize(d.Image, d.Format); err != nil {
		f.add(path+"image", "%w; %s", err, fromDisk)
	}
}

func (f *faults) network(n vm.Net) {
	f.id("machine.net.id", n.ID)
	if !n.Forward.IsValid() || !n.Forward.Addr().Is4() || n.Forward.Port() == 0 {
		f.add("machine.net.forward", "is %q; expected an IPv4 address and a port that is not 0", n.Forward)
	}
	if n.Addr != "" && !isPCIAddress(n.Addr) {
		f.add("machine.net.addr", `is %q; expected a PCI slot from 0x0 to 0x1f, such as "0x2"`, n.Addr)
	}
	if n.ROMFile != "" {
		f.file("machine.net.rom_file", n.ROMFile, "leave it empty: a VM needs no boot ROM")
	}
}

func isPCIAddress(s string) bool {
	m := pciAddress.FindStringSubmatch(s)
	if m == nil {
		return false
	}
	slot, err := strconv.ParseUint(m[1], 16, 8)
	return err == nil && slot <= 0x1f
}

func (f *faults) vsock(v vm.Vsock) {
	f.oneOf("machine.vsock.way", string(v.Way), string(vm.VsockUser), string(vm.VsockKernel))
	f.id("machine.vsock.id", v.ID, scsiID)
	if c := v.GuestCID; c < 3 || c == 1<<32-1 {
		f.add("machine.vsock.guest_cid", "is %d; expected 3 to %d", c, uint32(1<<32-2))
	}
}

func checkFile(name, hint string) error {
	if name == "" {
		return errors.New("is empty; expected the path of a file")
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%w; %s", err, hint)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return fmt.Errorf("%s is not a file with content; %s", name, hint)
	}
	return nil
}
