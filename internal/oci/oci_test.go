package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/manifest"
)

// ample are limits that no honest image of these tests reaches.
var ample = oci.LimitsOf(16 << 20)

// small is an image of three layers, one of each compression.
func small(names ...string) build.Image {
	return build.Image{
		Names: names,
		Config: oci.Config{
			Entrypoint: []string{"/bin/run"}, Cmd: []string{"a", "b"}, Env: []string{"X=1"}, WorkingDir: "/srv", User: "app",
		},
		Layers: []build.Layer{
			{Entries: []build.Entry{
				build.Folder("bin"), build.File("bin/run", 0o755, []byte("program")),
				build.Folder("etc"), build.File("etc/passwd", 0o644, []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")),
				build.File("etc/old", 0o644, []byte("old")),
			}},
			{Entries: []build.Entry{build.Folder("etc"), build.File("etc/.wh.old", 0o644, nil)}, Compression: "gzip"},
			{Entries: []build.Entry{build.Folder("srv"), build.File("srv/data", 0o600, bytes.Repeat([]byte("d"), 10_000))}, Compression: "zstd"},
		},
	}
}

type writer func(...build.Image) ([]build.Entry, error)

var formats = map[string]writer{"oci": build.OCI, "docker": build.Docker}

func archive(t testing.TB, entries []build.Entry) []byte {
	t.Helper()
	b, err := build.Tar(entries)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func written(t testing.TB, w writer, images ...build.Image) []build.Entry {
	t.Helper()
	entries, err := w(images...)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func open(b []byte) (*oci.Archive, error) { return oci.Open(bytes.NewReader(b), int64(len(b))) }

// image opens an archive and its image.
func image(b []byte, name string) (*oci.Image, error) {
	a, err := open(b)
	if err != nil {
		return nil, err
	}
	return a.Image(name)
}

// unpack goes all the way; it checks that what fails leaves nothing.
func unpack(t testing.TB, b []byte, name string, l oci.Limits) (dir string, err error) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "root")
	img, err := image(b, name)
	if err == nil {
		err = img.Unpack(t.Context(), dir, l, nil)
	}
	if _, left := os.Lstat(dir); err != nil && left == nil {
		t.Errorf("refused (%v), and left %s", err, dir)
	}
	return dir, err
}

// tree is all that there is below dir: content, "dir" or "-> target".
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		at, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			found[at] = "dir"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			found[at] = "-> " + target
			return err
		default:
			b, err := os.ReadFile(name)
			found[at] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFormats(t *testing.T) {
	for name, w := range formats {
		t.Run(name, func(t *testing.T) {
			b := archive(t, written(t, w, small("stats:1")))
			for _, as := range []string{"", "stats:1", "docker.io/library/stats:1"} {
				img, err := image(b, as)
				if err != nil {
					t.Fatal(err)
				}
				p, err := small().Parts()
				if err != nil {
					t.Fatal(err)
				}
				if img.ConfigDigest != manifest.Sum(p.Config) {
					t.Errorf("config %s; want %s", img.ConfigDigest, manifest.Sum(p.Config))
				}
				if c := img.Config; c.User != "app" || c.WorkingDir != "/srv" || !slices.Equal(c.Entrypoint, []string{"/bin/run"}) || !slices.Equal(c.Cmd, []string{"a", "b"}) || !slices.Equal(c.Env, []string{"X=1"}) {
					t.Errorf("config %+v", c)
				}
			}
			dir, err := unpack(t, b, "", ample)
			if err != nil {
				t.Fatal(err)
			}
			got := tree(t, dir)
			if len(got) != 6 || got["bin/run"] != "program" || len(got["srv/data"]) != 10_000 || got["etc/old"] != "" {
				t.Errorf("unpacked %v", got)
			}
		})
	}
}

// What Measure says is what Unpack needs, to the byte.
func TestMeasure(t *testing.T) {
	b := archive(t, written(t, build.OCI, small()))
	img, err := image(b, "")
	if err != nil {
		t.Fatal(err)
	}
	size, err := img.Measure(t.Context())
	// Nine entries; of the files two have one block and one has three.
	if want := int64(9+1+1+1+3) * 4096; err != nil || size != want {
		t.Fatalf("measured %d, %v; want %d", size, err, want)
	}
	if _, err := unpack(t, b, "", oci.LimitsOf(size)); err != nil {
		t.Errorf("with as much as is needed: %v", err)
	}
	if _, err := unpack(t, b, "", oci.LimitsOf(size-1)); err == nil || !strings.Contains(err.Error(), "unpacked_max") {
		t.Errorf("with a byte less: %v", err)
	}
}

func TestPinned(t *testing.T) {
	b := archive(t, written(t, build.OCI, small("a")))
	img, err := image(b, "")
	if err != nil {
		t.Fatal(err)
	}
	a, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Pinned(manifest.Image{Config: img.ConfigDigest, UnpackedMax: 1}); err != nil {
		t.Error(err)
	}
	for name, pin := range map[string]manifest.Image{
		"another config": {Config: manifest.Digest{1}},
		"no config":      {},
		"another name":   {Name: "b", Config: img.ConfigDigest},
	} {
		if _, err := a.Pinned(pin); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestWhichImage(t *testing.T) {
	other := small("other:2")
	other.Config.User = "0"
	for format, w := range formats {
		for name, tt := range map[string]struct {
			images []build.Image
			ask    string
			want   string // part of the error; empty: none
		}{
			"two, one named":      {[]build.Image{small("a:1"), other}, "a:1", ""},
			"two, the other":      {[]build.Image{small("a:1"), other}, "other:2", ""},
			"two, none named":     {[]build.Image{small("a:1"), other}, "", `2 images or tags: "a:1", "other:2"; name one`},
			"two, one unnamed":    {[]build.Image{small(), other}, "", `2 images or tags: one without a name, "other:2"`},
			"two tags of one":     {[]build.Image{small("a:1", "a:2")}, "", `2 images or tags: "a:1", "a:2"`},
			"one of two tags":     {[]build.Image{small("a:1", "a:2")}, "a:2", ""},
			"a tag of two images": {[]build.Image{small("a:1"), func() build.Image { o := other; o.Names = []string{"a:1"}; return o }()}, "a:1", `"a:1" 2 times`},
			"not there":           {[]build.Image{small("a:1")}, "a", `no image "a"; it has "a:1"`},
			"none has a name":     {[]build.Image{small()}, "a", `no image "a"; it has one without`},
		} {
			t.Run(format+" "+name, func(t *testing.T) {
				img, err := image(archive(t, written(t, w, tt.images...)), tt.ask)
				if tt.want == "" {
					if err != nil {
						t.Fatal(err)
					}
					if wantUser := map[bool]string{true: "0", false: "app"}[tt.ask == "other:2"]; img.Config.User != wantUser {
						t.Errorf("chose the image of user %q", img.Config.User)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v; want %q in it", err, tt.want)
				}
			})
		}
	}
}

// layout is an OCI layout whose parts a test changes; what names a part that was
// changed on purpose is made again, all but one link.
type layout struct {
	parts build.Parts
	index []build.Descriptor
	extra []build.Entry
}

func newLayout(t testing.TB, img build.Image) *layout {
	t.Helper()
	p, err := img.Parts()
	if err != nil {
		t.Fatal(err)
	}
	return &layout{parts: p, index: []build.Descriptor{build.Describe(build.TypeManifest, p.Manifest)}}
}

func (l *layout) archive(t testing.TB) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": l.index})
	if err != nil {
		t.Fatal(err)
	}
	entries := []build.Entry{
		build.File("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)), build.File("index.json", 0o644, b),
		build.BlobEntry(l.parts.Config), build.BlobEntry(l.parts.Manifest),
	}
	for _, layer := range l.parts.Layers {
		entries = append(entries, build.BlobEntry(layer))
	}
	return archive(t, append(entries, l.extra...))
}

func TestPlatforms(t *testing.T) {
	arm := small()
	arm.Architecture = "arm64"
	intel, foreign := newLayout(t, small()), newLayout(t, arm)
	on := func(l *layout, p build.Platform) build.Descriptor {
		d := l.index[0]
		d.Platform = &p
		return d
	}
	amd64, arm64 := build.Platform{OS: "linux", Architecture: "amd64"}, build.Platform{OS: "linux", Architecture: "arm64"}
	newer := amd64
	newer.Variant = "v3"
	about := on(intel, build.Platform{OS: "unknown", Architecture: "unknown"})
	about.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	for name, tt := range map[string]struct {
		list []build.Descriptor
		want string
	}{
		"one of two":           {[]build.Descriptor{on(foreign, arm64), on(intel, amd64), about}, ""},
		"the plain one":        {[]build.Descriptor{on(foreign, newer), on(intel, amd64)}, ""},
		"another machine's":    {[]build.Descriptor{on(foreign, arm64)}, `"arm64"`},
		"several of another":   {[]build.Descriptor{on(foreign, arm64), on(foreign, build.Platform{OS: "windows", Architecture: "amd64"})}, "expected one for linux/amd64"},
		"twice":                {[]build.Descriptor{on(intel, amd64), on(intel, amd64)}, "2 images"},
		"nothing but about it": {[]build.Descriptor{about}, "no image"},
		"said wrongly":         {[]build.Descriptor{on(foreign, amd64)}, `"arm64"`},
	} {
		blobs := []build.Entry{build.BlobEntry(foreign.parts.Config), build.BlobEntry(foreign.parts.Manifest)}
		nested, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": tt.list})
		if err != nil {
			t.Fatal(err)
		}
		below := *intel
		below.index = []build.Descriptor{build.Describe(build.TypeIndex, nested)}
		below.extra = append(blobs, build.BlobEntry(nested))
		top := *intel
		top.index, top.extra = tt.list, blobs
		for where, l := range map[string]layout{"top": top, "below": below} {
			t.Run(name+" "+where, func(t *testing.T) {
				_, err := image(l.archive(t), "")
				want := tt.want
				if where == "top" && (name == "several of another" || name == "twice") {
					want = "2 images or tags"
				}
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("got %v; want %q", err, want)
				}
			})
		}
	}
}

// Each archive is right in all but one link of the chain.
func TestDigests(t *testing.T) {
	bent := func(b []byte) []byte {
		c := bytes.Clone(b)
		c[len(c)/2] ^= 1
		return c
	}
	// replace puts other bytes where a blob of this digest is looked for.
	replace := func(entries []build.Entry, old, with []byte) []build.Entry {
		out := slices.Clone(entries)
		for i := range out {
			if bytes.Equal(out[i].Body, old) {
				out[i].Body = with
			}
		}
		return out
	}
	whole := written(t, build.OCI, small())
	docker := written(t, build.Docker, small())
	p, err := small().Parts()
	if err != nil {
		t.Fatal(err)
	}
	nested, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []build.Descriptor{build.Describe(build.TypeManifest, p.Manifest)}})
	if err != nil {
		t.Fatal(err)
	}
	below := newLayout(t, small())
	below.index, below.extra = []build.Descriptor{build.Describe(build.TypeIndex, nested)}, []build.Entry{build.BlobEntry(nested)}
	// A layer whose blob digest is right and whose content is not what the config says.
	other := small()
	other.Layers[0].Entries[1].Body = []byte("another program")
	otherParts, err := other.Parts()
	if err != nil {
		t.Fatal(err)
	}
	otherParts.Config = p.Config
	swapped := bytes.ReplaceAll(otherParts.Manifest, []byte(build.Describe("", mustParts(t, other).Config).Digest), []byte(build.Describe("", p.Config).Digest))
	crossed := &layout{parts: build.Parts{Config: p.Config, Manifest: swapped, Layers: otherParts.Layers}, index: []build.Descriptor{build.Describe(build.TypeManifest, swapped)}}
	sizes := newLayout(t, small())
	sizes.index[0].Size++
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"image manifest":   {archive(t, replace(whole, p.Manifest, bent(p.Manifest))), "its image manifest has the SHA-256"},
		"size of it":       {sizes.archive(t), "bytes"},
		"config":           {archive(t, replace(whole, p.Config, bent(p.Config))), "its config has the SHA-256"},
		"plain layer":      {archive(t, replace(whole, p.Layers[0], bent(p.Layers[0]))), "layer 0"},
		"gzip layer":       {archive(t, replace(whole, p.Layers[1], append(bytes.Clone(p.Layers[1][:4]), append([]byte{1}, p.Layers[1][5:]...)...))), "the image manifest names"},
		"zstd layer":       {archive(t, replace(whole, p.Layers[2], bent(p.Layers[2]))), "layer 2"},
		"diff id":          {crossed.archive(t), "its content has the SHA-256"},
		"nested index":     {bytes.Replace(below.archive(t), nested, append(bytes.Clone(nested[:len(nested)-1]), ' '), 1), "its index has the SHA-256"},
		"layer of docker":  {archive(t, replace(docker, p.Layers[0], bent(p.Layers[0]))), "layer 0"},
		"layer left out":   {archive(t, slices.DeleteFunc(slices.Clone(whole), func(e build.Entry) bool { return bytes.Equal(e.Body, p.Layers[1]) })), "is not in it"},
		"config left out":  {archive(t, slices.DeleteFunc(slices.Clone(docker), func(e build.Entry) bool { return bytes.Equal(e.Body, p.Config) })), "is not in it"},
		"bytes after gzip": {archive(t, replace(docker, p.Layers[1], append(bytes.Clone(p.Layers[1]), 1))), "layer 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpack(t, tt.in, "", ample); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q in it", err, tt.want)
			}
		})
	}
	if _, err := unpack(t, below.archive(t), "", ample); err != nil {
		t.Errorf("the index in an index as it should be: %v", err)
	}
}

