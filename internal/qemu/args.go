// Package qemu starts and watches the emulator of one VM.
//
//   - Args is pure: a specification in, a command line out, the same for the
//     same input. Validate judges what Args can't express, before anything is
//     started. What a host can do is found out by Probe and KVMUsable, never
//     while a command line is built.
//   - QEMU reaches its owner, never the other way round: it connects to the
//     sockets of the VM's folder, which the owner listens on before the start,
//     so that there is nothing to wait for.
//   - A QEMU lives at most as long as the process that started it (Process),
//     unless sudo stands between: then Leftovers finds it, and EndLeftover ends
//     it, by what its command line says and never by a number alone.
//   - The guest has no way out: its one network interface reaches nothing and
//     is reached by the forwarded port alone; the emulator may not start
//     programs or gain rights (seccomp).
package qemu

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// VhostFD is the descriptor under which QEMU expects the open /dev/vhost-vsock
// with the kernel's vsock: the first of exec.Cmd.ExtraFiles.
const VhostFD = 3

// QEMU's network for a guest: its own address and the gateway's.
var (
	DefaultAddress = netip.MustParsePrefix("10.0.2.15/24")
	DefaultGateway = netip.MustParseAddr("10.0.2.2")
)

// Args returns the command line, without the program, of the VM that spec asks
// for in dir. spec must be valid. Options that the documentation shows stand as
// they stand there, side by side.
func Args(spec vm.Spec, dir vm.Dir) []string {
	var a arguments
	m := spec.Machine
	a.add("-name", nameOf(spec.RunID))
	a.add("-nodefaults", "-no-user-config", "-no-reboot")
	a.machine(m)
	a.tee(m)
	a.firmware(m.Boot, dir)
	a.network(spec)
	a.vsock(m, dir)
	a.boot(m.Boot, dir)
	a.runtime(m.Runtime)
	a.scratch(m.ScratchBytes, dir)
	a.add("-chardev", "socket,id=console,path="+escape(dir.ConsoleSocket()), "-serial", "chardev:console")
	a.add("-qmp", "unix:"+escape(dir.QMPSocket())) // connects: it is no server
	a.add("-msg", "timestamp=on")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.screen(m, dir)
	return a
}

// CommandLine is Args with the program before it, and sudo before that where
// the machine asks for it.
func CommandLine(spec vm.Spec, dir vm.Dir) []string {
	argv := append([]string{spec.Machine.QEMU}, Args(spec, dir)...)
	if spec.Machine.Sudo {
		argv = sudoArgv(argv...)
	}
	return argv
}

// nameOf is what marks the QEMU of a run among a host's processes.
func nameOf(runID string) string { return "guest=" + escape(runID) }

type arguments []string

func (a *arguments) add(s ...string) { *a = append(*a, s...) }

// escape makes a value fit QEMU's comma-separated options.
func escape(v string) string { return strings.ReplaceAll(v, ",", ",,") }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (a *arguments) machine(m vm.Machine) {
	if m.Accel == vm.AccelKVM {
		a.add("-enable-kvm")
	} else {
		a.add("-accel", m.Accel)
	}
	a.add("-machine", m.Type+machineOptions(m))
	a.add("-cpu", m.CPU+cpuFeatures(m)) // commas separate features here
	a.add("-smp", fmt.Sprintf("%d,maxcpus=%d", m.VCPUs, m.MaxVCPUs))
	memory := fmt.Sprintf("%dM", m.Memory.MiB)
	if m.Memory.Slots > 0 {
		memory += fmt.Sprintf(",slots=%d,maxmem=%s", m.Memory.Slots, size(m.Memory.MaxMiB))
	}
	a.add("-m", memory)
	if ownBackend(m) {
		// The vhost-user device maps the guest's memory; both sizes must agree.
		a.add("-object", fmt.Sprintf("memory-backend-memfd,id=%s,size=%dM,share=on", escape(m.Memory.ID), m.Memory.MiB))
		a.add("-machine", "memory-backend="+escape(m.Memory.ID))
	}
}

// size writes MiB as the documentation does: whole GiB with G.
func size(mib int) string {
	if mib%1024 == 0 {
		return fmt.Sprintf("%dG", mib/1024)
	}
	return fmt.Sprintf("%dM", mib)
}

