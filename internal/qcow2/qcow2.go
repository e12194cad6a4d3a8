// Package qcow2 reads the headers of disk images, puts throw-away overlays on
// them, and writes images from raw bytes.
//
// The format is QEMU's qcow2 (docs/interop/qcow2.rst of QEMU). Only the little
// that Cocos needs is here, so that a host needs no tool of QEMU's beside the
// emulator itself:
//
//   - VirtualSize judges an image before a VM is given it. An image that names
//     another file (a backing file, an external data file) is refused: QEMU
//     would open that file with the rights of the host, and the guest would
//     read it.
//   - CreateOverlay makes an empty image on top of another one. What a guest
//     writes stays in the overlay, so the image below never changes; the format
//     of the image below is written down, because QEMU must never guess it.
//   - Write makes an image from raw bytes. The same bytes give the same file.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The formats that an image can be in, by QEMU's names.
const (
	FormatQcow2 = "qcow2"
	FormatRaw   = "raw"
)

// Sizes in bytes.
const (
	sectorSize = 512

	// clusterBits is what this package writes: clusters of 64 KiB.
	clusterBits = 16
	clusterSize = 1 << clusterBits

	headerSize2 = 72  // version 2
	headerSize3 = 104 // version 3, without the compression type

	// maxVirtualSize bounds what counts as a disk: 64 TiB.
	maxVirtualSize = 64 << 40
	// maxName bounds the name of a backing file in a header.
	maxName = 1023
)

const magic = "QFI\xfb"

// Incompatible features: a reader that doesn't know one must not open the file.
const (
	featureDirty       = 1 << 0
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3 // clusters are packed with something but zlib
	featureExtendedL2  = 1 << 4
)

// Header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	extDataFile      = 0x44415441
)

// header is a qcow2 header as it lies in the file, big-endian.
type header struct {
	Magic            [4]byte
	Version          uint32
	BackingOffset    uint64 // 0: no backing file
	BackingSize      uint32 // bytes of its name
	ClusterBits      uint32
	Size             uint64 // bytes, as the guest sees it
	CryptMethod      uint32 // 0: none
	L1Size           uint32 // entries
	L1Offset         uint64
	RefcountOffset   uint64
	RefcountClusters uint32
	Snapshots        uint32
	SnapshotsOffset  uint64
	Incompatible     uint64 // from here on version 3 only
	Compatible       uint64
	Autoclear        uint64
	RefcountOrder    uint32 // 1<<order bits for each count
	HeaderLength     uint32
}

// VirtualSize returns the size in bytes of the disk that a guest sees in the
// image file called name, which is in format FormatQcow2 or FormatRaw. It
// refuses what no guest of a host should be given: anything but a regular file,
// an image that isn't in that format, is damaged, encrypted, empty, or that
// makes QEMU open another file.
func VirtualSize(name, format string) (int64, error) {
	size, err := virtualSize(name, format)
	if err != nil {
		return 0, fmt.Errorf("disk image %s: %w", name, err)
	}
	return size, nil
}

func virtualSize(name, format string) (int64, error) {
	if format != FormatQcow2 && format != FormatRaw {
		return 0, fmt.Errorf("format %q: want %s or %s", format, FormatQcow2, FormatRaw)
	}
	// A pipe would block the opening, so the kind of file is looked at first;
	// and again on what was opened.
	if err := isRegular(os.Stat(name)); err != nil {
		return 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, bare(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err := isRegular(st, err); err != nil {
		return 0, err
	}
	if st.Size() == 0 {
		return 0, errors.New("the file is empty")
	}
	start := make([]byte, clusterSize)
	n, err := f.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, bare(err)
	}
	start = start[:n]
	if format == FormatQcow2 {
		return judge(start, st.Size())
	}
	if strings.HasPrefix(string(start), magic) {
		return 0, fmt.Errorf("it is in format %s, not %s", FormatQcow2, FormatRaw)
	}
	return st.Size(), plausible(uint64(st.Size()))
}

func isRegular(st fs.FileInfo, err error) error {
	if err != nil {
		return bare(err)
	}
	if !st.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return nil
}

// bare drops the path, which the caller names.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func plausible(size uint64) error {
	switch {
	case size == 0:
		return errors.New("the disk in it has size 0")
	case size%sectorSize != 0:
		return fmt.Errorf("the disk in it has %d bytes, which is no multiple of the sector size %d", size, sectorSize)
	case size > maxVirtualSize:
		return fmt.Errorf("the disk in it has %d bytes, more than %d", size, int64(maxVirtualSize))
	}
	return nil
}

// judge returns the virtual size that a qcow2 header declares. start is the
// file's beginning, fileSize its whole size in bytes.
func judge(start []byte, fileSize int64) (int64, error) {
	if !strings.HasPrefix(string(start), magic) {
		return 0, errors.New("it is not in format qcow2")
	}
	if len(start) < headerSize2 {
		return 0, errors.New("the qcow2 header is cut off")
	}
	version := binary.BigEndian.Uint32(start[4:])
	if version != 2 && version != 3 {
		return 0, fmt.Errorf("qcow2 version %d: want 2 or 3; convert it with `qemu-img convert -O qcow2`", version)
	}
	padded := make([]byte, headerSize3)
	used := headerSize2
	if version == 3 {
		used = headerSize3
	}
	if len(start) < used {
		return 0, errors.New("the qcow2 header is cut off")
	}
	copy(padded, start[:used])
	var h header
	if _, err := binary.Decode(padded, binary.BigEndian, &h); err != nil {
		return 0, err
	}
	if version == 2 {
		h.HeaderLength, h.RefcountOrder = headerSize2, 4
	}
	// In this order: each relies on the one before.
	if err := h.geometry(); err != nil {
		return 0, err
	}
	if err := h.selfContained(start); err != nil {
		return 0, err
	}
	if err := h.tables(fileSize); err != nil {
		return 0, err
	}
	return int64(h.Size), nil
}

