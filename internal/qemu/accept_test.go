package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// The checks that a real QEMU makes of a command line. None boots a guest or
// needs KVM.
var checks = map[string]func(ctx context.Context, bin string, h *host, args []string) error{
	"types":     checkTypes,
	"preconfig": checkPreconfig,
	"stopped":   checkStopped,
}

// checkTypes asks a QEMU without a machine for its types, and holds objects,
// devices, networks and block devices against them; objects it also makes.
func checkTypes(ctx context.Context, bin string, h *host, args []string) error {
	bare := []string{
		"-machine", "none", "-S", "-nodefaults", "-display", "none",
		"-qmp", "unix:" + escape(h.dir.QMPSocket()),
	}
	return h.try(ctx, bin, bare, func(ctx context.Context, q *QMP) error {
		s, err := readSchema(ctx, q)
		if err != nil {
			return err
		}
		for _, o := range values(args, "-object") {
			object, err := s.arguments("object-add", o, "qom-type")
			if strings.HasPrefix(o, "{") {
				err = json.Unmarshal([]byte(o), &object) // QEMU judges it as a whole
			}
			if err != nil {
				return err
			}
			if err := q.Execute(ctx, "object-add", object, nil); err != nil {
				return fmt.Errorf("%s: %w", o, err)
			}
		}
		for _, n := range values(args, "-netdev") {
			if _, err := s.arguments("netdev_add", n, "type"); err != nil {
				return err
			}
		}
		for _, b := range values(args, "-blockdev") {
			if _, err := s.arguments("blockdev-add", b, "driver"); err != nil {
				return err
			}
		}
		for _, d := range values(args, "-device") {
			if err := checkDevice(ctx, q, d); err != nil {
				return fmt.Errorf("-device %s: %w", d, err)
			}
		}
		return nil
	})
}

// checkDevice holds a device against its properties.
func checkDevice(ctx context.Context, q *QMP, device string) error {
	n, err := takeApart(device, "driver")
	if err != nil {
		return err
	}
	var properties []struct{ Name, Type string }
	driver := n.members["driver"].text
	if err := q.Execute(ctx, "device-list-properties", map[string]string{"typename": driver}, &properties); err != nil {
		return err
	}
	kinds := map[string]string{"driver": "str", "id": "str", "bus": "str"}
	for _, p := range properties {
		kinds[p.Name] = p.Type
	}
	for _, name := range n.order {
		kind, ok := kinds[name]
		if !ok {
			return fmt.Errorf("%s has no property %s", driver, name)
		}
		text := n.members[name].text
		switch {
		case kind == "bool":
			_, err = scalar("boolean", text)
		case kind == "OnOffAuto" && text != "auto":
			_, err = scalar("boolean", text)
		case strings.HasPrefix(kind, "uint") || strings.HasPrefix(kind, "int") && name != "addr":
			_, err = scalar("int", text)
		}
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, driver, err)
		}
	}
	return nil
}

// checkPreconfig lets QEMU read the whole line and stop before it builds the
// machine.
func checkPreconfig(ctx context.Context, bin string, h *host, args []string) error {
	return h.try(ctx, bin, append(slices.Clone(args), "-preconfig"), prelaunch)
}

// checkStopped lets QEMU build the machine with all that is in it. The kernel's
// vsock is not on every host: there QEMU must get as far as asking for it, and
// build the rest of the machine without.
func checkStopped(ctx context.Context, bin string, h *host, args []string) error {
	args = append(slices.Clone(args), "-S")
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "vhost-vsock-pci,") })
	if i < 0 {
		return h.try(ctx, bin, args, prelaunch)
	}
	device := args[i]
	err := h.try(ctx, bin, args, prelaunch)
	switch given := strings.Contains(device, ",vhostfd="); {
	case given && err == nil:
		return fmt.Errorf("%s takes %s", device, "/dev/null")
	case given && !strings.Contains(err.Error(), "vhost_set_owner failed: Inappropriate ioctl"):
		return err
	case !given && err != nil && !strings.Contains(err.Error(), "/dev/vhost-vsock") && !strings.Contains(err.Error(), "failed to open vhost device"):
		return err
	}
	return h.try(ctx, bin, slices.Delete(args, i-1, i+1), prelaunch)
}

func TestQEMUAccepts(t *testing.T) {
	for _, version := range qemuVersions {
		t.Run(version, func(t *testing.T) {
			bin := emulatorOf(t, version)
			for _, name := range slices.Sorted(maps.Keys(variants)) {
				t.Run(name, func(t *testing.T) {
					h := newHost(t)
					args := h.args(t, variants[name].change)
					for check, f := range checks {
						if err := f(t.Context(), bin, h, args); err != nil {
							t.Errorf("%s: %v", check, err)
						}
					}
				})
			}
		})
	}
}

