package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestVariablesHaveTheirEffect sets every variable of the VMs and the limits to
// something other than its default, and looks at what comes of it: the Manager's
// configuration, and the command that a run would get.
func TestVariablesHaveTheirEffect(t *testing.T) {
	dir := t.TempDir()
	rom, kernel, rootfs := put(t, dir, "rom", "rom"), put(t, dir, "k", "mine"), put(t, dir, "r", "mine")
	environ := machineEnviron(t,
		"MANAGER_INSTANCE_ID=host-7", "MANAGER_EOS_VERSION=eos-7", "MANAGER_GRPC_TIMEOUT=7s", "MANAGER_CONTROL_GROUP=ops",
		"MANAGER_CONTROL_SOCKET="+filepath.Join(dir, "c.sock"), "MANAGER_HTTP_ADDR=127.0.0.1:9907",
		"MANAGER_BOOT_TIMEOUT=7m", "MANAGER_STOP_GRACE=8500ms", "MANAGER_MAX_TTL=2h", "MANAGER_MAX_VMS=3", "MANAGER_MAX_VCPUS=9",
		"MANAGER_MAX_VM_MEMORY=20G", "MANAGER_MIN_FREE_DISK=2G", "MANAGER_SCRATCH_MAX=40G", "MANAGER_EGRESS=on", "MANAGER_EGRESS_ALLOW=10.1.0.0/16, minio.corp.example:9000",
		"MANAGER_QEMU_CPU=EPYC-Rome", "MANAGER_QEMU_SMP_COUNT=3", "MANAGER_QEMU_SMP_MAXCPUS=12", "MANAGER_QEMU_MEM_ID=mem7",
		"MANAGER_QEMU_MEMORY_SIZE=3G", "MANAGER_QEMU_MEMORY_SLOTS=2", "MANAGER_QEMU_MAX_MEMORY=9G", "MANAGER_QEMU_NO_GRAPHIC=false",
		"MANAGER_QEMU_MONITOR=none", "MANAGER_QEMU_VSOCK_ID=vs9", "MANAGER_QEMU_VSOCK_GUEST_CID=77", "MANAGER_QEMU_USE_SUDO=true",
		"MANAGER_QEMU_NETDEV_ID=nic9", "MANAGER_QEMU_HOST_FWD_AGENT=0", "MANAGER_QEMU_HOST_FWD_RANGE=16555-16556",
		"MANAGER_QEMU_HOST_FWD_ADDR=127.0.0.1", "MANAGER_QEMU_GUEST_FWD_AGENT=7099", "MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY=off",
		"MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM=false", "MANAGER_QEMU_VIRTIO_NET_PCI_ADDR=0x7", "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE="+rom,
		"MANAGER_QEMU_DISK_IMG_KERNEL_FILE="+kernel, "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE="+rootfs)
	s, err := parse(environ)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := configure(t.Context(), s, discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.InstanceID != "host-7" || cfg.EOSVersion != "eos-7" || cfg.Server.Address != "127.0.0.1:1" || cfg.Server.Timeout != 7*time.Second ||
		cfg.ControlGroup != "ops" || cfg.ControlSocket != filepath.Join(dir, "c.sock") || cfg.HTTPAddr != "127.0.0.1:9907" {
		t.Errorf("the Manager: %+v", cfg)
	}
	if want := (manager.Limits{MaxVMs: 3, MaxMemoryMiB: 20 << 10, MaxVCPUs: 9, MinFreeDisk: 2 << 30, MaxScratch: 40 << 30, MaxLife: 2 * time.Hour}); cfg.Host.Limits != want {
		t.Errorf("limits %+v, want %+v", cfg.Host.Limits, want)
	}
	if e := cfg.Host.Egress; e == nil || !slices.Equal(e.Allow, []string{"10.1.0.0/16", "minio.corp.example:9000"}) {
		t.Errorf("connections out: %+v", e)
	}
	m := cfg.Host.Machine
	if want := (vm.Limits{Ready: 7 * 60, Stop: 9}); m.Limits != want || m.Vsock.GuestCID != 77 || m.Memory.ID != "mem7" || !m.Sudo {
		t.Errorf("the machine: %+v", m)
	}
	argv, err := manager.SampleCommand(cfg.Host, cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	line := qemu.Shell(argv)
	for _, want := range []string{
		"sudo --non-interactive -- " + m.QEMU + " ",
		" -cpu EPYC-Rome -smp 3,maxcpus=12 -m 3072M,slots=2,maxmem=9G ",
		" memory-backend-memfd,id=mem7,", " -machine memory-backend=mem7 ",
		" user,id=nic9,hostfwd=tcp:127.0.0.1:16555-:7099,",
		" virtio-net-pci,disable-legacy=off,iommu_platform=false,netdev=nic9,addr=0x7,romfile=" + rom + " ",
		" vhost-user-vsock-pci,id=vs9,",
		" -kernel " + kernel + " ", " -initrd " + rootfs + " ",
		" -vga std ", " -monitor none",
	} {
		if !strings.Contains(line+" ", want) {
			t.Errorf("%q is not in\n%s", want, line)
		}
	}
}

// TestScratchOfTheHost is the limit of all scratch disks where nothing is set: half
// of the file system, also of a folder that is yet to be made.
func TestScratchOfTheHost(t *testing.T) {
	var fs unix.Statfs_t
	dir := t.TempDir()
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	half := int64(fs.Blocks) * fs.Bsize / 2 >> 20 << 20
	for entry, want := range map[string]int64{"": half, "MANAGER_SCRATCH_MAX=auto": half, "MANAGER_SCRATCH_MAX=none": manager.NoLimit, "MANAGER_SCRATCH_MAX=0": 0, "MANAGER_SCRATCH_MAX=1G": 1 << 30} {
		s, err := parse(machineEnviron(t, entry, "MANAGER_STATE_DIR="+filepath.Join(dir, "a", "b")))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := configure(t.Context(), s, discard)
		if err != nil || cfg.Host.Limits.MaxScratch != want || half == 0 {
			t.Errorf("%q: %d bytes, want %d, %v", entry, cfg.Host.Limits.MaxScratch, want, err)
		}
	}
	if _, err := halfOfDisk(filepath.Join(put(t, dir, "file", "x"), "below")); err == nil {
		t.Error("a folder below a file has a size")
	}
}

// TestMemoryOfTheHost is the limit of all VMs where nothing is set.
func TestMemoryOfTheHost(t *testing.T) {
	most, err := hostMemory()
	if err != nil {
		t.Fatal(err)
	}
	for entry, want := range map[string]int{"": most, "MANAGER_MAX_VM_MEMORY=auto": most, "MANAGER_MAX_VM_MEMORY=none": 0} {
		s, err := parse(machineEnviron(t, entry))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := configure(t.Context(), s, discard)
		if err != nil || cfg.Host.Limits.MaxMemoryMiB != want {
			t.Errorf("%q: %d MiB, want %d, %v", entry, cfg.Host.Limits.MaxMemoryMiB, want, err)
		}
	}
}
