// Package spool keeps events on disk until somebody has acknowledged them.
//
// A spool is a folder of segments, each a sequence of frames; one frame is what
// one fsync made durable. Events of several sources lie in one log, in the order
// in which they came; each source counts from 1 without a gap. These hold:
//
//   - A reader sees an event only when it is on disk, and so does whoever waits
//     for Sync. Concurrent writers share one fsync.
//   - A frame is written only after the one before it is durable, so that a
//     crash can damage the last frame alone: it is cut off at Open. Damage
//     anywhere else is an error that names the file.
//   - Acknowledgements are records of the same log. A segment goes when all of
//     its events are acknowledged; the header of each later segment holds the
//     last and the last acknowledged sequence of every source, so that both
//     survive.
//   - One process at a time holds a spool (flock).
//   - A full disk is an error that may pass: what was put stays pending and the
//     next Sync tries again. A failed fsync is final.
package spool

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxPayload bounds one event, in bytes.
const MaxPayload = 512 << 10

const (
	// segmentSize is where a segment ends and the next begins, in bytes.
	segmentSize = 4 << 20
	lockFile    = "lock"
)

var (
	// ErrGap: an event does not follow the last one of its source.
	ErrGap = errors.New("event out of sequence")
	// ErrLocked: another process holds the spool.
	ErrLocked = errors.New("spool is in use by another process")
	// ErrClosed: the spool was closed.
	ErrClosed = errors.New("spool is closed")
)

// Source numbers events. What the values mean is the caller's matter.
type Source uint8

// Record is one event.
type Record struct {
	Source   Source
	Sequence uint64
	Payload  []byte
}

// mark is how far a source has come.
type mark struct{ last, acked uint64 }

// Spool is safe for concurrent use.
type Spool struct {
	dir  string
	lock *os.File
	// limit is segmentSize but in tests.
	limit int64

	mu   sync.Mutex
	cond sync.Cond
	// marks count what was put, durable what is on disk.
	marks, durable map[Source]mark
	// pending are records not on disk yet; puts counts all, done those on disk.
	pending    []byte
	puts, done uint64
	// inflight counts the bytes that a commit is writing: if it fails they are
	// pending again, and all of it must fit one frame.
	inflight   int
	committing bool
	broken     error
	segments   []*segment
	// changed is closed and replaced at each commit.
	changed chan struct{}

	// active is written by the one committer only.
	active file
	salt   salt
}

// Open opens the spool in dir and makes it where there is none.
func Open(dir string) (*Spool, error) { return open(dir, segmentSize) }

func open(dir string, limit int64) (_ *Spool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making spool: %w", err)
	}
	// The folder itself must be there after a crash, too.
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("making spool: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking spool: %w", err)
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking spool %s: %w", dir, ErrLocked)
		}
		return nil, fmt.Errorf("locking spool %s: %w", dir, err)
	}
	s := &Spool{dir: dir, lock: lock, limit: limit, changed: make(chan struct{})}
	s.cond.L = &s.mu
	if err := s.recover(); err != nil {
		return nil, err
	}
	s.durable = maps.Clone(s.marks)
	s.trim()
	return s, nil
}

// Put takes an event with its own sequence. It is durable when a later Sync
// returns nil. An event that the spool has had is ignored; one that leaves a gap
// is refused with ErrGap.
func (s *Spool) Put(source Source, sequence uint64, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("event of %d bytes exceeds %d", len(payload), MaxPayload)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(len(payload)); err != nil {
		return err
	}
	m := s.marks[source]
	if sequence <= m.last && sequence > 0 {
		return nil
	}
	if sequence != m.last+1 {
		return fmt.Errorf("event %d of source %d follows %d: %w", sequence, source, m.last, ErrGap)
	}
	s.put(source, sequence, payload)
	return nil
}

