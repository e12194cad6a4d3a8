package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/manifest"
)

// layers is the archive of an image with these layers.
func layers(t testing.TB, ls ...[]build.Entry) []byte {
	t.Helper()
	var img build.Image
	for _, l := range ls {
		img.Layers = append(img.Layers, build.Layer{Entries: l})
	}
	return archive(t, written(t, build.OCI, img))
}

func entry(kind byte, name, link string) build.Entry {
	return build.Entry{Header: tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o644}}
}

func text(name, body string) build.Entry { return build.File(name, 0o644, []byte(body)) }

func TestLayers(t *testing.T) {
	type l = []build.Entry
	tests := map[string]struct {
		in   []l
		want map[string]string
	}{
		"a later layer's file": {[]l{{text("a", "1")}, {text("a", "2")}}, map[string]string{"a": "2"}},
		"folders that no entry makes": {[]l{{text("a/b/c", "1")}},
			map[string]string{"a": "dir", "a/b": "dir", "a/b/c": "1"}},
		"names with dots and slashes": {[]l{{build.Folder("."), build.Folder("./a"), text("./a/b", "1"), text("/c", "2")}},
			map[string]string{"a": "dir", "a/b": "1", "c": "2"}},
		"whiteout of a file":   {[]l{{text("a", "1"), text("b", "1")}, {text(".wh.a", "")}}, map[string]string{"b": "1"}},
		"whiteout of a folder": {[]l{{text("a/b/c", "1")}, {text(".wh.a", "")}}, map[string]string{}},
		"whiteout of nothing":  {[]l{{text("a", "1")}, {text(".wh.b", "")}}, map[string]string{"a": "1"}},
		"whiteout before what takes its place": {[]l{{text("a/old", "1")}, {text(".wh.a", ""), text("a/new", "2")}},
			map[string]string{"a": "dir", "a/new": "2"}},
		"whiteout after what takes its place": {[]l{{text("a/old", "1"), text("a/b/old", "1")}, {text("a/new", "2"), text("a/b/new", "2"), text(".wh.a", "")}},
			map[string]string{"a": "dir", "a/b": "dir", "a/b/new": "2", "a/new": "2"}},
		"opaque folder": {[]l{{text("a/old", "1"), text("a/b/old", "1"), text("c", "1")}, {build.Folder("a"), text("a/.wh..wh..opq", ""), text("a/new", "2")}},
			map[string]string{"a": "dir", "a/new": "2", "c": "1"}},
		"opaque after what it keeps": {[]l{{text("a/old", "1"), text("a/b/old", "1")}, {text("a/b/new", "2"), text("a/.wh..wh..opq", "")}},
			map[string]string{"a": "dir", "a/b": "dir", "a/b/new": "2"}},
		"opaque top":                  {[]l{{text("a/old", "1"), text("b", "1")}, {text(".wh..wh..opq", ""), text("c", "2")}}, map[string]string{"c": "2"}},
		"a whiteout's layer in turn":  {[]l{{text("a", "1")}, {text(".wh.a", "")}, {text("a", "3")}}, map[string]string{"a": "3"}},
		"files of the file system":    {[]l{{text("a", "1")}, {text(".wh..wh.plnk", ""), text(".wh..wh.aufs", "")}}, map[string]string{"a": "1"}},
		"a file in a folder's place":  {[]l{{text("a/b", "1")}, {text("a", "2")}}, map[string]string{"a": "2"}},
		"a folder in a file's place":  {[]l{{text("a", "1")}, {build.Folder("a"), text("a/b", "2")}}, map[string]string{"a": "dir", "a/b": "2"}},
		"a file in a link's place":    {[]l{{text("a", "1"), build.Link("b", "a")}, {text("b", "2")}}, map[string]string{"a": "1", "b": "2"}},
		"a folder in a link's place":  {[]l{{text("a/x", "1"), build.Link("b", "a")}, {build.Folder("b"), text("b/y", "2")}}, map[string]string{"a": "dir", "a/x": "1", "b": "dir", "b/y": "2"}},
		"the last of one name":        {[]l{{text("a", "1"), text("a", "2")}}, map[string]string{"a": "2"}},
		"through a relative link":     {[]l{{text("usr/lib/x", "1"), build.Link("lib", "usr/lib")}, {text("lib/y", "2")}}, map[string]string{"usr": "dir", "usr/lib": "dir", "usr/lib/x": "1", "usr/lib/y": "2", "lib": "-> usr/lib"}},
		"through an absolute link":    {[]l{{build.Folder("run"), build.Link("var/run", "/run")}, {text("var/run/y", "2")}}, map[string]string{"run": "dir", "run/y": "2", "var": "dir", "var/run": "-> /run"}},
		"whiteout through a link":     {[]l{{text("usr/lib/x", "1"), build.Link("lib", "usr/lib")}, {text("lib/.wh.x", "")}}, map[string]string{"usr": "dir", "usr/lib": "dir", "lib": "-> usr/lib"}},
		"through a link beyond":       {[]l{{build.Link("up", "../../../../tmp"), build.Folder("tmp")}, {text("up/y", "2")}}, map[string]string{"tmp": "dir", "tmp/y": "2", "up": "-> ../../../../tmp"}},
		"through a link to the top":   {[]l{{build.Link("top", "/")}, {text("top/y", "2")}}, map[string]string{"top": "-> /", "y": "2"}},
		"through a dangling link":     {[]l{{build.Link("d", "/not/there")}, {text("d/y", "2")}}, map[string]string{"d": "-> /not/there", "not": "dir", "not/there": "dir", "not/there/y": "2"}},
		"hard link":                   {[]l{{text("a", "1"), entry(tar.TypeLink, "b", "a")}}, map[string]string{"a": "1", "b": "1"}},
		"hard link, written absolute": {[]l{{text("a", "1"), entry(tar.TypeLink, "/b", "/a")}}, map[string]string{"a": "1", "b": "1"}},
		"hard link to another layer":  {[]l{{text("a", "1")}, {entry(tar.TypeLink, "b", "a")}, {text("a", "3")}}, map[string]string{"a": "3", "b": "1"}},
		"hard link through a link":    {[]l{{text("d/a", "1"), build.Link("e", "/d"), entry(tar.TypeLink, "b", "e/a")}}, map[string]string{"d": "dir", "d/a": "1", "e": "-> /d", "b": "1"}},
		"hard link to a link":         {[]l{{build.Link("a", "/etc/passwd"), entry(tar.TypeLink, "b", "a")}}, map[string]string{"a": "-> /etc/passwd", "b": "-> /etc/passwd"}},
		"devices and pipes": {[]l{{entry(tar.TypeChar, "c", ""), entry(tar.TypeBlock, "b", ""), entry(tar.TypeFifo, "f", ""), text("a", "1")}},
			map[string]string{"a": "1"}},
		"a device in a file's place": {[]l{{text("a", "1")}, {entry(tar.TypeChar, "a", "")}}, map[string]string{}},
		"no layers":                  {nil, map[string]string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir, err := unpack(t, layers(t, tt.in...), "", ample)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, dir); !maps.Equal(got, tt.want) {
				t.Errorf("unpacked %v\nwant     %v", got, tt.want)
			}
		})
	}
}

