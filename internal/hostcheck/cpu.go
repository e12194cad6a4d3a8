package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// cpuFlags are the vendor and the flags of the first CPU.
func (h *host) cpuFlags() (vendor string, virtualises bool) {
	b, err := readFile(h.path("proc/cpuinfo"))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		switch strings.TrimSpace(name) {
		case "vendor_id":
			vendor = strings.TrimSpace(value)
		case "flags":
			for f := range strings.FieldsSeq(value) {
				virtualises = virtualises || f == "svm" || f == "vmx"
			}
			return vendor, virtualises
		}
	}
	return vendor, false
}

func kvmModule(vendor string) string {
	if vendor == "AuthenticAMD" || vendor == "HygonGenuine" {
		return "kvm_amd"
	}
	return "kvm_intel"
}

const kvmDevice = "dev/kvm"

// kvm looks at what hardware virtualisation needs, from the CPU up to a guest.
func kvm(ctx context.Context, h *host, c Config) []Finding {
	if c.KVM == "false" {
		return info("switched off by MANAGER_QEMU_ENABLE_KVM=false: VMs are emulated, which is slow")
	}
	// With auto the Manager falls back to emulation.
	lacks := func(found, needed, mend string) []Finding {
		if k := c.TEE.Kind; k != "" && k != vm.Simulated {
			return fail(found, needed+", for "+c.TEE.Switch, mend)
		}
		if c.KVM == "true" {
			return fail(found, needed, mend+"; or set MANAGER_QEMU_ENABLE_KVM=auto to emulate instead")
		}
		return warn(found+": VMs are emulated, which is slow", needed, mend)
	}
	vendor, virtualises := h.cpuFlags()
	if !virtualises {
		return lacks("the CPU offers neither svm nor vmx", "one of them in /proc/cpuinfo",
			"switch virtualisation (SVM or VT-x) on in the firmware's setup; if this host is itself a VM, nested virtualisation on its host")
	}
	switch err := h.open(h.path(kvmDevice), os.O_RDWR); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return lacks("there is no /dev/kvm", "the module of KVM", h.loadModule(kvmModule(vendor)))
	case errors.Is(err, fs.ErrPermission):
		return lacks(fmt.Sprintf("user %s may not open /dev/kvm", h.user), "permission to read and write it", h.mayOpen(kvmDevice))
	case err != nil:
		return lacks(fmt.Sprintf("/dev/kvm does not open: %v", err), "the module of KVM", "look at the kernel's log: dmesg | grep -i kvm")
	}
	usable, reason := h.guest(ctx, c.QEMU)
	if !usable {
		return lacks(reason, "a test guest that answers", "look at the kernel's log (dmesg | grep -i kvm), and at the row qemu")
	}
	return ok("/dev/kvm opens and a test guest ran under it")
}

// emulates tells whether VMs will surely be emulated.
func (h *host) emulates(c Config) bool {
	if c.KVM == "false" {
		return true
	}
	_, virtualises := h.cpuFlags()
	return !virtualises || h.open(h.path(kvmDevice), os.O_RDWR) != nil
}

// vsockWay looks at the host's side of the guests' vsock.
func vsockWay(_ context.Context, h *host, c Config) []Finding {
	if c.Vsock == "user" {
		return ok("the device built into the shim is used (MANAGER_QEMU_VSOCK=user)")
	}
	err := h.kernelVsock()
	if err == nil {
		return ok("the kernel's /dev/vhost-vsock opens")
	}
	var found, mend string
	switch {
	case errors.Is(err, fs.ErrPermission):
		found, mend = fmt.Sprintf("user %s may not open /dev/vhost-vsock", h.user), h.mayOpen("dev/vhost-vsock")
	case errors.Is(err, unix.EAFNOSUPPORT):
		found, mend = "the kernel has no vsock sockets", h.loadModule("vsock")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		found, mend = "there is no /dev/vhost-vsock", h.loadModule("vhost_vsock")
	default:
		found, mend = err.Error(), "look at the kernel's log: dmesg | grep -i vsock"
	}
	if c.Vsock == "kernel" {
		return fail(found, "the kernel's vsock (MANAGER_QEMU_VSOCK=kernel)", mend+"; or set MANAGER_QEMU_VSOCK=auto")
	}
	return ok("the device built into the shim is used, as " + found)
}