// Append takes the next event of source and returns its sequence once it is on
// disk. With an error of a full disk it stays pending: append nothing twice,
// call Sync.
func (s *Spool) Append(source Source, payload []byte) (uint64, error) {
	if len(payload) > MaxPayload {
		return 0, fmt.Errorf("event of %d bytes exceeds %d", len(payload), MaxPayload)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(len(payload)); err != nil {
		return 0, err
	}
	sequence := s.marks[source].last + 1
	s.put(source, sequence, payload)
	return sequence, s.syncLocked()
}

func (s *Spool) put(source Source, sequence uint64, payload []byte) {
	m := s.marks[source]
	m.last = sequence
	s.marks[source] = m
	s.pending = appendEvent(s.pending, Record{source, sequence, payload})
	s.puts++
}

// Ack says that every event of source up to and with sequence has been taken
// over by somebody else. It is durable, and the events are trimmed, with a later
// Sync. What is acknowledged already is ignored.
func (s *Spool) Ack(source Source, sequence uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(0); err != nil {
		return err
	}
	m := s.marks[source]
	if sequence > s.durable[source].last {
		return fmt.Errorf("acknowledging event %d of source %d: the last one is %d", sequence, source, s.durable[source].last)
	}
	if sequence <= m.acked {
		return nil
	}
	m.acked = sequence
	s.marks[source] = m
	s.pending = appendAck(s.pending, source, sequence)
	s.puts++
	return nil
}

// room makes sure that the pending records and one more fit one frame.
func (s *Spool) room(payload int) error {
	for s.broken == nil && s.inflight+len(s.pending)+recordHeader+payload > maxFrame {
		if err := s.syncLocked(); err != nil {
			return err
		}
	}
	return s.broken
}

// Sync returns when everything put before is on disk.
func (s *Spool) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.syncLocked()
}

// syncLocked waits for a commit that is under way, or makes one for everybody
// who waits. s.mu is held on entry and exit, not while the disk works.
func (s *Spool) syncLocked() error {
	for target := s.puts; s.done < target; {
		if s.broken != nil {
			return s.broken
		}
		if s.committing {
			s.cond.Wait()
			continue
		}
		if err := s.commit(); err != nil {
			return err
		}
	}
	return nil
}

// commit makes what is pending durable as one frame.
func (s *Spool) commit() error {
	s.committing = true
	batch, puts, marks := s.pending, s.puts, maps.Clone(s.marks)
	s.pending, s.inflight = nil, len(batch)
	active := s.segments[len(s.segments)-1]
	s.mu.Unlock()

	size, err := s.writeFrame(active.size, batch)
	var next *segment
	var nextFile file
	var nextSalt salt
	if err == nil && size >= s.limit {
		// Without a new segment the old one grows; the next commit tries again.
		next, nextFile, nextSalt, _ = createSegment(s.dir, active.id+1, marks)
	}

	s.mu.Lock()
	s.committing, s.inflight = false, 0
	defer s.cond.Broadcast()
	if err != nil {
		var failed *syncError
		if errors.As(err, &failed) {
			s.broken = err
			return err
		}
		s.pending = append(batch, s.pending...)
		return err
	}
	active.note(batch)
	active.size = size
	s.done, s.durable = puts, marks
	if next != nil {
		_ = s.active.Close()
		s.active, s.salt = nextFile, nextSalt
		s.segments = append(s.segments, next)
	}
	s.trim()
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// trim removes the segments whose events are all acknowledged on disk. One that
// a crash brings back is removed again at Open.
func (s *Spool) trim() {
	current := s.segments[len(s.segments)-1]
	s.segments = slices.DeleteFunc(s.segments, func(g *segment) bool {
		if g == current {
			return false
		}
		for source, r := range g.ranges {
			if r.last > s.durable[source].acked {
				return false
			}
		}
		err := os.Remove(g.path)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}

// Changed returns a channel that closes when more is on disk, or acknowledged.
func (s *Spool) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Last returns the sequence of the last event of source on disk; 0 is none.
func (s *Spool) Last(source Source) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable[source].last
}

// Acked returns the last acknowledged sequence of source.
func (s *Spool) Acked(source Source) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable[source].acked
}

// Unacknowledged counts the events, on disk or pending, of all sources.
func (s *Spool) Unacknowledged() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n uint64
	for _, m := range s.marks {
		n += m.last - m.acked
	}
	return n
}

// Size returns the bytes that the spool takes on disk and pending.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int64(s.inflight + len(s.pending))
	for _, g := range s.segments {
		n += g.size
	}
	return n
}

// Close syncs and gives the spool free.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.broken, ErrClosed) {
		return nil
	}
	err := s.syncLocked()
	for s.committing {
		s.cond.Wait()
	}
	s.broken = fmt.Errorf("%s: %w", s.dir, ErrClosed)
	close(s.changed)
	s.changed = make(chan struct{})
	s.cond.Broadcast()
	return errors.Join(err, s.active.Close(), s.lock.Close())
}

// Broken is the reason for which nothing can be put any more, or nil.
func (s *Spool) Broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}
