package archive_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/manifest"
)

func packed(t testing.TB, p archive.Packing, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := p.Pack(&b, dir); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPackingKeepsAndAdds(t *testing.T) {
	dir := tree(t, "a/x", "a/b/c/deep", "a/b/other", "empty/", "z", "skip/this/file")
	p := archive.Packing{
		Keep:  func(name string) bool { return name != "z" && !strings.HasPrefix(name, "skip/") && name != "a/b/other" },
		Extra: map[string][]byte{"a.txt": []byte("extra"), "zz": nil},
	}
	b := packed(t, p, dir)
	want := []string{"a.txt", "a/", "a/b/", "a/b/c/", "a/b/c/deep", "a/x", "zz"}
	if got := entries(t, b); !slices.Equal(got, want) {
		t.Errorf("entries %q, want %q", got, want)
	}
	if !bytes.Equal(b, packed(t, p, dir)) {
		t.Error("packed again it is another archive")
	}
	// It is the form that Unpack takes, and that Pack makes of what came out.
	out := filepath.Join(t.TempDir(), "out")
	if err := archive.Unpack(bytes.NewReader(b), out, ample); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pack(t, out), b) {
		t.Error("unpacked and packed it is another archive")
	}
	if err := (archive.Packing{Extra: map[string][]byte{"z": nil}}).Pack(&bytes.Buffer{}, dir); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("an extra file in another's place: %v", err)
	}
	if err := (archive.Packing{Extra: map[string][]byte{"../z": nil}}).Pack(&bytes.Buffer{}, dir); err == nil {
		t.Error("an extra file beyond the folder was packed")
	}
}

func TestPadding(t *testing.T) {
	dir := tree(t, "a/x")
	plain := pack(t, dir)
	const size = 70 << 10
	b := packed(t, archive.Packing{Size: size}, dir)
	if len(b) != size || !bytes.Equal(b[:len(plain)], plain) || len(bytes.Trim(b[len(plain):], "\x00")) > 0 {
		t.Errorf("%d bytes; want the archive and zeros up to %d", len(b), size)
	}
	for name, tt := range map[string]struct {
		in      []byte
		padding int64
		ok      bool
	}{
		"allowed":               {b, size, true},
		"exactly":               {b, int64(size - len(plain)), true},
		"a byte too many":       {b, int64(size-len(plain)) - 1, false},
		"not allowed":           {b, 0, false},
		"none where it may be":  {plain, size, true},
		"something else at end": {append(bytes.Clone(b[:size-1]), 'x'), size, false},
		"something in between":  {append(append(bytes.Clone(b[:len(plain)]), 'x'), b[len(plain)+1:]...), size, false},
	} {
		limits := ample
		limits.Padding = tt.padding
		out := filepath.Join(t.TempDir(), "out")
		if err := archive.Unpack(bytes.NewReader(tt.in), out, limits); (err == nil) != tt.ok {
			t.Errorf("%s: %v; want it taken: %t", name, err, tt.ok)
		} else if err != nil && !strings.Contains(err.Error(), "after the end") {
			t.Errorf("%s: %v", name, err)
		}
	}
	sum, n, err := archive.SumPadded(dir, size)
	if err != nil || n != size || sum != manifest.Sum(b) {
		t.Errorf("padded sum: %s %d %v", sum, n, err)
	}
	if sum, n, err := archive.SumPadded(dir, 10); err != nil || n != int64(len(plain)) || sum != manifest.Sum(plain) {
		t.Errorf("sum of what is larger: %s %d %v", sum, n, err)
	}
	file := filepath.Join(dir, "a", "x")
	if _, n, err := archive.SumPadded(file, size); err != nil || n != 3 {
		t.Errorf("a file was padded: %d %v", n, err)
	}
	if err := (archive.Packing{Size: 1024}).Pack(&bytes.Buffer{}, dir); err == nil || !strings.Contains(err.Error(), "padded to 1024") {
		t.Errorf("into too little: %v", err)
	}
}