func (a *arguments) firmware(b vm.Boot, dir vm.Dir) {
	if b.BIOS != "" {
		a.add("-bios", b.BIOS)
	}
	if t := b.HashTable; t != nil {
		a.add("-device", fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", escape(dir.Hashes()), t.Address))
	}
	f := b.Firmware
	if f == nil {
		return
	}
	a.flash(f.Code, f.Code.File)
	if f.Vars.File != "" {
		a.flash(f.Vars, dir.Vars())
	}
}

func (a *arguments) flash(f vm.Flash, file string) {
	drive := fmt.Sprintf("if=%s,format=%s,unit=%d,file=%s", escape(f.Interface), escape(f.Format), f.Unit, escape(file))
	if f.ReadOnly {
		drive += ",readonly=on"
	}
	a.add("-drive", drive)
}

func (a *arguments) boot(b vm.Boot, dir vm.Dir) {
	if b.Disk == nil {
		a.add("-kernel", b.Kernel, "-append", b.CommandLine, "-initrd", b.Initrd)
		return
	}
	a.add("-device", "virtio-scsi-pci,id=scsi,disable-legacy=on,iommu_platform=true")
	a.add("-drive", fmt.Sprintf("file=%s,if=%s,id=%s,format=%s", escape(dir.Overlay()), escape(b.Disk.Interface), escape(b.Disk.ID), vm.DiskQcow2))
	a.add("-device", "scsi-hd,drive="+escape(b.Disk.ID))
}

func (a *arguments) runtime(file string) {
	if file == "" {
		return
	}
	// Several VMs share the file, and dm-verity guards what they read.
	a.add("-blockdev", "driver=raw,node-name=runtime,read-only=on,file.driver=file,file.read-only=on,file.locking=off,file.filename="+escape(file))
	a.add("-device", "virtio-blk-pci,drive=runtime,disable-legacy=on")
}

// scratch adds a disk that lives no longer than the VM, whose guest alone can read
// it: there is nothing to save from a host that goes down (cache.no-flush), and where
// the host has no room the guest gets an error, while QEMU would otherwise stop it
// (werror).
func (a *arguments) scratch(bytes int64, dir vm.Dir) {
	if bytes == 0 {
		return
	}
	a.add("-blockdev", "driver=raw,node-name="+scratchID+",detect-zeroes=off,cache.direct=off,cache.no-flush=on,file.driver=file,file.filename="+escape(dir.Scratch()))
	a.add("-device", "virtio-blk-pci,drive="+scratchID+",serial="+vm.ScratchSerial+",disable-legacy=on,iommu_platform=true,werror=report,rerror=report")
}

func (a *arguments) network(spec vm.Spec) {
	n := spec.Machine.Net
	host, guest, net := "", "", ""
	if !n.Forward.Addr().IsUnspecified() {
		host = n.Forward.Addr().String()
	}
	if address, gateway := spec.Agent.Address, spec.Agent.Gateway; address != DefaultAddress || gateway != DefaultGateway {
		guest = address.Addr().String()
		net = fmt.Sprintf(",net=%s,host=%s", address.Masked(), gateway)
	}
	// restrict: the guest reaches nothing; only the forwarded port reaches it.
	a.add("-netdev", fmt.Sprintf("user,id=%s,hostfwd=tcp:%s:%d-%s:%d,restrict=on%s", escape(n.ID), host, n.Forward.Port(), guest, spec.Agent.Port, net))
	device := fmt.Sprintf("virtio-net-pci,disable-legacy=%s,iommu_platform=%t,netdev=%s", onOff(n.DisableLegacy), n.IOMMUPlatform, escape(n.ID))
	if n.Addr != "" {
		device += ",addr=" + escape(n.Addr)
	}
	a.add("-device", device+",romfile="+escape(n.ROMFile))
}

func (a *arguments) vsock(m vm.Machine, dir vm.Dir) {
	id := escape(m.Vsock.ID)
	switch m.Vsock.Way {
	case vm.VsockUser:
		a.add("-chardev", "socket,id=vsock,path="+escape(dir.VhostSocket()))
		a.add("-device", fmt.Sprintf("vhost-user-vsock-pci,id=%s,chardev=vsock", id))
	case vm.VsockKernel:
		device := fmt.Sprintf("vhost-vsock-pci,id=%s,guest-cid=%d", id, m.Vsock.GuestCID)
		if !m.Sudo { // sudo closes what it does not know
			device += fmt.Sprintf(",vhostfd=%d", VhostFD)
		}
		a.add("-device", device)
	}
}

func (a *arguments) screen(m vm.Machine, dir vm.Dir) {
	if m.NoGraphic {
		a.add("-nographic")
	} else {
		// QEMU's own choice would be a port that every user of the host reaches.
		a.add("-vga", "std", "-display", "vnc=unix:"+escape(dir.Screen()))
	}
	a.add("-monitor", m.Monitor)
}
