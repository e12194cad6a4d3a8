package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/internal/config"
	"github.com/ultravioletrs/cocos/internal/hostcheck"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// teeSettings are the values of the variables about TEEs.
type teeSettings struct {
	enabled              [len(switches)]bool
	sevID, tdxID         string
	cBitPos              int // 0: the CPU's
	reducedPhysBits      int
	sevPolicy, snpPolicy uint64
	quoteService         string
	epcMiB               int
	bios                 string
	kernelHash           string // "auto", "true" or "false"
	hostData             []byte
}

const (
	biosVar = "MANAGER_QEMU_BIOS_FILE"
	hashVar = "MANAGER_QEMU_KERNEL_HASH"
)

// switches are the variables that choose the TEE of a host's VMs.
var switches = [...]struct {
	kind   vm.TEEKind
	name   string
	effect string
}{
	{vm.SEV, "MANAGER_QEMU_ENABLE_SEV", "VMs with AMD SEV: encrypted memory, nothing that vouches for them. They count as plain."},
	{vm.SEVES, "MANAGER_QEMU_ENABLE_SEV_ES", "VMs with AMD SEV-ES: SEV with encrypted registers. They count as plain."},
	{vm.SEVSNP, "MANAGER_QEMU_ENABLE_SEV_SNP", "VMs with AMD SEV-SNP, for manifests with `\"tee\": \"sev-snp\"`."},
	{vm.TDX, "MANAGER_QEMU_ENABLE_TDX", "VMs with Intel TDX, for manifests with `\"tee\": \"tdx\"`."},
	{vm.SGX, "MANAGER_QEMU_ENABLE_SGX", "VMs with a virtual enclave page cache of Intel SGX. They count as plain."},
	{vm.Simulated, "MANAGER_QEMU_ENABLE_SIM", "VMs with the simulated TEE, for manifests with `\"tee\": \"sim\"`. It protects nothing; every verifier refuses it unless its policy allows simulation."},
}

func tees() []variable {
	var all []variable
	for i, s := range switches {
		all = append(all, variable{Name: s.name, Kind: yesNo, Fallback: "false", Effect: s.effect,
			Set: boolean(func(s *settings) *bool { return &s.tee.enabled[i] })})
	}
	return append(all, []variable{
		{Name: "MANAGER_QEMU_SEV_ID", Kind: "name", Fallback: "sev0",
			Effect: "QEMU's name of the object of SEV, SEV-ES or SEV-SNP.",
			Set:    name(func(s *settings) *string { return &s.tee.sevID })},
		{Name: "MANAGER_QEMU_SEV_CBITPOS", Kind: "number or auto", Unit: "bit, 1 to 63", Fallback: "auto",
			Effect: "Place of the encryption bit in physical addresses. `auto`: as the CPU says, else 51.",
			Set:    cBitPos},
		{Name: "MANAGER_QEMU_SEV_REDUCED_PHYS_BITS", Kind: "number", Unit: "bits, 1 to 63", Fallback: "1",
			Effect: "Physical address bits that SEV takes away from the guest.",
			Set:    config.Number(func(s *settings) *int { return &s.tee.reducedPhysBits }, 1, 63)},
		{Name: "MANAGER_QEMU_SEV_POLICY", Kind: "number", Unit: "bits of AMD's guest policy",
			Effect: "Guest policy of SEV and SEV-ES; unset: `0x1`, with SEV-ES `0x5`.",
			Set:    policyBits(func(s *settings) *uint64 { return &s.tee.sevPolicy })},
		{Name: "MANAGER_QEMU_SNP_POLICY", Kind: "number", Unit: "bits of AMD's guest policy", Fallback: "0x30000",
			Effect: "Guest policy of SEV-SNP. Participants' policies judge it: one that allows debugging is refused by all but those that say so.",
			Set:    policyBits(func(s *settings) *uint64 { return &s.tee.snpPolicy })},
		{Name: "MANAGER_QEMU_TDX_ID", Kind: "name", Fallback: "tdx0",
			Effect: "QEMU's name of the object of TDX.",
			Set:    name(func(s *settings) *string { return &s.tee.tdxID })},
		{Name: "MANAGER_QEMU_TDX_QUOTE_SERVICE", Kind: "unix:PATH, vsock:CID:PORT or none", Fallback: "unix:/var/run/tdx-qgs/qgs.socket",
			Effect: "Where QEMU reaches Intel's quote generation service; `none`: VMs get no quotes, and nobody can attest them.",
			Set:    quoteService},
		{Name: "MANAGER_QEMU_SGX_EPC_SIZE", Kind: "size", Unit: "number with M or G", Fallback: "64M",
			Effect: "Virtual enclave page cache of each VM.",
			Set:    epcSize},
		{Name: biosVar, Kind: "file",
			Effect: "Firmware that a TEE measures, and that checks what it boots: for SEV, SEV-ES and SEV-SNP `OVMF.amdsev.fd`, for TDX an `OVMF.fd` with TDX metadata. It must carry the tables; for SEV kinds it must also be a build that is known to check.",
			Set:    config.Path(func(s *settings) *string { return &s.tee.bios })},
		{Name: hashVar, Kind: "auto, true or false", Fallback: "auto",
			Effect: "Measuring kernel, initial RAM disk and command line. `auto`: wherever the TEE can. `false` is refused with a TEE that measures, `true` without one.",
			Set:    config.OneOf(func(s *settings) *string { return &s.tee.kernelHash }, "auto", "true", "false")},
		{Name: "MANAGER_QEMU_HOST_DATA", Kind: "Base64", Unit: "32 bytes",
			Effect: "The one SHA-256 of a manifest that VMs are started for, with SEV-SNP and the simulated TEE: run requests of others are refused. Unset: any. HOST_DATA is always the run's own manifest digest.",
			Set:    hostData},
	}...)
}

