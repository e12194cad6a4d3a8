package hostcheck

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	installQEMU = "apt install qemu-system-x86"
	qemuNeeded  = "QEMU 7.2 or later, 10 or later where VMs are emulated"
)

// part is something that QEMU must have been built with.
type part struct {
	option string // lists what there is: OPTION help
	names  []string
	needed string // what for
}

// qemuProgram looks at QEMU's version and at what it was built with.
func qemuProgram(ctx context.Context, h *host, c Config) []Finding {
	v, err := qemu.Probe(ctx, c.QEMU)
	if err != nil {
		return fail(err.Error(), qemuNeeded, installQEMU+"; or set "+qemu.Variable+" to its path")
	}
	bin, err := exec.LookPath(c.QEMU)
	if err != nil {
		return fail(err.Error(), qemuNeeded, installQEMU)
	}
	accel := vm.AccelKVM
	if h.emulates(c) {
		accel = vm.AccelTCG
	}
	parts := []part{
		{"-accel", []string{accel}, "to run VMs"},
		{"-device", []string{"virtio-net-pci", "virtio-blk-pci"}, "for the VMs' network and disk"},
	}
	if c.Vsock != "kernel" {
		parts = append(parts, part{"-device", []string{"vhost-user-vsock-pci"}, "for the built-in vsock device"},
			part{"-object", []string{"memory-backend-memfd"}, "for the built-in vsock device"})
	}
	if c.Vsock == "kernel" {
		parts = append(parts, part{"-device", []string{"vhost-vsock-pci"}, "for the kernel's vsock"})
	}
	if c.Image.Disk != "" {
		parts = append(parts, part{"-device", []string{"virtio-scsi-pci", "scsi-hd"}, "to boot the disk image"})
	}
	if err := v.Launches(c.TEE.Kind); err != nil {
		return fail(err.Error(), "one that has it, for "+c.TEE.Switch, "install QEMU of a newer release of the distribution or of its backports; or set "+qemu.Variable+" to one")
	}
	if object := objectOf(c.TEE.Kind); object != "" {
		parts = append(parts, part{"-object", []string{object}, "for " + c.TEE.Switch})
	}
	if c.MachineType != "" {
		parts = append(parts, part{"-machine", []string{c.MachineType}, "as MANAGER_QEMU_MACHINE says"})
	}
	if model, _, _ := strings.Cut(c.CPU, ","); model != "" {
		parts = append(parts, part{"-cpu", []string{model}, "as MANAGER_QEMU_CPU says"})
	}
	lists := map[string][]string{}
	var faults []Finding
	for _, p := range parts {
		if lists[p.option] == nil {
			text, err := h.output(ctx, bin, p.option, "help")
			if err != nil {
				return fail(fmt.Sprintf("%s %s help: %v: %.200s", bin, p.option, err, text), qemuNeeded, "apt install --reinstall qemu-system-x86")
			}
			lists[p.option] = strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\n' || r == ',' || r == '"' || r == '\t' })
		}
		for _, name := range p.names {
			if slices.Contains(lists[p.option], name) {
				continue
			}
			faults = append(faults, fail(fmt.Sprintf("%s %s has no %s %q", bin, v, strings.TrimPrefix(p.option, "-"), name), "one, "+p.needed,
				lackMend(p.option, bin))...)
		}
	}
	if faults != nil {
		return faults
	}
	found := fmt.Sprintf("%s is QEMU %s", bin, v)
	if v.Warning(accel) != "" {
		return warn(found+", which crashes emulated guests now and then", "QEMU 10 or later, or KVM",
			"apt install -t bookworm-backports qemu-system-x86 on Debian 12, "+installQEMU+" on 13; or set "+qemu.Variable+" to one")
	}
	return ok(found)
}

// objectOf is what a TEE is for QEMU.
func objectOf(kind vm.TEEKind) string {
	switch kind {
	case vm.SEV, vm.SEVES:
		return "sev-guest"
	case vm.SEVSNP:
		return "sev-snp-guest"
	case vm.TDX:
		return "tdx-guest"
	}
	return "" // QEMU has that of SGX where /dev/sgx_vepc opens, which is another row
}

func lackMend(option, bin string) string {
	switch option {
	case "-cpu":
		return fmt.Sprintf("set MANAGER_QEMU_CPU to a model of `%s -cpu help`", bin)
	case "-machine":
		return fmt.Sprintf("set MANAGER_QEMU_MACHINE to a type of `%s -machine help`", bin)
	}
	return installQEMU + ", which has it; or set " + qemu.Variable + " to another QEMU"
}

// sudo looks whether QEMU can be started through it, by doing so.
func sudo(ctx context.Context, h *host, c Config) []Finding {
	if !c.Sudo {
		return ok("not asked for (MANAGER_QEMU_USE_SUDO=false)")
	}
	bin, err := exec.LookPath(c.QEMU)
	if err != nil {
		return fail(err.Error(), "QEMU, to start it through sudo", installQEMU)
	}
	program, err := exec.LookPath("sudo")
	if err != nil {
		return fail("there is no sudo", "sudo (MANAGER_QEMU_USE_SUDO=true)", "apt install sudo; or set MANAGER_QEMU_USE_SUDO=false")
	}
	mend := fmt.Sprintf("echo '%s ALL=(root) NOPASSWD: %s, /usr/bin/kill -KILL *' > /etc/sudoers.d/cocos-manager && chmod 0440 /etc/sudoers.d/cocos-manager", h.user, bin)
	text, err := h.output(ctx, program, "--non-interactive", "--", bin, "--version")
	if err != nil {
		if strings.Contains(text, "no new privileges") {
			mend = "run this outside a unit that sets NoNewPrivileges, and see docs/install.md for the unit's drop-in"
		}
		return fail(fmt.Sprintf("sudo does not start QEMU for user %s: %v: %.200s", h.user, err, strings.TrimSpace(text)), "to start it without a password", mend)
	}
	if _, err := h.output(ctx, program, "--non-interactive", "--list", "kill", "-KILL", "1"); err != nil {
		return fail(fmt.Sprintf("sudo starts %s for user %s, and does not kill it: a VM that hangs, or whose shim is gone, would go on", bin, h.user), "to end it without a password", mend)
	}
	return ok(fmt.Sprintf("sudo starts and kills %s without a password", bin))
}
