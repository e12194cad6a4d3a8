package spool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// written is a spool with several segments, and what a reader sees of it after
// each frame of the last one.
type written struct {
	dir  string
	last string // the last segment's name
	data []byte // and its bytes
	ends []int  // where its frames end, from its header on
	seen [][]string
}

func write(t testing.TB) written {
	t.Helper()
	dir := t.TempDir()
	s := mustOpen(t, dir, 300)
	for i := 0; len(s.segments) < 3; i++ {
		mustAppend(t, s, []Source{agent, shim}[i%2], "in an older segment")
	}
	s.limit = 1 << 20
	w := written{dir: dir}
	note := func() {
		g := s.segments[len(s.segments)-1]
		w.last, w.ends, w.seen = filepath.Base(g.path), append(w.ends, int(g.size)), append(w.seen, contents(t, s))
	}
	note()
	for i := range 4 {
		must(t, s.Put(shim, s.marks[shim].last+1, fmt.Appendf(nil, "one of two, %d", i)))
		mustAppend(t, s, agent, strings.Repeat("y", i*7))
		note()
		must(t, s.Ack(agent, uint64(i+1)))
		must(t, s.Sync())
		note()
	}
	must(t, s.Close())
	var err error
	w.data, err = os.ReadFile(filepath.Join(dir, w.last))
	must(t, err)
	if w.ends[len(w.ends)-1] != len(w.data) {
		t.Fatal("the last frame does not end the file")
	}
	return w
}

// whole counts the frames of the last segment that lie before offset n.
func (w written) whole(n int) int {
	k := -1
	for k+1 < len(w.ends) && w.ends[k+1] <= n {
		k++
	}
	return k
}

// A crash cuts the last segment anywhere, and may leave zeros or old blocks
// where its last frame was to be.
func TestCrashAtEveryOffset(t *testing.T) {
	w := write(t)
	for _, tail := range []string{"nothing", "zeros", "rubbish"} {
		t.Run(tail, func(t *testing.T) { t.Parallel(); crashAtEveryOffset(t, w, tail) })
	}
}

func crashAtEveryOffset(t *testing.T, w written, tail string) {
	for n := range len(w.data) + 1 {
		k := w.whole(n)
		cut := bytes.Clone(w.data[:n])
		switch {
		case tail == "nothing":
		case k < 0:
			continue
		case tail == "zeros":
			cut = append(cut, make([]byte, 64)...)
		case tail == "rubbish":
			cut = append(cut, bytes.Repeat([]byte("FRAMrubb"), 8)...)
		}
		// A zero may have been written anyway.
		same := 0
		for same < min(len(cut), len(w.data)) && cut[same] == w.data[same] {
			same++
		}
		k = w.whole(same)
		dir := copyDir(t, w.dir)
		path := filepath.Join(dir, w.last)
		must(t, os.WriteFile(path, cut, 0o600))
		s, err := open(dir, 1<<20)
		if k < 0 {
			// No crash does that: a segment gets its name when its header is
			// on disk.
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("cut in its header, at %d: %v", n, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes and %s: %v", n, tail, err)
		}
		if got := contents(t, s); !slices.Equal(got, w.seen[k]) {
			t.Fatalf("%d bytes and %s: the spool holds %q, want %q", n, tail, got, w.seen[k])
		}
		mustAppend(t, s, agent, "afterwards")
		want := append(slices.Clone(w.seen[k]), fmt.Sprintf("1/%d afterwards", s.Last(agent)))
		must(t, s.Close())
		s, err = open(dir, 1<<20)
		must(t, err)
		if got := contents(t, s); !slices.Equal(got, want) {
			t.Fatalf("%d bytes and %s, reopened: the spool holds %q, want %q", n, tail, got, want)
		}
		must(t, s.Close())
	}
}

// A damaged byte is an error that names the file, unless it can be what a crash
// does to the last frame. It is never another event.
func TestDamageAtEveryByte(t *testing.T) {
	t.Parallel()
	w := write(t)
	ends := len(w.ends)
	for n := range w.data {
		bad := bytes.Clone(w.data)
		bad[n] ^= 0x40
		dir := copyDir(t, w.dir)
		path := filepath.Join(dir, w.last)
		must(t, os.WriteFile(path, bad, 0o600))
		s, err := open(dir, 1<<20)
		if n < w.ends[ends-2] {
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("damaged at %d: %v", n, err)
			}
			continue
		}
		must(t, err)
		if got := contents(t, s); !slices.Equal(got, w.seen[ends-2]) {
			t.Fatalf("damaged at %d: the spool holds %q", n, got)
		}
		must(t, s.Close())
	}
}