func (h header) geometry() error {
	if err := plausible(h.Size); err != nil {
		return err
	}
	if h.ClusterBits < 9 || h.ClusterBits > 21 {
		return fmt.Errorf("cluster_bits %d: want 9 to 21", h.ClusterBits)
	}
	if h.RefcountOrder > 6 {
		return fmt.Errorf("refcount_order %d: want at most 6", h.RefcountOrder)
	}
	if h.Version == 3 && (h.HeaderLength < headerSize3 || h.HeaderLength%8 != 0 || h.HeaderLength > 1<<h.ClusterBits) {
		return fmt.Errorf("header_length %d: want a multiple of 8 from %d to one cluster", h.HeaderLength, headerSize3)
	}
	return nil
}

// selfContained refuses what needs another file, a key or a repair.
func (h header) selfContained(start []byte) error {
	const known = featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2
	switch {
	case h.BackingOffset != 0 || h.BackingSize != 0:
		return errors.New("it names a backing file, which a guest could read: flatten it with `qemu-img convert -O qcow2`")
	case h.Incompatible&featureDataFile != 0:
		return errors.New("it keeps its data in another file, which a guest could read: convert it with `qemu-img convert -O qcow2`")
	case h.CryptMethod != 0:
		return fmt.Errorf("it is encrypted (method %d): decrypt it with `qemu-img convert`", h.CryptMethod)
	case h.Incompatible&featureCorrupt != 0:
		return errors.New("it is marked as corrupt: repair it with `qemu-img check -r all`")
	case h.Incompatible&featureDirty != 0:
		return errors.New("it was not closed in order: repair it with `qemu-img check -r all`")
	case h.Incompatible&^known != 0:
		return fmt.Errorf("it has incompatible features %#x that are not known", h.Incompatible&^known)
	}
	// The extensions end with a mark or the first cluster.
	end := uint64(1) << h.ClusterBits
	for at := uint64(h.HeaderLength); at+8 <= end; {
		if at+8 > uint64(len(start)) {
			return errors.New("the qcow2 header's extensions are cut off")
		}
		kind, n := binary.BigEndian.Uint32(start[at:]), uint64(binary.BigEndian.Uint32(start[at+4:]))
		if kind == extEnd {
			return nil
		}
		if kind == extDataFile {
			return errors.New("it names an external data file, which a guest could read: convert it with `qemu-img convert -O qcow2`")
		}
		if at += 8 + (n+7)/8*8; at > end {
			return errors.New("the qcow2 header's extensions are longer than a cluster")
		}
	}
	return nil
}

// tables refuses tables that don't lie in the file or are too small.
func (h header) tables(fileSize int64) error {
	cluster, entry := uint64(1)<<h.ClusterBits, uint64(8)
	if h.Incompatible&featureExtendedL2 != 0 {
		entry = 16
	}
	perL2 := cluster / entry * cluster // bytes of the disk that one L1 entry covers
	if want := (h.Size + perL2 - 1) / perL2; uint64(h.L1Size) < want {
		return fmt.Errorf("l1_size %d: too small for a disk of %d bytes, which needs %d", h.L1Size, h.Size, want)
	}
	for _, t := range []struct {
		name       string
		at, length uint64
	}{
		{"l1_table_offset", h.L1Offset, uint64(h.L1Size) * 8},
		{"refcount_table_offset", h.RefcountOffset, uint64(h.RefcountClusters) * cluster},
	} {
		switch {
		case t.at == 0 || t.at%cluster != 0:
			return fmt.Errorf("%s %d: want a multiple of the cluster size %d", t.name, t.at, cluster)
		case t.at > uint64(fileSize) || t.length > uint64(fileSize)-t.at:
			return fmt.Errorf("%s: the table ends behind the file's end: the file is cut off", t.name)
		}
	}
	return nil
}

// CreateOverlay creates the file called name: an empty qcow2 image, readable by
// its owner only, on top of the image file called backing, which is in the
// given format and stays as it is. backing is judged as VirtualSize does. An
// existing file is an error; a failure leaves no file.
func CreateOverlay(name, backing, format string) error {
	size, err := VirtualSize(backing, format)
	if err != nil {
		return err
	}
	// A relative name would be looked for in the overlay's folder, and one with
	// a colon be taken for a protocol.
	abs, err := filepath.Abs(backing)
	if err != nil {
		return fmt.Errorf("disk image %s: %w", backing, err)
	}
	if len(abs) > maxName {
		return fmt.Errorf("disk image %s: its path has %d bytes; an overlay holds at most %d", backing, len(abs), maxName)
	}
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating a disk overlay: %w", err)
	}
	_, err = out.Write(overlay(size, abs, format))
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("creating a disk overlay: %w", errors.Join(err, os.Remove(name)))
	}
	return nil
}
