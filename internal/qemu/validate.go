package qemu

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// Bounds of a machine.
const (
	minMemoryMiB = 128
	maxMemoryMiB = 16 << 20 // 16 TiB
	maxVCPUs     = 4096
	// maxCommandLine is COMMAND_LINE_SIZE of x86 kernels, in bytes.
	maxCommandLine = 2048
)

// Validate collects every fault of spec that concerns QEMU, each with its JSON
// path. It looks at the files that spec names.
func Validate(spec vm.Spec) error {
	var faults []error
	fault := func(path, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
	}
	m := spec.Machine
	if spec.RunID == "" {
		fault("run_id", "is empty")
	}
	if spec.Agent.Port == 0 {
		fault("agent.port", "is 0; expected 1 to 65535")
	}
	if !spec.Agent.Address.IsValid() || !spec.Agent.Address.Addr().Is4() {
		fault("agent.address", "is not an IPv4 address with its prefix, such as %s", DefaultAddress)
	} else if !spec.Agent.Gateway.Is4() || !spec.Agent.Address.Contains(spec.Agent.Gateway) || spec.Agent.Gateway == spec.Agent.Address.Addr() {
		fault("agent.gateway", "is not another address in %s", spec.Agent.Address.Masked())
	}
	if m.QEMU == "" {
		fault("machine.qemu", "is empty; expected the path of qemu-system-x86_64")
	}
	if m.Accel != vm.AccelKVM && m.Accel != vm.AccelTCG {
		fault("machine.accel", "is %q; expected %q or %q", m.Accel, vm.AccelKVM, vm.AccelTCG)
	}
	if m.CPU == "" {
		fault("machine.cpu", "is empty; expected a model such as \"max\"")
	}
	if m.VCPUs < 1 || m.VCPUs > maxVCPUs {
		fault("machine.vcpus", "is %d; expected 1 to %d", m.VCPUs, maxVCPUs)
	}
	if m.MemoryMiB < minMemoryMiB || m.MemoryMiB > maxMemoryMiB {
		fault("machine.memory_mib", "is %d; expected %d to %d", m.MemoryMiB, minMemoryMiB, maxMemoryMiB)
	}
	for _, f := range []struct{ path, name string }{
		{"machine.kernel", m.Kernel}, {"machine.initrd", m.Initrd}, {"machine.runtime", m.Runtime},
	} {
		if f.name == "" && f.path == "machine.runtime" {
			continue
		}
		if err := checkFile(f.name); err != nil {
			fault(f.path, "%w", err)
		}
	}
	if n := len(m.CommandLine); n >= maxCommandLine {
		fault("machine.command_line", "has %d bytes; the kernel takes %d", n, maxCommandLine-1)
	}
	if !m.Forward.IsValid() || !m.Forward.Addr().Is4() || m.Forward.Port() == 0 {
		fault("machine.forward", "is %q; expected an IPv4 address and a port that is not 0", m.Forward)
	}
	if m.Vsock.Way != vm.VsockUser && m.Vsock.Way != vm.VsockKernel {
		fault("machine.vsock.way", "is %q; expected %q or %q", m.Vsock.Way, vm.VsockUser, vm.VsockKernel)
	}
	if c := m.Vsock.GuestCID; c < 3 || c == 1<<32-1 {
		fault("machine.vsock.guest_cid", "is %d; expected 3 to %d", c, uint32(1<<32-2))
	}
	for _, v := range []struct{ path, value string }{
		{"run_id", spec.RunID}, {"machine.cpu", m.CPU}, {"machine.command_line", m.CommandLine},
		{"machine.kernel", m.Kernel}, {"machine.initrd", m.Initrd}, {"machine.runtime", m.Runtime},
	} {
		if strings.ContainsAny(v.value, "\x00\n") {
			fault(v.path, "contains a NUL or a line break")
		}
	}
	return errors.Join(faults...)
}

func checkFile(name string) error {
	if name == "" {
		return errors.New("is empty; expected the path of a file")
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%w; build the image with make hal", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return fmt.Errorf("%s is not a file with content; build the image with make hal", name)
	}
	return nil
}
