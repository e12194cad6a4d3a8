package archive_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/manifest"
)

// tree makes files of names (folders end in "/", executables in "*") whose
// content is their name.
func tree(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		mode := os.FileMode(0o640)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o711
		}
		full := filepath.Join(dir, name)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(full, 0o700)
		} else {
			err = errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, []byte(name), mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pack(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Pack(&b, dir); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func entries(t testing.TB, b []byte) (names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

var ample = archive.Limits{Entries: 1000, Depth: 20, FileBytes: 1 << 24, TotalBytes: 1 << 24}

func TestSameFilesSameBytes(t *testing.T) {
	long := strings.Repeat("l", 120) + "/" + strings.Repeat("m", 150)
	names := []string{"a.txt", "a/x", "a/empty/", "a-b", "run.sh*", "größe/λ", long, "with\nnewline"}
	one := tree(t, names...)
	slices.Reverse(names)
	two := tree(t, names...)
	old := time.Date(1999, 1, 2, 3, 4, 5, 6, time.UTC)
	if err := os.Chtimes(filepath.Join(two, "a.txt"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(two, "a-b"), 0o606); err != nil {
		t.Fatal(err)
	}
	got := pack(t, one)
	if !bytes.Equal(got, pack(t, two)) {
		t.Error("times, modes and the order of creation made a difference")
	}
	want := []string{"a-b", "a.txt", "a/", "a/empty/", "a/x", "größe/", "größe/λ",
		strings.Repeat("l", 120) + "/", long, "run.sh", "with\nnewline"}
	if names := entries(t, got); !slices.Equal(names, want) {
		t.Errorf("entries are %q, want %q", names, want)
	}
	if !slices.IsSorted(entries(t, got)) {
		t.Error("entries are not in the order of their bytes")
	}
	// The format must never change: digests in manifests depend on it.
	const digest = "03e0348c14f60effa1157c104949f98a988bee414f8c932280744880840915ba"
	sum, size, err := archive.Packing{}.Digest(one)
	if err != nil {
		t.Fatal(err)
	}
	if sum.String() != digest || size != int64(len(got)) || sum != manifest.Sum(got) {
		t.Errorf("digest %s of %d bytes, want %s of %d", sum, size, digest, len(got))
	}
}

func TestUnpackIsTheInverse(t *testing.T) {
	big := make([]byte, 3<<20+17)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(big)
	dir := tree(t, "a/b/c/d", "a/b.txt", "bin*", "empty/", "λ")
	if err := os.WriteFile(filepath.Join(dir, "big"), big, 0o600); err != nil {
		t.Fatal(err)
	}
	want := pack(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	if err := archive.Unpack(bytes.NewReader(want), out, ample); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pack(t, out), want) {
		t.Error("what came out does not pack into what went in")
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, "bin": 0o755, "big": 0o644, "a/b": 0o755} {
		info, err := os.Stat(filepath.Join(out, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want mode %v", name, info.Mode(), err, mode)
		}
	}
	if err := archive.Unpack(bytes.NewReader(want), out, ample); !errors.Is(err, os.ErrExist) {
		t.Errorf("into a folder that exists: %v", err)
	}
	if !bytes.Equal(pack(t, out), want) {
		t.Error("the refused second Unpack changed the folder")
	}
}

func TestEmptyFolder(t *testing.T) {
	b := pack(t, t.TempDir())
	out := filepath.Join(t.TempDir(), "out")
	if err := archive.Unpack(bytes.NewReader(b), out, archive.Limits{}); err != nil {
		t.Error(err)
	}
}

func TestPackRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		spoil      func(dir string) error
	}{
		{"symbolic link", "symbolic link", func(d string) error { return os.Symlink("/etc/passwd", filepath.Join(d, "l")) }},
		{"link to a folder", "symbolic link", func(d string) error { return os.Symlink("a", filepath.Join(d, "l")) }},
		{"named pipe", "named pipe", func(d string) error { return syscall.Mkfifo(filepath.Join(d, "p"), 0o600) }},
		{"socket", "socket", func(d string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d, "s"), Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		}},
		{"name that is not UTF-8", "not UTF-8", func(d string) error { return os.WriteFile(filepath.Join(d, "\xff"), nil, 0o600) }},
		{"link in a folder below", "a/l", func(d string) error { return os.Symlink("x", filepath.Join(d, "a/l")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, "a/x")
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			err := archive.Pack(io.Discard, dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if err := archive.Pack(io.Discard, filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// onWrite calls f at the n-th write.
type onWrite struct {
	n int
	f func()
}

func (w *onWrite) Write(b []byte) (int, error) {
	if w.n--; w.n == 0 {
		w.f()
	}
	return len(b), nil
}

func TestPackNoticesChanges(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"grew":   func(f string) error { return os.WriteFile(f, make([]byte, 5<<20), 0o600) },
		"shrank": func(f string) error { return os.Truncate(f, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, "f")
			file := filepath.Join(dir, "f")
			if err := os.WriteFile(file, make([]byte, 4<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			// The first write is the header.
			w := &onWrite{1, func() {
				if err := change(file); err != nil {
					t.Error(err)
				}
			}}
			if err := archive.Pack(w, dir); err == nil || !strings.Contains(err.Error(), "changed its size") {
				t.Errorf("got %v", err)
			}
		})
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("full")
	}
	return len(b), nil
}

func TestPackStopsWhenTheWriterFails(t *testing.T) {
	dir := tree(t, "f")
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, left := range []int{0, 600, 1 << 20, 8<<20 + 600} {
		if err := archive.Pack(&failingWriter{left}, dir); err == nil || !strings.Contains(err.Error(), "full") {
			t.Errorf("after %d bytes: %v", left, err)
		}
	}
}

func TestSumOfAFileIsItsSHA256(t *testing.T) {
	for _, size := range []int{0, 1, 512 << 10, 512<<10 + 1, 5 << 20} {
		b := make([]byte, size)
		rand.NewChaCha8([32]byte{2}).Read(b)
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		sum, n, err := archive.Sum(file)
		if err != nil || n != int64(size) || sum != manifest.Digest(sha256.Sum256(b)) {
			t.Errorf("%d bytes: %s %d %v", size, sum, n, err)
		}
	}
	dir := tree(t, "x")
	sum, n, err := archive.Sum(dir)
	if b := pack(t, dir); err != nil || n != int64(len(b)) || sum != manifest.Sum(b) {
		t.Errorf("folder: %s %d %v", sum, n, err)
	}
	if _, _, err := archive.Sum(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
