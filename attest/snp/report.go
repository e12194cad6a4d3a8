// Package snp appraises SEV-SNP's attestation reports (AMD 56860, "SEV Secure
// Nested Paging Firmware ABI Specification", tables 9, 22, 23, 24 and 121) by AMD's
// endorsements of the keys that sign them (57230, "Versioned Chip Endorsement
// Key Certificate and KDS Interface Specification").
//
// Invariants:
//   - A report has 1184 bytes, no more and no fewer. Versions 2 to 5 are read;
//     what a version reserves must be zero, so that nothing in a report that was
//     accepted goes unread. Marshal writes what Parse reads, byte for byte.
//   - A signing key's certificate counts if AMD's pinned key for the product line
//     issued it. Authorities that come with evidence are never looked at, and no
//     function of this package takes others than the pinned ones.
//   - Whatever a certificate says is held against the report: product, the
//     reported TCB version byte by byte, the chip.
//   - Appraise looks at every field that can weaken a guest. What the policy does
//     not list is refused, and each claim is in the result, refused or not. What
//     the host is like is judged as far as the policy asks, and shown in any case.
package snp

import (
	"encoding/binary"
	"fmt"
)

// ReportSize of every version, in bytes.
const ReportSize = 1184

// SignedSize is how much of a report its signature covers, in bytes.
const SignedSize = 0x2a0

// The versions that Parse reads.
const (
	MinVersion = 2
	MaxVersion = 5
)

// SignatureECDSAP384 is the one signature algorithm: ECDSA P-384 with SHA-384.
const SignatureECDSAP384 = 1

// Signer is the key that signed a report (SIGNING_KEY).
type Signer uint8

// The keys.
const (
	VCEK     Signer = 0 // the chip's, for the version of its firmware
	VLEK     Signer = 1 // a cloud provider's, given to the chip
	Unsigned Signer = 7
)

// TCB is a TCB_VERSION as it stands in the report: what its bytes mean depends
// on the product.
type TCB [8]byte

// Report is an ATTESTATION_REPORT.
type Report struct {
	Version       uint32
	GuestSVN      uint32
	Policy        uint64 // table 9
	FamilyID      [16]byte
	ImageID       [16]byte
	VMPL          uint32
	SignatureAlgo uint32
	CurrentTCB    TCB
	PlatformInfo  uint64 // table 24
	// AuthorKey: AuthorKeyDigest says who signed the ID key.
	AuthorKey bool
	// MaskChipKey: the signature is left out.
	MaskChipKey     bool
	Signer          Signer
	ReportData      [64]byte
	Measurement     [48]byte
	HostData        [32]byte
	IDKeyDigest     [48]byte
	AuthorKeyDigest [48]byte
	ReportID        [32]byte
	ReportIDMA      [32]byte
	ReportedTCB     TCB
	// CPUIDFamily, CPUIDModel and CPUIDStepping are there from version 3 on.
	CPUIDFamily   uint8
	CPUIDModel    uint8
	CPUIDStepping uint8
	ChipID        [64]byte
	CommittedTCB  TCB
	// Current and Committed are the firmware's versions.
	Current, Committed FirmwareVersion
	LaunchTCB          TCB
	// LaunchMitigations and CurrentMitigations are there from version 5 on.
	LaunchMitigations, CurrentMitigations uint64
	// R and S are the signature, little endian as in the report.
	R, S [72]byte
}

// FirmwareVersion of the security processor.
type FirmwareVersion struct{ Build, Minor, Major uint8 }

// Bits of the word at 0x48.
const (
	bitAuthorKey   = 1 << 0
	bitMaskChipKey = 1 << 1
	shiftSigner    = 2
	maskSigner     = 7
	knownBits      = bitAuthorKey | bitMaskChipKey | maskSigner<<shiftSigner
)

// Parse reads a report, which may be anybody's.
func Parse(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, fmt.Errorf("SNP report has %d bytes; expected %d", len(b), ReportSize)
	}
	r := &Report{Version: binary.LittleEndian.Uint32(b)}
	if r.Version < MinVersion || r.Version > MaxVersion {
		return nil, fmt.Errorf("SNP report has version %d; expected %d to %d", r.Version, MinVersion, MaxVersion)
	}
	c := &reader{b: b}
	r.fields(c)
	if c.fault != nil {
		return nil, fmt.Errorf("SNP report: %w", c.fault)
	}
	return r, nil
}

// Marshal writes a report. What its version does not have is left out.
func Marshal(r *Report) []byte {
	c := &writer{b: make([]byte, ReportSize)}
	r.fields(c)
	return c.b
}

