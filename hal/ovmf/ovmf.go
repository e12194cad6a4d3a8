// Package ovmf reads the tables at the end of an OVMF firmware, by which it
// tells the hypervisor how to launch it in a TEE: where the hashes of kernel,
// initial RAM disk and command line go, which pages SEV-SNP and TDX load and
// measure, and where further vCPUs start.
//
// The formats are those of EDK II, OvmfPkg/ResetVector ("GUIDed structures"),
// AMD's SNP metadata ("ASEV") and Intel's "TDX Virtual Firmware Design Guide",
// section 11 ("TDVF").
//
// Invariants:
//   - Every number in a firmware is untrusted: what points outside the file, is
//     not aligned to pages or is larger than a launch could use is an error.
//   - Tables tell what a firmware offers, not what it does: one can have the
//     table of hashes and compare nothing. KnownVerifying names those builds of
//     which it is known, by their digests.
package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// PageSize is that of a TEE's launch, in bytes.
const PageSize = 4096

// MaxSize is the largest firmware that Parse takes, in bytes: QEMU maps no
// larger one below 4 GiB.
const MaxSize = 16 << 20

// The tables' GUIDs.
var (
	footerID      = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
	hashTableID   = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
	secretID      = guid("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
	resetID       = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	sevMetadataID = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
	tdxMetadataID = guid("e47a6535-984a-4798-865e-4685a7bf8ec2")
)

// Tables are what a firmware says of itself.
type Tables struct {
	// HashTable is where the hypervisor puts the hashes of kernel, initial RAM
	// disk and command line; its Size is 0 where the firmware has no room for
	// them.
	HashTable Range
	// Secret is where the owner's secret goes with SEV and SEV-ES.
	Secret Range
	// ResetEIP is where further vCPUs start with SEV-ES and SEV-SNP; 0: none.
	ResetEIP uint32
	// SNPSections are what SEV-SNP loads beside the firmware, in its order;
	// empty: it can't be launched there.
	SNPSections []SNPSection
	// TDXSections are what TDX loads, in its order; empty: it can't be launched
	// there.
	TDXSections []TDXSection
	// TDXFault says why there are no TDXSections although the firmware has TDX
	// metadata: for SEV-SNP they don't matter.
	TDXFault error
}

// Range is a piece of the guest's physical memory.
type Range struct {
	Base uint32 // address
	Size uint32 // bytes
}

// Hashes tells whether there is room for the table of hashes.
func (t Tables) Hashes() bool { return t.HashTable.Size > 0 }

// SNP tells whether SEV-SNP can launch the firmware.
func (t Tables) SNP() bool { return len(t.SNPSections) > 0 }

// TDX tells whether TDX can launch the firmware.
func (t Tables) TDX() bool { return len(t.TDXSections) > 0 }

// SNPType says what a section's pages are.
type SNPType uint32

// The types.
const (
	SNPSecMem       SNPType = 1 // accepted for the firmware, zero
	SNPSecrets      SNPType = 2
	SNPCPUID        SNPType = 3
	SNPSVSMCAA      SNPType = 4
	SNPKernelHashes SNPType = 0x10
)

// SNPSection is a piece of memory that SEV-SNP adds to the launch. Base and Size
// are whole pages.
type SNPSection struct {
	Range
	Type SNPType
}

// TDXType says what a section is for.
type TDXType uint32

// The types ("TDX Virtual Firmware Design Guide", table 11-2).
const (
	TDXBootVolume    TDXType = 0
	TDXConfigVolume  TDXType = 1
	TDXHandOff       TDXType = 2
	TDXTempMemory    TDXType = 3
	TDXPermMemory    TDXType = 4
	TDXPayload       TDXType = 5
	TDXPayloadParams TDXType = 6
)

// Attributes of a TDXSection.
const (
	TDXExtend uint32 = 1 << 0 // its content goes into MRTD
	TDXAug    uint32 = 1 << 1 // its pages are added when the TD runs
)

// TDXSection is a piece of memory that TDX adds to the launch.
type TDXSection struct {
	// Offset and RawSize are its content in the file, in bytes; RawSize is 0
	// where the memory is zero.
	Offset, RawSize uint32
	// Base is its address, Size that of its memory in bytes; whole pages.
	Base, Size uint64
	Type       TDXType
	Attributes uint32
}

// ErrNoTables means that the file does not end as an OVMF firmware does.
var ErrNoTables = errors.New("the file does not end with OVMF's tables: it is no OVMF firmware, or one of before 2020")

const (
	resetVector = 32 // bytes at the file's end, behind the tables
	entryHeader = 2 + 16
)

// Parse reads a firmware's tables. Tables that are absent stay empty; ErrNoTables
// means that there are none at all, and a table that is malformed is an error.
func Parse(firmware []byte) (Tables, error) {
	if n := len(firmware); n > MaxSize {
		return Tables{}, fmt.Errorf("firmware has %d bytes: expected at most %d", n, MaxSize)
	} else if n == 0 || n%PageSize != 0 {
		return Tables{}, fmt.Errorf("firmware has %d bytes: expected whole pages of %d", n, PageSize)
	}
	entries, err := walk(firmware)
	if err != nil {
		return Tables{}, err
	}
	var t Tables
	for _, e := range []struct {
		name string
		id   [16]byte
		size int
		read func([]byte) error
	}{
		{"table of hashes", hashTableID, 8, func(b []byte) error { t.HashTable = readRange(b); return t.HashTable.check() }},
		{"secret's place", secretID, 8, func(b []byte) error { t.Secret = readRange(b); return t.Secret.check() }},
		{"reset block", resetID, 4, func(b []byte) error { t.ResetEIP = binary.LittleEndian.Uint32(b); return nil }},
		{"SEV metadata", sevMetadataID, 4, func(b []byte) (err error) {
			t.SNPSections, err = snpSections(firmware, binary.LittleEndian.Uint32(b))
			return err
		}},
		{"TDX metadata", tdxMetadataID, 4, func(b []byte) error {
			t.TDXSections, t.TDXFault = tdxSections(firmware, binary.LittleEndian.Uint32(b))
			return nil
		}},
	} {
		b, ok := entries[e.id]
		if !ok {
			continue
		}
		// Later versions may append members.
		if len(b) < e.size {
			return Tables{}, fmt.Errorf("firmware's %s: has %d bytes, expected %d", e.name, len(b), e.size)
		}
		if err := e.read(b); err != nil {
			return Tables{}, fmt.Errorf("firmware's %s: %w", e.name, err)
		}
	}
	return t, nil
}

// walk returns the data of each entry by GUID. Entries lie one before the other,
// each with its length and GUID behind its data; the last is the footer, whose
// length is that of all.
func walk(firmware []byte) (map[[16]byte][]byte, error) {
	end := len(firmware) - resetVector
	length, id := header(firmware[:end])
	if id != footerID {
		return nil, ErrNoTables
	}
	if length < entryHeader || length > end {
		return nil, fmt.Errorf("firmware's tables have %d bytes: expected %d to %d", length, entryHeader, end)
	}
	rest := firmware[end-length : end-entryHeader]
	entries := map[[16]byte][]byte{}
	for len(rest) > 0 {
		if len(rest) < entryHeader {
			return nil, fmt.Errorf("firmware's tables: %d bytes are left over before the first", len(rest))
		}
		n, id := header(rest)
		if n < entryHeader || n > len(rest) {
			return nil, fmt.Errorf("firmware's table %x has %d bytes: expected %d to %d", id, n, entryHeader, len(rest))
		}
		if _, twice := entries[id]; twice {
			return nil, fmt.Errorf("firmware's table %x is there twice", id)
		}
		entries[id] = rest[len(rest)-n : len(rest)-entryHeader]
		rest = rest[:len(rest)-n]
	}
	return entries, nil
}

// header reads the length and GUID at the end of b.
func header(b []byte) (length int, id [16]byte) {
	b = b[len(b)-entryHeader:]
	copy(id[:], b[2:])
	return int(binary.LittleEndian.Uint16(b)), id
}

func readRange(b []byte) Range {
	return Range{Base: binary.LittleEndian.Uint32(b), Size: binary.LittleEndian.Uint32(b[4:])}
}

func (r Range) check() error {
	if uint64(r.Base)+uint64(r.Size) > 1<<32 {
		return fmt.Errorf("%d bytes at %#x reach beyond 4 GiB", r.Size, r.Base)
	}
	return nil
}

// guid is a GUID's bytes as EFI stores it: its first three parts are little
// endian.
func guid(s string) [16]byte {
	b := uuid.MustParse(s)
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return b
}

// GUID is guid for those who write tables of their own; s is a constant.
func GUID(s string) [16]byte { return guid(s) }

// descriptor finds a metadata block offset bytes before the file's end: a
// signature, then length, version and number of sections.
func descriptor(firmware []byte, offset uint32, signature string, item int) (items []byte, err error) {
	const head = 16
	if int64(offset) > int64(len(firmware)) || offset < head {
		return nil, fmt.Errorf("lies %d bytes before the end of a file of %d", offset, len(firmware))
	}
	b := firmware[len(firmware)-int(offset):]
	if !bytes.HasPrefix(b, []byte(signature)) {
		return nil, fmt.Errorf("begins with %q: expected %q", b[:4], signature)
	}
	length, version, n := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	switch {
	case version != 1:
		return nil, fmt.Errorf("has version %d: expected 1", version)
	case n == 0 || n > maxSections:
		return nil, fmt.Errorf("has %d sections: expected 1 to %d", n, maxSections)
	case int64(head)+int64(n)*int64(item) > int64(len(b)):
		return nil, fmt.Errorf("%d sections reach beyond the file's end", n)
	case int64(length) < int64(head)+int64(n)*int64(item):
		return nil, fmt.Errorf("says that it has %d bytes, too few for %d sections", length, n)
	}
	return b[head : head+int(n)*item], nil
}
