package disk

import (
	"encoding/binary"
	"fmt"
	"math"
)

const sectorSize = 512

// The file system is FAT32 (Microsoft's FAT specification) with clusters of one
// sector, laid out for three folders of one cluster and one file:
//
//	reserved sectors | FAT | FAT | root | EFI | BOOT | BOOTX64.EFI ...
const (
	reservedSectors = 32
	fats            = 2
	infoSector      = 1
	backupSector    = 6 // of the boot sector and what follows it

	rootCluster = 2
	efiCluster  = 3
	bootCluster = 4
	fileCluster = 5

	// leastClusters makes it FAT32: the type is told by the number alone, and
	// 65525 is the least. The specification advises to stay clear of it.
	leastClusters = 65536
	// freeClusters stay unused whatever the size.
	freeClusters = 16

	endOfChain = 0x0fffffff
)

// Attributes of directory entries.
const (
	attrLabel   = 0x08
	attrFolder  = 0x10
	attrArchive = 0x20
)

// earliest is 1 January 1980, the first date that there is.
const earliest = 1<<5 | 1

var label = [11]byte([]byte("COCOS      "))

// fat32 is the layout of a file system.
type fat32 struct {
	hidden     uint32 // sectors of the disk before the partition
	size       uint32 // bytes of the file
	clusters   uint32
	fatSectors uint32
}

func newFAT(fileSize int, hidden uint32) (fat32, error) {
	if fileSize <= 0 || fileSize > math.MaxInt32 {
		return fat32{}, fmt.Errorf("a file of %d bytes: want 1 to %d", fileSize, math.MaxInt32)
	}
	f := fat32{hidden: hidden, size: uint32(fileSize)}
	f.clusters = max(leastClusters, f.used()+freeClusters)
	f.fatSectors = (4*(2+f.clusters) + sectorSize - 1) / sectorSize
	return f, nil
}

// used is the number of clusters that folders and file take.
func (f fat32) used() uint32 {
	return fileCluster - rootCluster + (f.size+sectorSize-1)/sectorSize
}

func (f fat32) firstData() uint32 { return reservedSectors + fats*f.fatSectors }
func (f fat32) sectors() uint32   { return f.firstData() + f.clusters }

// write fills b, which is all zero and as large as the file system.
func (f fat32) write(b []byte, serial [4]byte, file []byte) {
	for _, at := range []int{0, backupSector} {
		f.bootSector(b[at*sectorSize:][:sectorSize], serial)
		f.info(b[(at+infoSector)*sectorSize:][:sectorSize])
	}
	first := b[reservedSectors*sectorSize:]
	put := func(cluster, v uint32) { binary.LittleEndian.PutUint32(first[4*cluster:], v) }
	put(0, 0x0ffffff8) // the medium
	put(1, endOfChain)
	for _, folder := range []uint32{rootCluster, efiCluster, bootCluster} {
		put(folder, endOfChain)
	}
	last := rootCluster + f.used() - 1
	for c := uint32(fileCluster); c < last; c++ {
		put(c, c+1)
	}
	put(last, endOfChain)
	fatBytes := f.fatSectors * sectorSize
	copy(first[fatBytes:2*fatBytes], first[:fatBytes])

	cluster := func(n uint32) []byte { return b[(f.firstData()+n-rootCluster)*sectorSize:] }
	folder(cluster(rootCluster),
		entry{name: string(label[:]), attr: attrLabel},
		entry{name: "EFI        ", attr: attrFolder, cluster: efiCluster})
	folder(cluster(efiCluster),
		entry{name: ".          ", attr: attrFolder, cluster: efiCluster},
		entry{name: "..         ", attr: attrFolder}, // 0 is the root
		entry{name: "BOOT       ", attr: attrFolder, cluster: bootCluster})
	folder(cluster(bootCluster),
		entry{name: ".          ", attr: attrFolder, cluster: bootCluster},
		entry{name: "..         ", attr: attrFolder, cluster: efiCluster},
		entry{name: "BOOTX64 EFI", attr: attrArchive, cluster: fileCluster, size: f.size})
	copy(cluster(fileCluster), file)
}

// bootSector is the specification's BPB for FAT32.
type bootSector struct {
	Jump              [3]byte
	OEM               [8]byte
	BytesPerSector    uint16
	SectorsPerCluster uint8
	Reserved          uint16
	FATs              uint8
	RootEntries       uint16 // 0
	Sectors16         uint16 // 0
	Medium            uint8
	FATSectors16      uint16 // 0
	SectorsPerTrack   uint16
	Heads             uint16
	Hidden            uint32
	Sectors           uint32
	FATSectors        uint32
	Flags             uint16
	Version           uint16
	RootCluster       uint32
	Info              uint16
	Backup            uint16
	_                 [12]byte
	Drive             uint8
	_                 uint8
	Signature         uint8
	Serial            [4]byte
	Label             [11]byte
	Type              [8]byte
}

func (f fat32) bootSector(b []byte, serial [4]byte) {
	encode(b, bootSector{
		Jump: [3]byte{0xeb, 0x58, 0x90}, OEM: [8]byte([]byte("COCOS   ")),
		BytesPerSector: sectorSize, SectorsPerCluster: 1, Reserved: reservedSectors, FATs: fats,
		Medium: 0xf8, SectorsPerTrack: 63, Heads: 255, Hidden: f.hidden, Sectors: f.sectors(),
		FATSectors: f.fatSectors, RootCluster: rootCluster, Info: infoSector, Backup: backupSector,
		Drive: 0x80, Signature: 0x29, Serial: serial, Label: label, Type: [8]byte([]byte("FAT32   ")),
	})
	b[510], b[511] = 0x55, 0xaa
}

// info writes the sector that says how much is free.
func (f fat32) info(b []byte) {
	for at, v := range map[int]uint32{
		0: 0x41615252, 484: 0x61417272, 488: f.clusters - f.used(), 492: rootCluster + f.used(), 508: 0xaa550000,
	} {
		binary.LittleEndian.PutUint32(b[at:], v)
	}
}

type entry struct {
	name    string // 8 and 3 letters
	attr    byte
	cluster uint32
	size    uint32 // bytes; 0 for folders
}

func folder(b []byte, entries ...entry) {
	for i, e := range entries {
		encode(b[32*i:], struct {
			Name         [11]byte
			Attr         uint8
			_            [2]byte
			CreatedTime  uint16
			CreatedDate  uint16
			AccessedDate uint16
			ClusterHigh  uint16
			WrittenTime  uint16
			WrittenDate  uint16
			ClusterLow   uint16
			Size         uint32
		}{
			Name: [11]byte([]byte(e.name)), Attr: e.attr,
			CreatedDate: earliest, AccessedDate: earliest, WrittenDate: earliest,
			ClusterHigh: uint16(e.cluster >> 16), ClusterLow: uint16(e.cluster), Size: e.size,
		})
	}
}

// encode writes v, a struct of fixed size that fits, little-endian into b.
func encode(b []byte, v any) {
	if _, err := binary.Encode(b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
}