func mustParts(t testing.TB, img build.Image) build.Parts {
	t.Helper()
	p, err := img.Parts()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A docker archive's config is held by the pin alone.
func TestDockerConfigIsPinned(t *testing.T) {
	right, err := image(archive(t, written(t, build.Docker, small())), "")
	if err != nil {
		t.Fatal(err)
	}
	other := small()
	other.Config.Cmd = []string{"c"}
	a, err := open(archive(t, written(t, build.Docker, other)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Pinned(manifest.Image{Config: right.ConfigDigest}); err == nil || !strings.Contains(err.Error(), "pins") {
		t.Errorf("another config: %v", err)
	}
}

// Old docker archives have links in the place of layers that are there twice.
func TestLinksInTheArchive(t *testing.T) {
	entries := written(t, build.Docker, small())
	i := slices.IndexFunc(entries, func(e build.Entry) bool { return strings.HasSuffix(e.Name, "/layer.tar") })
	name := entries[i].Name
	entries[i].Name = "real/layer.tar"
	link := func(target string) []byte {
		return archive(t, append(slices.Clone(entries), build.Link(name, target)))
	}
	if _, err := unpack(t, link("../real/layer.tar"), "", ample); err != nil {
		t.Error(err)
	}
	for target, want := range map[string]string{
		"../" + name:       "leads nowhere",
		"../../etc/passwd": "is not in it",
		"/etc/passwd":      "is not in it",
	} {
		if _, err := unpack(t, link(target), "", ample); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a link to %s: %v", target, err)
		}
	}
}

func TestArchivesThatAreRefused(t *testing.T) {
	whole := written(t, build.OCI, small())
	edit := func(name, old, with string) []byte {
		out := slices.Clone(whole)
		for i := range out {
			if out[i].Name == name {
				out[i].Body = bytes.Replace(out[i].Body, []byte(old), []byte(with), 1)
			}
		}
		return archive(t, out)
	}
	config := func(old, with string) []byte {
		p := mustParts(t, small())
		c := bytes.Replace(p.Config, []byte(old), []byte(with), 1)
		m := bytes.Replace(p.Manifest, fmtDescriptor(t, p.Config), fmtDescriptor(t, c), 1)
		l := &layout{parts: build.Parts{Config: c, Manifest: m, Layers: p.Layers}, index: []build.Descriptor{build.Describe(build.TypeManifest, m)}}
		return l.archive(t)
	}
	gz, err := build.Image{Layers: []build.Layer{{Entries: whole, Compression: "gzip"}}}.Parts()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"empty":                {nil, "empty"},
		"no archive":           {bytes.Repeat([]byte("x"), 2048), "no tar archive"},
		"compressed":           {gz.Layers[0], "compressed with gzip"},
		"another archive":      {archive(t, []build.Entry{build.File("a", 0o644, nil)}), "holds no image"},
		"index.json twice":     {archive(t, append(slices.Clone(whole), build.File("./index.json", 0o644, nil))), "twice"},
		"a device":             {archive(t, append(slices.Clone(whole), build.Entry{Header: tar.Header{Name: "d", Typeflag: tar.TypeChar}})), "neither a file"},
		"no index":             {archive(t, whole[:1]), `"index.json" is not in it`},
		"index without images": {edit("index.json", `"manifests":[`, `"x":[`), "lists no image"},
		"duplicate keys":       {edit("index.json", `"manifests":[`, `"manifests":[],"manifests":[`), "duplicate"},
		"another hash":         {edit("index.json", "sha256:", "sha512:"), "no SHA-256 digest"},
		"path as digest":       {edit("index.json", "sha256:", "sha256:../../"), "digest"},
		"no image's manifest":  {edit("index.json", build.TypeManifest, "application/x"), "is of the type"},
		"another machine's":    {config(`"amd64"`, `"riscv64"`), `"riscv64"`},
		"another system's":     {config(`"linux"`, `"windows"`), `"windows"`},
		"a layer too few":      {config(`"diff_ids":[`, `"diff_ids":["sha256:`+strings.Repeat("0", 64)+`",`), "4 layers"},
		"entrypoint a string":  {config(`"Entrypoint":["/bin/run"]`, `"Entrypoint":"/bin/run"`), "config"},
		"a NUL in it":          {config(`"Entrypoint":["/bin/run"]`, `"Entrypoint":["/bin/\u0000run"]`), "NUL"},
		"variable without =":   {config(`"X=1"`, `"X"`), "NAME=VALUE"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := image(tt.in, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q in it", err, tt.want)
			}
		})
	}
}

