package hostcheck

// leaf is what the instruction CPUID leaves in its four registers.
type leaf struct{ eax, ebx, ecx, edx uint32 }

// cpuidFunc executes CPUID, or plays it.
type cpuidFunc func(function, subfunction uint32) leaf

const (
	vendorAMD   = "AuthenticAMD"
	vendorIntel = "GenuineIntel"

	leafFeatures   = 0x7
	leafSGX        = 0x12
	leafExtended   = 0x80000000
	leafEncryption = 0x8000001f
	// firstEPC is the first subleaf of leafSGX that describes a section of the
	// enclave page cache, maxEPC how many are looked at: one for each socket.
	firstEPC, maxEPC = 2, 8
)

// decodeTEE reads what a CPU says of its TEEs (AMD 24594, appendix E.4.17; Intel
// SDM volume 2A, CPUID). A leaf counts only where the CPU says that it has it:
// asked for another, Intel's answer with whatever their highest one holds.
func decodeTEE(cpuid cpuidFunc) cpuTEE {
	var t cpuTEE
	first := cpuid(0, 0)
	switch vendorOf(first) {
	case vendorAMD:
		if cpuid(leafExtended, 0).eax < leafEncryption {
			return t
		}
		l := cpuid(leafEncryption, 0)
		t.SEV, t.SEVES, t.SEVSNP = l.eax>>1&1 == 1, l.eax>>3&1 == 1, l.eax>>4&1 == 1
		t.CBit, t.ReducedBits = int(l.ebx&0x3f), int(l.ebx>>6&0x3f)
	case vendorIntel:
		if first.eax < leafFeatures {
			return t
		}
		l := cpuid(leafFeatures, 0)
		t.SGX, t.SGXLaunchControl = l.ebx>>2&1 == 1, l.ecx>>30&1 == 1
		if t.SGX && first.eax >= leafSGX {
			t.EPC = pageCache(cpuid)
		}
	}
	return t
}

func vendorOf(l leaf) string {
	var b [12]byte
	for i, r := range []uint32{l.ebx, l.edx, l.ecx} {
		for j := range 4 {
			b[4*i+j] = byte(r >> (8 * j))
		}
	}
	return string(b[:])
}

// pageCache is the size of the enclave page cache of all sockets, in bytes. How a
// section is protected stands in the low bits of ECX and differs by generation.
func pageCache(cpuid cpuidFunc) (sum uint64) {
	for sub := uint32(firstEPC); sub < firstEPC+maxEPC; sub++ {
		l := cpuid(leafSGX, sub)
		if l.eax&0xf != 1 {
			break
		}
		sum += uint64(l.edx&0xfffff)<<32 | uint64(l.ecx&0xfffff000)
	}
	return sum
}
