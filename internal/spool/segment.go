package spool

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The format, little-endian:
//
//	segment: magic[8] version u32 marks u32 salt[8]
//	         marks * { source u8, last u64, acked u64 } crc u32, then frames
//	frame:   magic u32, length u32, crc(magic, length) u32, crc(records) u32, records
//	record:  type u8, source u8, sequence u64, length u32, payload
//
// CRCs are CRC-32C. Those of frames begin with the segment's random salt: no
// payload can look like a frame.
const (
	segmentMagic  = "cocosspl"
	formatVersion = 1
	suffix        = ".seg"
	fixedHeader   = 24
	markSize      = 17

	frameMagic   = 0x4d415246 // "FRAM"
	frameHeader  = 16
	maxFrame     = 4 << 20
	recordHeader = 14

	typeEvent = 1
	typeAck   = 2

	// maxSegment bounds what Open reads of a file: a segment ends after the
	// frame that fills it, but may grow while no new one can be made.
	maxSegment = 1 << 30
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

type salt [8]byte

func (s salt) sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, b)
}

// segment is one file: size counts its durable bytes, ranges its events.
type segment struct {
	id     uint64
	path   string
	size   int64
	ranges map[Source]seqRange
}

type seqRange struct{ first, last uint64 }

func (g *segment) note(records []byte) {
	_ = eachRecord(records, func(kind byte, r Record) error {
		if kind == typeEvent {
			g.add(r)
		}
		return nil
	})
}

func (g *segment) add(r Record) {
	q, ok := g.ranges[r.Source]
	if !ok {
		q.first = r.Sequence
	}
	q.last = r.Sequence
	g.ranges[r.Source] = q
}

// file is what is needed of the active segment's file.
type file interface {
	io.WriterAt
	Truncate(size int64) error
	// Sync makes the file's data and size durable.
	Sync() error
	Name() string
	Close() error
}

type diskFile struct{ *os.File }

func (f diskFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncError is a failed fsync: what the kernel still holds is unknown.
type syncError struct{ err error }

func (e *syncError) Error() string { return e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }

func appendEvent(b []byte, r Record) []byte {
	b = append(b, typeEvent, byte(r.Source))
	b = le.AppendUint64(b, r.Sequence)
	b = le.AppendUint32(b, uint32(len(r.Payload)))
	return append(b, r.Payload...)
}

func appendAck(b []byte, source Source, sequence uint64) []byte {
	b = append(b, typeAck, byte(source))
	b = le.AppendUint64(b, sequence)
	return le.AppendUint32(b, 0)
}

// eachRecord calls f for each record of a frame; payloads alias b.
func eachRecord(b []byte, f func(kind byte, r Record) error) error {
	for len(b) > 0 {
		if len(b) < recordHeader {
			return errors.New("a record is cut off")
		}
		kind, n := b[0], le.Uint32(b[10:])
		r := Record{Source: Source(b[1]), Sequence: le.Uint64(b[2:])}
		b = b[recordHeader:]
		switch {
		case kind != typeEvent && kind != typeAck:
			return fmt.Errorf("a record has the unknown type %d", kind)
		case kind == typeAck && n != 0, n > MaxPayload, uint64(n) > uint64(len(b)):
			return fmt.Errorf("a record has the impossible length %d", n)
		}
		r.Payload, b = b[:n:n], b[n:]
		if err := f(kind, r); err != nil {
			return err
		}
	}
	return nil
}

// writeFrame writes records at offset off of the active segment and returns the
// offset after them once they are durable.
func (s *Spool) writeFrame(off int64, records []byte) (int64, error) {
	frame := make([]byte, frameHeader, frameHeader+len(records))
	putFrameHeader(frame, s.salt, records)
	frame = append(frame, records...)
	if _, err := s.active.WriteAt(frame, off); err != nil {
		// What was written in part must not stand before the next attempt.
		if terr := s.active.Truncate(off); terr != nil {
			return 0, &syncError{fmt.Errorf("writing spool: %w", errors.Join(err, terr))}
		}
		return 0, fmt.Errorf("writing spool: %w", err)
	}
	if err := s.active.Sync(); err != nil {
		return 0, &syncError{fmt.Errorf("writing spool: syncing %s: %w", s.active.Name(), err)}
	}
	return off + int64(len(frame)), nil
}

func putFrameHeader(b []byte, s salt, records []byte) {
	le.PutUint32(b, frameMagic)
	le.PutUint32(b[4:], uint32(len(records)))
	le.PutUint32(b[8:], s.sum(b[:8]))
	le.PutUint32(b[12:], s.sum(records))
}

func segmentPath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016d%s", id, suffix))
}

