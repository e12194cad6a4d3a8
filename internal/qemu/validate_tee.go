package qemu

import (
	"path/filepath"
	"strings"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// Bits of AMD's guest policies.
const (
	// SEV, AMD 55766 chapter 3: 16 bits of flags, 16 of the least API version.
	sevPolicyES   = 1 << 2
	sevPolicyMost = 1<<32 - 1
	// SEV-SNP, AMD 56860 table 9: bit 17 must be one, those above 25 zero.
	snpPolicyOne  = 1 << 17
	snpPolicyMost = 1<<26 - 1
)

const fromBIOS = "name a firmware that measures in MANAGER_QEMU_BIOS_FILE (docs/vm.md says which)"

// tee judges what a TEE asks of the rest of the machine. A firmware's content is
// not looked at.
func (f *faults) tee(m vm.Machine) {
	t := m.TEE
	if t == nil {
		if m.Boot.BIOS != "" {
			f.add("machine.boot.bios", "is set, but there is no TEE; leave it empty")
		}
		if m.Boot.HashTable != nil {
			f.add("machine.boot.hash_table", "is set, but there is no TEE; leave it out")
		}
		return
	}
	switch t.Kind {
	case vm.SEV, vm.SEVES, vm.SEVSNP:
		f.amd(*t)
	case vm.TDX:
		if _, err := ParseQuoteService(t.QuoteService); t.QuoteService != "" && err != nil {
			f.add("machine.tee.quote_service", "%w", err)
		}
	case vm.SGX:
		f.between("machine.tee.epc_mib", t.EPCMiB, 1, maxMemoryMiB)
		f.id("machine.memory.id", m.Memory.ID, epcID)
	case vm.Simulated:
		if !filepath.IsAbs(t.Root) {
			f.add("machine.tee.root", "is %q; expected the absolute path of the folder with the simulated TEE's keys", t.Root)
		}
	default:
		f.add("machine.tee.kind", "is %q; expected one of %q", t.Kind, []vm.TEEKind{vm.SEV, vm.SEVES, vm.SEVSNP, vm.TDX, vm.SGX, vm.Simulated})
		return
	}
	if n := t.Kind.FieldSize(); len(t.LaunchField) != n {
		f.add("machine.tee.launch_field", "has %d bytes; %s carries exactly %d", len(t.LaunchField), t.Kind, n)
	}
	if t.Kind != vm.Simulated && m.Accel != vm.AccelKVM {
		f.add("machine.accel", "is %q; %s needs %q", m.Accel, t.Kind, vm.AccelKVM)
	}
	f.teeCPU(m)
	f.teeBoot(m)
	if t.Kind.Encrypts() {
		f.encrypted(m)
	}
	if t.Kind.Encrypts() || t.Kind == vm.Simulated {
		if !m.NoGraphic {
			f.add("machine.no_graphic", "is false; a screen would be a device that %s guests refuse", t.Kind)
		}
		if m.Net.ROMFile != "" {
			f.add("machine.net.rom_file", "is set; a boot ROM would be code that %s does not measure", t.Kind)
		}
	}
}

func (f *faults) amd(t vm.TEE) {
	f.between("machine.tee.cbitpos", t.CBitPos, 1, 63)
	f.between("machine.tee.reduced_phys_bits", t.ReducedPhysBits, 1, 63)
	switch es := t.Policy&sevPolicyES != 0; {
	case t.Kind == vm.SEVSNP && (t.Policy&snpPolicyOne == 0 || t.Policy > snpPolicyMost):
		f.add("machine.tee.policy", "is %#x; a policy of SEV-SNP has bit 17 set and none above 25, such as 0x30000", t.Policy)
	case t.Kind == vm.SEVSNP:
	case t.Policy > sevPolicyMost:
		f.add("machine.tee.policy", "is %#x; a policy of SEV has 32 bits", t.Policy)
	case t.Kind == vm.SEVES && !es:
		f.add("machine.tee.policy", "is %#x; SEV-ES is bit 2 of it, as in 0x5", t.Policy)
	case t.Kind == vm.SEV && es:
		f.add("machine.tee.policy", "is %#x; bit 2 asks for SEV-ES; use a policy such as 0x1", t.Policy)
	}
}

// teeCPU judges the CPU's model: AMD's measurement depends on it, and Intel's
// module takes the host's.
func (f *faults) teeCPU(m vm.Machine) {
	model, _, _ := strings.Cut(m.CPU, ",")
	hosts := model == "host"
	switch kind := m.TEE.Kind; {
	case kind.AMD() && (hosts || model == "max" || model == "base"):
		f.add("machine.cpu", `is %q; %s needs a named model, such as "EPYC-v4": the launch measurement depends on it`, m.CPU, kind)
	case (kind == vm.TDX || kind == vm.SGX) && !hosts:
		f.add("machine.cpu", `is %q; %s needs "host"`, m.CPU, kind)
	}
}

// teeBoot wants everything that runs in the guest to be measured.
func (f *faults) teeBoot(m vm.Machine) {
	b, kind := m.Boot, m.TEE.Kind
	if b.Disk != nil {
		f.add("machine.boot.disk", "is set; a VM with %s boots a kernel and an initial RAM disk, for what a disk holds is not measured", kind)
	}
	switch {
	case kind == vm.SGX && b.BIOS != "":
		f.add("machine.boot.bios", "is set; %s measures no firmware", kind)
	case kind.Encrypts() && b.BIOS == "":
		f.add("machine.boot.bios", "is empty; %s starts in a firmware that it measures: %s", kind, fromBIOS)
	case b.BIOS != "":
		f.file("machine.boot.bios", b.BIOS, fromBIOS)
		if b.Firmware != nil {
			f.add("machine.boot.firmware", "is set beside bios; leave it out")
		}
	}
	switch table := b.HashTable; {
	case table != nil && (kind != vm.Simulated || b.BIOS == ""):
		f.add("machine.boot.hash_table", "is set; only a simulated TEE with bios has one: for %s QEMU makes it", kind)
	case table == nil && kind == vm.Simulated && b.BIOS != "":
		f.add("machine.boot.hash_table", "is missing; bios would measure nothing")
	case table != nil && (len(table.Content) == 0 || table.Address == 0):
		f.add("machine.boot.hash_table", "is empty")
	}
}

// encrypted judges what a guest with encrypted memory can't have.
func (f *faults) encrypted(m vm.Machine) {
	kind := m.TEE.Kind
	f.id("machine.tee.id", m.TEE.ID, m.Memory.ID)
	if m.MaxVCPUs > m.VCPUs && m.VCPUs > 0 {
		f.add("machine.max_vcpus", "is %d; %s takes no virtual CPUs beyond those it starts with, %d", m.MaxVCPUs, kind, m.VCPUs)
	}
	if m.Memory.Slots > 0 {
		f.add("machine.memory.slots", "is %d; %s takes no memory beyond what it starts with", m.Memory.Slots, kind)
	}
	if !m.Net.DisableLegacy {
		f.add("machine.net.disable_legacy", "is false; legacy virtio can't reach the memory of %s", kind)
	}
	if !m.Net.IOMMUPlatform {
		f.add("machine.net.iommu_platform", "is false; the device can't reach the memory of %s", kind)
	}
}
