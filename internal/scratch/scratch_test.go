package scratch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/dm"
)

// files is a device mapper whose devices are files.
type files struct {
	t      *testing.T
	dir    string
	tables map[string]string    // by device, as they were given
	given  map[string]dm.Target // the very ones
	order  []string             // what was removed
	status string
	busy   bool
}

func (f *files) Create(name string, t dm.Target) (string, error) {
	f.tables[name], f.given[name] = string(t.Params), t
	path := filepath.Join(f.dir, name)
	if t.Type == "verity" {
		return path, nil
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", err
	}
	return path, os.Truncate(path, int64(t.Sectors)*sectorSize)
}

func (f *files) Status(string) (string, error) {
	if f.status == "" {
		return "", errors.New("no such device")
	}
	return f.status, nil
}

func (f *files) Remove(name string) (bool, error) {
	f.order = append(f.order, name)
	return !f.busy, nil
}

func newDisk(t *testing.T, size int64) (*Disk, *files) {
	f := &files{t: t, dir: t.TempDir(), tables: map[string]string{}, given: map[string]dm.Target{}}
	d := Open("/dev/vdx", size)
	d.mapper = f
	return d, f
}

func write(t *testing.T, r *Region, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n, err := r.Write(b[:min(len(b), 300_001)])
		if err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
}

func TestRegion(t *testing.T) {
	for _, size := range []int64{BlockSize, 3 * BlockSize, dataBuffer, dataBuffer + BlockSize, 9<<20 + BlockSize} {
		d, f := newDisk(t, 1<<30)
		r, err := d.Create(size)
		if err != nil {
			t.Fatal(err)
		}
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(i * i >> 7)
		}
		write(t, r, content)
		if err := r.Seal(); err != nil {
			t.Fatal(err)
		}
		var table struct{ data, root, salt string }
		fields := strings.Fields(f.tables["scratch-1-sealed"])
		table.data, table.root, table.salt = fields[1], fields[8], fields[9]
		salt, err := hex.DecodeString(table.salt)
		if err != nil {
			t.Fatal(err)
		}
		want, tree, err := verity.Build(bytes.NewReader(content), size, [32]byte(salt))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(f.dir, "scratch-1"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, append(content, tree...)) {
			t.Errorf("%d bytes: the disk does not hold them with their tree", size)
		}
		if table.data != filepath.Join(f.dir, "scratch-1") || table.root != hex.EncodeToString(want.RootHash[:]) || !strings.HasSuffix(f.tables["scratch-1-sealed"], " 1 panic_on_error") {
			t.Errorf("%d bytes: the table %q; want the root %x", size, f.tables["scratch-1-sealed"], want.RootHash)
		}
		if f.given["scratch-1-sealed"].Writable || !f.given["scratch-1"].Writable || !f.given["scratch-1"].Secret {
			t.Errorf("the targets are %+v", f.given)
		}
		if _, err := r.Write([]byte{1}); err == nil {
			t.Error("a sealed region was written to")
		}
		if err := r.Seal(); err == nil {
			t.Error("a region was sealed twice")
		}
		if err := r.Release(); err != nil || !slices.Equal(f.order, []string{"scratch-1-sealed", "scratch-1"}) {
			t.Errorf("released: %v, in the order %q", err, f.order)
		}
		if err := r.Release(); err != nil || len(f.order) != 2 {
			t.Errorf("released twice: %v, %q", err, f.order)
		}
	}
}

// Each region has a key of its own, also at the same place, which is nowhere but in
// the kernel once the region is set up.
func TestKeys(t *testing.T) {
	d, f := newDisk(t, 1<<30)
	seen := map[string]bool{}
	for range 3 {
		r, err := d.Create(BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(f.tables[r.name])
		if len(fields) != 7 || fields[0] != "aes-xts-plain64" || fields[3] != "/dev/vdx" || fields[4] != "0" {
			t.Fatalf("the table %q", fields)
		}
		if key, err := hex.DecodeString(fields[1]); err != nil || len(key) != 64 || seen[fields[1]] || bytes.Equal(key, make([]byte, 64)) {
			t.Errorf("the key %q (%v) is short, or was there before", fields[1], err)
		}
		seen[fields[1]] = true
		if left := f.given[r.name].Params; !bytes.Equal(left, make([]byte, len(left))) {
			t.Errorf("the table was left in memory: %q", left)
		}
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoom(t *testing.T) {
	need := Need(4 * BlockSize)
	d, f := newDisk(t, 3*need)
	if d.Room() != 3*need || need != 5*BlockSize {
		t.Errorf("room for %d, a region of 4 blocks takes %d", d.Room(), need)
	}
	create := func(bytes int64) *Region {
		t.Helper()
		r, err := d.Create(bytes)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a, b, c := create(4*BlockSize), create(4*BlockSize), create(4*BlockSize)
	if a.at != 0 || b.at != need || c.at != 2*need {
		t.Errorf("regions at %d, %d, %d", a.at, b.at, c.at)
	}
	full := func(what string) {
		t.Helper()
		if _, err := d.Create(4 * BlockSize); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", what, err)
		}
	}
	full("a full disk")
	if err := b.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(BlockSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the place of another size: %v", err)
	}
	if again := create(4 * BlockSize); again.at != need || again.name == b.name {
		t.Errorf("the released place is %d, and %d was given as %q", need, again.at, again.name)
	}
	f.busy = true
	if err := a.Release(); err != nil {
		t.Fatal(err)
	}
	full("a place that is still in use")
	for _, bytes := range []int64{-BlockSize, 0, 1, BlockSize + 1} {
		if _, err := d.Create(bytes); err == nil {
			t.Errorf("a region of %d bytes was made", bytes)
		}
	}
}

func TestSealWantsAll(t *testing.T) {
	d, f := newDisk(t, 1<<30)
	r, err := d.Create(2 * BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(); err == nil {
		t.Error("a region that isn't sealed could be read")
	}
	if err := r.Mount(t.TempDir()); err == nil {
		t.Error("a region that isn't sealed was mounted")
	}
	write(t, r, make([]byte, BlockSize+1))
	if err := r.Seal(); err == nil || f.tables[r.name+"-sealed"] != "" {
		t.Errorf("half a region was sealed: %v", err)
	}
	if r, err = d.Create(BlockSize); err != nil {
		t.Fatal(err)
	}
	write(t, r, make([]byte, 2*BlockSize))
	if err := r.Seal(); err == nil {
		t.Error("a region with too much was sealed")
	}
}

func TestChanged(t *testing.T) {
	d, f := newDisk(t, 1<<30)
	r, err := d.Create(BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := r.Changed(); changed || err != nil {
		t.Errorf("a region that isn't read: %t, %v", changed, err)
	}
	write(t, r, make([]byte, BlockSize))
	if err := r.Seal(); err != nil {
		t.Fatal(err)
	}
	for status, want := range map[string]struct{ changed, fails bool }{
		"V": {false, false}, "V -": {false, false}, "C": {true, false}, "C 1": {true, false},
		"": {true, true}, "X": {true, true}, "VC": {true, true},
	} {
		f.status = status
		if changed, err := r.Changed(); changed != want.changed || (err != nil) != want.fails {
			t.Errorf("status %q: %t, %v", status, changed, err)
		}
	}
}
