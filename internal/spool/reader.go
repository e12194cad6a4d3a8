package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Reader goes through the events that are on disk and not acknowledged, in the
// order in which they were put. It is for one goroutine.
type Reader struct {
	s *Spool
	// id and off are where the next frame begins; queue is what is left of the
	// frame before it.
	id    uint64
	off   int64
	queue []Record
}

// NewReader begins at the oldest event that is not acknowledged.
func (s *Spool) NewReader() *Reader { return &Reader{s: s} }

// Next waits for the next event. An error of the context is returned as it is.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		changed := r.s.Changed()
		rec, ok, err := r.TryNext()
		if ok || err != nil {
			return rec, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// TryNext returns the next event, or false where there is none yet.
func (r *Reader) TryNext() (Record, bool, error) {
	for {
		for len(r.queue) > 0 {
			rec := r.queue[0]
			r.queue = r.queue[1:]
			if rec.Sequence > r.s.Acked(rec.Source) {
				return rec, true, nil
			}
		}
		path, size, ok, err := r.seek()
		if !ok || err != nil {
			return Record{}, false, err
		}
		if err := r.fill(path, size); err != nil {
			// Trimmed since: the next segment is where to go on.
			if errors.Is(err, os.ErrNotExist) {
				r.id, r.off = r.id+1, 0
				continue
			}
			return Record{}, false, fmt.Errorf("reading spool %s: %w", path, err)
		}
	}
}

// seek moves to the segment with something left to read.
func (r *Reader) seek() (path string, size int64, ok bool, err error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if errors.Is(r.s.broken, ErrClosed) {
		return "", 0, false, r.s.broken
	}
	for _, g := range r.s.segments {
		if g.id < r.id {
			continue
		}
		if g.id > r.id {
			r.id, r.off = g.id, 0
		}
		if r.off < g.size {
			return g.path, g.size, true, nil
		}
	}
	return "", 0, false, nil
}

// fill reads the frame at r.off of a segment with size durable bytes.
func (r *Reader) fill(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, min(size, fixedHeader+256*markSize+4))
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	s, _, at, err := decodeHeader(head)
	if err != nil {
		return err
	}
	if r.off < int64(at) {
		r.off = int64(at)
		return nil
	}
	frame := make([]byte, min(size-r.off, frameHeader))
	if _, err := f.ReadAt(frame, r.off); err != nil {
		return err
	}
	if len(frame) == frameHeader {
		n := min(int64(le.Uint32(frame[4:])), maxFrame, size-r.off-frameHeader)
		frame = append(frame, make([]byte, n)...)
		if _, err := f.ReadAt(frame[frameHeader:], r.off+frameHeader); err != nil {
			return err
		}
	}
	records, err := frameAt(frame, s)
	if err != nil {
		return fmt.Errorf("at byte %d: %w", r.off, err)
	}
	err = eachRecord(records, func(kind byte, rec Record) error {
		if kind == typeEvent {
			r.queue = append(r.queue, rec)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("at byte %d: %w", r.off, err)
	}
	r.off += int64(len(frame))
	return nil
}
