package emulator

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersionIsWellFormed(t *testing.T) {
	m := newMachine(t, fedora, "")
	for _, bad := range []string{"", "x", "11.", ".1", "11.1.0", "1111", "-1", " 11", "11 ", "v11", "latest"} {
		if got, err := m.Version(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "MAJOR.MINOR") {
			t.Errorf("version %q gives %q, %v; want what is accepted", bad, got, err)
		}
	}
}

// A version that was fetched before is used by what it answers, not by its name.
func TestVersionInCache(t *testing.T) {
	m := newMachine(t, fedora, "")
	path := map[string]string{}
	for _, v := range []string{"7.2.22", "10.0.13", "11.1.3", "11.2.0"} {
		path[v] = m.qemu(t, "cache/qemu/standalone-1_"+v+"/bin/"+Program, v, devices)
	}
	m.qemu(t, "cache/qemu/bookworm-1_9.2/bin/"+Program, "9.2.0", devices) // needs the host's libraries
	m.qemu(t, "cache/qemu/standalone-1_8.2/bin/"+Program, "8.2.0", "nothing")
	m.qemu(t, "bin/"+Program, "6.0.0", devices)
	m.env[Variable] = path["7.2.22"] // plays no part
	for want, version := range map[string]string{"7.2": "7.2.22", "7": "7.2.22", "10.0": "10.0.13", "11.1": "11.1.3", "11.2": "11.2.0"} {
		if got, err := m.Version(t.Context(), want); err != nil || got != path[version] {
			t.Errorf("version %s gives %q, %v; want %q", want, got, err, path[version])
		}
	}
	if got, err := m.Version(t.Context(), "11"); err != nil || got != path["11.1.3"] && got != path["11.2.0"] {
		t.Errorf("version 11 gives %q, %v", got, err)
	}
	// What is not there would be fetched, for which this machine names no mirror.
	for _, want := range []string{"8.2", "9.2", "6.0", "1.1", "11.3", "10.2"} {
		if got, err := m.Version(t.Context(), want); err == nil || !strings.Contains(err.Error(), "COCOS_DEBIAN_MIRROR") {
			t.Errorf("version %s gives %q, %v", want, got, err)
		}
	}
}

func TestPackageVersions(t *testing.T) {
	for s, want := range map[string]version{
		"1:7.2+dfsg-7+deb12u18+b3":       {7, 2},
		"1:10.0.2+ds-2+deb13u1~bpo12+1":  {10, 0},
		"1:11.1.3+ds-1~bpo13+1":          {11, 1},
		"11.10~rc1-1":                    {11, 10},
		"2:100.20+really1:10.0.13+ds-03": {100, 20},
	} {
		if got, ok := parse(packageRE, s); !ok || got != want {
			t.Errorf("package version %s is QEMU %v, %v; want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "1:11-1", "x11.1", "1:1:11.1"} {
		if got, ok := parse(packageRE, s); ok {
			t.Errorf("package version %q is QEMU %v", s, got)
		}
	}
}

func TestAllBelow(t *testing.T) {
	const good = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /r/root/usr/lib/libz.so.1 (0x00007f)\n\t/r/root/usr/lib/ld.so => /r/root/usr/lib/ld.so (0x1)\n"
	if err := allBelow("/r/root", good); err != nil {
		t.Error(err)
	}
	for name, list := range map[string]string{
		"the host's":     good + "\tlibm.so.6 => /lib/libm.so.6 (0x1)\n",
		"a sibling":      good + "\tlibm.so.6 => /r/root2/libm.so.6 (0x1)\n",
		"a missing one":  good + "\tlibm.so.6 => not found\n",
		"no list at all": "\tstatically linked\n",
	} {
		if err := allBelow("/r/root", list); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The script hands every argument on, unchanged, in one process: whoever
// started it can end the program by its process id.
func TestOwnWrapper(t *testing.T) {
	m := newMachine(t, fedora, "")
	script := m.write(t, "q emu/bin/"+Program, ownWrapper)
	root := filepath.Join(m.dir, "q emu", "root")
	m.write(t, "q emu/root/"+linker, "#!/bin/sh\necho $$ \"$QEMU_MODULE_DIR\"\nfor a; do echo \"$a\"; done\n")
	link := filepath.Join(m.dir, "link")
	if err := os.Symlink(script, link); err != nil {
		t.Fatal(err)
	}
	args := []string{"-name", "a b", "", "*", `"$HOME"`, "-append", "x=1,2 'y'"}
	cmd := exec.Command(link, args...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(root, libraries)
	want := []string{
		fmt.Sprint(cmd.Process.Pid, " ", lib, "/qemu"), "--inhibit-cache", "--library-path", lib, "--argv0", link,
		filepath.Join(root, "usr/bin", Program),
		"-L", filepath.Join(root, "usr/share/qemu"), "-L", filepath.Join(root, "usr/share/seabios"), "-L", filepath.Join(root, "usr/lib/ipxe/qemu"),
	}
	if got := string(out); got != strings.Join(append(want, args...), "\n")+"\n" {
		t.Errorf("the linker was given\n%s", got)
	}
}

// A folder is there complete or not at all, and what a killed run left goes.
func TestWhole(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ".unpacking-123", "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := whole(dir, "x", func(tmp string) error {
		if err := os.WriteFile(filepath.Join(tmp, "half"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for range 2 { // the second replaces a broken one of the same name
		got, err := whole(dir, "x", func(tmp string) error { return os.WriteFile(filepath.Join(tmp, "all"), nil, 0o644) })
		if err != nil || got != filepath.Join(dir, "x") {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "x", "all")); err != nil {
		t.Error(err)
	}
}
