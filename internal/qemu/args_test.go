package qemu

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

const testDir = vm.Dir("/var/lib/cocos/vms/6f1c3f6e-0a57-4a1e-9d3b-0d6c5c1b2a3f")

func testSpec() vm.Spec {
	m := vm.Emulated()
	m.QEMU, m.Accel, m.CPU, m.VCPUs, m.MaxVCPUs, m.Runtime = "/usr/bin/qemu-system-x86_64", vm.AccelKVM, "EPYC", 4, 64, "/img/python.img"
	m.Memory.MiB, m.Memory.Slots, m.Memory.MaxMiB = 4096, 5, 30<<10
	m.Boot = vm.Boot{Kernel: "/img/bzImage", Initrd: "/img/rootfs.cpio.gz", CommandLine: "console=ttyS0 quiet panic=-1"}
	m.Net.Forward = netip.MustParseAddrPort("127.0.0.1:6100")
	return vm.Spec{
		RunID:   "6f1c3f6e-0a57-4a1e-9d3b-0d6c5c1b2a3f",
		Agent:   vm.AgentConfig{Port: vm.AgentPort, Address: DefaultAddress, Gateway: DefaultGateway},
		Machine: m,
	}
}

// variants are the command lines that golden files hold.
var variants = map[string]struct {
	dir    vm.Dir
	change func(*vm.Spec)
}{
	"user":   {testDir, func(*vm.Spec) {}},
	"kernel": {testDir, func(s *vm.Spec) { s.Machine.Vsock.Way, s.Machine.Vsock.GuestCID = vm.VsockKernel, 42 }},
	"tcg": {testDir, func(s *vm.Spec) {
		s.Machine.Accel, s.Machine.CPU, s.Machine.VCPUs, s.Machine.Runtime = vm.AccelTCG, "max", 1, ""
	}},
	"everywhere": {testDir, func(s *vm.Spec) { s.Machine.Net.Forward = netip.MustParseAddrPort("0.0.0.0:7020") }},
	"network": {testDir, func(s *vm.Spec) {
		s.Agent.Address, s.Agent.Gateway = netip.MustParsePrefix("192.168.76.9/24"), netip.MustParseAddr("192.168.76.1")
	}},
	"commas": {"/state, one/vms/run", func(s *vm.Spec) {
		s.RunID, s.Machine.Boot.Kernel, s.Machine.Runtime = "a,b", "/img,1/bzImage", "/img,1/python.img"
		s.Machine.Boot.CommandLine = "console=ttyS0,115200 x=1,2"
	}},
	"documented": {testDir, func(s *vm.Spec) {
		m := &s.Machine
		m.Boot.Firmware, m.Runtime, m.Monitor = ovmf(""), "", vm.MonitorPTY
		m.Vsock.Way, m.Net.Forward = vm.VsockKernel, netip.MustParseAddrPort("0.0.0.0:7020")
	}},
	"disk": {testDir, func(s *vm.Spec) {
		s.Machine.Boot = vm.Boot{Firmware: ovmf("_4M"), Disk: &vm.Disk{Interface: "none", ID: "disk0", Format: vm.DiskQcow2, Image: "/img/disk.qcow2"}}
	}},
	"without-variables": {testDir, func(s *vm.Spec) {
		f := ovmf("_4M")
		f.Vars = vm.Flash{}
		s.Machine.Boot.Firmware = f
	}},
	"sudo": {testDir, func(s *vm.Spec) { s.Machine.Sudo, s.Machine.Vsock.Way = true, vm.VsockKernel }},
	"net": {testDir, func(s *vm.Spec) {
		n := &s.Machine.Net
		n.ID, n.DisableLegacy, n.IOMMUPlatform, n.Addr, n.ROMFile = "nic.1", false, false, "0x1e", "/img,1/efi-virtio.rom"
	}},
	"scratch":   {testDir, func(s *vm.Spec) { s.Machine.ScratchBytes = 64 << 30 }},
	"graphic":   {testDir, func(s *vm.Spec) { s.Machine.NoGraphic = false }},
	"no-slots":  {testDir, func(s *vm.Spec) { s.Machine.Memory.Slots, s.Machine.Memory.MaxMiB = 0, 0 }},
	"odd-sizes": {testDir, func(s *vm.Spec) { s.Machine.Memory.MiB, s.Machine.Memory.MaxMiB = 1500, 3001 }},
}

