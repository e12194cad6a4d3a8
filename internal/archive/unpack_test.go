package archive_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/archive"
)

func file(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}
}

func folder(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}

// with changes a copy of h.
func with(h tar.Header, change func(*tar.Header)) tar.Header {
	change(&h)
	return h
}

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Each archive is right in all but one thing.
func TestUnpackRefuses(t *testing.T) {
	limits := archive.Limits{Entries: 3, Depth: 2, FileBytes: 8, TotalBytes: 10}
	for _, tt := range []struct {
		name, want string
		in         []byte
	}{
		{"absolute name", "absolute", tarOf(t, file("/etc/x"))},
		{"parent", `part ".."`, tarOf(t, file("../x"))},
		{"parent in the middle", `part ".."`, tarOf(t, folder("a/"), file("a/../../x"))},
		{"parent as folder", `part ".."`, tarOf(t, folder("../"))},
		{"dot", `part "."`, tarOf(t, file("./x"))},
		{"two slashes", `part ""`, tarOf(t, folder("a/"), file("a//x"))},
		{"top folder", "no name", tarOf(t, folder("./"))},
		{"long part", "300 bytes", tarOf(t, file(strings.Repeat("x", 300)))},
		{"not UTF-8", "not UTF-8", tarOf(t, with(file("b\xffd"), func(h *tar.Header) { h.Format = tar.FormatGNU }))},
		{"symbolic link", "type '2'", tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc", Mode: 0o644})},
		{"hard link", "type '1'", tarOf(t, file("a"), tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a", Mode: 0o644})},
		{"character device", "type '3'", tarOf(t, tar.Header{Name: "d", Typeflag: tar.TypeChar, Mode: 0o644})},
		{"block device", "type '4'", tarOf(t, tar.Header{Name: "d", Typeflag: tar.TypeBlock, Mode: 0o644})},
		{"pipe", "type '6'", tarOf(t, tar.Header{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o644})},
		{"twice", "there twice", tarOf(t, file("a"), file("a"))},
		{"folder and file of one name", "name", tarOf(t, file("a"), folder("a/"), file("a/b"))},
		{"not in order", "not in order", tarOf(t, file("b"), file("a"))},
		{"folder without entry", "no entry", tarOf(t, file("a/b"))},
		{"folder of before", "no entry", tarOf(t, folder("a/"), file("b"), file("c/x"))},
		{"setuid", "mode", tarOf(t, with(file("a"), func(h *tar.Header) { h.Mode = 0o4755 }))},
		{"world-writable", "mode", tarOf(t, with(file("a"), func(h *tar.Header) { h.Mode = 0o666 }))},
		{"folder mode", "mode", tarOf(t, with(folder("a/"), func(h *tar.Header) { h.Mode = 0o644 }))},
		{"owner", "owner", tarOf(t, with(file("a"), func(h *tar.Header) { h.Uid = 1 }))},
		{"group", "owner", tarOf(t, with(file("a"), func(h *tar.Header) { h.Gid = 1 }))},
		{"owner's name", "owner", tarOf(t, with(file("a"), func(h *tar.Header) { h.Uname = "root" }))},
		{"time", "time", tarOf(t, with(file("a"), func(h *tar.Header) { h.ModTime = time.Unix(1, 0) }))},
		{"attribute", "PAX record", tarOf(t, with(file("a"), func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"}
		}))},
		{"GNU format", "format GNU", tarOf(t, with(file("a"), func(h *tar.Header) { h.Format = tar.FormatGNU }))},
		{"too many entries", "allowed 3 entries", tarOf(t, folder("a/"), folder("b/"), folder("c/"), folder("d/"))},
		{"too deep", "folders deep", tarOf(t, folder("a/"), folder("a/b/"), file("a/b/c"))},
		{"file too long", "in a file", tarOf(t, with(file("a"), func(h *tar.Header) { h.Size = 9 }))},
		{"too long together", "allowed 10 bytes", tarOf(t, file("a"), file("b"), file("c"))},
		{"cut in a header", "reading the archive", tarOf(t, file("a"))[:100]},
		{"cut in a file", "unexpected EOF", tarOf(t, file("a"))[:514]},
		{"bytes after it", "after the end", append(tarOf(t, file("a")), make([]byte, 512)...)},
		{"not an archive", "reading the archive", bytes.Repeat([]byte("x"), 1024)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			out := filepath.Join(parent, "out")
			err := archive.Unpack(bytes.NewReader(tt.in), out, limits)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			left, err := os.ReadDir(parent)
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// What the limits allow exactly passes: the cases above fail for their one
// reason.
func TestUnpackTakesWhatTheLimitsAllow(t *testing.T) {
	limits := archive.Limits{Entries: 3, Depth: 2, FileBytes: 8, TotalBytes: 12}
	in := tarOf(t, folder("a/"), with(file("a/x"), func(h *tar.Header) { h.Size = 8 }), file("b"))
	if err := archive.Unpack(bytes.NewReader(in), filepath.Join(t.TempDir(), "out"), limits); err != nil {
		t.Fatal(err)
	}
	for name, less := range map[string]archive.Limits{
		"entries": {Entries: 2, Depth: 2, FileBytes: 8, TotalBytes: 12},
		"depth":   {Entries: 3, Depth: 1, FileBytes: 8, TotalBytes: 12},
		"file":    {Entries: 3, Depth: 2, FileBytes: 7, TotalBytes: 12},
		"total":   {Entries: 3, Depth: 2, FileBytes: 8, TotalBytes: 11},
		"zero":    {},
	} {
		if err := archive.Unpack(bytes.NewReader(in), filepath.Join(t.TempDir(), "out"), less); err == nil {
			t.Errorf("%s: one less was allowed", name)
		}
	}
}

// A sparse file says that it has gigabytes in a few bytes.
func TestUnpackRefusesSparseFiles(t *testing.T) {
	// tar.Writer makes none: records of the same length are renamed, which no
	// checksum covers.
	h := with(file("GNUSparseFile.0/a"), func(h *tar.Header) {
		h.Size = 512
		h.PAXRecords = map[string]string{
			"cocos.xxxx.major": "0", "cocos.xxxx.minor": "1", "cocos.xxxx.name": "a",
			"cocos.xxxx.size": "9999999", "cocos.xxxx.numblocks": "1", "cocos.xxxx.map": "0,512",
		}
	})
	b := bytes.ReplaceAll(tarOf(t, h), []byte("cocos.xxxx."), []byte("GNU.sparse."))
	out := filepath.Join(t.TempDir(), "out")
	if err := archive.Unpack(bytes.NewReader(b), out, ample); err == nil || !strings.Contains(err.Error(), "PAX record \"GNU.sparse") {
		t.Errorf("a sparse file: %v", err)
	}
	if _, err := os.Lstat(out); err == nil {
		t.Error("left something behind")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, file("a"), folder("b/"), file("b/c")))
	f.Add(tarOf(f, file("../a")))
	f.Add(tarOf(f, file(strings.Repeat("n", 150))))
	f.Add(tarOf(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "..", Mode: 0o644}))
	f.Add([]byte{})
	limits := archive.Limits{Entries: 20, Depth: 4, FileBytes: 1 << 16, TotalBytes: 1 << 17}
	f.Fuzz(func(t *testing.T, in []byte) {
		parent := t.TempDir()
		out := filepath.Join(parent, "out")
		err := archive.Unpack(bytes.NewReader(in), out, limits)
		left, readErr := os.ReadDir(parent)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if len(left) != 0 {
				t.Fatalf("refused (%v) and left %v", err, left)
			}
			return
		}
		if len(left) != 1 {
			t.Fatalf("made %v", left)
		}
		// What was taken is in the one form: it packs into what names it.
		var again bytes.Buffer
		if err := archive.Pack(&again, out); err != nil {
			t.Fatal(err)
		}
		if err := archive.Unpack(&again, filepath.Join(parent, "again"), limits); err != nil {
			t.Fatal(err)
		}
	})
}
