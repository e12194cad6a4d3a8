// Package verity describes read-only disks under dm-verity: the parameters that
// make a disk's content part of what is measured, as text for the kernel
// command line and as a device-mapper target, and the hash tree itself.
//
// There is one format: SHA-256, blocks of 4096 bytes for data and hashes, the
// salt before the block (the kernel's hash type 1), no superblock, and the tree
// right behind the data on the same disk. Params has exactly one text, and
// Parse refuses every other: what two parties compare byte by byte has no
// second spelling. The guest imports this package, so it stays free of the
// builder's dependencies.
package verity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// BlockSize is the size of data and hash blocks in bytes.
const BlockSize = 4096

// hashesPerBlock is how many digests fit into one hash block.
const hashesPerBlock = BlockSize / sha256.Size

// maxDataBlocks bounds a disk to 1 TiB, so that no product below overflows.
const maxDataBlocks = 1 << 28

// prefix names the format; another format gets another prefix.
const prefix = "sha256-4096"

// sectorSize is the unit of device-mapper tables in bytes.
const sectorSize = 512

// Params is all that is needed to set a disk up and to refuse any other.
type Params struct {
	RootHash   [32]byte
	Salt       [32]byte
	DataBlocks uint64 // the tree begins at this block
}

// String returns "sha256-4096:<data blocks>:<root hash>:<salt>", decimal and
// lower-case hex.
func (p Params) String() string {
	return fmt.Sprintf("%s:%d:%x:%x", prefix, p.DataBlocks, p.RootHash, p.Salt)
}

// Parse reads what String writes and nothing else.
func Parse(s string) (Params, error) {
	f := strings.Split(s, ":")
	if len(f) != 4 || f[0] != prefix {
		return Params{}, fmt.Errorf("verity parameters %q: want %s:<data blocks>:<root hash>:<salt>", s, prefix)
	}
	var p Params
	var err error
	if p.DataBlocks, err = strconv.ParseUint(f[1], 10, 64); err != nil {
		return Params{}, fmt.Errorf("verity parameters: data blocks %q: want a decimal number", f[1])
	}
	if err := parseHash(p.RootHash[:], f[2]); err != nil {
		return Params{}, fmt.Errorf("verity parameters: root hash %q: %w", f[2], err)
	}
	if err := parseHash(p.Salt[:], f[3]); err != nil {
		return Params{}, fmt.Errorf("verity parameters: salt %q: %w", f[3], err)
	}
	if err := p.Validate(); err != nil {
		return Params{}, err
	}
	if p.String() != s {
		return Params{}, fmt.Errorf("verity parameters %q: want the form %q", s, p.String())
	}
	return p, nil
}

func parseHash(dst []byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(dst) {
		return fmt.Errorf("want %d lower-case hex digits", 2*len(dst))
	}
	copy(dst, b)
	return nil
}

// Validate refuses parameters that protect nothing: a zero root hash, no
// blocks, or more than fit.
func (p Params) Validate() error {
	switch {
	case p.RootHash == [32]byte{}:
		return errors.New("verity parameters: root hash is zero")
	case p.DataBlocks == 0 || p.DataBlocks > maxDataBlocks:
		return fmt.Errorf("verity parameters: %d data blocks: want 1 to %d", p.DataBlocks, maxDataBlocks)
	}
	return nil
}

// HashOffset is where the tree begins, in bytes.
func (p Params) HashOffset() int64 { return int64(p.DataBlocks) * BlockSize }

// Size is the size of data and tree in bytes: the least size of the disk.
func (p Params) Size() int64 {
	n := p.DataBlocks
	for _, l := range levels(p.DataBlocks) {
		n += l
	}
	return int64(n) * BlockSize
}

// Sectors is the length of the mapped device in units of 512 bytes, as a
// device-mapper table wants it.
func (p Params) Sectors() uint64 { return p.DataBlocks * (BlockSize / sectorSize) }

// Target returns the parameters of a device-mapper table line of type
// "verity", from sector 0 on for Sectors sectors. dev is the disk's device,
// as a path or as "major:minor" (kernel: Documentation/admin-guide/
// device-mapper/verity.rst). A block that does not match ends in a read error.
func (p Params) Target(dev string) string {
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %x %x",
		dev, dev, BlockSize, BlockSize, p.DataBlocks, p.DataBlocks, p.RootHash, p.Salt)
}

// levels returns the number of hash blocks of each level, from the one above
// the data to the topmost. A disk of one block has none: the root hash is the
// block's own.
func levels(dataBlocks uint64) []uint64 {
	var all []uint64
	for n := dataBlocks; n > 1; {
		n = (n + hashesPerBlock - 1) / hashesPerBlock
		all = append(all, n)
	}
	return all
}

// Salt derives a disk's salt from its data, so that the same data always gives
// the same disk: SHA-256 of a label and the data's SHA-256.
func Salt(data io.Reader) ([32]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, data); err != nil {
		return [32]byte{}, fmt.Errorf("hashing the disk's data: %w", err)
	}
	return sha256.Sum256(h.Sum([]byte("cocos/v1/verity-salt\x00"))), nil
}

// Build reads size bytes of data, a multiple of BlockSize, and returns the
// parameters and the hash tree, which belongs right behind the data. A Tree does
// the same without the tree in memory.
func Build(data io.Reader, size int64, salt [32]byte) (Params, []byte, error) {
	if size <= 0 || size%BlockSize != 0 || size/BlockSize > maxDataBlocks {
		return Params{}, nil, fmt.Errorf("building a hash tree: %d bytes of data: want a positive multiple of %d up to %d blocks", size, BlockSize, maxDataBlocks)
	}
	p := Params{Salt: salt, DataBlocks: uint64(size / BlockSize)}
	tree := make([]byte, p.Size()-p.HashOffset())
	t, err := NewTree(&inMemory{tree, p.HashOffset()}, p.DataBlocks, salt)
	if err != nil {
		return Params{}, nil, err
	}
	if n, err := io.CopyN(t, data, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Params{}, nil, fmt.Errorf("building a hash tree: reading data block %d: %w", n/BlockSize, err)
	}
	p, err = t.Finish()
	return p, tree, err
}

// inMemory takes the tree behind data of so many bytes.
type inMemory struct {
	tree []byte
	data int64
}

func (m *inMemory) WriteAt(b []byte, at int64) (int, error) { return copy(m.tree[at-m.data:], b), nil }