func TestModes(t *testing.T) {
	mode := func(name string, mode int64, kind byte) build.Entry {
		return build.Entry{Header: tar.Header{Name: name, Mode: mode, Typeflag: kind, Uid: 1234, Gid: 1234,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff"}}}
	}
	owner := &oci.Owner{UID: 10001, GID: 10002}
	if os.Geteuid() != 0 {
		owner = nil
	}
	b := layers(t, []build.Entry{
		mode("plain", 0o640, tar.TypeReg), mode("nobody's", 0, tar.TypeReg), mode("setuid", 0o4755, tar.TypeReg), mode("setgid", 0o2711, tar.TypeReg),
		mode("others run it", 0o001, tar.TypeReg), mode("sticky", 0o1777, tar.TypeDir), mode("closed", 0, tar.TypeDir),
		text("closed/inside", "x"), build.Link("link", "plain"),
	})
	img, err := image(b, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "root")
	if err := img.Unpack(t.Context(), dir, ample, owner); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		".": 0o755 | fs.ModeDir, "plain": 0o640, "nobody's": 0o400, "setuid": 0o755, "setgid": 0o711, "others run it": 0o501,
		"sticky": 0o777 | fs.ModeDir, "closed": 0o700 | fs.ModeDir,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	for name := range tree(t, dir) {
		checkOwner(t, filepath.Join(dir, name), owner)
	}
	checkNoAttributes(t, filepath.Join(dir, "setuid"))
}

// Each image is right in all but one thing.
func TestUnpackRefuses(t *testing.T) {
	type l = []build.Entry
	deep := strings.Repeat("d/", 128)
	for name, tt := range map[string]struct {
		in   []l
		want string
	}{
		"a name beyond the top":       {[]l{{text("../x", "1")}}, `part ".."`},
		"a name beyond, inside":       {[]l{{text("a/../../x", "1")}}, `part ".."`},
		"a name beyond, absolute":     {[]l{{text("/../x", "1")}}, `part ".."`},
		"a hard link beyond":          {[]l{{entry(tar.TypeLink, "a", "../../../../etc/passwd")}}, `part ".."`},
		"a hard link to nothing":      {[]l{{entry(tar.TypeLink, "a", "/etc/passwd")}}, "no such file"},
		"a hard link through a link":  {[]l{{build.Link("e", "/etc"), entry(tar.TypeLink, "a", "e/passwd")}}, "no such file"},
		"a hard link to a folder":     {[]l{{build.Folder("a"), entry(tar.TypeLink, "b", "a")}}, "is a folder"},
		"a hard link to the top":      {[]l{{entry(tar.TypeLink, "b", "/")}}, "is a folder"},
		"a hard link to itself":       {[]l{{text("a", "1"), entry(tar.TypeLink, "a", "a")}}, "the link itself"},
		"a file in a file":            {[]l{{text("a", "1"), text("a/b", "1")}}, "not a folder"},
		"a file through a file":       {[]l{{text("a", "1"), build.Link("l", "a/b"), text("l/c", "1")}}, "not a folder"},
		"links in a circle":           {[]l{{build.Link("a", "b"), build.Link("b", "a"), text("a/c", "1")}}, "symbolic links"},
		"whiteout of no name":         {[]l{{text("a/.wh.", "")}}, "whiteout of no file"},
		"whiteout of its folder":      {[]l{{text("a/.wh..", "")}}, "whiteout of no file"},
		"whiteout of the one above":   {[]l{{text("a/.wh...", "")}}, "whiteout of no file"},
		"whiteout of the top":         {[]l{{text("a", "")}, {text(".wh..", "")}}, "whiteout of no file"},
		"a top that is a file":        {[]l{{text("./.", "1")}}, "top is not a folder"},
		"too deep":                    {[]l{{text(deep+"f", "1")}}, "128 are allowed"},
		"of an unknown type":          {[]l{{entry('V', "a", "")}}, "unknown type"},
		"too many bytes":              {[]l{{build.File("a", 0o644, make([]byte, 17<<20))}}, "unpacked_max"},
		"too many bytes, over layers": {[]l{{build.File("a", 0o644, make([]byte, 9<<20))}, {text(".wh.a", ""), build.File("b", 0o644, make([]byte, 9<<20))}}, "layer 1 of the image: \"b\": with it there are more"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpack(t, layers(t, tt.in...), "", ample); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q in it", err, tt.want)
			}
		})
	}
	if _, err := unpack(t, layers(t, l{text(deep[2:]+"f", "1")}), "", ample); err != nil {
		t.Errorf("as deep as is allowed: %v", err)
	}
}

