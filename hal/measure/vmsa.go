package measure

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// resetVector is where an x86 CPU starts.
const resetVector = 0xfffffff0

// segment is a segment register of the save area.
type segment struct {
	selector, attributes uint16
	limit                uint32
	base                 uint64
}

// vmsa is the save area of a vCPU that QEMU has reset: eip is where it starts,
// signature its CPUID leaf 1 EAX, which a reset leaves in EDX.
func vmsa(eip, signature uint32, features uint64) []byte {
	b := make([]byte, ovmf.PageSize)
	le := binary.LittleEndian
	for i, s := range []segment{
		{0, 0x93, 0xffff, 0},                          // ES
		{0xf000, 0x9b, 0xffff, uint64(eip) &^ 0xffff}, // CS
		{0, 0x93, 0xffff, 0}, {0, 0x93, 0xffff, 0},    // SS, DS
		{0, 0x93, 0xffff, 0}, {0, 0x93, 0xffff, 0}, // FS, GS
		{0, 0, 0xffff, 0}, {0, 0x82, 0xffff, 0}, // GDTR, LDTR
		{0, 0, 0xffff, 0}, {0, 0x8b, 0xffff, 0}, // IDTR, TR
	} {
		at := b[16*i:]
		le.PutUint16(at, s.selector)
		le.PutUint16(at[2:], s.attributes)
		le.PutUint32(at[4:], s.limit)
		le.PutUint64(at[8:], s.base)
	}
	for at, v := range map[int]uint64{
		0x0d0: 0x1000,               // EFER: SVME
		0x148: 0x40,                 // CR4: MCE
		0x158: 0x10,                 // CR0: ET
		0x160: 0x400,                // DR7
		0x168: 0xffff0ff0,           // DR6
		0x170: 0x2,                  // RFLAGS
		0x178: uint64(eip) & 0xffff, // RIP
		0x268: 0x0007040600070406,   // G_PAT
		0x310: uint64(signature),    // RDX
		0x3b0: features,             // SEV_FEATURES
		0x3e8: 1,                    // XCR0
	} {
		le.PutUint64(b[at:], v)
	}
	le.PutUint32(b[0x408:], 0x1f80) // MXCSR
	le.PutUint16(b[0x410:], 0x037f) // X87_FCW
	return b
}

// cpu is family, model and stepping.
type cpu struct{ family, model, stepping uint32 }

// cpus are QEMU's models of AMD's CPUs that run SEV-SNP, or were measured so,
// without the version at their end.
var cpus = map[string]cpu{
	"EPYC":       {0x17, 0x01, 2},
	"EPYC-IBPB":  {0x17, 0x01, 2},
	"EPYC-Rome":  {0x17, 0x31, 0},
	"EPYC-Milan": {0x19, 0x01, 1},
	"EPYC-Genoa": {0x19, 0x11, 0},
	"EPYC-Turin": {0x1a, 0x00, 0},
}

// VCPUTypes lists the models that SNP knows; each with or without QEMU's version
// behind it, such as "EPYC-v4".
func VCPUTypes() []string {
	var names []string
	for name := range cpus {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// KnownVCPUType tells whether SNP knows the model.
func KnownVCPUType(model string) bool {
	_, err := cpuSignature(model)
	return err == nil
}

// cpuSignature is CPUID leaf 1 EAX of a model, whose versions share it.
func cpuSignature(model string) (uint32, error) {
	name, version, versioned := cutLast(model, "-v")
	c, ok := cpus[name]
	if !ok || versioned && !isVersion(version) {
		return 0, fmt.Errorf("the vCPU type %q is not known; expected one of %s, or one of their versions, such as EPYC-v4", model, strings.Join(VCPUTypes(), ", "))
	}
	family, extended := c.family, uint32(0)
	if family > 0xf {
		family, extended = 0xf, c.family-0xf
	}
	return extended<<20 | c.model>>4<<16 | family<<8 | c.model&0xf<<4 | c.stepping, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func isVersion(s string) bool {
	return len(s) == 1 && s[0] >= '1' && s[0] <= '9'
}
