// Package emulator finds a QEMU that can run the guest, and on Debian brings
// one when the machine has none.
//
// Where the CPU offers virtualisation any QEMU from 7.2 on does. Everywhere
// else guests are emulated, and older versions than 10 crash them now and
// then, so 10 is the least. What the machine lacks comes from Debian's archive
// (backports on Debian 12), verified by apt, unpacked with its libraries and
// firmware into the cache folder: nothing is installed, the machine's package
// sources stay as they are, and no root rights are needed. The C library is
// the host's own, which is why host and package must be of one release.
//
// A folder appears under its final name only when it is complete and the
// program in it has answered for itself.
package emulator

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
)

// Program is the emulator's file name.
const Program = "qemu-system-x86_64"

// Variable names the environment variable that says which QEMU to use.
const Variable = "MANAGER_QEMU_BIN_PATH"

// Finder says where to look. All fields are required.
type Finder struct {
	Getenv    func(string) string
	CPUInfo   string // /proc/cpuinfo
	OSRelease string // /etc/os-release
	EtcApt    string // /etc/apt
	CacheDir  string // the one folder for downloads
	Log       *progress.Log
}

// suites lists, by the host's code name, where its QEMU comes from: the first
// suite holds QEMU, the others what it depends on.
var suites = map[string][]string{
	"bookworm": {"bookworm-backports", "bookworm", "bookworm-updates", "bookworm-security"},
	"trixie":   {"trixie", "trixie-updates", "trixie-security"},
}

// Find returns the path of a usable QEMU: the one that Variable names, the one
// on PATH, the one fetched before, or one that it fetches now.
func (f *Finder) Find(ctx context.Context) (string, error) {
	least := f.leastMajor()
	if named := f.Getenv(Variable); named != "" {
		path, err := exec.LookPath(named)
		if err == nil {
			err = Check(ctx, path, least)
		}
		if err != nil {
			return "", fmt.Errorf("%s=%q: %w; correct it or unset it", Variable, named, err)
		}
		return filepath.Abs(path)
	}
	var unfit error
	if path, err := lookPath(f.Getenv("PATH")); err == nil {
		if unfit = Check(ctx, path, least); unfit == nil {
			return path, nil
		}
	}
	id, codename, err := debian.HostRelease(f.OSRelease)
	if err != nil {
		return "", err
	}
	if id != "debian" || suites[codename] == nil {
		why := Program + " is not on PATH"
		if unfit != nil {
			why = unfit.Error()
		}
		return "", fmt.Errorf("no usable QEMU: %s. This is not Debian 12 or 13, where it is fetched by itself: install QEMU 10 or later with your distribution's package manager, or set %s to one", why, Variable)
	}
	if unfit != nil {
		f.Log.Printf("not using the QEMU on PATH: %v", unfit)
	}
	dir := filepath.Join(f.CacheDir, "qemu")
	if path := newest(dir, codename); path != "" && Check(ctx, path, least) == nil {
		return path, nil
	}
	return f.fetch(ctx, dir, codename, least)
}

// leastMajor is the least version that runs guests reliably on this CPU.
func (f *Finder) leastMajor() version {
	b, err := os.ReadFile(f.CPUInfo)
	if err == nil && regexp.MustCompile(`(?m)^flags\s*:.*\b(svm|vmx)\b`).Match(b) {
		return version{7, 2}
	}
	return version{10, 0}
}

