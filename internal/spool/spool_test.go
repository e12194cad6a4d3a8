package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const (
	agent Source = 1
	shim  Source = 2
)

func mustOpen(t testing.TB, dir string, limit int64) *Spool {
	t.Helper()
	s, err := open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustAppend(t testing.TB, s *Spool, source Source, payload string) {
	t.Helper()
	if _, err := s.Append(source, []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents reads what is not acknowledged, as "source/sequence payload".
func contents(t testing.TB, s *Spool) []string {
	t.Helper()
	var out []string
	for r := s.NewReader(); ; {
		rec, ok, err := r.TryNext()
		must(t, err)
		if !ok {
			return out
		}
		out = append(out, fmt.Sprintf("%d/%d %s", rec.Source, rec.Sequence, rec.Payload))
	}
}

func wantContents(t testing.TB, s *Spool, want ...string) {
	t.Helper()
	if got := contents(t, s); !slices.Equal(got, want) {
		t.Fatalf("the spool holds %q, want %q", got, want)
	}
}

func TestOrderAndKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := mustOpen(t, dir, segmentSize)
	mustAppend(t, s, shim, "a")
	must(t, s.Put(agent, 1, []byte("b")))
	mustAppend(t, s, shim, "c")
	must(t, s.Put(agent, 2, nil))
	must(t, s.Put(agent, 1, []byte("again")))
	if err := s.Put(agent, 4, []byte("x")); !errors.Is(err, ErrGap) {
		t.Errorf("a gap gives %v", err)
	}
	if err := s.Put(agent, 0, []byte("x")); !errors.Is(err, ErrGap) {
		t.Errorf("sequence 0 gives %v", err)
	}
	if err := s.Put(agent, 3, make([]byte, MaxPayload+1)); err == nil {
		t.Error("an event that is too large was taken")
	}
	if _, err := s.Append(agent, make([]byte, MaxPayload+1)); err == nil {
		t.Error("an event that is too large was taken")
	}
	wantContents(t, s, "2/1 a", "1/1 b", "2/2 c")
	must(t, s.Sync())
	want := []string{"2/1 a", "1/1 b", "2/2 c", "1/2 "}
	wantContents(t, s, want...)
	must(t, s.Close())
	if _, err := s.Append(shim, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed spool gives %v", err)
	}
	if _, _, err := s.NewReader().TryNext(); !errors.Is(err, ErrClosed) {
		t.Errorf("reading a closed spool gives %v", err)
	}
	must(t, s.Close())
	s = mustOpen(t, dir, segmentSize)
	wantContents(t, s, want...)
	if s.Last(shim) != 2 || s.Last(agent) != 2 || s.Unacknowledged() != 4 {
		t.Errorf("reopened: %d %d %d", s.Last(shim), s.Last(agent), s.Unacknowledged())
	}
}

func TestAcknowledge(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, segmentSize)
	for range 3 {
		mustAppend(t, s, agent, "e")
		mustAppend(t, s, shim, "e")
	}
	r := s.NewReader()
	must(t, s.Put(agent, 4, nil))
	if err := s.Ack(agent, 4); err == nil {
		t.Error("an event that is not on disk was acknowledged")
	}
	if err := s.Ack(9, 1); err == nil {
		t.Error("an event of an unknown source was acknowledged")
	}
	must(t, s.Ack(agent, 2))
	must(t, s.Ack(agent, 1))
	if s.Unacknowledged() != 5 {
		t.Errorf("%d are unacknowledged", s.Unacknowledged())
	}
	must(t, s.Sync())
	if s.Acked(agent) != 2 || s.Acked(shim) != 0 {
		t.Errorf("acknowledged: %d %d", s.Acked(agent), s.Acked(shim))
	}
	want := []string{"2/1 e", "2/2 e", "1/3 e", "2/3 e", "1/4 "}
	wantContents(t, s, want...)
	var got []string
	for range want {
		rec, err := r.Next(t.Context())
		must(t, err)
		got = append(got, fmt.Sprintf("%d/%d %s", rec.Source, rec.Sequence, rec.Payload))
	}
	if !slices.Equal(got, want) {
		t.Errorf("a reader from before the acknowledgement got %q", got)
	}
	must(t, s.Close())
	s = mustOpen(t, dir, segmentSize)
	wantContents(t, s, want...)
	must(t, s.Ack(agent, 4))
	must(t, s.Ack(shim, 3))
	must(t, s.Close())
	s = mustOpen(t, dir, segmentSize)
	wantContents(t, s)
	if seq, err := s.Append(agent, nil); err != nil || seq != 5 {
		t.Errorf("after all was acknowledged the next is %d, %v", seq, err)
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	must(t, err)
	return names
}

func TestSegmentsGoWhenAcknowledged(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, 200)
	mustAppend(t, s, shim, "first")
	for i := range 20 {
		mustAppend(t, s, agent, strings.Repeat("x", 50)+fmt.Sprint(i))
	}
	before := len(segments(t, dir))
	if before < 5 {
		t.Fatalf("only %d segments", before)
	}
	reader := s.NewReader()
	if _, ok, err := reader.TryNext(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	must(t, s.Ack(agent, 15))
	must(t, s.Sync())
	if after := len(segments(t, dir)); after >= before {
		t.Errorf("%d segments of %d are left", after, before)
	}
	// The reader stands in a segment of which it has read one frame.
	rec, ok, err := reader.TryNext()
	if !ok || err != nil || rec.Source != agent || rec.Sequence != 16 {
		t.Errorf("the reader goes on with %v %v %v", rec, ok, err)
	}
	wantFirst := "2/1 first"
	if got := contents(t, s); len(got) != 6 || got[0] != wantFirst {
		t.Errorf("left are %q", got)
	}
	must(t, s.Close())
	// A segment in the middle is missing now; all of it was acknowledged.
	s = mustOpen(t, dir, 200)
	if got := contents(t, s); len(got) != 6 || got[0] != wantFirst || s.Last(agent) != 20 {
		t.Errorf("reopened: %q", got)
	}
	must(t, s.Ack(agent, 20))
	must(t, s.Ack(shim, 1))
	must(t, s.Sync())
	if n := len(segments(t, dir)); n > 2 {
		t.Errorf("%d segments are left of an empty spool", n)
	}
	must(t, s.Close())
	s = mustOpen(t, dir, 200)
	if s.Last(agent) != 20 || s.Acked(agent) != 20 || s.Last(shim) != 1 {
		t.Errorf("the sequences are forgotten: %d %d %d", s.Last(agent), s.Acked(agent), s.Last(shim))
	}
}

func TestOneHolder(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, segmentSize)
	if _, err := Open(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second holder gets %v", err)
	}
	must(t, s.Close())
	mustOpen(t, dir, segmentSize)
}

func TestFollowers(t *testing.T) {
	s := mustOpen(t, t.TempDir(), 1000)
	const each, writers = 200, 4
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				if _, err := s.Append(Source(w+1), []byte("payload")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			next := map[Source]uint64{}
			r := s.NewReader()
			for range each * writers {
				rec, err := r.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if next[rec.Source]++; rec.Sequence != next[rec.Source] {
					t.Errorf("source %d: %d follows %d", rec.Source, rec.Sequence, next[rec.Source]-1)
					return
				}
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := s.NewReader()
	r.id = 1 << 60
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a reader without events gives %v", err)
	}
}

func TestReadersAndAcksTogether(t *testing.T) {
	s := mustOpen(t, t.TempDir(), 500)
	const n = 500
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			if _, err := s.Append(agent, []byte("0123456789")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	r := s.NewReader()
	for i := range uint64(n) {
		rec, err := r.Next(t.Context())
		if err != nil || rec.Sequence != i+1 {
			t.Fatalf("event %d: %v %v", i+1, rec, err)
		}
		must(t, s.Ack(agent, rec.Sequence))
	}
	wg.Wait()
	must(t, s.Sync())
	if s.Unacknowledged() != 0 || len(s.segments) > 2 {
		t.Errorf("%d events, %d segments are left", s.Unacknowledged(), len(s.segments))
	}
}

// weakFile fails on demand.
type weakFile struct {
	file
	writeErr, syncErr, truncateErr error
	short                          int
}

func (f *weakFile) WriteAt(b []byte, off int64) (int, error) {
	if f.writeErr != nil {
		n, _ := f.file.WriteAt(b[:min(f.short, len(b))], off)
		return n, f.writeErr
	}
	return f.file.WriteAt(b, off)
}

func (f *weakFile) Truncate(n int64) error {
	if f.truncateErr != nil {
		return f.truncateErr
	}
	return f.file.Truncate(n)
}

func (f *weakFile) Sync() error {
	if f.syncErr != nil {
		return f.syncErr
	}
	return f.file.Sync()
}

func TestFullDiskPasses(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, segmentSize)
	mustAppend(t, s, agent, "a")
	weak := &weakFile{file: s.active, writeErr: syscall.ENOSPC, short: 10}
	s.active = weak
	if seq, err := s.Append(agent, []byte("b")); seq != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a full disk gives %d, %v", seq, err)
	}
	must(t, s.Put(agent, 3, []byte("c")))
	if err := s.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a full disk gives %v", err)
	}
	wantContents(t, s, "1/1 a")
	// What a crash would find now.
	crashed := copyDir(t, dir)
	wantContents(t, mustOpen(t, crashed, segmentSize), "1/1 a")
	// Pending events stay bounded by one frame.
	var err error
	for i := uint64(4); err == nil && i < 100; i++ {
		err = s.Put(agent, i, make([]byte, MaxPayload))
	}
	if !errors.Is(err, syscall.ENOSPC) || len(s.pending) > maxFrame {
		t.Errorf("%d bytes are pending, %v", len(s.pending), err)
	}
	weak.writeErr = nil
	must(t, s.Sync())
	last := s.Last(agent)
	must(t, s.Close())
	s = mustOpen(t, dir, segmentSize)
	if got := contents(t, s); uint64(len(got)) != last || got[1] != "1/2 b" || got[2] != "1/3 c" {
		t.Errorf("after the disk had room there are %d events of %d", len(got), last)
	}
}