// A link that one layer plants leads no file of another one out of the folder.
func TestNothingIsWrittenOutside(t *testing.T) {
	outside := t.TempDir()
	for name, target := range map[string]string{"absolute": outside, "relative": "../" + filepath.Base(outside), "proc": "/proc/self/cwd"} {
		t.Run(name, func(t *testing.T) {
			for _, b := range [][]byte{
				layers(t, []build.Entry{build.Link("l", target)}, []build.Entry{text("l/planted", "1")}),
				layers(t, []build.Entry{build.Link("l", target), text("l/planted", "1")}),
				layers(t, []build.Entry{build.Link("l", target+"/planted")}, []build.Entry{text("l", "1")}),
				layers(t, []build.Entry{build.Link("l", target)}, []build.Entry{text("l/.wh..wh..opq", "")}),
			} {
				if _, err := unpack(t, b, "", ample); err != nil {
					t.Error(err)
				}
			}
			if left := tree(t, outside); len(left) > 0 {
				t.Errorf("outside there is %v", left)
			}
			if _, err := os.Lstat("planted"); err == nil {
				t.Error("the working folder was written to")
			}
		})
	}
	kept := filepath.Join(outside, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(t, layers(t, []build.Entry{build.Link("l", outside)}, []build.Entry{text("l/.wh.kept", ""), text("l/.wh..wh..opq", ""), text(".wh.l", "")}), "", ample); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Errorf("a whiteout removed a file outside: %v", err)
	}
}

// gzipped is the archive of an image whose one layer is content, compressed.
func gzipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	p := mustParts(t, build.Image{Layers: []build.Layer{{Compression: "gzip"}}})
	empty := mustParts(t, build.Image{Layers: []build.Layer{{}}})
	old, diff := build.Describe(build.TypeLayer, p.Layers[0]), manifest.Sum(content).String()
	p.Config = bytes.ReplaceAll(p.Config, []byte(manifest.Sum(empty.Layers[0]).String()), []byte(diff))
	blob := build.Describe(build.TypeLayer, b.Bytes())
	p.Manifest = bytes.ReplaceAll(p.Manifest, fmt.Appendf(nil, `"digest":%q,"size":%d`, old.Digest, old.Size), fmt.Appendf(nil, `"digest":%q,"size":%d`, blob.Digest, blob.Size))
	p.Manifest = bytes.ReplaceAll(p.Manifest, fmtDescriptor(t, mustParts(t, build.Image{Layers: []build.Layer{{Compression: "gzip"}}}).Config), fmtDescriptor(t, p.Config))
	p.Layers[0] = b.Bytes()
	l := &layout{parts: p, index: []build.Descriptor{build.Describe(build.TypeManifest, p.Manifest)}}
	return l.archive(t)
}