// kind is the first TEE that is switched on; "" is plain VMs.
func (t teeSettings) kind() vm.TEEKind {
	for i, s := range switches {
		if t.enabled[i] {
			return s.kind
		}
	}
	return ""
}

// on lists the variables that switched a TEE on, as they are set.
func (t teeSettings) on() (set []string) {
	for i, s := range switches {
		if t.enabled[i] {
			set = append(set, s.name+`="true"`)
		}
	}
	return set
}

// teeFaults finds what can't go together with a TEE, or without one.
func (s *settings) teeFaults() (errs []error) {
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	set := s.tee.on()
	kind, on := s.tee.kind(), strings.Join(set, " and ")
	if len(set) > 1 {
		return []error{fmt.Errorf("%s are %d TEEs for one VM; set at most one", on, len(set))}
	}
	measures := kind.Encrypts() || kind == vm.Simulated
	fault(measures && s.tee.kernelHash == "false", `%s="false" would leave kernel, initial RAM disk and command line unmeasured, and %s is set; unset it`, hashVar, on)
	fault(!measures && s.tee.kernelHash == "true", `%s="true" needs a TEE that measures; switch one on (MANAGER_QEMU_ENABLE_SEV_SNP or another), or unset it`, hashVar)
	fault(kind != "" && s.disk.Image != "", "MANAGER_QEMU_DISK_IMG_FILE=%q can't be booted with %s: VMs with a TEE boot a kernel and an initial RAM disk, for what a disk holds is not measured; unset one of both", s.disk.Image, on)
	fault(kind.Encrypts() && s.tee.bios == "", "%s needs %s, the firmware that it measures; docs/vm.md says which and where it comes from", on, biosVar)
	fault(!measures && s.tee.bios != "", "%s=%q needs a TEE that measures; switch one on, or unset it (MANAGER_QEMU_OVMF_CODE_FILE is for VMs without)", biosVar, s.tee.bios)
	fault(s.tee.bios != "" && s.given["MANAGER_QEMU_OVMF_CODE_FILE"] && s.code.File != "none", "%s=%q takes the place of MANAGER_QEMU_OVMF_CODE_FILE=%q; unset one of both", biosVar, s.tee.bios, s.code.File)
	fault(s.tee.hostData != nil && kind != vm.SEVSNP && kind != vm.Simulated,
		"MANAGER_QEMU_HOST_DATA is a field of SEV-SNP, and needs MANAGER_QEMU_ENABLE_SEV_SNP=true or MANAGER_QEMU_ENABLE_SIM=true; unset it (every VM gets its own manifest's digest by itself)")
	fault(kind != "" && kind != vm.Simulated && s.kvm == "false", `%s needs KVM, and MANAGER_QEMU_ENABLE_KVM="false" is set; unset one of both`, on)
	return errs
}

