// Package scratch shows that inputs larger than the VM's memory get to a result by
// the scratch disk, that the disk's file on the host has nothing of them, and that
// a host which changes the file, or puts back what was in it before, gets no result
// made of it: the run fails and says why.
package scratch

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

const (
	block = 4096
	mib   = 1 << 20
	// memory of the VM, and a dataset that it could not hold.
	memory  = "320M"
	largest = 336 * mib
	// marker is in every block of every dataset.
	marker = "ward 7, bed 12: nobody's business"
)

// data is a file whose blocks all differ and all hold the marker. It returns the
// file's SHA-256.
func data(t *testing.T, file, seed string, size int) string {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, h), mib)
	b := make([]byte, block)
	for n := 0; n < size; n += block {
		copy(b, fmt.Sprintf("%s %s %012d", marker, seed, n))
		if _, err := w.Write(b[:min(block, size-n)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// onScratch gives a manifest the least scratch disk, and some room for small files.
func onScratch(m *manifest.Manifest) {
	m.ScratchBytes = m.ScratchNeed() + 16*mib
}

func TestLargerThanMemory(t *testing.T) {
	dir := t.TempDir()
	large, ward := filepath.Join(dir, "large.bin"), filepath.Join(dir, "ward")
	if err := os.MkdirAll(filepath.Join(ward, "2025", "june"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := data(t, large, "large", largest) + "  datasets/large.bin\n"
	for name, size := range map[string]int{"2025/june/1.csv": 5 * mib, "2025/june/2.csv": 0, "2025/notes.txt": 1, "readme.txt": block + 1} {
		data(t, filepath.Join(ward, name), name, size)
	}
	for _, name := range []string{"2025/june/1.csv", "2025/june/2.csv", "2025/notes.txt", "readme.txt"} {
		b, err := os.ReadFile(filepath.Join(ward, name))
		if err != nil {
			t.Fatal(err)
		}
		want += fmt.Sprintf("%x  datasets/ward/%s\n", sha256.Sum256(b), name)
	}
	h := harness.Start(t, harness.Env("MANAGER_QEMU_MEMORY_SIZE="+memory))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}, Data: []string{large, ward}}, onScratch)
	r.Ready()
	r.MustCLI("data", large)
	r.MustCLI("data", ward)
	// Before the algorithm, with whose end all may be gone.
	lookFor(t, r.Dir().Scratch())
	r.MustCLI("algo", harness.Algorithm(t))
	r.State("ResultReady")
	if got := h.Read(r.Result(), "results", "sums.txt"); got != want {
		t.Errorf("the algorithm saw\n%s\nuploaded was\n%s", got, want)
	}
	lookFor(t, r.Dir().Scratch())
}

// lookFor wants a disk's file to hold as much as was uploaded, and the marker nowhere.
func lookFor(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used < largest {
		t.Errorf("%s takes %d bytes of the host: %d were uploaded", file, used, largest)
	}
	// Each piece with the end of the one before.
	b := make([]byte, len(marker)+mib)
	for {
		n, err := io.ReadFull(f, b[len(marker):])
		if bytes.Contains(b[:len(marker)+n], []byte(marker)) {
			t.Fatalf("%s has plaintext", file)
		}
		if err != nil {
			return
		}
		copy(b, b[mib:])
	}
}

// The size of a dataset under attack, and where the parts of its region are in it, in
// bytes: two blocks that an image has before the file, the file, the topmost block
// of hashes, and the other blocks of hashes.
const (
	attacked = 2 * mib
	dataAt   = 2 * block
	topAt    = dataAt + attacked
	leavesAt = topAt + block
	leaves   = ((dataAt+attacked)/block + 127) / 128
	region   = leavesAt + leaves*block
)

// attacks are what a host does to the region of a dataset between its upload and the
// run. before has what it held after an upload of other content, which was refused,
// and now is what it holds.
var attacks = []struct {
	name   string
	change func(now, before []byte)
	// reads is how much of the file can be read at most.
	reads int
}{
	{"untouched", func(now, before []byte) {}, attacked},
	{"byte-flipped", func(now, before []byte) { now[dataAt+attacked/2+17] ^= 1 }, attacked / 2},
	{"block-moved", func(now, before []byte) { copy(now[dataAt+300*block:][:block], now[dataAt+10*block:]) }, 300 * block},
	{"old-block", func(now, before []byte) { copy(now[dataAt+200*block:][:block], before[dataAt+200*block:]) }, 200 * block},
	{"old-data", func(now, before []byte) { copy(now[:topAt], before) }, 0},
	{"old-everything", func(now, before []byte) { copy(now, before) }, 0},
	{"nothing", func(now, before []byte) { clear(now) }, 0},
}

// A dataset of which the host changes a block of hashes alone: one that the kernel has
// not read yet, as it has those of a small file when it is mounted.
const (
	hashes    = "hashes-changed"
	hashed    = 48 * mib
	changed   = 80 // of the blocks of hashes below the topmost, each of 128 blocks of data
	hashedMax = changed*128*block - dataAt
)

func TestDiskChanged(t *testing.T) {
	h := harness.Start(t, harness.Env("MANAGER_QEMU_MEMORY_SIZE="+memory))
	dir := t.TempDir()
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"careless"}}
	for _, a := range attacks {
		file := filepath.Join(dir, a.name)
		data(t, file, a.name, attacked)
		c.Data = append(c.Data, file)
	}
	last := filepath.Join(dir, hashes)
	data(t, last, hashes, hashed)
	c.Data = append(c.Data, last)
	other := filepath.Join(dir, "other")
	data(t, other, "other", attacked)
	wrong, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	r := h.Submit(c, onScratch)
	r.Ready()
	disk, err := os.OpenFile(r.Dir().Scratch(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	for i, a := range attacks {
		at := int64(i) * region
		if err := r.SendDataset(a.name, wrong); err == nil || !strings.Contains(err.Error(), "SHA-256") {
			t.Fatalf("other content than the manifest's: %v", err)
		}
		before := make([]byte, region)
		if _, err := disk.ReadAt(before, at); err != nil {
			t.Fatal(err)
		}
		r.MustCLI("data", c.Data[i])
		now := make([]byte, region)
		if _, err := disk.ReadAt(now, at); err != nil {
			t.Fatal(err)
		}
		for b := 0; b < region; b += block {
			was, is, zero := before[b:b+block], now[b:b+block], make([]byte, block)
			// The end of an upload that was refused never came to the disk.
			if bytes.Equal(is, zero) || bytes.Equal(is, was) || b < attacked && bytes.Equal(was, zero) {
				t.Fatalf("block %d of region %d was not written by both uploads: an attack would show nothing", b/block, i)
			}
		}
		a.change(now, before)
		if _, err := disk.WriteAt(now, at); err != nil {
			t.Fatal(err)
		}
	}
	r.MustCLI("data", last)
	flip(t, disk, int64(len(attacks))*region+dataAt+hashed+block+changed*block)
	r.MustCLI("algo", c.Algorithm)
	if e := r.State("Failed"); e.GetAttributes()["reason"] != "storage-changed" {
		t.Errorf("the run failed with %v", e)
	}
	left := r.Failure()
	if _, err := os.Stat(filepath.Join(left, "results")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there are results: %v", err)
	}
	if why := h.Read(left, "failure.txt"); !strings.Contains(why, "scratch disk") {
		t.Errorf("failure.txt says %q", why)
	}
	var story struct{ Outcome, Reason string }
	if err := json.Unmarshal([]byte(h.Read(left, "run.json")), &story); err != nil || story.Outcome != "failed" || story.Reason != "storage-changed" {
		t.Errorf("run.json: %+v, %v", story, err)
	}
	// The algorithm did not look whether it had read everything, and ended well. What
	// it printed tells what it could read.
	out := h.Read(left, "stdout.txt")
	read := func(name string) (n int) {
		_, text, ok := strings.Cut(out, "datasets/"+name+" ")
		if _, err := fmt.Sscanf(text, "%d", &n); err != nil || !ok {
			t.Errorf("%s: no word in %q", name, out)
		}
		return n
	}
	for _, a := range attacks {
		if n := read(a.name); n > a.reads || a.reads == attacked && n < attacked {
			t.Errorf("%s: the algorithm read %d bytes, at most %d of which are right", a.name, n, a.reads)
		}
	}
	if n := read(hashes); n > hashedMax || n < hashedMax-mib {
		t.Errorf("%s: the algorithm read %d bytes; %d have hashes that are right", hashes, n, hashedMax)
	}
}

// flip changes one bit of a disk.
func flip(t *testing.T, disk *os.File, at int64) {
	t.Helper()
	var b [1]byte
	if _, err := disk.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := disk.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}
