// Package disk makes the bootable disk of a guest: one program for UEFI that
// holds kernel, initial RAM disk and command line.
//
// From the outside in: a qcow2 image; in it a disk with a GUID partition table
// and one partition, the EFI system partition; on that a FAT file system with
// the one file that firmware starts without being told to, /EFI/BOOT/BOOTX64.EFI;
// and that file is a unified kernel image: systemd's stub with further sections.
// There is no boot loader, no menu and nothing to configure.
//
// Invariants:
//
//   - The same parts give the same bytes. Identifiers are derived from the
//     content, times are the file system's earliest.
//   - The kernel gets exactly the given command line and initial RAM disk, as
//     far as firmware and host leave them alone: nothing here is signed.
//
// The file system and the partition table are written here because they hold
// one known file each; the libraries at hand make file systems of this size
// that fsck.fat refuses, or stamp the current time on them.
package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/ultravioletrs/cocos/internal/qcow2"
)

// Parts is what a disk is made of. All fields are required.
type Parts struct {
	Stub          []byte // linuxx64.efi.stub of systemd
	Kernel        []byte // bzImage, with an EFI stub of its own
	Initrd        []byte
	CommandLine   string
	KernelVersion string // as uname -r says
}

// Info describes a disk that was written.
type Info struct {
	UnifiedSHA256 string // of BOOTX64.EFI, lower-case hex
	UnifiedSize   int64  // bytes
	VirtualSize   int64  // bytes of the disk, as the guest sees it
}

// Write writes the disk as a qcow2 image to w.
func Write(w io.Writer, p Parts) (Info, error) {
	unified, err := Unify(p)
	if err != nil {
		return Info{}, err
	}
	sum := sha256.Sum256(unified)
	raw, err := partitioned(unified, sum)
	if err != nil {
		return Info{}, err
	}
	if err := qcow2.Write(w, bytes.NewReader(raw), int64(len(raw))); err != nil {
		return Info{}, err
	}
	return Info{hex.EncodeToString(sum[:]), int64(len(unified)), int64(len(raw))}, nil
}

// partitioned returns the raw disk that boots unified, whose digest seeds every
// identifier.
func partitioned(unified []byte, seed [sha256.Size]byte) ([]byte, error) {
	esp, err := newFAT(len(unified), firstSector)
	if err != nil {
		return nil, fmt.Errorf("making the EFI system partition: %w", err)
	}
	raw := make([]byte, gptSize(esp.sectors()))
	writeGPT(raw, esp.sectors(), derived(seed, "disk"), derived(seed, "partition"))
	at := firstSector * sectorSize
	id := derived(seed, "volume")
	esp.write(raw[at:at+int(esp.sectors())*sectorSize], [4]byte(id[:4]), unified)
	return raw, nil
}

// derived returns an identifier: a UUID of version 8 (RFC 9562, section 5.8) in
// the byte order of partition tables.
func derived(seed [sha256.Size]byte, purpose string) [16]byte {
	sum := sha256.Sum256(append([]byte("cocos/v1/disk/"+purpose+"\n"), seed[:]...))
	id := [16]byte(sum[:16])
	id[7] = id[7]&0x0f | 0x80 // the version's bytes are swapped
	id[8] = id[8]&0x3f | 0x80
	return id
}