func lookPath(path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, Program)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 && filepath.IsAbs(p) {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

func newest(dir, codename string) string {
	names, err := filepath.Glob(filepath.Join(dir, codename+"-*", "bin", Program))
	if err != nil || len(names) == 0 {
		return ""
	}
	slices.SortFunc(names, func(a, b string) int { return modTime(a).compare(modTime(b)) })
	return names[len(names)-1]
}

func modTime(name string) stamp {
	st, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return stamp(st.ModTime().UnixNano())
}

type stamp int64

func (s stamp) compare(t stamp) int { return int(min(max(s-t, -1), 1)) }

type version [2]int

func (v version) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

var versionRE = regexp.MustCompile(`QEMU emulator version (\d+)\.(\d+)`)

// Check runs the program and refuses one that is older than least, or lacks
// what every Cocos VM is made of.
func Check(ctx context.Context, path string, least version) error {
	out, err := output(ctx, path, "--version")
	if err != nil {
		return err
	}
	m := versionRE.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s --version says %q: not QEMU", path, strings.TrimSpace(out))
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if v := (version{major, minor}); slices.Compare(v[:], least[:]) < 0 {
		return fmt.Errorf("%s is QEMU %s, older than %s, the least that runs guests reliably on this CPU", path, v, least)
	}
	for _, c := range []struct {
		arg  string
		want []string
	}{
		{"-accel", []string{"tcg"}},
		{"-device", []string{`"vhost-user-vsock-pci"`, `"virtio-net-pci"`, `"virtio-blk-pci"`}},
		{"-object", []string{"memory-backend-memfd"}},
	} {
		out, err := output(ctx, path, c.arg, "help")
		if err != nil {
			return err
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%s %s help lists no %s: this QEMU was built without it", path, c.arg, strings.Trim(w, `"`))
			}
		}
	}
	return nil
}

func output(ctx context.Context, path string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s %s: %w: %s", path, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// skipped packages hold nothing that QEMU reads, or belong to the host: its
// own C library and dynamic linker run the program.
var skipped = []string{"libc6", "adduser", "passwd", "debconf", "libpam-modules", "libpam-modules-bin"}

func (f *Finder) fetch(ctx context.Context, dir, codename string, least version) (string, error) {
	unlock, err := debian.LockFolder(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if path := newest(dir, codename); path != "" && Check(ctx, path, least) == nil {
		return path, nil // somebody else fetched it while this one waited
	}
	mirror, err := debian.FindMirror(f.Getenv, f.EtcApt)
	if err != nil {
		return "", err
	}
	from := suites[codename]
	a := debian.NewApt(filepath.Join(f.CacheDir, "apt", "qemu-"+codename), codename, from, mirror, f.Log)
	done := f.Log.Stage("fetching the indexes of %s for QEMU and checking their signatures", from[0])
	if err := a.Update(ctx); err != nil {
		return "", err
	}
	pkgs, err := a.Resolve(ctx, from[0], "qemu-system-x86")
	if err != nil {
		return "", err
	}
	done()
	pkgs = slices.DeleteFunc(pkgs, func(p debian.Package) bool { return slices.Contains(skipped, p.Name) })
	cache := debian.NewCache(filepath.Join(f.CacheDir, "packages"), f.Log)
	missing, err := cache.Missing(pkgs)
	if err != nil {
		return "", err
	}
	if err := cache.Fetch(ctx, mirror, missing); err != nil {
		return "", err
	}
	done = f.Log.Stage("unpacking QEMU")
	path, err := unpack(ctx, dir, codename, cache, pkgs, least)
	if err != nil {
		return "", fmt.Errorf("unpacking QEMU: %w", err)
	}
	done()
	return path, nil
}

// wrapper starts the program with its own libraries, firmware and modules.
// Arguments pass through unchanged and the process keeps its id.
const wrapper = `#!/bin/sh
r=$(dirname "$(dirname "$(readlink -f "$0")")")/root
LD_LIBRARY_PATH=$r/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$r/usr/lib/x86_64-linux-gnu/qemu
export LD_LIBRARY_PATH QEMU_MODULE_DIR
exec "$r/usr/bin/` + Program + `" -L "$r/usr/share/qemu" -L "$r/usr/share/seabios" -L "$r/usr/lib/ipxe/qemu" "$@"
`

func unpack(ctx context.Context, dir, codename string, cache *debian.Cache, pkgs []debian.Package, least version) (string, error) {
	old, err := filepath.Glob(filepath.Join(dir, ".unpacking-*"))
	if err != nil {
		return "", err
	}
	for _, d := range old { // left by a killed run: the lock is held
		if err := os.RemoveAll(d); err != nil {
			return "", err
		}
	}
	tmp, err := os.MkdirTemp(dir, ".unpacking-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	root, bin := filepath.Join(tmp, "root"), filepath.Join(tmp, "bin")
	for _, d := range []string{root, bin} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	var v string
	for _, p := range pkgs {
		if p.Name == "qemu-system-x86" {
			v = p.Version
		}
		if err := debian.Unpack(ctx, cache.Path(p), root, place); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(bin, Program), []byte(wrapper), 0o755); err != nil {
		return "", err
	}
	if err := os.Chmod(filepath.Join(bin, Program), 0o755); err != nil {
		return "", err
	}
	if err := Check(ctx, filepath.Join(bin, Program), least); err != nil {
		return "", err
	}
	final := filepath.Join(dir, codename+"-"+strings.NewReplacer(":", "_", "~", "_").Replace(v))
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", err
	}
	return filepath.Join(final, "bin", Program), nil
}

// place keeps the program, libraries and firmware.
func place(name string, h *tar.Header) string {
	// Packages of Debian 12 still ship files in /lib, which is /usr/lib.
	if strings.HasPrefix(name, "lib/") {
		name = "usr/" + name
	}
	for _, keep := range []string{"usr/bin/" + Program, "usr/lib/x86_64-linux-gnu/", "usr/share/qemu/", "usr/share/seabios/", "usr/lib/ipxe/"} {
		if strings.HasPrefix(name, keep) && h.Typeflag != tar.TypeDir {
			return name
		}
	}
	return ""
}