func fmtDescriptor(t testing.TB, blob []byte) []byte {
	t.Helper()
	b, err := json.Marshal(build.Describe(build.TypeConfig, blob))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEndOfContext(t *testing.T) {
	img, err := image(archive(t, written(t, build.OCI, small())), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := filepath.Join(t.TempDir(), "root")
	if err := img.Unpack(ctx, dir, ample, nil); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("Unpack: %v", err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("left something behind")
	}
}

// testdata/README.md says how these were made.
func TestArchivesOfOtherTools(t *testing.T) {
	const config = "30f0be4796eb70a684e85da8675c4f17aa7b0e70a40bd75d3ad942b497e27023"
	want := map[string]string{
		"bin": "dir", "etc": "dir", "etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n",
		"lib": "-> usr/lib", "opq": "dir", "opq/b": "y\n", "srv": "dir", "srv/hard": "hi\n", "srv/hello": "hi\n",
		"usr": "dir", "usr/lib": "dir", "usr/lib/x": "lib\n",
	}
	names, err := filepath.Glob("testdata/*.tar")
	if err != nil || len(names) != 4 {
		t.Fatalf("testdata has %q, %v", names, err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			img, err := image(b, "")
			if err != nil || img.ConfigDigest.String() != config || img.Config.User != "app" {
				t.Fatalf("%+v, %v", img, err)
			}
			dir, err := unpack(t, b, "", ample)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, dir); !maps.Equal(got, want) {
				t.Errorf("unpacked %v\nwant     %v", got, want)
			}
		})
	}
}
