package qemu

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// teeVariants are the command lines of TEEs that golden files hold.
var teeVariants = map[string]struct {
	kind   vm.TEEKind
	change func(*vm.Spec)
}{
	"sev":        {vm.SEV, func(s *vm.Spec) { amdMachine(s, vm.SEV, 0x1) }},
	"sev-es":     {vm.SEVES, func(s *vm.Spec) { amdMachine(s, vm.SEVES, 0x5) }},
	"sev-snp":    {vm.SEVSNP, func(s *vm.Spec) { amdMachine(s, vm.SEVSNP, 0x30000) }},
	"snp-kernel": {vm.SEVSNP, func(s *vm.Spec) { amdMachine(s, vm.SEVSNP, 0x30000); s.Machine.Vsock.Way = vm.VsockKernel }},
	"snp-commas": {vm.SEVSNP, func(s *vm.Spec) {
		amdMachine(s, vm.SEVSNP, 0x30000)
		s.Machine.CPU, s.Machine.Boot.BIOS = "EPYC-Milan,-x2apic", "/fw,1/OVMF.amdsev.fd"
	}},
	"tdx":       {vm.TDX, func(s *vm.Spec) { tdxMachine(s, "unix:/var/run/tdx-qgs/qgs.socket") }},
	"tdx-vsock": {vm.TDX, func(s *vm.Spec) { tdxMachine(s, "vsock:2:4050") }},
	"tdx-none":  {vm.TDX, func(s *vm.Spec) { tdxMachine(s, ""); s.Machine.Vsock.Way = vm.VsockKernel }},
	"sgx": {vm.SGX, func(s *vm.Spec) {
		s.Machine.CPU, s.Machine.TEE = "host", &vm.TEE{Kind: vm.SGX, EPCMiB: 64}
	}},
	"snp-scratch": {vm.SEVSNP, func(s *vm.Spec) { amdMachine(s, vm.SEVSNP, 0x30000); s.Machine.ScratchBytes = 8 << 30 }},
	"tdx-scratch": {vm.TDX, func(s *vm.Spec) { tdxMachine(s, ""); s.Machine.ScratchBytes = 8 << 30 }},
	"sim":         {vm.Simulated, simMachine},
	"sim-bios": {vm.Simulated, func(s *vm.Spec) {
		simMachine(s)
		s.Machine.Boot.BIOS = "/fw/OVMF.amdsev.fd"
		s.Machine.Boot.HashTable = &vm.HashTable{Address: 0x810c00, Content: bytes.Repeat([]byte{7}, 176)}
	}},
}

// encryptedMachine is what all guests with encrypted memory have.
func encryptedMachine(s *vm.Spec) {
	m := &s.Machine
	m.MaxVCPUs, m.Memory.Slots, m.Memory.MaxMiB = m.VCPUs, 0, 0
	m.Boot.CommandLine = "console=null panic=-1"
}

func amdMachine(s *vm.Spec, kind vm.TEEKind, policy uint64) {
	encryptedMachine(s)
	s.Machine.CPU, s.Machine.Boot.BIOS = "EPYC-v4", "/fw/OVMF.amdsev.fd"
	s.Machine.TEE = &vm.TEE{Kind: kind, ID: "sev0", CBitPos: 51, ReducedPhysBits: 1, Policy: policy}
	if n := kind.FieldSize(); n > 0 {
		s.Machine.TEE.LaunchField = bytes.Repeat([]byte{0xab}, n)
	}
}

func tdxMachine(s *vm.Spec, quotes string) {
	encryptedMachine(s)
	s.Machine.CPU, s.Machine.Boot.BIOS = "host", "/fw/OVMF.fd"
	s.Machine.TEE = &vm.TEE{Kind: vm.TDX, ID: "tdx0", QuoteService: quotes, LaunchField: bytes.Repeat([]byte{0xab}, 48)}
}

func simMachine(s *vm.Spec) {
	s.Machine.Accel, s.Machine.CPU = vm.AccelTCG, "max"
	s.Machine.Boot.CommandLine = "console=null panic=-1"
	s.Machine.TEE = &vm.TEE{Kind: vm.Simulated, Root: "/var/lib/cocos/sim", LaunchField: bytes.Repeat([]byte{0xab}, 32)}
}