// machineTEE is the TEE of this host's VMs but for the launch field, which is
// the manifest's; nil for plain VMs.
func (s *settings) machineTEE(stateDir string) *vm.TEE {
	t := vm.TEE{Kind: s.tee.kind()}
	switch t.Kind {
	case "":
		return nil
	case vm.SEV, vm.SEVES, vm.SEVSNP:
		t.ID, t.CBitPos, t.ReducedPhysBits = s.tee.sevID, s.tee.cBitPos, s.tee.reducedPhysBits
		if t.CBitPos == 0 {
			t.CBitPos = hostcheck.CBitPos()
		}
		t.Policy = s.tee.sevPolicy
		switch {
		case t.Kind == vm.SEVSNP:
			t.Policy = s.tee.snpPolicy
		case s.given["MANAGER_QEMU_SEV_POLICY"]:
		case t.Kind == vm.SEVES:
			t.Policy = 0x5
		default:
			t.Policy = 0x1
		}
	case vm.TDX:
		t.ID, t.QuoteService = s.tee.tdxID, s.tee.quoteService
	case vm.SGX:
		t.EPCMiB = s.tee.epcMiB
	case vm.Simulated:
		t.Root = filepath.Join(stateDir, vm.SimDir)
	}
	return &t
}

// teeDefaults gives the machine what its TEE needs where nothing is set.
func (s *settings) teeDefaults(m *vm.Machine) {
	kind := s.tee.kind()
	if !s.given["MANAGER_QEMU_CPU"] {
		switch {
		case kind.AMD():
			m.CPU = "EPYC-v4"
		case kind == vm.TDX, kind == vm.SGX:
			m.CPU = "host"
		}
	}
	if !kind.Encrypts() {
		return
	}
	if !s.given["MANAGER_QEMU_SMP_MAXCPUS"] {
		m.MaxVCPUs = m.VCPUs
	}
	if !s.given["MANAGER_QEMU_MEMORY_SLOTS"] {
		m.Memory.Slots, m.Memory.MaxMiB = 0, 0
	}
}

// findTEE completes a machine whose kernel, initial RAM disk and command line
// are found; version is QEMU's, if that was found: the firmware is judged by its content, and the command line is that
// of a guest without a console where somebody will attest it.
func findTEE(m *vm.Machine, s settings, stateDir string, img hal.Image, version qemu.Version, log *slog.Logger) error {
	m.TEE = s.machineTEE(stateDir)
	if m.TEE == nil {
		return nil
	}
	var tooOld error
	if err := version.Launches(m.TEE.Kind); err != nil && version != (qemu.Version{}) {
		if s.printing {
			log.Warn("this QEMU could not run the VM", "reason", err)
		} else {
			tooOld = fmt.Errorf("%s: %w", s.tee.on()[0], err)
		}
	}
	if m.TEE.Kind == vm.Simulated && s.tee.bios != "" && version != (qemu.Version{}) && !version.AtLeast(10, 0) {
		tooOld = fmt.Errorf("%s: QEMU %s changes the kernel's header on the way to the firmware, whose hash is then another one; set %s to QEMU 10.0 or later, or unset %s", biosVar, version, qemu.Variable, biosVar)
	}
	if m.TEE.Kind.Attests() != manifest.TEENone {
		m.Boot.CommandLine = hal.CommandLine(img, true)
	}
	switch m.TEE.Kind {
	case vm.Simulated:
		log.Warn("VMs have the SIMULATED TEE: it protects nothing from this host")
	case vm.SEV, vm.SEVES, vm.SGX:
		log.Warn("the TEE of these VMs vouches for none: manifests that ask for a TEE are refused", "tee", string(m.TEE.Kind))
	}
	return errors.Join(tooOld, findBIOS(m, s.tee.bios))
}

// findBIOS judges the firmware that the TEE measures, if one is named. Each VM's
// shim compares the file with what was judged here.
func findBIOS(m *vm.Machine, name string) error {
	if name == "" {
		return nil
	}
	m.Boot.Firmware, m.Boot.BIOS = nil, absolute(name)
	found, err := hostcheck.JudgeBIOS(m.TEE.Kind, m.Boot.BIOS)
	if err != nil {
		return fmt.Errorf("%s=%q: %w", biosVar, name, err)
	}
	m.Boot.BIOSDigest = found.SHA256
	if m.TEE.Kind == vm.Simulated {
		if m.Boot.HashTable, err = hashTable(m.Boot, found.HashTable); err != nil {
			return fmt.Errorf("%s=%q: %w", biosVar, name, err)
		}
	}
	return nil
}

// hashTable is what QEMU makes itself where a TEE is real: hashes of what boots,
// for the firmware to compare with.
func hashTable(b vm.Boot, address uint64) (*vm.HashTable, error) {
	kernel, err := os.ReadFile(b.Kernel)
	if err != nil {
		return nil, fmt.Errorf("hashing the kernel for the firmware: %w", err)
	}
	initrd, err := os.ReadFile(b.Initrd)
	if err != nil {
		return nil, fmt.Errorf("hashing the initial RAM disk for the firmware: %w", err)
	}
	return &vm.HashTable{Address: address, Content: measure.HashTable(kernel, initrd, b.CommandLine)}, nil
}
