package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// setBy names the variable that sets a part of a VM's specification, by the
// part's path.
var setBy = map[string]string{
	"machine.cpu":                     "MANAGER_QEMU_CPU",
	"machine.vcpus":                   "MANAGER_QEMU_SMP_COUNT",
	"machine.max_vcpus":               "MANAGER_QEMU_SMP_MAXCPUS",
	"machine.memory.id":               "MANAGER_QEMU_MEM_ID",
	"machine.memory.mib":              "MANAGER_QEMU_MEMORY_SIZE",
	"machine.memory.slots":            "MANAGER_QEMU_MEMORY_SLOTS",
	"machine.memory.max_mib":          "MANAGER_QEMU_MAX_MEMORY",
	"machine.no_graphic":              "MANAGER_QEMU_NO_GRAPHIC",
	"machine.accel":                   "MANAGER_QEMU_ENABLE_KVM",
	"machine.tee.cbitpos":             "MANAGER_QEMU_SEV_CBITPOS",
	"machine.tee.reduced_phys_bits":   "MANAGER_QEMU_SEV_REDUCED_PHYS_BITS",
	"machine.tee.quote_service":       "MANAGER_QEMU_TDX_QUOTE_SERVICE",
	"machine.tee.epc_mib":             "MANAGER_QEMU_SGX_EPC_SIZE",
	"machine.boot.bios":               biosVar,
	"machine.net.id":                  "MANAGER_QEMU_NETDEV_ID",
	"machine.net.disable_legacy":      "MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY",
	"machine.net.iommu_platform":      "MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM",
	"machine.net.addr":                "MANAGER_QEMU_VIRTIO_NET_PCI_ADDR",
	"machine.net.rom_file":            "MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE",
	"machine.vsock.id":                "MANAGER_QEMU_VSOCK_ID",
	"machine.vsock.guest_cid":         "MANAGER_QEMU_VSOCK_GUEST_CID",
	"machine.boot.kernel":             "MANAGER_QEMU_DISK_IMG_KERNEL_FILE",
	"machine.boot.initrd":             "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE",
	"machine.boot.disk.id":            "MANAGER_QEMU_DISK_IMG_ID",
	"machine.boot.disk.image":         "MANAGER_QEMU_DISK_IMG_FILE",
	"machine.boot.firmware.code.file": "MANAGER_QEMU_OVMF_CODE_FILE",
	"machine.boot.firmware.vars.file": "MANAGER_QEMU_OVMF_VARS_FILE",
}

// machineFaults finds what would keep QEMU from taking a VM of this host, as
// long as nothing runs: a run request could only be refused. Each fault names
// its variable.
func machineFaults(host manager.Host, stateDir string) (faults []error) {
	_, err := manager.SampleCommand(host, stateDir)
	if err == nil {
		return nil
	}
	var several interface{ Unwrap() []error }
	if !errors.As(err, &several) {
		return []error{err}
	}
	for _, fault := range several.Unwrap() {
		path, text, _ := strings.Cut(fault.Error(), ": ")
		if name := variableOf(path, host.Machine.TEE); name != "" {
			fault = fmt.Errorf("%s: %s", name, text)
		}
		faults = append(faults, fault)
	}
	return faults
}

// variableOf names the variable of a part; the object's id and the policy have
// another one for each vendor or kind.
func variableOf(path string, tee *vm.TEE) string {
	switch {
	case tee == nil:
	case path == "machine.tee.id" && tee.Kind == vm.TDX:
		return "MANAGER_QEMU_TDX_ID"
	case path == "machine.tee.id":
		return "MANAGER_QEMU_SEV_ID"
	case path == "machine.tee.policy" && tee.Kind == vm.SEVSNP:
		return "MANAGER_QEMU_SNP_POLICY"
	case path == "machine.tee.policy":
		return "MANAGER_QEMU_SEV_POLICY"
	}
	return setBy[path]
}

// ownAddress refuses an address that is not this host's: no VM could listen on
// it.
func ownAddress(addr netip.Addr) error {
	l, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("MANAGER_QEMU_HOST_FWD_ADDR=%q is no address of this host; expected 0.0.0.0, or one of `ip -br -4 addr`", addr)
	}
	if err != nil {
		return fmt.Errorf("MANAGER_QEMU_HOST_FWD_ADDR=%q: %w", addr, err)
	}
	return l.Close()
}

// settingFaults are those of machineFaults that are found without a look at
// the host, and that nothing else looks for.
func settingFaults(s settings, firmware *vm.Firmware) (faults []error) {
	m := s.machine
	m.Net.ROMFile = absolute(m.Net.ROMFile)
	s.teeDefaults(&m)
	m.TEE = s.machineTEE("/")
	m.Boot.Firmware, m.Boot.BIOS = firmware, s.tee.bios
	if s.disk.Image != "" {
		m.Boot.Disk = &s.disk
	}
	looked := map[string]bool{"SMP_COUNT": true, "SMP_MAXCPUS": true, "MEMORY_SIZE": true, "MAX_MEMORY": true, // by sized
		"ENABLE_KVM": true, "BIOS_FILE": true, "DISK_IMG_KERNEL_FILE": true, "DISK_IMG_ROOTFS_FILE": true, "DISK_IMG_FILE": true, "OVMF_CODE_FILE": true, "OVMF_VARS_FILE": true} // by probes
	for _, fault := range machineFaults(manager.Host{Machine: m, Forward: s.forward, GuestPort: s.guestPort}, "/") {
		name, _, _ := strings.Cut(fault.Error(), ":")
		if name, ok := strings.CutPrefix(name, "MANAGER_QEMU_"); ok && !looked[name] {
			faults = append(faults, fault)
		}
	}
	return faults
}
