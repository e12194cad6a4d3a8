package emulator

import (
	"bufio"
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
)

// places are where Debian has a QEMU, in the order to look.
var places = []struct{ release, suite string }{
	{"trixie", "trixie"},
	{"trixie", "trixie-backports"},
	{"bookworm", "bookworm"},
	{"bookworm", "bookworm-backports"},
}

// ownC begins the names of the folders whose QEMU has its own C library.
const ownC = "standalone"

// wanted is a version that was asked for; minor is -1 for any.
type wanted struct{ major, minor int }

var wantedRE = regexp.MustCompile(`^(\d{1,3})(?:\.(\d{1,3}))?$`)

func parseWanted(s string) (wanted, error) {
	m := wantedRE.FindStringSubmatch(s)
	if m == nil {
		return wanted{}, fmt.Errorf("QEMU version %q: want MAJOR or MAJOR.MINOR, such as 11 or 10.0", s)
	}
	w := wanted{minor: -1}
	w.major, _ = strconv.Atoi(m[1])
	if m[2] != "" {
		w.minor, _ = strconv.Atoi(m[2])
	}
	return w, nil
}

func (w wanted) fits(v version) bool {
	return w.major == v[0] && (w.minor < 0 || w.minor == v[1])
}

func (w wanted) String() string {
	if w.minor < 0 {
		return strconv.Itoa(w.major)
	}
	return version{w.major, w.minor}.String()
}

// Version returns the path of a QEMU of the version MAJOR.MINOR, or MAJOR for
// whatever minor version there is. It is one that was fetched before, or that
// Version fetches now from Debian 12, 13 or their backports. It brings its own C
// library and dynamic linker, so it does not matter what the host runs; the
// machine's own QEMU and Variable play no part.
func (f *Finder) Version(ctx context.Context, want string) (string, error) {
	w, err := parseWanted(want)
	if err != nil {
		return "", err
	}
	if path := f.cached(ctx, w); path != "" {
		return path, nil
	}
	unlock, err := debian.LockFolder(f.dir())
	if err != nil {
		return "", err
	}
	defer unlock()
	if path := f.cached(ctx, w); path != "" {
		return path, nil // somebody else fetched it while this one waited
	}
	apts := map[string]*debian.Apt{}
	var held []string
	for _, p := range places {
		a := apts[p.release]
		if a == nil {
			from := append(debian.Suites(p.release), p.release+"-backports")
			if a, err = f.open(ctx, "versions-"+p.release, p.release, from); err != nil {
				return "", err
			}
			apts[p.release] = a
		}
		pkgs, err := a.Resolve(ctx, p.suite, qemuPackage)
		if err != nil {
			return "", err
		}
		v, ok := packaged(pkgs)
		if !ok {
			return "", fmt.Errorf("%s of %s: its version begins with no MAJOR.MINOR", qemuPackage, p.suite)
		}
		if w.fits(v) {
			return f.unpackQEMU(ctx, a, ownC, pkgs, ownWrapper, func(path string) error {
				if err := onlyOwn(ctx, filepath.Dir(filepath.Dir(path))); err != nil {
					return err
				}
				return checkIs(ctx, path, w)
			})
		}
		held = append(held, fmt.Sprintf("%s in %s", v, p.suite))
	}
	return "", fmt.Errorf("QEMU %s: Debian 12, 13 and their backports hold none, but %s: ask for one of these, or set %s to an archive that keeps older packages", w, strings.Join(held, ", "), debian.MirrorVariable)
}

// cached is the newest fitting one that was fetched before, or "".
func (f *Finder) cached(ctx context.Context, w wanted) string {
	names, err := filepath.Glob(filepath.Join(f.dir(), ownC+"-*", "bin", Program))
	if err != nil {
		return ""
	}
	slices.SortFunc(names, func(a, b string) int { return modTime(b).compare(modTime(a)) })
	for _, name := range names {
		if checkIs(ctx, name, w) == nil {
			return name
		}
	}
	return ""
}

// checkIs refuses a program that is not of this version, or lacks what every
// Cocos VM is made of.
func checkIs(ctx context.Context, path string, w wanted) error {
	out, err := output(ctx, path, "--version")
	if err != nil {
		return err
	}
	if v, ok := parse(versionRE, out); !ok || !w.fits(v) {
		return fmt.Errorf("%s --version says %q: not QEMU %s", path, strings.TrimSpace(out), w)
	}
	return Check(ctx, path, version{})
}

// packageRE takes a Debian version apart: epoch, upstream's.
var packageRE = regexp.MustCompile(`^(?:\d+:)?(\d{1,4})\.(\d{1,4})`)

func packaged(pkgs []debian.Package) (version, bool) {
	i := slices.IndexFunc(pkgs, func(p debian.Package) bool { return p.Name == qemuPackage })
	if i < 0 {
		return version{}, false
	}
	return parse(packageRE, pkgs[i].Version)
}

// ownWrapper is like wrapper, on the C library and through the dynamic linker of
// the program's own release: nothing of the host's is loaded.
const ownWrapper = `#!/bin/sh
r=$(dirname "$(dirname "$(readlink -f "$0")")")/root
QEMU_MODULE_DIR=$r/` + libraries + `/qemu
export QEMU_MODULE_DIR
exec "$r/` + linker + `" --inhibit-cache --library-path "$r/` + libraries + `" --argv0 "$0" "$r/usr/bin/` + Program + `" ` + dataDirs + ` "$@"
`

const linker = libraries + "/ld-linux-x86-64.so.2"

// onlyOwn refuses a program below dir/root that would load a library from
// anywhere else: mixed C libraries crash at some later time.
func onlyOwn(ctx context.Context, dir string) error {
	root, err := filepath.EvalSymlinks(filepath.Join(dir, "root"))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, linker), "--inhibit-cache",
		"--library-path", filepath.Join(root, libraries), "--list", filepath.Join(root, "usr/bin", Program))
	cmd.Env = append(os.Environ(), "LD_PRELOAD=", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("listing the libraries of %s: %w: %s", Program, err, strings.TrimSpace(string(out)))
	}
	return allBelow(root, string(out))
}

// allBelow judges the linker's list: "name => path (address)" a line.
func allBelow(root, list string) error {
	n := 0
	for lines := bufio.NewScanner(strings.NewReader(list)); lines.Scan(); {
		name, to, ok := strings.Cut(strings.TrimSpace(lines.Text()), " => ")
		if !ok {
			continue // the kernel's own vdso, and the linker by its path
		}
		path, _, _ := strings.Cut(to, " (")
		if !strings.HasPrefix(path, root+"/") {
			return fmt.Errorf("%s would load %s from %q, not from its own packages", Program, name, path)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("the linker lists no library of %s: %q", Program, list)
	}
	return nil
}