// ovmf is Debian's, of 2 MiB, or of 4 with "_4M".
func ovmf(size string) *vm.Firmware {
	return &vm.Firmware{
		Code: vm.Flash{Interface: "pflash", Format: vm.DiskRaw, Unit: 0, File: "/usr/share/OVMF/OVMF_CODE" + size + ".fd", ReadOnly: true},
		Vars: vm.Flash{Interface: "pflash", Format: vm.DiskRaw, Unit: 1, File: "/usr/share/OVMF/OVMF_VARS" + size + ".fd"},
	}
}

func TestArgs(t *testing.T) {
	for name, v := range variants {
		t.Run(name, func(t *testing.T) { golden(t, name, v.dir, v.change) })
	}
}

// golden compares a variant's command line with testdata.
func golden(t *testing.T, name string, dir vm.Dir, change func(*vm.Spec)) {
	t.Helper()
	spec := testSpec()
	change(&spec)
	args := Args(spec, dir)
	if again := Args(spec, dir); !slices.Equal(args, again) {
		t.Error("the same specification gives another command line")
	}
	got := lines(args)
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update, after a look at it):\n%s", file, got)
	}
}

// lines puts each option with its value on a line.
func lines(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String() + "\n"
}

// What the documentation shows stands as it stands there.
func TestDocumentedCommandLine(t *testing.T) {
	spec := testSpec()
	variants["documented"].change(&spec)
	line := strings.Join(CommandLine(spec, testDir), " ")
	for _, part := range []string{
		"-enable-kvm -machine q35 -cpu EPYC -smp 4,maxcpus=64 -m 4096M,slots=5,maxmem=30G ",
		" -drive if=pflash,format=raw,unit=0,file=/usr/share/OVMF/OVMF_CODE.fd,readonly=on ",
		" -drive if=pflash,format=raw,unit=1,file=" + testDir.Vars() + " ",
		" -netdev user,id=vmnic,hostfwd=tcp::7020-:7002",
		" -device virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=vmnic,romfile= ",
		" -device vhost-vsock-pci,id=vhost-vsock-pci0,guest-cid=3",
		" -kernel /img/bzImage -append console=ttyS0 quiet panic=-1 -initrd /img/rootfs.cpio.gz ",
		" -nographic -monitor pty",
	} {
		if strings.Count(line+" ", part) != 1 {
			t.Errorf("%q is not once in\n%s", part, line)
		}
	}
	if strings.Contains(line, "OVMF_VARS.fd") && !strings.Contains(line, testDir.Vars()) || strings.Contains(line, "/usr/share/OVMF/OVMF_VARS") {
		t.Errorf("the variables are not the VM's own in\n%s", line)
	}
	spec.Machine.ScratchBytes = 1 << 20
	line = strings.Join(CommandLine(spec, testDir), " ")
	for _, part := range []string{
		" -blockdev driver=raw,node-name=scratch,", ",cache.no-flush=on,", ",file.filename=" + testDir.Scratch() + " ",
		" -device virtio-blk-pci,drive=scratch,serial=cocos-scratch,", ",werror=report,rerror=report ",
	} {
		if strings.Count(line+" ", part) != 1 {
			t.Errorf("%q is not once in\n%s", part, line)
		}
	}
	variants["disk"].change(&spec)
	line = strings.Join(CommandLine(spec, testDir), " ")
	want := " -device virtio-scsi-pci,id=scsi,disable-legacy=on,iommu_platform=true -drive file=" + testDir.Overlay() + ",if=none,id=disk0,format=qcow2 -device scsi-hd,drive=disk0 "
	if strings.Count(line, want) != 1 || strings.Contains(line, "-kernel") || strings.Contains(line, "disk.qcow2") {
		t.Errorf("%q is not once in\n%s", want, line)
	}
}

func TestCommandLine(t *testing.T) {
	spec := testSpec()
	spec.Machine.Vsock.Way = vm.VsockKernel
	if got := CommandLine(spec, testDir); got[0] != spec.Machine.QEMU || !slices.Equal(got[1:], Args(spec, testDir)) || !strings.Contains(strings.Join(got, " "), ",vhostfd=3") {
		t.Errorf("got %q", got)
	}
	spec.Machine.Sudo = true
	got := CommandLine(spec, testDir)
	if !slices.Equal(got[:4], []string{"sudo", "--non-interactive", "--", spec.Machine.QEMU}) || !slices.Equal(got[4:], Args(spec, testDir)) {
		t.Errorf("through sudo: %q", got)
	}
	if strings.Contains(strings.Join(got, " "), "vhostfd") {
		t.Error("sudo passes no descriptor on, yet the line names one")
	}
}
