package disk

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

// A GUID partition table (UEFI specification, chapter 5), with one partition:
//
//	MBR | header | 128 entries | ... | partition | ... | 128 entries | header
const (
	firstSector  = 2048 // of the partition, on a boundary of 1 MiB
	entryCount   = 128
	entrySize    = 128
	entrySectors = entryCount * entrySize / sectorSize
)

// efiSystem is the type of the EFI system partition,
// C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
var efiSystem = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

// gptSize is the size in bytes of a disk with a partition of that many sectors:
// whole MiB.
func gptSize(partition uint32) int {
	return align((firstSector+int(partition)+entrySectors+1)*sectorSize, 1<<20)
}

type gptHeader struct {
	Signature   [8]byte
	Revision    uint32
	Size        uint32
	CRC         uint32
	_           uint32
	Own, Other  uint64 // sectors of this header and the other one
	First, Last uint64 // usable sectors
	Disk        [16]byte
	Entries     uint64 // their first sector
	EntryCount  uint32
	EntrySize   uint32
	EntriesCRC  uint32
}

// writeGPT writes both tables of a disk, all zero until now, whose partition
// has that many sectors.
func writeGPT(b []byte, partition uint32, disk, part [16]byte) {
	sectors := uint64(len(b) / sectorSize)
	// The protective MBR: one partition of unknown kind over the whole disk.
	copy(b[446:], []byte{0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[454:], 1)
	binary.LittleEndian.PutUint32(b[458:], uint32(sectors-1))
	b[510], b[511] = 0x55, 0xaa

	entries := b[2*sectorSize:][:entrySectors*sectorSize]
	copy(entries, efiSystem[:])
	copy(entries[16:], part[:])
	binary.LittleEndian.PutUint64(entries[32:], firstSector)
	binary.LittleEndian.PutUint64(entries[40:], firstSector+uint64(partition)-1)
	for i, c := range utf16.Encode([]rune("EFI system partition")) {
		binary.LittleEndian.PutUint16(entries[56+2*i:], c)
	}
	backup := sectors - 1 - entrySectors
	copy(b[backup*sectorSize:], entries)

	h := gptHeader{
		Signature: [8]byte([]byte("EFI PART")), Revision: 1 << 16, Size: 92,
		Own: 1, Other: sectors - 1, First: 2 + entrySectors, Last: backup - 1, Disk: disk,
		Entries: 2, EntryCount: entryCount, EntrySize: entrySize, EntriesCRC: crc32.ChecksumIEEE(entries),
	}
	h.write(b)
	h.Own, h.Other, h.Entries = h.Other, h.Own, backup
	h.write(b)
}

func (h gptHeader) write(disk []byte) {
	b := disk[h.Own*sectorSize:]
	encode(b, h)
	binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:h.Size]))
}
