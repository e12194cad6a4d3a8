package qemu

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestValidate(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	empty := filepath.Join(folder, "empty")
	overlay := filepath.Join(folder, "overlay.qcow2")
	for name, content := range map[string]string{file: strings.Repeat("x", 512), empty: ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := qcow2.CreateOverlay(overlay, file, vm.DiskRaw); err != nil {
		t.Fatal(err)
	}
	good := func() vm.Spec {
		s := testSpec()
		s.Machine.Boot.Kernel, s.Machine.Boot.Initrd, s.Machine.Runtime = file, file, file
		s.Machine.Boot.Firmware = ovmf("")
		s.Machine.Boot.Firmware.Code.File, s.Machine.Boot.Firmware.Vars.File = file, file
		return s
	}
	bootDisk := func(s *vm.Spec) *vm.Disk {
		s.Machine.Boot.Kernel, s.Machine.Boot.Initrd, s.Machine.Boot.CommandLine = "", "", ""
		s.Machine.Boot.Disk = &vm.Disk{Interface: "none", ID: "disk0", Format: vm.DiskRaw, Image: file}
		return s.Machine.Boot.Disk
	}
	for name, change := range map[string]func(*vm.Spec){
		"as it is":          func(*vm.Spec) {},
		"no variables":      func(s *vm.Spec) { s.Machine.Boot.Firmware.Vars = vm.Flash{} },
		"a disk":            func(s *vm.Spec) { bootDisk(s) },
		"no firmware":       func(s *vm.Spec) { s.Machine.Boot.Firmware = nil },
		"no room":           func(s *vm.Spec) { s.Machine.Memory.Slots, s.Machine.Memory.MaxMiB = 0, 0 },
		"an address":        func(s *vm.Spec) { s.Machine.Net.Addr = "1f.7" },
		"a ROM":             func(s *vm.Spec) { s.Machine.Net.ROMFile = file },
		"a terminal":        func(s *vm.Spec) { s.Machine.Monitor = vm.MonitorPTY },
		"as many vCPUs":     func(s *vm.Spec) { s.Machine.MaxVCPUs = s.Machine.VCPUs },
		"no runtime":        func(s *vm.Spec) { s.Machine.Runtime = "" },
		"a scratch disk":    func(s *vm.Spec) { s.Machine.ScratchBytes = 1 << 30 },
		"a screen and sudo": func(s *vm.Spec) { s.Machine.NoGraphic, s.Machine.Sudo = false, true },
	} {
		s := good()
		change(&s)
		if err := Validate(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		path   string
		change func(*vm.Spec)
	}{
		"no run":            {"run_id", func(s *vm.Spec) { s.RunID = "" }},
		"a run with lines":  {"run_id", func(s *vm.Spec) { s.RunID = "a\nb" }},
		"no port":           {"agent.port", func(s *vm.Spec) { s.Agent.Port = 0 }},
		"no address":        {"agent.address", func(s *vm.Spec) { s.Agent.Address = netip.Prefix{} }},
		"an IPv6 address":   {"agent.address", func(s *vm.Spec) { s.Agent.Address = netip.MustParsePrefix("fd00::2/64") }},
		"no gateway":        {"agent.gateway", func(s *vm.Spec) { s.Agent.Gateway = netip.Addr{} }},
		"a far gateway":     {"agent.gateway", func(s *vm.Spec) { s.Agent.Gateway = netip.MustParseAddr("10.0.3.2") }},
		"its own gateway":   {"agent.gateway", func(s *vm.Spec) { s.Agent.Gateway = s.Agent.Address.Addr() }},
		"no QEMU":           {"machine.qemu", func(s *vm.Spec) { s.Machine.QEMU = "" }},
		"no accelerator":    {"machine.accel", func(s *vm.Spec) { s.Machine.Accel = "xen" }},
		"no CPU":            {"machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "" }},
		"no vCPU":           {"machine.vcpus", func(s *vm.Spec) { s.Machine.VCPUs = 0 }},
		"too many vCPUs":    {"machine.vcpus", func(s *vm.Spec) { s.Machine.VCPUs = 4097 }},
		"little memory":     {"machine.memory.mib", func(s *vm.Spec) { s.Machine.Memory.MiB = 127 }},
		"much memory":       {"machine.memory.mib", func(s *vm.Spec) { s.Machine.Memory.MiB = 1 << 30 }},
		"no kernel":         {"machine.boot.kernel", func(s *vm.Spec) { s.Machine.Boot.Kernel = "" }},
		"a missing kernel":  {"machine.boot.kernel", func(s *vm.Spec) { s.Machine.Boot.Kernel = file + "x" }},
		"a folder":          {"machine.boot.initrd", func(s *vm.Spec) { s.Machine.Boot.Initrd = folder }},
		"an empty disk":     {"machine.runtime", func(s *vm.Spec) { s.Machine.Runtime = empty }},
		"a long line":       {"machine.boot.command_line", func(s *vm.Spec) { s.Machine.Boot.CommandLine = strings.Repeat("x", 2048) }},
		"a NUL":             {"machine.boot.command_line", func(s *vm.Spec) { s.Machine.Boot.CommandLine = "a\x00b" }},
		"no forward":        {"machine.net.forward", func(s *vm.Spec) { s.Machine.Net.Forward = netip.AddrPort{} }},
		"forward from IPv6": {"machine.net.forward", func(s *vm.Spec) { s.Machine.Net.Forward = netip.MustParseAddrPort("[::1]:7020") }},
		"forward of port 0": {"machine.net.forward", func(s *vm.Spec) { s.Machine.Net.Forward = netip.MustParseAddrPort("127.0.0.1:0") }},
		"no way":            {"machine.vsock.way", func(s *vm.Spec) { s.Machine.Vsock.Way = "" }},
		"the host's CID":    {"machine.vsock.guest_cid", func(s *vm.Spec) { s.Machine.Vsock.GuestCID = 2 }},
		"two lines of run":  {"run_id", func(s *vm.Spec) { s.RunID = "a\rb" }},
		"no type":           {"machine.type", func(s *vm.Spec) { s.Machine.Type = "" }},
		"a type with lines": {"machine.type", func(s *vm.Spec) { s.Machine.Type = "q35\n" }},
		"a CPU with a NUL":  {"machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "max\x00" }},
		"no more vCPUs":     {"machine.max_vcpus", func(s *vm.Spec) { s.Machine.MaxVCPUs = 0 }},
		"fewer vCPUs":       {"machine.max_vcpus", func(s *vm.Spec) { s.Machine.MaxVCPUs = 3 }},
		"far more vCPUs":    {"machine.max_vcpus", func(s *vm.Spec) { s.Machine.MaxVCPUs = 4097 }},
		"slots for nothing": {"machine.memory.max_mib", func(s *vm.Spec) { s.Machine.Memory.MaxMiB = 0 }},
		"slots, no room":    {"machine.memory.max_mib", func(s *vm.Spec) { s.Machine.Memory.MaxMiB = 4096 }},
		"too much room":     {"machine.memory.max_mib", func(s *vm.Spec) { s.Machine.Memory.MaxMiB = 16<<20 + 1 }},
		"room, no slots":    {"machine.memory.slots", func(s *vm.Spec) { s.Machine.Memory.Slots = 0 }},
		"-1 slots":          {"machine.memory.slots", func(s *vm.Spec) { s.Machine.Memory.Slots = -1 }},
		"many slots":        {"machine.memory.slots", func(s *vm.Spec) { s.Machine.Memory.Slots = 257 }},
		"no memory's id":    {"machine.memory.id", func(s *vm.Spec) { s.Machine.Memory.ID = "" }},
		"a digit first":     {"machine.memory.id", func(s *vm.Spec) { s.Machine.Memory.ID = "1ram" }},
		"a comma in an id":  {"machine.net.id", func(s *vm.Spec) { s.Machine.Net.ID = "nic,restrict=off" }},
		"a line in an id":   {"machine.net.id", func(s *vm.Spec) { s.Machine.Net.ID = "nic\n" }},
		"no vsock's id":     {"machine.vsock.id", func(s *vm.Spec) { s.Machine.Vsock.ID = "" }},
		"the disk's bus":    {"machine.vsock.id", func(s *vm.Spec) { s.Machine.Vsock.ID = "scsi" }},
		"no monitor":        {"machine.monitor", func(s *vm.Spec) { s.Machine.Monitor = "" }},
		"a monitor in TCP":  {"machine.monitor", func(s *vm.Spec) { s.Machine.Monitor = "tcp::4444,server" }},
		"an address's bus":  {"machine.net.addr", func(s *vm.Spec) { s.Machine.Net.Addr = "00:02.0" }},
		"a high slot":       {"machine.net.addr", func(s *vm.Spec) { s.Machine.Net.Addr = "0x20" }},
		"a high function":   {"machine.net.addr", func(s *vm.Spec) { s.Machine.Net.Addr = "0x2.8" }},
		"another option":    {"machine.net.addr", func(s *vm.Spec) { s.Machine.Net.Addr = "2,romfile=x" }},
		"a missing ROM":     {"machine.net.rom_file", func(s *vm.Spec) { s.Machine.Net.ROMFile = file + "x" }},
		"an IDE flash":      {"machine.boot.firmware.code.if", func(s *vm.Spec) { s.Machine.Boot.Firmware.Code.Interface = "ide" }},
		"flash of VMDK":     {"machine.boot.firmware.code.format", func(s *vm.Spec) { s.Machine.Boot.Firmware.Code.Format = "vmdk" }},
		"the second flash":  {"machine.boot.firmware.code.unit", func(s *vm.Spec) { s.Machine.Boot.Firmware.Code.Unit = 1 }},
		"no firmware file":  {"machine.boot.firmware.code.file", func(s *vm.Spec) { s.Machine.Boot.Firmware.Code.File = "" }},
		"missing firmware":  {"machine.boot.firmware.code.file", func(s *vm.Spec) { s.Machine.Boot.Firmware.Code.File = file + "x" }},
		"shared to write":   {"machine.boot.firmware.code.read_only", func(s *vm.Spec) { s.Machine.Boot.Firmware.Code.ReadOnly = false }},
		"variables as CODE": {"machine.boot.firmware.vars.unit", func(s *vm.Spec) { s.Machine.Boot.Firmware.Vars.Unit = 0 }},
		"variables' bus":    {"machine.boot.firmware.vars.if", func(s *vm.Spec) { s.Machine.Boot.Firmware.Vars.Interface = "" }},
		"variables' format": {"machine.boot.firmware.vars.format", func(s *vm.Spec) { s.Machine.Boot.Firmware.Vars.Format = "" }},
		"no such variables": {"machine.boot.firmware.vars.file", func(s *vm.Spec) { s.Machine.Boot.Firmware.Vars.File = empty }},
		"a disk on a bus":   {"machine.boot.disk.if", func(s *vm.Spec) { bootDisk(s).Interface = "virtio" }},
		"a disk's id":       {"machine.boot.disk.id", func(s *vm.Spec) { bootDisk(s).ID = "disk 0" }},
		"the other disk":    {"machine.boot.disk.id", func(s *vm.Spec) { bootDisk(s).ID = "runtime" }},
		"the scratch disk":  {"machine.boot.disk.id", func(s *vm.Spec) { bootDisk(s).ID = "scratch" }},
		"half a block":      {"machine.scratch_bytes", func(s *vm.Spec) { s.Machine.ScratchBytes = 2048 }},
		"less than nothing": {"machine.scratch_bytes", func(s *vm.Spec) { s.Machine.ScratchBytes = -4096 }},
		"too much scratch":  {"machine.scratch_bytes", func(s *vm.Spec) { s.Machine.ScratchBytes = 1<<50 + 4096 }},
		"a disk of VMDK":    {"machine.boot.disk.format", func(s *vm.Spec) { bootDisk(s).Format = "vmdk" }},
		"no image":          {"machine.boot.disk.image", func(s *vm.Spec) { bootDisk(s).Image = "" }},
		"a raw qcow2":       {"machine.boot.disk.image", func(s *vm.Spec) { bootDisk(s).Format = vm.DiskQcow2 }},
		"an image on one": {"machine.boot.disk.image", func(s *vm.Spec) {
			d := bootDisk(s)
			d.Format, d.Image = vm.DiskQcow2, overlay
		}},
		"a disk and BIOS": {"machine.boot.firmware", func(s *vm.Spec) { bootDisk(s); s.Machine.Boot.Firmware = nil }},
		"disk and kernel": {"machine.boot.kernel", func(s *vm.Spec) { bootDisk(s); s.Machine.Boot.Kernel = file }},
		"disk and initrd": {"machine.boot.initrd", func(s *vm.Spec) { bootDisk(s); s.Machine.Boot.Initrd = file }},
		"disk and a line": {"machine.boot.command_line", func(s *vm.Spec) { bootDisk(s); s.Machine.Boot.CommandLine = "quiet" }},
		"any CID":         {"machine.vsock.guest_cid", func(s *vm.Spec) { s.Machine.Vsock.GuestCID = 1<<32 - 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			c.change(&s)
			err := Validate(s)
			if err == nil || !strings.HasPrefix(err.Error(), c.path+": ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one fault of %s", err, c.path)
			}
		})
	}
	all := Validate(vm.Spec{})
	for _, path := range []string{"run_id", "agent.port", "agent.address", "machine.qemu", "machine.accel", "machine.type", "machine.cpu", "machine.vcpus", "machine.max_vcpus",
		"machine.memory.mib", "machine.memory.id", "machine.monitor", "machine.net.id", "machine.vsock.id", "machine.boot.kernel", "machine.boot.initrd", "machine.net.forward", "machine.vsock.way", "machine.vsock.guest_cid"} {
		if !strings.Contains(all.Error(), path+": ") {
			t.Errorf("an empty specification: no word of %s in\n%v", path, all)
		}
	}
}
