package spool

import (
	"fmt"
	"os"
)

// recover reads every segment, cuts off what a crash left half written and
// checks that every event that is not acknowledged is there.
func (s *Spool) recover() error {
	s.marks = map[Source]mark{}
	ids, err := segmentIDs(s.dir)
	if err != nil {
		return fmt.Errorf("opening spool: %w", err)
	}
	for i, id := range ids {
		if err := s.load(id, i == len(ids)-1); err != nil {
			return fmt.Errorf("opening spool: %s: %w", segmentPath(s.dir, id), err)
		}
	}
	if len(ids) == 0 {
		g, f, salt, err := createSegment(s.dir, 1, s.marks)
		if err != nil {
			return err
		}
		s.segments, s.active, s.salt = []*segment{g}, f, salt
		return nil
	}
	if err := s.complete(); err != nil {
		_ = s.active.Close()
		return fmt.Errorf("opening spool %s: %w", s.dir, err)
	}
	return nil
}

// load reads one segment into s; the last one stays open for writing.
func (s *Spool) load(id uint64, last bool) error {
	g := &segment{id: id, path: segmentPath(s.dir, id), ranges: map[Source]seqRange{}}
	f, err := os.OpenFile(g.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxSegment {
		return fmt.Errorf("%d bytes are more than a segment ever has", info.Size())
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return err
	}
	salt, size, err := parseSegment(b, s.resume, func(kind byte, r Record) error {
		m := s.marks[r.Source]
		if kind == typeAck {
			if r.Sequence <= m.acked || r.Sequence > m.last {
				return fmt.Errorf("event %d of source %d is acknowledged between %d and %d", r.Sequence, r.Source, m.acked, m.last)
			}
			m.acked = r.Sequence
		} else {
			if r.Sequence != m.last+1 {
				return fmt.Errorf("event %d of source %d follows %d: %w", r.Sequence, r.Source, m.last, ErrGap)
			}
			m.last = r.Sequence
			g.add(r)
		}
		s.marks[r.Source] = m
		return nil
	})
	if err != nil {
		return err
	}
	g.size = size
	s.segments = append(s.segments, g)
	if !last {
		// The next segment was made only when this one was durable.
		if size != info.Size() {
			return fmt.Errorf("at byte %d: a frame is damaged", size)
		}
		return nil
	}
	if size != info.Size() {
		if err := f.Truncate(size); err != nil {
			return fmt.Errorf("cutting off a half-written frame: %w", err)
		}
		if err := (diskFile{f}).Sync(); err != nil {
			return fmt.Errorf("cutting off a half-written frame: %w", err)
		}
	}
	keep = true
	s.active, s.salt = diskFile{f}, salt
	return nil
}

// resume takes the marks of a segment's header: they may be ahead of what was
// read, because segments between have been trimmed, never behind.
func (s *Spool) resume(marks map[Source]mark) error {
	for source, m := range s.marks {
		if h := marks[source]; h.last < m.last || h.acked < m.acked {
			return fmt.Errorf("its header knows source %d to event %d, an older segment to %d", source, h.last, m.last)
		}
	}
	for source, m := range marks {
		s.marks[source] = m
	}
	return nil
}

// complete checks that no event after the last acknowledged one is missing.
func (s *Spool) complete() error {
	for source, m := range s.marks {
		next := m.acked + 1
		for _, g := range s.segments {
			if r, ok := g.ranges[source]; ok && r.first <= next && r.last >= next {
				next = r.last + 1
			}
		}
		if next != m.last+1 {
			return fmt.Errorf("event %d of source %d is missing: a segment was removed", next, source)
		}
	}
	return nil
}
