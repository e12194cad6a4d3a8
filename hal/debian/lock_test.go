package debian

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func sampleLock(t *testing.T) Lock {
	a, l := app.locked(t), lib.locked(t)
	a.Use, l.Use = []string{"kernel"}, []string{"python", "tools"}
	return Lock{Version: LockVersion, Release: "trixie",
		Indexes: []Index{{"trixie", "Sat, 21 Nov 2026 09:15:44 UTC", strings.Repeat("ab", 32)}}, Packages: []Package{a, l}}
}

func TestLockRoundTrip(t *testing.T) {
	want := sampleLock(t)
	b, err := want.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLock(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if n := len(got.Using("tools")); n != 1 {
		t.Errorf("%d tools", n)
	}
	if n := len(got.Using("kernel", "python", "tools")); n != 2 {
		t.Errorf("%d packages in all, want each once", n)
	}
}

// Every field of a good lock is broken in turn; the error names package and
// field.
func TestParseLockRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(l map[string]any, app map[string]any)
		want   []string
	}{
		"version":     {func(l, _ map[string]any) { l["version"] = 2 }, []string{"version 2"}},
		"release":     {func(l, _ map[string]any) { l["release"] = "../x" }, []string{"release"}},
		"no packages": {func(l, _ map[string]any) { l["packages"] = []any{} }, []string{"packages: empty"}},
		"unknown":     {func(l, _ map[string]any) { l["extra"] = 1 }, []string{"extra"}},
		"unsorted": {func(l, _ map[string]any) {
			p := l["packages"].([]any)
			p[0], p[1] = p[1], p[0]
		}, []string{"app", "not sorted"}},
		"twice":         {func(l, _ map[string]any) { p := l["packages"].([]any); p[1] = p[0] }, []string{"app", "twice"}},
		"name":          {func(_, p map[string]any) { p["name"] = "App/../x" }, []string{"name"}},
		"version of it": {func(_, p map[string]any) { p["version"] = "1/2" }, []string{"app", "version"}},
		"arch":          {func(_, p map[string]any) { p["arch"] = "i386" }, []string{"app", "arch"}},
		"archive":       {func(_, p map[string]any) { p["archive"] = "http://evil.example" }, []string{"app", "archive"}},
		"path escapes":  {func(_, p map[string]any) { p["path"] = "pool/../../x.deb" }, []string{"app", "path"}},
		"path absolute": {func(_, p map[string]any) { p["path"] = "/etc/x.deb" }, []string{"app", "path"}},
		"size":          {func(_, p map[string]any) { p["size"] = 0 }, []string{"app", "size"}},
		"sha256 short":  {func(_, p map[string]any) { p["sha256"] = "ab" }, []string{"app", "sha256"}},
		"sha256 upper":  {func(_, p map[string]any) { p["sha256"] = strings.Repeat("AB", 32) }, []string{"app", "sha256"}},
		"sha256 no hex": {func(_, p map[string]any) { p["sha256"] = strings.Repeat("zz", 32) }, []string{"app", "sha256"}},
		"use":           {func(_, p map[string]any) { delete(p, "use") }, []string{"app", "use"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := sampleLock(t).Bytes()
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			tc.change(m, m["packages"].([]any)[0].(map[string]any))
			if b, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "hal.lock.json")
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err = ReadLock(file)
			wantError(t, err, append(tc.want, file, "make hal-update")...)
		})
	}
	_, err := ReadLock(filepath.Join(t.TempDir(), "none"))
	wantError(t, err, "make hal-update")
	b, _ := sampleLock(t).Bytes()
	_, err = ParseLock(append(b, "{}"...))
	wantError(t, err, "text after the end")
}

func TestUnpack(t *testing.T) {
	keep := func(name string, _ *tar.Header) string { return name }
	unpack := func(t *testing.T, root string, h tar.Header, data string) error {
		deb := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(deb, makeDeb(t, h, data), 0o644); err != nil {
			t.Fatal(err)
		}
		return Unpack(t.Context(), deb, root, keep)
	}
	t.Run("a program loses its set-user-ID bit", func(t *testing.T) {
		root := t.TempDir()
		if err := unpack(t, root, tar.Header{Name: "./usr/bin/x", Mode: 0o4711}, "hi"); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(root, "usr/bin/x"))
		if err != nil || st.Mode() != 0o755 || st.Size() != 2 {
			t.Errorf("%v, %v", st, err)
		}
	})
	t.Run("a path that climbs stays below the root", func(t *testing.T) {
		root := filepath.Join(t.TempDir(), "a", "root")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unpack(t, root, tar.Header{Name: "../../escaped", Mode: 0o644}, "hi"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "escaped")); err != nil {
			t.Error(err)
		}
	})
	t.Run("nothing is written through a link that leads out", func(t *testing.T) {
		root, outside := t.TempDir(), t.TempDir()
		if err := os.Symlink(outside, filepath.Join(root, "out")); err != nil {
			t.Fatal(err)
		}
		wantError(t, unpack(t, root, tar.Header{Name: "./out/file", Mode: 0o644}, "hi"), "out/file")
		if left, _ := os.ReadDir(outside); len(left) > 0 {
			t.Errorf("written: %v", left)
		}
	})
	t.Run("two packages with one file", func(t *testing.T) {
		root := t.TempDir()
		if err := unpack(t, root, tar.Header{Name: "./f", Mode: 0o644}, "one"); err != nil {
			t.Fatal(err)
		}
		wantError(t, unpack(t, root, tar.Header{Name: "./f", Mode: 0o644}, "two"), "f", "exists")
	})
	t.Run("a device", func(t *testing.T) {
		wantError(t, unpack(t, t.TempDir(), tar.Header{Name: "./dev/sda", Typeflag: tar.TypeBlock, Mode: 0o644}, ""), "dev/sda", "not expected")
	})
	t.Run("a walk that ends in the middle of a large file", func(t *testing.T) {
		deb := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(deb, makeDeb(t, tar.Header{Name: "./large", Mode: 0o644}, strings.Repeat("x", 8<<20)), 0o644); err != nil {
			t.Fatal(err)
		}
		enough := errors.New("enough")
		err := Walk(t.Context(), deb, func(string, *tar.Header, io.Reader) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("got %v, want the visitor's own error", err)
		}
	})
	t.Run("not a package", func(t *testing.T) {
		deb := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(deb, []byte("no"), 0o644); err != nil {
			t.Fatal(err)
		}
		wantError(t, Unpack(t.Context(), deb, t.TempDir(), keep), "x.deb")
	})
}
