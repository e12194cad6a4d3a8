// Package measure computes what a TEE measures of a launch, so that a
// participant can compare evidence with an image that it built itself.
//
// It is pure, but for what reads an image's folder: bytes in, digests out. The
// formats are AMD's (56860, "SEV Secure Nested Paging Firmware ABI Specification",
// section 8.17, PAGE_INFO; "AMD64 Architecture Programmer's Manual" volume 2,
// table B-4, the save area), Intel's ("TDX Module Base Architecture
// Specification", MRTD and RTMRs), OVMF's (package ovmf) and QEMU's: the table of
// hashes and the registers of a vCPU that was reset.
//
// Invariants:
//   - A launch whose kernel, initial RAM disk and command line would go
//     unmeasured has no measurement: a firmware without room for the table of
//     hashes is an error.
//   - What is not known, such as a model of CPU, is an error that lists what is.
package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// Launch is what a VM is launched with.
type Launch struct {
	// Firmware is the whole file; not used by Simulated.
	Firmware []byte
	Kernel   []byte
	Initrd   []byte
	// CommandLine of the kernel, without a final NUL.
	CommandLine string
	VCPUs       int
	// VCPUType is QEMU's model, such as "EPYC-v4"; not used by Simulated.
	VCPUType string
	// GuestFeatures are SEV_FEATURES of the save area; QEMU's default is
	// DefaultGuestFeatures. Not used by Simulated.
	GuestFeatures uint64
	// TDX is for that TEE alone.
	TDX TDXOptions
}

// DefaultGuestFeatures are those of QEMU's guests: SEV-SNP and nothing else.
const DefaultGuestFeatures = 1

// MaxVCPUs of a Launch.
const MaxVCPUs = 4096

// SNP returns the launch digest of SEV-SNP under QEMU with kernel-hashes=on.
func SNP(l Launch) (digest [48]byte, err error) {
	b, err := beginSNP(l.Firmware)
	if err == nil {
		digest, err = b.digest(l.booted(), l.VCPUs, l.VCPUType, l.GuestFeatures)
	}
	if err != nil {
		return [48]byte{}, fmt.Errorf("measuring the launch: %w", err)
	}
	return digest, nil
}

// booted is what the table of hashes holds of a Launch.
type booted struct {
	kernel, initrd [32]byte
	commandLine    string
}

func (l Launch) booted() booted {
	return booted{sha256.Sum256(l.Kernel), sha256.Sum256(l.Initrd), l.CommandLine}
}

// snpFirmware is a firmware that SEV-SNP can launch, its pages measured already.
type snpFirmware struct {
	tables ovmf.Tables
	loaded chain
}

func beginSNP(firmware []byte) (*snpFirmware, error) {
	tables, err := ovmf.Parse(firmware)
	switch {
	case err != nil:
		return nil, err
	case !tables.SNP():
		return nil, errors.New("the firmware has no SEV metadata: SEV-SNP can't launch it")
	case !tables.Hashes():
		return nil, errors.New("the firmware has no room for the table of hashes: kernel, initial RAM disk and command line would go unmeasured")
	case !slices.ContainsFunc(tables.SNPSections, func(s ovmf.SNPSection) bool { return s.Type == ovmf.SNPKernelHashes }):
		return nil, errors.New("the firmware's SEV metadata has no section for the table of hashes: kernel, initial RAM disk and command line would go unmeasured")
	}
	f := &snpFirmware{tables: tables}
	f.loaded.normal(1<<32-uint64(len(firmware)), firmware)
	return f, nil
}

// boot adds the sections, and with them what is booted.
func (f *snpFirmware) boot(b booted) (chain, error) {
	c := f.loaded
	for _, s := range f.tables.SNPSections {
		switch s.Type {
		case ovmf.SNPSecrets:
			c.unread(pageSecrets, s.Range)
		case ovmf.SNPCPUID:
			c.unread(pageCPUID, s.Range)
		case ovmf.SNPKernelHashes:
			page, err := b.hashPage(f.tables.HashTable, s.Range)
			if err != nil {
				return c, err
			}
			c.normal(uint64(s.Base), page)
		default:
			c.unread(pageZero, s.Range)
		}
	}
	return c, nil
}