// createSegment makes an empty segment, whole or not at all.
func createSegment(dir string, id uint64, marks map[Source]mark) (_ *segment, f file, s salt, err error) {
	rand.Read(s[:])
	header := encodeHeader(s, marks)
	path := segmentPath(dir, id)
	tmp := path + ".new"
	created, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, s, fmt.Errorf("making spool segment: %w", err)
	}
	f = diskFile{created}
	_, err = f.WriteAt(header, 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(tmp)
		_ = os.Remove(path)
		return nil, nil, s, fmt.Errorf("making spool segment %s: %w", path, err)
	}
	return &segment{id: id, path: path, size: int64(len(header)), ranges: map[Source]seqRange{}}, f, s, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func encodeHeader(s salt, marks map[Source]mark) []byte {
	b := append([]byte(nil), segmentMagic...)
	b = le.AppendUint32(b, formatVersion)
	b = le.AppendUint32(b, uint32(len(marks)))
	b = append(b, s[:]...)
	for _, source := range slices.Sorted(maps.Keys(marks)) {
		b = append(b, byte(source))
		b = le.AppendUint64(b, marks[source].last)
		b = le.AppendUint64(b, marks[source].acked)
	}
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader returns the header's values and its size.
func decodeHeader(b []byte) (salt, map[Source]mark, int, error) {
	var s salt
	if len(b) < fixedHeader || !bytes.HasPrefix(b, []byte(segmentMagic)) {
		return s, nil, 0, errors.New("its header is damaged")
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return s, nil, 0, fmt.Errorf("it has format %d, this version of cocos-manager reads %d: use the one that wrote it", v, formatVersion)
	}
	n := le.Uint32(b[12:])
	size := fixedHeader + int64(n)*markSize
	if n > 256 || int64(len(b)) < size+4 || crc32.Checksum(b[:size], castagnoli) != le.Uint32(b[size:]) {
		return s, nil, 0, errors.New("its header is damaged")
	}
	copy(s[:], b[16:])
	marks := make(map[Source]mark, n)
	for at := fixedHeader; at < int(size); at += markSize {
		m := mark{le.Uint64(b[at+1:]), le.Uint64(b[at+9:])}
		if m.acked > m.last {
			return s, nil, 0, errors.New("its header is damaged")
		}
		marks[Source(b[at])] = m
	}
	return s, marks, int(size) + 4, nil
}

// frameAt returns the records of the frame at the start of b.
func frameAt(b []byte, s salt) ([]byte, error) {
	if len(b) < frameHeader {
		return nil, errors.New("a frame is cut off")
	}
	n := int64(le.Uint32(b[4:]))
	if le.Uint32(b) != frameMagic || s.sum(b[:8]) != le.Uint32(b[8:]) || n > maxFrame {
		return nil, errors.New("a frame's header is damaged")
	}
	if int64(len(b)) < frameHeader+n {
		return nil, errors.New("a frame is cut off")
	}
	records := b[frameHeader : frameHeader+n]
	if s.sum(records) != le.Uint32(b[12:]) {
		return nil, errors.New("a frame is damaged")
	}
	return records, nil
}

// torn tells whether the damage at the start of b can be that of the frame which
// a crash cut off: no frame follows, for it would have been written later.
func torn(b []byte, s salt) bool {
	var magic [4]byte
	le.PutUint32(magic[:], frameMagic)
	for at := 1; ; at++ {
		i := bytes.Index(b[at:], magic[:])
		if i < 0 || len(b)-at-i < frameHeader {
			return true
		}
		at += i
		if s.sum(b[at:at+8]) == le.Uint32(b[at+8:]) {
			return false
		}
	}
}

// parseSegment calls f for each record of a segment and returns the offset after
// the last whole frame. A torn frame ends it; other damage is an error.
func parseSegment(b []byte, header func(map[Source]mark) error, f func(kind byte, r Record) error) (salt, int64, error) {
	s, marks, at, err := decodeHeader(b)
	if err != nil {
		return s, 0, err
	}
	if err := header(marks); err != nil {
		return s, 0, err
	}
	for at < len(b) {
		records, err := frameAt(b[at:], s)
		if err != nil {
			if torn(b[at:], s) {
				return s, int64(at), nil
			}
			return s, 0, fmt.Errorf("at byte %d: %w", at, err)
		}
		if err := eachRecord(records, f); err != nil {
			return s, 0, fmt.Errorf("at byte %d: %w", at, err)
		}
		at += frameHeader + len(records)
	}
	return s, int64(at), nil
}

// segmentIDs lists the segments of dir in order and removes halves of new ones.
func segmentIDs(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []uint64
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, suffix+".new") {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return nil, err
			}
			continue
		}
		digits, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || filepath.Base(segmentPath(dir, id)) != name {
			return nil, fmt.Errorf("%s is not a segment's name", filepath.Join(dir, name))
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
