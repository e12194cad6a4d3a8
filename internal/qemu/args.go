// Package qemu starts and watches the emulator of one VM.
//
//   - Args is pure: a specification in, a command line out, the same for the
//     same input. Validate judges what Args can't express, before anything is
//     started. What a host can do is found out by Probe and KVMUsable, never
//     while a command line is built.
//   - QEMU reaches its owner, never the other way round: it connects to the
//     sockets of the VM's folder, which the owner listens on before the start,
//     so that there is nothing to wait for.
//   - A QEMU lives at most as long as the process that started it (Process).
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
// for in dir. The console is on standard output. spec must be valid.
func Args(spec vm.Spec, dir vm.Dir) []string {
	var a arguments
	a.add("-name", "guest="+escape(spec.RunID))
	a.add("-nodefaults", "-no-user-config", "-no-reboot")
	a.add("-display", "none")
	a.add("-msg", "timestamp=on")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.machine(spec.Machine)
	a.boot(spec.Machine)
	a.disks(spec.Machine)
	a.network(spec)
	a.vsock(spec.Machine.Vsock, dir)
	a.add("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
	a.add("-chardev", "socket,id=qmp,path="+escape(dir.QMPSocket()), "-mon", "chardev=qmp,mode=control")
	return a
}

type arguments []string

func (a *arguments) add(s ...string) { *a = append(*a, s...) }

// escape makes a value fit QEMU's comma-separated options.
func escape(v string) string { return strings.ReplaceAll(v, ",", ",,") }

func (a *arguments) machine(m vm.Machine) {
	machine := "q35"
	if m.Vsock.Way == vm.VsockUser {
		// The vhost-user device maps the guest's memory; both sizes must agree.
		machine += ",memory-backend=mem"
		a.add("-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", m.MemoryMiB))
	}
	a.add("-machine", machine)
	a.add("-accel", m.Accel)
	a.add("-cpu", m.CPU) // commas separate features here
	a.add("-smp", fmt.Sprint(m.VCPUs))
	a.add("-m", fmt.Sprintf("%dM", m.MemoryMiB))
}

func (a *arguments) boot(m vm.Machine) {
	a.add("-kernel", m.Kernel, "-initrd", m.Initrd, "-append", m.CommandLine)
}

func (a *arguments) disks(m vm.Machine) {
	if m.Runtime == "" {
		return
	}
	// Several VMs share the file, and dm-verity guards what they read.
	a.add("-blockdev", "driver=raw,node-name=runtime,read-only=on,file.driver=file,file.read-only=on,file.locking=off,file.filename="+escape(m.Runtime))
	a.add("-device", "virtio-blk-pci,drive=runtime,disable-legacy=on")
}

func (a *arguments) network(spec vm.Spec) {
	forward := spec.Machine.Forward
	host, guest, net := "", "", ""
	if !forward.Addr().IsUnspecified() {
		host = forward.Addr().String()
	}
	if address, gateway := spec.Agent.Address, spec.Agent.Gateway; address != DefaultAddress || gateway != DefaultGateway {
		guest = address.Addr().String()
		net = fmt.Sprintf(",net=%s,host=%s", address.Masked(), gateway)
	}
	a.add("-netdev", fmt.Sprintf("user,id=vmnic,restrict=on%s,hostfwd=tcp:%s:%d-%s:%d", net, host, forward.Port(), guest, spec.Agent.Port))
	a.add("-device", "virtio-net-pci,netdev=vmnic,disable-legacy=on,romfile=")
}

func (a *arguments) vsock(v vm.Vsock, dir vm.Dir) {
	switch v.Way {
	case vm.VsockUser:
		a.add("-chardev", "socket,id=vsock,path="+escape(dir.VhostSocket()))
		a.add("-device", "vhost-user-vsock-pci,chardev=vsock")
	case vm.VsockKernel:
		a.add("-device", fmt.Sprintf("vhost-vsock-pci,guest-cid=%d,vhostfd=%d", v.GuestCID, VhostFD))
	}
}