// codec moves the fields in one direction. Each names where it lies.
type codec interface {
	u8(at int, v *uint8)
	u32(at int, v *uint32)
	u64(at int, v *uint64)
	bytes(at int, v []byte)
	// zero is reserved.
	zero(at, end int)
	// flags are the bits of which only some are known.
	flags(at int, r *Report)
}

// fields is table 23.
func (r *Report) fields(c codec) {
	c.u32(0x000, &r.Version)
	c.u32(0x004, &r.GuestSVN)
	c.u64(0x008, &r.Policy)
	c.bytes(0x010, r.FamilyID[:])
	c.bytes(0x020, r.ImageID[:])
	c.u32(0x030, &r.VMPL)
	c.u32(0x034, &r.SignatureAlgo)
	c.bytes(0x038, r.CurrentTCB[:])
	c.u64(0x040, &r.PlatformInfo)
	c.flags(0x048, r)
	c.zero(0x04c, 0x050)
	c.bytes(0x050, r.ReportData[:])
	c.bytes(0x090, r.Measurement[:])
	c.bytes(0x0c0, r.HostData[:])
	c.bytes(0x0e0, r.IDKeyDigest[:])
	c.bytes(0x110, r.AuthorKeyDigest[:])
	c.bytes(0x140, r.ReportID[:])
	c.bytes(0x160, r.ReportIDMA[:])
	c.bytes(0x180, r.ReportedTCB[:])
	if r.Version >= 3 {
		c.u8(0x188, &r.CPUIDFamily)
		c.u8(0x189, &r.CPUIDModel)
		c.u8(0x18a, &r.CPUIDStepping)
		c.zero(0x18b, 0x1a0)
	} else {
		c.zero(0x188, 0x1a0)
	}
	c.bytes(0x1a0, r.ChipID[:])
	c.bytes(0x1e0, r.CommittedTCB[:])
	for i, v := range []*FirmwareVersion{&r.Current, &r.Committed} {
		at := 0x1e8 + 4*i
		c.u8(at, &v.Build)
		c.u8(at+1, &v.Minor)
		c.u8(at+2, &v.Major)
		c.zero(at+3, at+4)
	}
	c.bytes(0x1f0, r.LaunchTCB[:])
	if r.HasMitigations() {
		c.u64(0x1f8, &r.LaunchMitigations)
		c.u64(0x200, &r.CurrentMitigations)
		c.zero(0x208, SignedSize)
	} else {
		c.zero(0x1f8, SignedSize)
	}
	c.bytes(SignedSize, r.R[:])
	c.bytes(SignedSize+72, r.S[:])
	c.zero(SignedSize+2*72, ReportSize)
}

type reader struct {
	b     []byte
	fault error // the first
}

func (c *reader) u8(at int, v *uint8)    { *v = c.b[at] }
func (c *reader) u32(at int, v *uint32)  { *v = binary.LittleEndian.Uint32(c.b[at:]) }
func (c *reader) u64(at int, v *uint64)  { *v = binary.LittleEndian.Uint64(c.b[at:]) }
func (c *reader) bytes(at int, v []byte) { copy(v, c.b[at:]) }

func (c *reader) zero(at, end int) {
	for i := at; i < end; i++ {
		if c.b[i] != 0 && c.fault == nil {
			c.fault = fmt.Errorf("byte %#x is reserved in version %d and not zero", i, c.b[0])
		}
	}
}

func (c *reader) flags(at int, r *Report) {
	v := binary.LittleEndian.Uint32(c.b[at:])
	if v&^knownBits != 0 && c.fault == nil {
		c.fault = fmt.Errorf("the bits %#x at %#x are not known", v&^knownBits, at)
	}
	r.AuthorKey, r.MaskChipKey = v&bitAuthorKey != 0, v&bitMaskChipKey != 0
	r.Signer = Signer(v >> shiftSigner & maskSigner)
}

type writer struct{ b []byte }

func (c *writer) u8(at int, v *uint8)    { c.b[at] = *v }
func (c *writer) u32(at int, v *uint32)  { binary.LittleEndian.PutUint32(c.b[at:], *v) }
func (c *writer) u64(at int, v *uint64)  { binary.LittleEndian.PutUint64(c.b[at:], *v) }
func (c *writer) bytes(at int, v []byte) { copy(c.b[at:], v) }
func (c *writer) zero(int, int)          {}

func (c *writer) flags(at int, r *Report) {
	v := uint32(r.Signer&maskSigner) << shiftSigner
	if r.AuthorKey {
		v |= bitAuthorKey
	}
	if r.MaskChipKey {
		v |= bitMaskChipKey
	}
	c.u32(at, &v)
}
