package build

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makeELF writes a little-endian 64-bit ELF file with one section, and with a
// program interpreter when interp is set.
func makeELF(section, content string, interp bool) []byte {
	var b bytes.Buffer
	names := "\x00" + section + "\x00.shstrtab\x00"
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	at := uint64(64)
	if interp {
		h.Phoff, h.Phnum = at, 1
		at += 56
	}
	h.Shoff = at + uint64(len(content)+len(names))
	_ = binary.Write(&b, binary.LittleEndian, h)
	if interp {
		_ = binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: at, Filesz: uint64(len(content))})
	}
	b.WriteString(content)
	b.WriteString(names)
	_ = binary.Write(&b, binary.LittleEndian, [3]elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: at, Size: uint64(len(content))},
		{Name: uint32(2 + len(section)), Type: uint32(elf.SHT_STRTAB), Off: at + uint64(len(content)), Size: uint64(len(names))},
	})
	return b.Bytes()
}

func kmod(path, depends string) packedModule {
	return packedModule{path, makeELF(".modinfo", "license=GPL\x00depends="+depends+"\x00", false)}
}

func TestLoadOrder(t *testing.T) {
	packed := map[string]packedModule{
		"a_a":  kmod("/m/a-a.ko", "b,c"),
		"b":    kmod("/m/b.ko", "c,built-in"),
		"c":    kmod("/m/c.ko", ""),
		"d":    kmod("/m/d.ko", "a-a"),
		"spin": kmod("/m/spin.ko", "top"),
		"top":  kmod("/m/top.ko", "spin"),
		"lost": kmod("/m/lost.ko", "nowhere"),
		"none": {"/m/none.ko", makeELF(".text", "x", false)},
		"text": {"/m/text.ko", []byte(strings.Repeat("not ELF ", 20))},
		"xz":   {"/m/xz.ko.xz", []byte("not xz")},
	}
	builtin := map[string]bool{"built_in": true}
	order, err := loadOrder([]string{"c", "d", "built_in", "b"}, packed, builtin)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range order {
		got = append(got, m.path)
	}
	if want := []string{"/m/c.ko", "/m/b.ko", "/m/a-a.ko", "/m/d.ko"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, want := range map[string]string{
		"missing": "not in the package", "spin": "depends on itself", "lost": "nowhere, which lost needs",
		"none": "not a module", "text": "bad magic", "xz": "xz",
	} {
		if _, err := loadOrder([]string{name}, packed, builtin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, want)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	var good strings.Builder
	good.WriteString("# kernel\n")
	for option, least := range kernelOptions {
		good.WriteString(option + "=" + least + "\n")
	}
	if err := checkConfig(good.String()); err != nil {
		t.Fatal(err)
	}
	for option, least := range kernelOptions {
		off := strings.Replace(good.String(), option+"="+least+"\n", "# "+option+" is not set\n", 1)
		if err := checkConfig(off); err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("without %s: got %v", option, err)
		}
		if least == "y" {
			module := strings.Replace(good.String(), option+"=y\n", option+"=m\n", 1)
			if err := checkConfig(module); err == nil {
				t.Errorf("%s as a module passes", option)
			}
		}
	}
}

func TestPlace(t *testing.T) {
	for name, want := range map[string]string{
		"usr/bin/python3.13":                                  "usr/bin/python3.13",
		"usr/bin/dpkg":                                        "",
		"bin/sh":                                              "",
		"usr/sbin/ldconfig":                                   "",
		"lib/x86_64-linux-gnu/libz.so.1":                      "usr/lib/x86_64-linux-gnu/libz.so.1",
		"usr/lib64/ld-linux-x86-64.so.2":                      "usr/lib64/ld-linux-x86-64.so.2",
		"usr/share/doc/python3/README":                        "",
		"usr/share/zoneinfo/Etc/UTC":                          "usr/share/zoneinfo/Etc/UTC",
		"usr/share/python-wheels/pip-25.1-py3-none-any.whl":   "usr/share/python-wheels/pip-25.1-py3-none-any.whl",
		"usr/share/python-wheels/setuptools-80-py3.whl":       "",
		"etc/python3.13/sitecustomize.py":                     "etc/python3.13/sitecustomize.py",
		"etc/shadow":                                          "",
		"var/lib/x":                                           "",
		"usr/lib/python3.13/os.py":                            "usr/lib/python3.13/os.py",
		"usr/lib/python3.13/test/support.py":                  "",
		"usr/lib/python3/dist-packages/pandas/tests/x.py":     "",
		"usr/lib/python3/dist-packages/pandas/_testing/x.py":  "usr/lib/python3/dist-packages/pandas/_testing/x.py",
		"usr/lib/python3/dist-packages/numpy/include/numpy.h": "",
		keptTests: keptTests,
	} {
		if got := place(name, &tar.Header{Typeflag: tar.TypeReg}); got != want {
			t.Errorf("%s goes to %q, want %q", name, got, want)
		}
	}
}

// TestUnpackPip: one wheel, into its own folder and nowhere else.
func TestUnpackPip(t *testing.T) {
	wheel := func(names ...string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, n := range names {
			w, err := z.Create(n)
			if err == nil && !strings.HasSuffix(n, "/") {
				_, err = w.Write([]byte(n))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const good = "pip-25.1-py3-none-any.whl"
	for name, tc := range map[string]struct {
		wheels map[string][]byte
		want   string // in the error; empty: there is none
	}{
		"as it should be":  {map[string][]byte{good: wheel("pip/", "pip/a.py", "pip/b/c.py")}, ""},
		"none":             {nil, "0 wheels"},
		"two":              {map[string][]byte{good: wheel("pip/a.py"), "pip-26-py3-none-any.whl": wheel("pip/a.py")}, "2 wheels"},
		"no wheel":         {map[string][]byte{good: []byte("pip")}, good},
		"out of its place": {map[string][]byte{good: wheel("../x.py")}, "../x.py"},
		"a file twice":     {map[string][]byte{good: wheel("pip/a.py", "pip/a.py")}, "pip/a.py"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "disk", wheelDir), 0o755); err != nil {
				t.Fatal(err)
			}
			for n, b := range tc.wheels {
				if err := os.WriteFile(filepath.Join(dir, "disk", wheelDir, n), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r, err := os.OpenRoot(filepath.Join(dir, "disk"))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			err = unpackPip(r)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v; want %q", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "disk/usr/lib/x.py")); err == nil {
				t.Error("a file lies outside")
			}
			if tc.want != "" {
				return
			}
			for n, want := range map[string]string{"pip/a.py": "pip/a.py", "pip/b/c.py": "pip/b/c.py", "__main__.py": pipStart} {
				if b, err := r.ReadFile(pipDir + "/" + n); err != nil || string(b) != want {
					t.Errorf("%s: %q, %v", n, b, err)
				}
			}
			if _, err := r.Stat(wheelDir); err == nil {
				t.Error("the wheel is still there")
			}
		})
	}
}

func TestCheckTree(t *testing.T) {
	python := makeELF(".interp", "/lib64/ld\x00", true)
	for name, tc := range map[string]struct {
		add  func(root string) error
		want string
	}{
		"as it should be": {func(string) error { return nil }, ""},
		"a shell":         {func(r string) error { return os.WriteFile(filepath.Join(r, "usr/lib/sh"), nil, 0o644) }, "no shell"},
		"a link to a shell": {func(r string) error { return os.Symlink("python3.13", filepath.Join(r, "usr/bin/bash")) },
			"no shell"},
		"a package manager": {func(r string) error { return os.WriteFile(filepath.Join(r, "usr/bin/apt-get"), nil, 0o755) }, "package manager"},
		"another program":   {func(r string) error { return os.WriteFile(filepath.Join(r, "usr/lib/tool"), python, 0o644) }, "a program"},
		"a socket": {func(r string) error {
			return mkfifo(filepath.Join(r, "usr/lib/fifo"))
		}, "special file"},
		"a missing library": {func(r string) error {
			lib, err := os.ReadFile(realLibrary(t))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(r, "usr/lib/libx.so"), lib, 0o644)
		}, "which is not on the disk"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, d := range []string{"usr/bin", "usr/lib"} {
				if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(root, "usr/bin/python3.13"), python, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tc.add(root); err != nil {
				t.Fatal(err)
			}
			err := checkTree(root)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
