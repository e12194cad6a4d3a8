package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// TestValidateTEE: each machine is right in all but one field.
func TestValidateTEE(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 512)), 0o600); err != nil {
		t.Fatal(err)
	}
	good := func(variant string) vm.Spec {
		s := testSpec()
		if variant != "" {
			teeVariants[variant].change(&s)
		}
		b := &s.Machine.Boot
		b.Kernel, b.Initrd, s.Machine.Runtime = file, file, file
		if b.BIOS != "" {
			b.BIOS = file
		}
		return s
	}
	for name := range teeVariants {
		if err := Validate(good(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*vm.Spec){
		"sim":     func(s *vm.Spec) { s.Machine.Boot.Firmware = ovmf(""); fileFirmware(s, file) },
		"sgx":     func(s *vm.Spec) { s.Machine.NoGraphic, s.Machine.Net.IOMMUPlatform = false, false },
		"sev":     func(s *vm.Spec) { s.Machine.TEE.Policy = 0 },
		"sev-snp": func(s *vm.Spec) { s.Machine.TEE.Policy |= 1 << 25; s.Machine.CPU = "EPYC-Genoa" },
		"tdx":     func(s *vm.Spec) { s.Machine.CPU = "host,-avx512f" },
	} {
		s := good(name)
		change(&s)
		if err := Validate(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		variant, path string
		change        func(*vm.Spec)
	}{
		"a plain VM's BIOS":    {"", "machine.boot.bios", func(s *vm.Spec) { s.Machine.Boot.BIOS = file }},
		"a plain VM's hashes":  {"", "machine.boot.hash_table", func(s *vm.Spec) { s.Machine.Boot.HashTable = &vm.HashTable{Address: 1, Content: []byte{1}} }},
		"an unknown kind":      {"sev-snp", "machine.tee.kind", func(s *vm.Spec) { s.Machine.TEE.Kind = "cca" }},
		"no kind":              {"sev-snp", "machine.tee.kind", func(s *vm.Spec) { s.Machine.TEE.Kind = "" }},
		"no launch field":      {"sev-snp", "machine.tee.launch_field", func(s *vm.Spec) { s.Machine.TEE.LaunchField = nil }},
		"a short launch field": {"sev-snp", "machine.tee.launch_field", func(s *vm.Spec) { s.Machine.TEE.LaunchField = make([]byte, 31) }},
		"SNP's field for TDX":  {"tdx", "machine.tee.launch_field", func(s *vm.Spec) { s.Machine.TEE.LaunchField = make([]byte, 32) }},
		"TDX's field for sim":  {"sim", "machine.tee.launch_field", func(s *vm.Spec) { s.Machine.TEE.LaunchField = make([]byte, 48) }},
		"a field for SEV":      {"sev", "machine.tee.launch_field", func(s *vm.Spec) { s.Machine.TEE.LaunchField = make([]byte, 32) }},
		"emulated SNP":         {"sev-snp", "machine.accel", func(s *vm.Spec) { s.Machine.Accel = vm.AccelTCG }},
		"emulated SGX":         {"sgx", "machine.accel", func(s *vm.Spec) { s.Machine.Accel = vm.AccelTCG }},
		"the host's CPU":       {"sev-snp", "machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "host" }},
		"any CPU":              {"sev", "machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "max,-svm" }},
		"a named CPU for TDX":  {"tdx", "machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "EPYC-v4" }},
		"a named CPU for SGX":  {"sgx", "machine.cpu", func(s *vm.Spec) { s.Machine.CPU = "Icelake-Server" }},
		"C-bit 0":              {"sev-snp", "machine.tee.cbitpos", func(s *vm.Spec) { s.Machine.TEE.CBitPos = 0 }},
		"C-bit 64":             {"sev", "machine.tee.cbitpos", func(s *vm.Spec) { s.Machine.TEE.CBitPos = 64 }},
		"no reduction":         {"sev-es", "machine.tee.reduced_phys_bits", func(s *vm.Spec) { s.Machine.TEE.ReducedPhysBits = 0 }},
		"SNP without bit 17":   {"sev-snp", "machine.tee.policy", func(s *vm.Spec) { s.Machine.TEE.Policy = 0x10000 }},
		"SNP with bit 26":      {"sev-snp", "machine.tee.policy", func(s *vm.Spec) { s.Machine.TEE.Policy |= 1 << 26 }},
		"ES without its bit":   {"sev-es", "machine.tee.policy", func(s *vm.Spec) { s.Machine.TEE.Policy = 1 }},
		"SEV with ES":          {"sev", "machine.tee.policy", func(s *vm.Spec) { s.Machine.TEE.Policy = 5 }},
		"SEV with 33 bits":     {"sev", "machine.tee.policy", func(s *vm.Spec) { s.Machine.TEE.Policy = 1<<32 | 1 }},
		"quotes over TCP":      {"tdx", "machine.tee.quote_service", func(s *vm.Spec) { s.Machine.TEE.QuoteService = "inet:1.2.3.4:4050" }},
		"quotes, no port":      {"tdx", "machine.tee.quote_service", func(s *vm.Spec) { s.Machine.TEE.QuoteService = "vsock:2" }},
		"quotes, relative":     {"tdx", "machine.tee.quote_service", func(s *vm.Spec) { s.Machine.TEE.QuoteService = "unix:qgs.socket" }},
		"quotes, signed":       {"tdx", "machine.tee.quote_service", func(s *vm.Spec) { s.Machine.TEE.QuoteService = "vsock:+2:4050" }},
		"no page cache":        {"sgx", "machine.tee.epc_mib", func(s *vm.Spec) { s.Machine.TEE.EPCMiB = 0 }},
		"no keys":              {"sim", "machine.tee.root", func(s *vm.Spec) { s.Machine.TEE.Root = "" }},
		"keys somewhere":       {"sim", "machine.tee.root", func(s *vm.Spec) { s.Machine.TEE.Root = "sim" }},
		"a disk":               {"sim", "machine.boot.disk", withDisk(file)},
		"no BIOS":              {"sev-snp", "machine.boot.bios", func(s *vm.Spec) { s.Machine.Boot.BIOS = "" }},
		"no BIOS for TDX":      {"tdx", "machine.boot.bios", func(s *vm.Spec) { s.Machine.Boot.BIOS = "" }},
		"a missing BIOS":       {"sev", "machine.boot.bios", func(s *vm.Spec) { s.Machine.Boot.BIOS = file + "x" }},
		"a BIOS for SGX":       {"sgx", "machine.boot.bios", func(s *vm.Spec) { s.Machine.Boot.BIOS = file }},
		"BIOS and flash":       {"sev-snp", "machine.boot.firmware", func(s *vm.Spec) { s.Machine.Boot.Firmware = ovmf(""); fileFirmware(s, file) }},
		"hashes of our own":    {"sev-snp", "machine.boot.hash_table", func(s *vm.Spec) { s.Machine.Boot.HashTable = &vm.HashTable{Address: 1, Content: []byte{1}} }},
		"hashes for no BIOS":   {"sim", "machine.boot.hash_table", func(s *vm.Spec) { s.Machine.Boot.HashTable = &vm.HashTable{Address: 1, Content: []byte{1}} }},
		"no hashes":            {"sim-bios", "machine.boot.hash_table", func(s *vm.Spec) { s.Machine.Boot.HashTable = nil }},
		"empty hashes":         {"sim-bios", "machine.boot.hash_table", func(s *vm.Spec) { s.Machine.Boot.HashTable.Content = nil }},
		"hashes at 0":          {"sim-bios", "machine.boot.hash_table", func(s *vm.Spec) { s.Machine.Boot.HashTable.Address = 0 }},
		"no id":                {"sev-snp", "machine.tee.id", func(s *vm.Spec) { s.Machine.TEE.ID = "" }},
		"the memory's id":      {"tdx", "machine.tee.id", func(s *vm.Spec) { s.Machine.TEE.ID = "ram1" }},
		"the page cache's id":  {"sgx", "machine.memory.id", func(s *vm.Spec) { s.Machine.Memory.ID = "epc0" }},
		"room for CPUs":        {"sev-es", "machine.max_vcpus", func(s *vm.Spec) { s.Machine.MaxVCPUs = 64 }},
		"room for memory":      {"tdx", "machine.memory.slots", func(s *vm.Spec) { s.Machine.Memory.Slots, s.Machine.Memory.MaxMiB = 5, 30<<10 }},
		"legacy virtio":        {"sev", "machine.net.disable_legacy", func(s *vm.Spec) { s.Machine.Net.DisableLegacy = false }},
		"no IOMMU platform":    {"sev-snp", "machine.net.iommu_platform", func(s *vm.Spec) { s.Machine.Net.IOMMUPlatform = false }},
		"a screen":             {"sim", "machine.no_graphic", func(s *vm.Spec) { s.Machine.NoGraphic = false }},
		"a ROM":                {"sev-snp", "machine.net.rom_file", func(s *vm.Spec) { s.Machine.Net.ROMFile = file }},
	} {
		t.Run(name, func(t *testing.T) {
			s := good(c.variant)
			if h := s.Machine.Boot.HashTable; h != nil {
				s.Machine.Boot.HashTable = &vm.HashTable{Address: h.Address, Content: h.Content}
			}
			c.change(&s)
			err := Validate(s)
			if err == nil || !strings.HasPrefix(err.Error(), c.path+": ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one fault of %s", err, c.path)
			}
		})
	}
}

func fileFirmware(s *vm.Spec, file string) {
	s.Machine.Boot.Firmware.Code.File, s.Machine.Boot.Firmware.Vars.File = file, file
}

// withDisk boots a disk in place of kernel and initial RAM disk.
func withDisk(file string) func(*vm.Spec) {
	return func(s *vm.Spec) {
		s.Machine.Boot = vm.Boot{Firmware: ovmf(""), Disk: &vm.Disk{Interface: "none", ID: "disk0", Format: vm.DiskRaw, Image: file}}
		fileFirmware(s, file)
	}
}