// A command line that is wrong in one place is refused, by the check named and
// for that reason: so the checks above can fail.
func TestQEMURefuses(t *testing.T) {
	mutations := []struct{ variant, from, to, check, says string }{
		{"user", "memory-backend-memfd,", "memory-backend-memf,", "types", "memory-backend-memf"},
		{"user", ",size=4096M", ",sise=4096M", "types", "size is missing"},
		{"user", ",share=on", ",shared=on", "types", "shared"},
		{"user", ",share=on", ",share=maybe", "types", "maybe"},
		{"user", ",size=4096M", ",size=4096X", "types", "4096X"},
		{"user", "restrict=on", "restrct=on", "types", "restrct"},
		{"user", "restrict=on", "restrict=1M", "types", "1M"},
		{"user", "user,id=vmnic", "usr,id=vmnic", "types", "usr"},
		{"user", "file.locking=off", "file.lock=off", "types", "lock"},
		{"user", "file.locking=off", "file.locking=never", "types", "file"},
		{"user", "node-name=runtime", "nodename=runtime", "types", "nodename"},
		{"scratch", "detect-zeroes=off", "detect-zeros=off", "types", "detect-zeros"},
		{"scratch", "cache.no-flush=on", "cache.noflush=on", "types", "noflush"},
		{"scratch", "werror=report", "werrors=report", "types", "werrors"},
		{"scratch", "serial=cocos-scratch", "serials=cocos-scratch", "types", "serials"},
		{"user", "virtio-net-pci,", "virtio-nt-pci,", "types", "virtio-nt-pci"},
		{"user", "iommu_platform=true", "iommu-platform=true", "types", "iommu-platform"},
		{"user", "iommu_platform=true", "iommu_platform=enabled", "types", "enabled"},
		{"user", "disable-legacy=on", "disable_legacy=on", "types", "disable_legacy"},
		{"user", "disable-legacy=on", "disable-legacy=1", "types", "disable-legacy"},
		{"user", "vhost-user-vsock-pci,", "vhost-usr-vsock-pci,", "types", "vhost-usr-vsock-pci"},
		{"kernel", "guest-cid=42", "guestcid=42", "types", "guestcid"},
		{"kernel", "guest-cid=42", "guest-cid=many", "types", "many"},
		{"kernel", "vhostfd=", "vhost-fd=", "types", "vhost-fd"},
		{"disk", "virtio-scsi-pci,", "virtio-scsy-pci,", "types", "virtio-scsy-pci"},
		{"disk", "scsi-hd,drive=", "scsi-hd,drv=", "types", "drv"},

		{"user", "-nodefaults", "-no-defaults", "preconfig", "no-defaults"},
		{"user", "q35", "q53", "preconfig", "unsupported machine type"},
		{"user", "memory-backend=", "memory-backed=", "preconfig", "memory-backed"},
		{"user", "4,maxcpus=64", "4,maxcpu=64", "preconfig", "maxcpu"},
		{"user", "4,maxcpus=64", "4,maxcpus=3", "preconfig", "maxcpus"},
		{"user", "4096M,slots=5", "4096M,slot=5", "preconfig", "slot"},
		{"user", "guest=", "gest=", "preconfig", "gest"},
		{"user", "obsolete=deny", "obsolet=deny", "preconfig", "obsolet"},
		{"user", "timestamp=on", "timestamp=soon", "preconfig", "timestamp"},
		{"user", "socket,id=vsock,path=", "socket,id=vsock,pth=", "preconfig", "pth"},
		{"user", "chardev:console", "chardev:consl", "preconfig", "consl"},

		{"documented", "if=pflash", "if=pflesh", "preconfig", "pflesh"},
		{"documented", "format=raw,unit=0", "format=rah,unit=0", "preconfig", "rah"},
		{"documented", "readonly=on", "readonly=perhaps", "preconfig", "perhaps"},
		{"documented", "unit=1", "unt=1", "preconfig", "unt"},
		{"documented", "unit=1", "unit=0", "preconfig", "unit=0"},
		{"documented", "OVMF_VARS.fd", "OVMF_VARZ.fd", "preconfig", "OVMF_VARZ.fd"},
		{"documented", "pty", "ptty", "preconfig", "ptty"},
		{"disk", "format=qcow2", "format=qcow3", "preconfig", "qcow3"},
		{"disk", "overlay.qcow2", "underlay.qcow2", "preconfig", "underlay.qcow2"},

		{"tcg", "max", "maximum", "stopped", "maximum"},
		{"user", "EPYC", "EPYC,+sme-v9", "stopped", "sme-v9"},
		{"user", "netdev=vmnic", "netdev=vnic", "stopped", "vnic"},
		{"user", "chardev=vsock", "chardev=vsok", "stopped", "vsok"},
		{"disk", "drive=disk0", "drive=disk1", "stopped", "disk1"},
		{"documented", "unit=1", "unit=2", "stopped", "unit=2"},
		{"scratch", "drive=scratch", "drive=scrtch", "stopped", "scrtch"},
		{"scratch", "scratch.img", "scrtch.img", "preconfig", "scrtch.img"},
		{"scratch", "werror=report", "werror=enospace", "stopped", "enospace"},
		{"user", "drive=runtime", "drive=runtme", "stopped", "runtme"},
		{"user", "bzImage", "bzimage", "stopped", "bzimage"},
		{"user", "rootfs", "rotfs", "stopped", "rotfs"},
		{"kernel", "guest-cid=42", "guest-cid=2", "stopped", "guest-cid property must be greater than 2"},
	}
	for _, version := range qemuVersions {
		t.Run(version, func(t *testing.T) {
			bin := emulatorOf(t, version)
			for _, m := range mutations {
				t.Run(m.to, func(t *testing.T) {
					h := newHost(t)
					args := h.args(t, variants[m.variant].change)
					i := slices.IndexFunc(args, func(a string) bool { return strings.Contains(a, m.from) })
					if i < 0 {
						t.Fatalf("no %s in %q", m.from, args)
					}
					args[i] = strings.Replace(args[i], m.from, m.to, 1)
					err := checks[m.check](t.Context(), bin, h, args)
					if err == nil || !strings.Contains(err.Error(), m.says) {
						t.Errorf("%s: got %v, want a refusal with %q", m.check, err, m.says)
					}
				})
			}
		})
	}
}