func TestTEEArgs(t *testing.T) {
	for name, v := range teeVariants {
		t.Run(name, func(t *testing.T) { golden(t, name, testDir, v.change) })
	}
}

// TestTEELines: what the hardware needs stands in each line as QEMU's
// documentation and trials have it.
func TestTEELines(t *testing.T) {
	const data = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
	for name, want := range map[string][]string{
		"sev": {" -machine q35,confidential-guest-support=sev0,smm=off -cpu EPYC-v4 ",
			" -object sev-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x1,kernel-hashes=on,legacy-vm-type=off ", " -bios /fw/OVMF.amdsev.fd "},
		"sev-es": {" -object sev-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x5,kernel-hashes=on,legacy-vm-type=off "},
		"snp-kernel": {" -machine q35,kernel-irqchip=split,confidential-guest-support=sev0,smm=off,vmport=off,hpet=off -cpu EPYC-v4 -smp 4,maxcpus=4 -m 4096M ",
			" -object memory-backend-memfd,id=ram1,size=4096M,share=on -machine memory-backend=ram1 ",
			" -object sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,host-data=" + data + " ", " -bios /fw/OVMF.amdsev.fd "},
		"tdx-vsock": {" -machine q35,kernel-irqchip=split,confidential-guest-support=tdx0,hpet=off -cpu host ",
			`"quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}`, " -bios /fw/OVMF.fd "},
		"sgx":      {" -machine q35,sgx-epc.0.memdev=epc0,sgx-epc.0.node=0 -cpu host,+sgx-provisionkey ", " -object memory-backend-epc,id=epc0,size=64M,prealloc=on "},
		"sim-bios": {" -bios /fw/OVMF.amdsev.fd -device loader,file=" + testDir.Hashes() + ",addr=0x810c00,force-raw=on "},
	} {
		spec := testSpec()
		teeVariants[name].change(&spec)
		line := " " + strings.Join(Args(spec, testDir), " ") + " "
		for _, part := range want {
			if strings.Count(line, part) != 1 {
				t.Errorf("%s: %q is not once in\n%s", name, part, line)
			}
		}
		if strings.Contains(line, "pflash") {
			t.Errorf("%s: flash chips in\n%s", name, line)
		}
	}
}

// TestTDXObject: JSON with exactly the members that QEMU has, for a path with
// everything that JSON quotes.
func TestTDXObject(t *testing.T) {
	var got map[string]any
	text := tdxObject(&vm.TEE{ID: "t", QuoteService: `unix:/a,"b"\c`, LaunchField: []byte{1}})
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	quotes, _ := got["quote-generation-socket"].(map[string]any)
	if len(got) != 4 || got["qom-type"] != "tdx-guest" || got["mrconfigid"] != "AQ==" || len(quotes) != 2 || quotes["path"] != `/a,"b"\c` {
		t.Errorf("%s", text)
	}
}

func TestLaunches(t *testing.T) {
	for _, c := range []struct {
		version Version
		kinds   []vm.TEEKind
		fails   []vm.TEEKind
	}{
		{Version{7, 2, 0}, []vm.TEEKind{"", vm.SGX, vm.Simulated}, []vm.TEEKind{vm.SEV, vm.SEVES, vm.SEVSNP, vm.TDX}},
		{Version{9, 0, 4}, nil, []vm.TEEKind{vm.SEV, vm.SEVSNP, vm.TDX}},
		{Version{9, 1, 0}, []vm.TEEKind{vm.SEV, vm.SEVES, vm.SEVSNP}, []vm.TEEKind{vm.TDX}},
		{Version{10, 0, 2}, []vm.TEEKind{vm.SEVSNP}, []vm.TEEKind{vm.TDX}},
		{Version{10, 1, 0}, []vm.TEEKind{vm.SEVSNP, vm.TDX}, nil},
	} {
		for _, k := range c.kinds {
			if err := c.version.Launches(k); err != nil {
				t.Errorf("%v: %v", c.version, err)
			}
		}
		for _, k := range c.fails {
			if err := c.version.Launches(k); err == nil || !strings.Contains(err.Error(), "or later") {
				t.Errorf("%v, %s: %v", c.version, k, err)
			}
		}
	}
}