func TestDamageInAnOlderSegment(t *testing.T) {
	t.Parallel()
	w := write(t)
	ids, err := segmentIDs(w.dir)
	must(t, err)
	name := filepath.Base(segmentPath(w.dir, ids[len(ids)-2]))
	data, err := os.ReadFile(filepath.Join(w.dir, name))
	must(t, err)
	for n := range data {
		for what, bad := range map[string][]byte{"cut": data[:n], "flipped": append(append(bytes.Clone(data[:n]), data[n]^1), data[n+1:]...)} {
			dir := copyDir(t, w.dir)
			must(t, os.WriteFile(filepath.Join(dir, name), bad, 0o600))
			if s, err := open(dir, 1<<20); err == nil {
				t.Fatalf("%s at %d: opened with %q", what, n, contents(t, s))
			} else if !strings.Contains(err.Error(), dir) {
				t.Fatalf("%s at %d: %v does not name the folder", what, n, err)
			}
		}
	}
	dir := copyDir(t, w.dir)
	must(t, os.Remove(filepath.Join(dir, name)))
	if _, err := open(dir, 1<<20); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Fatalf("a segment is gone: %v", err)
	}
}

func TestOtherFormat(t *testing.T) {
	w := write(t)
	le.PutUint32(w.data[8:], formatVersion+1)
	must(t, os.WriteFile(filepath.Join(w.dir, w.last), w.data, 0o600))
	if _, err := Open(w.dir); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Fatalf("another format gives %v", err)
	}
}

// A segment that trimming has removed and a crash brought back changes nothing.
func TestSegmentThatCameBack(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, 100)
	mustAppend(t, s, agent, strings.Repeat("x", 100))
	old := segmentPath(dir, 1)
	data, err := os.ReadFile(old)
	must(t, err)
	mustAppend(t, s, agent, "kept")
	must(t, s.Ack(agent, 1))
	must(t, s.Close())
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Fatal("the first segment was not trimmed")
	}
	must(t, os.WriteFile(old, data, 0o600))
	must(t, os.WriteFile(segmentPath(dir, 9)+".new", []byte("half"), 0o600))
	s = mustOpen(t, dir, 100)
	wantContents(t, s, "1/2 kept")
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Error("the first segment was not trimmed again")
	}
}

func TestStrangeNames(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "1"+suffix), nil, 0o600))
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "1"+suffix) {
		t.Fatalf("a strange name gives %v", err)
	}
}

func FuzzParseSegment(f *testing.F) {
	w := write(f)
	f.Add(w.data)
	f.Add(w.data[:w.ends[1]])
	f.Add(w.data[:len(w.data)-3])
	f.Add(append(bytes.Clone(w.data), make([]byte, 40)...))
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		parse := func(b []byte) (records []Record, size int64, err error) {
			_, size, err = parseSegment(b, func(map[Source]mark) error { return nil }, func(_ byte, r Record) error {
				records = append(records, r)
				return nil
			})
			return records, size, err
		}
		records, size, err := parse(b)
		if err != nil {
			return
		}
		if size > int64(len(b)) {
			t.Fatalf("%d bytes of %d", size, len(b))
		}
		again, n, err := parse(b[:size])
		if err != nil || n != size || len(again) != len(records) {
			t.Fatalf("what was kept reads differently: %d records of %d, %v", len(again), len(records), err)
		}
	})
}
