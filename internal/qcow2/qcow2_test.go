package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const mib = 1 << 20

// disk is a disk of zeros but for a pattern of 100 bytes at some places.
type disk struct {
	size int64
	at   []int64
}

func (d *disk) ReadAt(b []byte, off int64) (int, error) {
	n := min(int64(len(b)), max(d.size-off, 0))
	clear(b[:n])
	for _, a := range d.at {
		for i := range min(int64(100), d.size-a) {
			if at := a + i - off; at >= 0 && at < n {
				b[at] = byte(0x41 + i)
			}
		}
	}
	if n < int64(len(b)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (d *disk) image(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, d, d.size); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func image(t *testing.T, size int64, at ...int64) []byte {
	t.Helper()
	return (&disk{size, at}).image(t)
}

func zeros(n int) []byte { return make([]byte, n) }

func file(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestVirtualSize(t *testing.T) {
	for name, tc := range map[string]struct {
		content []byte
		format  string
		want    int64
	}{
		"raw":                 {zeros(mib), FormatRaw, mib},
		"one sector":          {zeros(512), FormatRaw, 512},
		"qcow2":               {image(t, 3*mib, 0, 2*mib), FormatQcow2, 3 * mib},
		"qcow2 of zeros":      {image(t, 512), FormatQcow2, 512},
		"qcow2 version 2":     {changed(t, put32(4, 2), put32(72, 0)), FormatQcow2, mib},
		"compressed clusters": {changed(t, put64(72, featureCompression)), FormatQcow2, mib},
		"an unknown extension": {changed(t, put32(104, 0x12345678), put32(108, 5), put32(112, 0)),
			FormatQcow2, mib},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := VirtualSize(file(t, tc.content), tc.format)
			if err != nil || got != tc.want {
				t.Errorf("%d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

// change edits an image of 1 MiB; changed returns a whole one with the edits.
type change func(b []byte) []byte

func put32(at int, v uint32) change {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
}

func put64(at int, v uint64) change {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b }
}

func cut(n int) change { return func(b []byte) []byte { return b[:n] } }

func changed(t *testing.T, edits ...change) []byte {
	t.Helper()
	b := image(t, mib, 0)
	for _, e := range edits {
		b = e(b)
	}
	return b
}

// Each image is right in all but what its name says.
func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		content []byte
		format  string
		want    string
	}{
		"no format":                {zeros(mib), "", `format "": want qcow2 or raw`},
		"another format":           {zeros(mib), "vmdk", `format "vmdk": want qcow2 or raw`},
		"empty":                    {nil, FormatRaw, "empty"},
		"empty qcow2":              {nil, FormatQcow2, "empty"},
		"raw of half a sector":     {zeros(700), FormatRaw, "multiple of the sector size"},
		"qcow2 taken for raw":      {changed(t), FormatRaw, "in format qcow2, not raw"},
		"raw taken for qcow2":      {zeros(mib), FormatQcow2, "not in format qcow2"},
		"magic only":               {changed(t, cut(4)), FormatQcow2, "cut off"},
		"half a header":            {changed(t, cut(100)), FormatQcow2, "cut off"},
		"header without anything":  {changed(t, cut(104)), FormatQcow2, "extensions are cut off"},
		"version 1":                {changed(t, put32(4, 1)), FormatQcow2, "version 1"},
		"version 4":                {changed(t, put32(4, 4)), FormatQcow2, "version 4"},
		"backing file":             {changed(t, put64(8, 112), put32(16, 11)), FormatQcow2, "backing file"},
		"backing file, no name":    {changed(t, put64(8, 112)), FormatQcow2, "backing file"},
		"backing file, version 2":  {changed(t, put32(4, 2), put64(8, 112), put32(16, 11)), FormatQcow2, "backing file"},
		"cluster bits too few":     {changed(t, put32(20, 8)), FormatQcow2, "cluster_bits 8"},
		"cluster bits too many":    {changed(t, put32(20, 22)), FormatQcow2, "cluster_bits 22"},
		"size 0":                   {changed(t, put64(24, 0)), FormatQcow2, "size 0"},
		"size of half a sector":    {changed(t, put64(24, mib+1)), FormatQcow2, "multiple of the sector size"},
		"size beyond reason":       {changed(t, put64(24, 1<<62)), FormatQcow2, "more than"},
		"size beyond the L1 table": {changed(t, put64(24, 600*mib)), FormatQcow2, "l1_size 1"},
		"encrypted":                {changed(t, put32(32, 2)), FormatQcow2, "encrypted"},
		"no L1 table":              {changed(t, put64(40, 0)), FormatQcow2, "l1_table_offset"},
		"L1 table astray":          {changed(t, put64(40, 1000)), FormatQcow2, "l1_table_offset"},
		"L1 table outside":         {changed(t, put64(40, 1<<40)), FormatQcow2, "l1_table_offset: the table ends behind"},
		"L1 table too long":        {changed(t, put32(36, 1<<30)), FormatQcow2, "l1_table_offset: the table ends behind"},
		"no refcounts":             {changed(t, put64(48, 0)), FormatQcow2, "refcount_table_offset"},
		"cut off":                  {changed(t, cut(2*clusterSize)), FormatQcow2, "cut off"},
		"dirty":                    {changed(t, put64(72, featureDirty)), FormatQcow2, "not closed in order"},
		"corrupt":                  {changed(t, put64(72, featureCorrupt)), FormatQcow2, "corrupt"},
		"data in another file":     {changed(t, put64(72, featureDataFile)), FormatQcow2, "another file"},
		"unknown feature":          {changed(t, put64(72, 1<<5)), FormatQcow2, "0x20"},
		"refcounts too wide":       {changed(t, put32(96, 7)), FormatQcow2, "refcount_order 7"},
		"header too short":         {changed(t, put32(100, 96)), FormatQcow2, "header_length 96"},
		"header too long":          {changed(t, put32(100, clusterSize+8)), FormatQcow2, "header_length"},
		"header length odd":        {changed(t, put32(100, 105)), FormatQcow2, "header_length 105"},
		"data file by extension":   {changed(t, put32(104, extDataFile), put32(108, 8)), FormatQcow2, "external data file"},
		"data file behind another": {changed(t, put32(104, 0x12345678), put32(108, 4), put32(120, extDataFile)), FormatQcow2, "external data file"},
		"extension too long":       {changed(t, put32(104, 0x12345678), put32(108, 1<<31)), FormatQcow2, "longer than a cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			name := file(t, tc.content)
			_, err := VirtualSize(name, tc.format)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v; want an error that names the file and says %q", err, tc.want)
			}
			over := filepath.Join(t.TempDir(), "overlay")
			if got := CreateOverlay(over, name, tc.format); got == nil || got.Error() != err.Error() {
				t.Errorf("the overlay: got %v, want %v", got, err)
			}
			if _, err := os.Lstat(over); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an overlay was left: %v", err)
			}
		})
	}
}

func TestRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		dir:                          "not a regular file",
		pipe:                         "not a regular file",
		"/dev/null":                  "not a regular file",
		filepath.Join(dir, "absent"): "no such file",
	} {
		if _, err := VirtualSize(name, FormatRaw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}

func TestCreateOverlay(t *testing.T) {
	dir := t.TempDir()
	backing := filepath.Join(dir, "base")
	if err := os.WriteFile(backing, changed(t), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := CreateOverlay("over", "base", FormatQcow2); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("over")
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat("over"); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if len(b) != 4*clusterSize {
		t.Errorf("%d bytes, want four clusters", len(b))
	}
	at, n := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])
	if got := string(b[at:][:n]); got != backing {
		t.Errorf("backing file %q, want the absolute %q", got, backing)
	}
	// An overlay is itself nothing to build on.
	if _, err := VirtualSize("over", FormatQcow2); err == nil || !strings.Contains(err.Error(), "backing file") {
		t.Errorf("the overlay as an image: %v", err)
	}
	// Nothing is overwritten.
	if err := CreateOverlay("over", "base", FormatQcow2); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto an existing file: %v", err)
	}
	if again, err := os.ReadFile("over"); err != nil || !bytes.Equal(again, b) {
		t.Errorf("the existing file was changed: %v", err)
	}
	if err := CreateOverlay("no/such/folder/over", "base", FormatQcow2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no folder: %v", err)
	}
}