// A few bytes decompress into as many as one likes: in a file, and after the last.
func TestBombsAtLength(t *testing.T) {
	zeros := make([]byte, 48<<20)
	inFile, err := build.Tar([]build.Entry{build.File("a", 0o644, zeros)})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		content []byte
		want    string
	}{
		"in a file":       {inFile, "unpacked_max"},
		"after the files": {zeros, "decompresses into more"},
	} {
		t.Run(name, func(t *testing.T) {
			b := gzipped(t, tt.content)
			if len(b) > 256<<10 {
				t.Fatalf("the archive has %d bytes", len(b))
			}
			if _, err := unpack(t, b, "", ample); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q in it", err, tt.want)
			}
			if _, err := unpack(t, b, "", oci.LimitsOf(64<<20)); err != nil {
				t.Errorf("with room for it: %v", err)
			}
		})
	}
}

// More entries than are allowed cost one pass over them and no file.
func TestMillionEntriesAtLength(t *testing.T) {
	var one bytes.Buffer
	w := tar.NewWriter(&one)
	if err := w.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "a"}); err != nil {
		t.Fatal(err)
	}
	b := gzipped(t, bytes.Repeat(one.Bytes(), 1_000_000))
	img, err := image(b, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Measure(t.Context()); err == nil || !strings.Contains(err.Error(), "524288 entries") {
		t.Errorf("Measure: %v", err)
	}
}

func TestEntriesUpToTheLimit(t *testing.T) {
	b := layers(t, []build.Entry{text("a", ""), text("b", "")}, []build.Entry{text("c", "")})
	for n, ok := range map[int]bool{3: true, 2: false, 0: false} {
		if _, err := unpack(t, b, "", oci.Limits{Entries: n, Depth: 1, Bytes: 1 << 20}); (err == nil) != ok {
			t.Errorf("%d entries allowed: %v", n, err)
		}
	}
	if _, err := unpack(t, b, "", oci.Limits{}); err == nil {
		t.Error("the zero limits allow something")
	}
}

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nbroken\nodd:x:-1:x:::\napp:x:1000:2000::/:\n",
		"etc/group":  "root:x:0:\nstaff:x:50:app\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	bare, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	for user, want := range map[string]oci.Owner{
		"": {}, "0": {}, "root": {}, "app": {UID: 1000, GID: 2000}, "1000": {UID: 1000, GID: 2000}, "7": {UID: 7}, "7:8": {UID: 7, GID: 8},
		"app:staff": {UID: 1000, GID: 50}, "app:9": {UID: 1000, GID: 9}, "7:staff": {UID: 7, GID: 50}, ":staff": {GID: 50},
	} {
		if got, err := oci.LookupUser(root, user); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", user, got, err, want)
		}
	}
	for user, want := range map[string]string{
		"nobody": "/etc/passwd", "app:nobody": "/etc/group", "app:": "/etc/group", "odd": "/etc/passwd", "-1": "/etc/passwd", "2147483647": "/etc/passwd",
	} {
		if _, err := oci.LookupUser(root, user); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q in it", user, err, want)
		}
	}
	if got, err := oci.LookupUser(bare, "5:6"); err != nil || got != (oci.Owner{UID: 5, GID: 6}) {
		t.Errorf("without accounts: %+v, %v", got, err)
	}
	if _, err := oci.LookupUser(bare, "app"); err == nil {
		t.Error("a name without accounts: taken")
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(archive(f, written(f, build.OCI, small("a"))))
	f.Add(archive(f, written(f, build.Docker, small("a", "b"))))
	f.Add(archive(f, written(f, build.Docker, build.Image{})))
	f.Add(layers(f, []build.Entry{build.Link("l", "/etc"), text("l/x", "1"), entry(tar.TypeLink, "h", "l/x")}, []build.Entry{text(".wh.l", "")}))
	f.Add([]byte{})
	limits := oci.Limits{Entries: 50, Depth: 8, Bytes: 1 << 20}
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := open(in)
		if err != nil {
			return
		}
		for _, name := range a.Names() {
			img, err := a.Image(name)
			if err != nil {
				continue
			}
			parent := t.TempDir()
			dir := filepath.Join(parent, "root")
			failed := img.Unpack(t.Context(), dir, limits, nil) != nil
			left, err := os.ReadDir(parent)
			if err != nil {
				t.Fatal(err)
			}
			if failed != (len(left) == 0) || len(left) > 1 {
				t.Fatalf("failed: %t; there is %v", failed, left)
			}
		}
	})
}