func TestFailedSyncIsFinal(t *testing.T) {
	for name, weak := range map[string]weakFile{
		"sync":     {syncErr: syscall.EIO},
		"truncate": {writeErr: syscall.ENOSPC, short: 5, truncateErr: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, t.TempDir(), segmentSize)
			weak.file = s.active
			s.active = &weak
			if _, err := s.Append(agent, nil); err == nil {
				t.Fatal("no error")
			}
			weak.syncErr, weak.writeErr, weak.truncateErr = nil, nil, nil
			if _, err := s.Append(agent, nil); err == nil {
				t.Error("the spool went on after a failed fsync")
			}
			if s.Broken() == nil || s.Last(agent) != 0 {
				t.Error("the spool does not know that it is broken")
			}
		})
	}
}

// A disk that takes no new segment costs nothing but the old one's length.
func TestNoNewSegment(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, 100)
	// A folder in its place: the next segment can't be made.
	must(t, os.Mkdir(segmentPath(dir, 2)+".new", 0o700))
	for range 5 {
		mustAppend(t, s, agent, strings.Repeat("x", 50))
	}
	if n := len(segments(t, dir)); n != 1 {
		t.Fatalf("%d segments", n)
	}
	must(t, os.Remove(segmentPath(dir, 2)+".new"))
	mustAppend(t, s, agent, "y")
	mustAppend(t, s, agent, "z")
	if got := contents(t, s); len(got) != 7 || len(segments(t, dir)) != 2 {
		t.Errorf("%d events in %d segments", len(got), len(segments(t, dir)))
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := mustOpen(b, b.TempDir(), segmentSize)
			payload := make([]byte, 200)
			var wg sync.WaitGroup
			per := b.N/writers + 1
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for range per {
						if _, err := s.Append(agent, payload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(per*writers)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