// A whole path longer than an overlay can hold is refused, not cut.
func TestCreateOverlayOnALongPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for range 6 {
		part := strings.Repeat("d", 200)
		if err := os.Mkdir(part, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Chdir(part)
	}
	if err := os.WriteFile("base", zeros(mib), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CreateOverlay("over", "base", FormatRaw); err == nil || !strings.Contains(err.Error(), "at most 1023") {
		t.Errorf("got %v", err)
	}
}

func TestWriteIsSparseAndTheSameEachTime(t *testing.T) {
	content := &disk{600 * mib, []int64{0, 5*mib - 1, 550 * mib}}
	one, two := content.image(t), content.image(t)
	if !bytes.Equal(one, two) {
		t.Error("the same disk gives different images")
	}
	// Header, refcount table and block, L1 table, two L2 tables, and a cluster
	// for each pattern, the one across a boundary in two.
	if want := (4 + 2 + 4) * clusterSize; len(one) != want {
		t.Errorf("%d bytes, want %d", len(one), want)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, size := range []int64{-512, 0, 700, maxVirtualSize + 512} {
		var b bytes.Buffer
		if err := Write(&b, bytes.NewReader(nil), size); err == nil || b.Len() > 0 {
			t.Errorf("size %d: %v, %d bytes written", size, err, b.Len())
		}
	}
	if err := Write(&bytes.Buffer{}, &disk{size: 512}, 1024); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("a disk that is shorter than said: %v", err)
	}
}

// Whatever a header says, it is judged without a crash, and what passes has a
// size that a disk can have.
func FuzzJudge(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, &disk{mib, []int64{0}}, mib); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[:200], int64(b.Len()))
	f.Add(overlay(mib, "/a", FormatRaw)[:200], int64(4*clusterSize))
	f.Fuzz(func(t *testing.T, start []byte, fileSize int64) {
		size, err := judge(start, max(fileSize, int64(len(start))))
		if err == nil && (size <= 0 || size%sectorSize != 0 || size > maxVirtualSize) {
			t.Errorf("a disk of %d bytes passes", size)
		}
	})
}
