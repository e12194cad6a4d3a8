package hostcheck

import (
	"testing"

	"github.com/klauspost/cpuid/v2"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// at is a function of CPUID with its subfunction.
type at struct{ function, subfunction uint32 }

// registers are what a CPU answers, all other leaves nothing.
type registers map[at]leaf

func (r registers) cpuid(function, subfunction uint32) leaf { return r[at{function, subfunction}] }

// with is a copy with some leaves changed.
func (r registers) with(change map[at]leaf) registers {
	c := registers{}
	for _, m := range []map[at]leaf{r, change} {
		for k, v := range m {
			c[k] = v
		}
	}
	return c
}

// Leaves 0 and 80000000h: the highest leaf, and who made the CPU.
func amdCPU(highest uint32) registers {
	return registers{
		{0, 0}:            {0x10, 0x68747541, 0x444d4163, 0x69746e65},
		{leafExtended, 0}: {highest, 0x68747541, 0x444d4163, 0x69746e65},
	}
}

func intelCPU(highest uint32) registers {
	return registers{{0, 0}: {highest, 0x756e6547, 0x6c65746e, 0x49656e69}, {leafExtended, 0}: {eax: 0x80000008}}
}

func encryption(eax, ebx, ecx, edx uint32) map[at]leaf {
	return map[at]leaf{{leafEncryption, 0}: {eax, ebx, ecx, edx}}
}

// Registers as machines gave them, from collections of such readings that their
// owners published.
var (
	rome   = amdCPU(0x80000020).with(encryption(0x0001000f, 0x0000016f, 0x1fd, 1))
	milan  = amdCPU(0x80000023).with(encryption(0x0001fc3f, 0x00004173, 0x1fd, 1))   // EPYC 7713
	milan2 = amdCPU(0x80000023).with(encryption(0x0101fd3f, 0x00004133, 0xfd, 0x0f)) // EPYC 7313
	genoa  = amdCPU(0x80000028).with(encryption(0x030ffffb, 0x000041b3, 0x3ee, 1))   // EPYC 9124
	turin  = amdCPU(0x80000028).with(encryption(0xcffffffb, 0x000041b3, 0x3ee, 1))   // EPYC 9655

	// Xeon Gold 5315Y, 3rd generation, with 65144 MiB of enclave page cache.
	iceLake = intelCPU(0x1b).with(map[at]leaf{
		{leafFeatures, 0}: {0, 0xf3bfb7ef, 0x40417f5e, 0xbc040412},
		{leafSGX, 0}:      {0x403, 1, 0, 0x381f},
		{leafSGX, 1}:      {0xb6, 0, 0x2e7, 0},
		{leafSGX, 2}:      {0x18000001, 0x70, 0xe7800002, 0xf},
	})
	// Xeon E-2276G, with 93.5 MiB.
	coffeeLake = intelCPU(0x16).with(map[at]leaf{
		{leafFeatures, 0}: {0, 0x029c6fbf, 0x40000000, 0x9c002e00},
		{leafSGX, 0}:      {1, 0, 0, 0x241f},
		{leafSGX, 1}:      {0x36, 0, 0x1f, 0},
		{leafSGX, 2}:      {0x70200001, 0, 0x05d80001, 0},
	})
	// Core i9 (906EDh), whose firmware has SGX switched off: the feature shows,
	// leaf 12h is empty.
	switchedOff = intelCPU(0x16).with(map[at]leaf{{leafFeatures, 0}: {0, 0x029c67af, 0x40000000, 0xbc000600}})
	// Core of the 3rd generation (306A9h): its highest leaf is Dh, and what it
	// answers for others means nothing.
	ivyBridge = intelCPU(0xd).with(map[at]leaf{
		{leafFeatures, 0}: {0, 0x281, 0, 0},
		{leafSGX, 0}:      {7, 0x340, 0x340, 0},
		{leafSGX, 1}:      {1, 0, 0, 0},
		{leafSGX, 2}:      {0x100, 0x240, 0, 0},
	})
	// Xeon D-1718T as its host's hypervisor shows it: no SGX, no launch control.
	hidden = intelCPU(0x1b).with(map[at]leaf{{leafFeatures, 0}: {0, 0xf3bfbfb9, 0x00415f46, 0xbc000410}})
	// What a Xeon of the 4th generation said of one section (its protection is of
	// type 3); and the same twice, as two sockets have it.
	sapphireEPC    = leaf{0x00c00001, 0x20, 0x7e1ff003, 0}
	sapphireRapids = iceLake.with(map[at]leaf{{leafSGX, 2}: sapphireEPC})
	twoSockets     = sapphireRapids.with(map[at]leaf{{leafSGX, 3}: sapphireEPC})
)

// TestDecodeTEE: registers of real CPUs, each with what it must be taken for, and
// the same with one bit changed.
func TestDecodeTEE(t *testing.T) {
	snp := func(cbit, reduced int) cpuTEE {
		return cpuTEE{SEV: true, SEVES: true, SEVSNP: true, CBit: cbit, ReducedBits: reduced}
	}
	sgx := func(epc uint64) cpuTEE { return cpuTEE{SGX: true, SGXLaunchControl: true, EPC: epc} }
	flip := func(r registers, function, sub uint32, change func(*leaf)) registers {
		l := r.cpuid(function, sub)
		change(&l)
		return r.with(map[at]leaf{{function, sub}: l})
	}
	const ice, coffee, sapphire = 65144 << 20, 0x05d80000, 0x7e1ff000
	for name, c := range map[string]struct {
		cpu  registers
		want cpuTEE
	}{
		"Rome":                             {rome, cpuTEE{SEV: true, SEVES: true, CBit: 47, ReducedBits: 5}},
		"Milan":                            {milan, snp(51, 5)},
		"Milan, fewer keys":                {milan2, snp(51, 4)},
		"Genoa":                            {genoa, snp(51, 6)},
		"Turin":                            {turin, snp(51, 6)},
		"Milan without SNP":                {flip(milan, leafEncryption, 0, func(l *leaf) { l.eax ^= 1 << 4 }), cpuTEE{SEV: true, SEVES: true, CBit: 51, ReducedBits: 5}},
		"Genoa without ES":                 {flip(genoa, leafEncryption, 0, func(l *leaf) { l.eax ^= 1 << 3 }), cpuTEE{SEV: true, SEVSNP: true, CBit: 51, ReducedBits: 6}},
		"Turin without SEV":                {flip(turin, leafEncryption, 0, func(l *leaf) { l.eax ^= 1 << 1 }), cpuTEE{SEVES: true, SEVSNP: true, CBit: 51, ReducedBits: 6}},
		"Turin with SME switched":          {flip(turin, leafEncryption, 0, func(l *leaf) { l.eax ^= 1 << 0 }), snp(51, 6)},
		"Turin without privilege levels":   {flip(turin, leafEncryption, 0, func(l *leaf) { l.eax ^= 1 << 5 }), snp(51, 6)},
		"another C-bit":                    {flip(milan, leafEncryption, 0, func(l *leaf) { l.ebx ^= 1 << 2 }), snp(55, 5)},
		"a bit more lost":                  {flip(milan, leafEncryption, 0, func(l *leaf) { l.ebx ^= 1 << 7 }), snp(51, 7)},
		"a leaf that it has not":           {flip(turin, leafExtended, 0, func(l *leaf) { l.eax = leafEncryption - 1 }), cpuTEE{}},
		"its last leaf":                    {flip(milan, leafExtended, 0, func(l *leaf) { l.eax = leafEncryption }), snp(51, 5)},
		"AMD's leaf on a CPU of Intel's":   {iceLake.with(encryption(0xcffffffb, 0x41b3, 0x3ee, 1)), sgx(ice)},
		"another maker":                    {flip(turin, 0, 0, func(l *leaf) { l.ebx ^= 1 }), cpuTEE{}},
		"Ice Lake":                         {iceLake, sgx(ice)},
		"Coffee Lake":                      {coffeeLake, sgx(coffee)},
		"Sapphire Rapids":                  {sapphireRapids, sgx(sapphire)},
		"two sockets":                      {twoSockets, sgx(2 * sapphire)},
		"SGX switched off by the firmware": {switchedOff, sgx(0)},
		"before SGX":                       {ivyBridge, cpuTEE{}},
		"hidden by a hypervisor":           {hidden, cpuTEE{}},
		"Ice Lake without SGX":             {flip(iceLake, leafFeatures, 0, func(l *leaf) { l.ebx ^= 1 << 2 }), cpuTEE{SGXLaunchControl: true}},
		"without launch control":           {flip(iceLake, leafFeatures, 0, func(l *leaf) { l.ecx ^= 1 << 30 }), cpuTEE{SGX: true, EPC: ice}},
		"a section of another type":        {flip(iceLake, leafSGX, 2, func(l *leaf) { l.eax ^= 1 << 1 }), sgx(0)},
		"a section that is none":           {flip(twoSockets, leafSGX, 2, func(l *leaf) { l.eax ^= 1 }), sgx(0)},
		"a gap in the sections":            {twoSockets.with(map[at]leaf{{leafSGX, 3}: {}, {leafSGX, 4}: sapphireEPC}), sgx(sapphire)},
		"leaf 12h not there":               {flip(iceLake, 0, 0, func(l *leaf) { l.eax = leafSGX - 1 }), sgx(0)},
		"leaf 7 not there":                 {flip(iceLake, 0, 0, func(l *leaf) { l.eax = leafFeatures - 1 }), cpuTEE{}},
		"Intel's leaf on a CPU of AMD's":   {milan.with(map[at]leaf{{leafFeatures, 0}: {0, 0xf3bfb7ef, 0x40417f5e, 0}}), snp(51, 5)},
		"nothing":                          {registers{}, cpuTEE{}},
	} {
		if got := decodeTEE(c.cpu.cpuid); got != c.want {
			t.Errorf("%s: %+v; want %+v", name, got, c.want)
		}
	}
	// Sections without end are not counted for ever.
	endless := func(function, sub uint32) leaf {
		if function == leafSGX && sub >= firstEPC {
			return sapphireEPC
		}
		return iceLake.cpuid(function, sub)
	}
	if got := decodeTEE(endless); got.EPC != maxEPC*sapphire {
		t.Errorf("sections without end: %d bytes", got.EPC)
	}
}

// TestKindsOfRealCPUs is for what each of them can be used, as far as the CPU
// decides.
func TestKindsOfRealCPUs(t *testing.T) {
	for name, c := range map[string]struct {
		cpu  registers
		want map[vm.TEEKind]bool
	}{
		"Rome":     {rome, map[vm.TEEKind]bool{vm.SEV: true, vm.SEVES: true}},
		"Milan":    {milan, map[vm.TEEKind]bool{vm.SEV: true, vm.SEVES: true, vm.SEVSNP: true}},
		"Genoa":    {genoa, map[vm.TEEKind]bool{vm.SEV: true, vm.SEVES: true, vm.SEVSNP: true}},
		"Turin":    {turin, map[vm.TEEKind]bool{vm.SEV: true, vm.SEVES: true, vm.SEVSNP: true}},
		"Ice Lake": {iceLake, nil},
	} {
		tee := decodeTEE(c.cpu.cpuid)
		for _, k := range teeKinds {
			if got := k.cpu(tee); got != c.want[k.kind] {
				t.Errorf("%s: %s %v; want %v", name, k.kind, got, c.want[k.kind])
			}
		}
	}
}

// TestTDXOfIntel: CPUID of a host does not tell of TDX, the kernel's flag does, by
// its whole name and of the first CPU alone.
func TestTDXOfIntel(t *testing.T) {
	for name, c := range map[string]struct {
		cpuinfo string
		want    bool
	}{
		"with TDX":         {"vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sgx sgx_lc tdx_host_platform tme\n", true},
		"the last flag":    {"flags\t\t: fpu vmx tdx_host_platform\n\nprocessor\t: 1\n", true},
		"without TDX":      {"vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sgx sgx_lc tme\n", false},
		"a TD, not a host": {"flags\t\t: fpu tdx_guest hypervisor\n", false},
		"a longer name":    {"flags\t\t: fpu tdx_host_platform_x\n", false},
		"the second alone": {"flags\t\t: fpu\n\nflags\t\t: tdx_host_platform\n", false},
		"another line":     {"bugs\t\t: tdx_host_platform\nflags\t\t: fpu\n", false},
		"no flags":         {"", false},
	} {
		h := goodHost(t)
		h.put(t, "proc/cpuinfo", c.cpuinfo)
		if got := h.processorTEE().TDX; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestThisCPU: the instruction is executed as it should be, and another decoder
// says the same of the CPU that runs this.
func TestThisCPU(t *testing.T) {
	c := cpuid.CPU
	want := cpuTEE{
		SEV: c.Supports(cpuid.SEV), SEVES: c.Supports(cpuid.SEV_ES), SEVSNP: c.Supports(cpuid.SEV_SNP),
		SGX: c.SGX.Available, SGXLaunchControl: c.SGX.LaunchControl,
	}
	for _, s := range c.SGX.EPCSections {
		want.EPC += s.EPCSize
	}
	got := decodeTEE(runCPUID)
	if got.SEV {
		want.CBit, want.ReducedBits = int(c.AMDMemEncryption.CBitPossition), int(c.AMDMemEncryption.PhysAddrReduction)
	} else {
		got.CBit, got.ReducedBits = 0, 0
	}
	got.SGXLaunchControl = got.SGX && got.SGXLaunchControl // which the other tells of only together
	if got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
	if vendor := vendorOf(runCPUID(0, 0)); vendor != c.VendorString {
		t.Errorf("vendor %q; want %q", vendor, c.VendorString)
	}
}