func (f *snpFirmware) digest(b booted, vcpus int, model string, features uint64) (digest [48]byte, err error) {
	signature, err := cpuSignature(model)
	if err != nil {
		return digest, err
	}
	if err := checkVCPUs(vcpus); err != nil {
		return digest, err
	}
	if vcpus > 1 && f.tables.ResetEIP == 0 {
		return digest, fmt.Errorf("the firmware does not say where further vCPUs start: only 1 can be measured, not %d", vcpus)
	}
	c, err := f.boot(b)
	if err != nil {
		return digest, err
	}
	c.vcpus(vcpus, f.tables.ResetEIP, signature, features)
	return c.digest, nil
}

// SimulatedHashes is where the simulated TEE's table of hashes counts as lying;
// where OVMF's is.
const SimulatedHashes = 0x810c00

// Simulated returns the launch digest of the simulated TEE: SEV-SNP's chain over
// the table of hashes and one save area for each vCPU. There is no firmware in
// it and no model of CPU, for nothing on such a host vouches for either.
func Simulated(l Launch) (digest [48]byte, err error) {
	if err := checkVCPUs(l.VCPUs); err != nil {
		return digest, fmt.Errorf("measuring the simulated launch: %w", err)
	}
	c, err := bootSimulated(l.booted())
	if err != nil {
		return digest, fmt.Errorf("measuring the simulated launch: %w", err)
	}
	c.vcpus(l.VCPUs, resetVector, 0, DefaultGuestFeatures)
	return c.digest, nil
}

func bootSimulated(b booted) (c chain, err error) {
	table := ovmf.Range{Base: SimulatedHashes, Size: 0x400}
	section := ovmf.Range{Base: SimulatedHashes &^ (ovmf.PageSize - 1), Size: ovmf.PageSize}
	page, err := b.hashPage(table, section)
	if err != nil {
		return c, err
	}
	c.normal(uint64(section.Base), page)
	return c, nil
}

func checkVCPUs(n int) error {
	if n < 1 || n > MaxVCPUs {
		return fmt.Errorf("the VM has %d vCPUs; expected 1 to %d", n, MaxVCPUs)
	}
	return nil
}

// The table's GUIDs, as QEMU's target/i386/sev.c has them.
var (
	tableGUID   = ovmf.GUID("9438d606-4f22-4cc9-b479-a793d411fd21")
	commandGUID = ovmf.GUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
	initrdGUID  = ovmf.GUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
	kernelGUID  = ovmf.GUID("4de79437-abd2-427f-b835-d5b172d2045b")
)

// HashTable is the table of hashes as QEMU puts it into the guest's memory: 176
// bytes, the last 8 of them padding. The command line counts with its final NUL.
func HashTable(kernel, initrd []byte, commandLine string) []byte {
	return Launch{Kernel: kernel, Initrd: initrd, CommandLine: commandLine}.booted().table()
}

func (b booted) table() []byte {
	entry := func(t []byte, id [16]byte, sum [32]byte) []byte {
		t = append(t, id[:]...)
		t = binary.LittleEndian.AppendUint16(t, 16+2+32)
		return append(t, sum[:]...)
	}
	t := append([]byte(nil), tableGUID[:]...)
	t = binary.LittleEndian.AppendUint16(t, 16+2+3*(16+2+32))
	t = entry(t, commandGUID, sha256.Sum256(append([]byte(b.commandLine), 0)))
	t = entry(t, initrdGUID, b.initrd)
	t = entry(t, kernelGUID, b.kernel)
	return slices.Concat(t, make([]byte, 8))
}

// hashPage is the page of section with the table in its place.
func (b booted) hashPage(table, section ovmf.Range) ([]byte, error) {
	t := b.table()
	at := int64(table.Base) - int64(section.Base)
	if at < 0 || at+int64(len(t)) > int64(section.Size) || int(table.Size) < len(t) {
		return nil, fmt.Errorf("the firmware's table of hashes (%d bytes at %#x) does not lie in its measured page at %#x", table.Size, table.Base, section.Base)
	}
	page := make([]byte, section.Size)
	copy(page[at:], t)
	return page, nil
}
