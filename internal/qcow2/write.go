package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What this package writes: version 3, counts of 16 bits, no compression.
// Clusters lie in this order, without gaps, each with the count 1:
//
//	header | refcount table | refcount blocks | L1 table | L2 tables | data
const (
	refcountOrder        = 4
	countsPerBlock       = clusterSize / 2
	blocksPerTable       = clusterSize / 8
	entriesPerL2         = clusterSize / 8
	bytesPerL2     int64 = entriesPerL2 * clusterSize // of the disk

	// copied marks an entry whose cluster has the count 1.
	copied = 1 << 63
)

// layout says how many clusters of each kind a file has.
type layout struct {
	blocks, l1, l2, data int64
	l1Entries            int64
}

// layoutOf sizes a file for a disk of size bytes with that many L2 tables and
// data clusters.
func layoutOf(size, l2, data int64) (layout, error) {
	lay := layout{l2: l2, data: data, l1Entries: ceil(size, bytesPerL2)}
	lay.l1 = ceil(lay.l1Entries*8, clusterSize)
	for lay.blocks = 1; lay.blocks*countsPerBlock < lay.clusters(); lay.blocks++ {
	}
	if lay.blocks > blocksPerTable {
		return layout{}, fmt.Errorf("%d clusters are more than one refcount table counts", lay.clusters())
	}
	return lay, nil
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

func (lay layout) l1At() int64     { return (2 + lay.blocks) * clusterSize }
func (lay layout) l2At() int64     { return lay.l1At() + lay.l1*clusterSize }
func (lay layout) clusters() int64 { return 2 + lay.blocks + lay.l1 + lay.l2 + lay.data }

// head returns header, extensions and everything up to the L1 table. backing is
// the name of the image below, empty for none.
func (lay layout) head(size int64, backing, format string) []byte {
	b := make([]byte, lay.l1At())
	h := header{
		Version: 3, ClusterBits: clusterBits, Size: uint64(size),
		L1Size: uint32(lay.l1Entries), L1Offset: uint64(lay.l1At()),
		RefcountOffset: clusterSize, RefcountClusters: 1, RefcountOrder: refcountOrder,
		HeaderLength: headerSize3,
	}
	copy(h.Magic[:], magic)
	ext := []byte{}
	if backing != "" {
		ext = binary.BigEndian.AppendUint32(ext, extBackingFormat)
		ext = binary.BigEndian.AppendUint32(ext, uint32(len(format)))
		ext = append(ext, format...)
		ext = append(ext, make([]byte, -len(format)&7)...)
	}
	ext = append(ext, make([]byte, 8)...) // extEnd, of no length
	if backing != "" {
		h.BackingOffset, h.BackingSize = uint64(headerSize3+len(ext)), uint32(len(backing))
		ext = append(ext, backing...)
	}
	if _, err := binary.Encode(b, binary.BigEndian, h); err != nil {
		panic(err) // b is larger than the header
	}
	copy(b[headerSize3:], ext)
	for i := range lay.blocks {
		binary.BigEndian.PutUint64(b[clusterSize+8*i:], uint64((2+i)*clusterSize))
	}
	for i := range lay.clusters() {
		binary.BigEndian.PutUint16(b[2*clusterSize+2*i:], 1)
	}
	return b
}

// overlay returns a whole file: an empty image on top of another.
func overlay(size int64, backing, format string) []byte {
	lay, err := layoutOf(size, 0, 0)
	if err != nil {
		panic(err) // maxVirtualSize needs 2 MiB of tables
	}
	return append(lay.head(size, backing, format), make([]byte, lay.l1*clusterSize)...)
}

// Write writes the disk of size bytes that r holds to w as a qcow2 image.
// Clusters of nothing but zeros take no room. r is read twice.
func Write(w io.Writer, r io.ReaderAt, size int64) error {
	if size < 0 {
		return fmt.Errorf("writing a qcow2 image: size %d", size)
	}
	if err := plausible(uint64(size)); err != nil {
		return fmt.Errorf("writing a qcow2 image: %w", err)
	}
	if err := write(w, r, size); err != nil {
		return fmt.Errorf("writing a qcow2 image: %w", err)
	}
	return nil
}

func write(w io.Writer, r io.ReaderAt, size int64) error {
	used := make([]bool, ceil(size, clusterSize))
	tables := make([]bool, ceil(size, bytesPerL2))
	var data, l2 int64
	for i := range used {
		b, err := cluster(r, size, i)
		if err != nil {
			return err
		}
		if bytes.Count(b, []byte{0}) == len(b) {
			continue
		}
		used[i] = true
		data++
		if t := i / entriesPerL2; !tables[t] {
			tables[t] = true
			l2++
		}
	}
	lay, err := layoutOf(size, l2, data)
	if err != nil {
		return err
	}
	if _, err := w.Write(lay.head(size, "", "")); err != nil {
		return err
	}
	l1 := make([]byte, lay.l1*clusterSize)
	next := lay.l2At()
	for t, present := range tables {
		if present {
			binary.BigEndian.PutUint64(l1[8*t:], copied|uint64(next))
			next += clusterSize
		}
	}
	if _, err := w.Write(l1); err != nil {
		return err
	}
	for t, present := range tables {
		if !present {
			continue
		}
		table := make([]byte, clusterSize)
		for i := t * entriesPerL2; i < min((t+1)*entriesPerL2, len(used)); i++ {
			if used[i] {
				binary.BigEndian.PutUint64(table[8*(i%entriesPerL2):], copied|uint64(next))
				next += clusterSize
			}
		}
		if _, err := w.Write(table); err != nil {
			return err
		}
	}
	for i, present := range used {
		if !present {
			continue
		}
		b, err := cluster(r, size, i)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// cluster reads one cluster of the disk; what lies behind its end is zero.
func cluster(r io.ReaderAt, size int64, i int) ([]byte, error) {
	b := make([]byte, clusterSize)
	at := int64(i) * clusterSize
	n := min(clusterSize, size-at)
	if got, err := r.ReadAt(b[:n], at); int64(got) < n {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading the disk at byte %d: %w", at, err)
	}
	return b, nil
}
