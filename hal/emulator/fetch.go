package emulator

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/hal/debian"
)

// qemuPackage holds the emulator.
const qemuPackage = "qemu-system-x86"

// libraries is where packages put them, and the dynamic linker.
const libraries = "usr/lib/x86_64-linux-gnu"

// useless packages hold nothing that QEMU reads.
var useless = []string{"adduser", "passwd", "debconf", "libpam-modules", "libpam-modules-bin"}

// hostsOwn is left out where the host's C library and dynamic linker run the
// program.
const hostsOwn = "libc6"

// open returns an apt for suites with indexes of now.
func (f *Finder) open(ctx context.Context, name, release string, suites []string) (*debian.Apt, error) {
	mirror, err := debian.FindMirror(f.Getenv, f.EtcApt)
	if err != nil {
		return nil, err
	}
	a := debian.NewApt(filepath.Join(f.CacheDir, "apt", name), release, suites, mirror, f.Log)
	done := f.Log.Stage("fetching the indexes of %s and checking their signatures", release)
	if err := a.Update(ctx); err != nil {
		return nil, err
	}
	done()
	return a, nil
}

// download brings packages into the cache and returns it.
func (f *Finder) download(ctx context.Context, a *debian.Apt, pkgs []debian.Package) (*debian.Cache, error) {
	cache := debian.NewCache(filepath.Join(f.CacheDir, "packages"), f.Log)
	missing, err := cache.Missing(pkgs)
	if err != nil {
		return nil, err
	}
	return cache, cache.Fetch(ctx, a.Mirror, missing)
}

// fetch brings the QEMU of the host's own release.
func (f *Finder) fetch(ctx context.Context, codename string, least version) (string, error) {
	unlock, err := debian.LockFolder(f.dir())
	if err != nil {
		return "", err
	}
	defer unlock()
	if path := newest(f.dir(), codename); path != "" && Check(ctx, path, least) == nil {
		return path, nil // somebody else fetched it while this one waited
	}
	from := suites[codename]
	a, err := f.open(ctx, "qemu-"+codename, codename, from)
	if err != nil {
		return "", err
	}
	pkgs, err := a.Resolve(ctx, from[0], qemuPackage)
	if err != nil {
		return "", err
	}
	pkgs = slices.DeleteFunc(pkgs, func(p debian.Package) bool { return p.Name == hostsOwn })
	return f.unpackQEMU(ctx, a, codename, pkgs, wrapper, func(path string) error {
		return Check(ctx, path, least)
	})
}

// unpackQEMU downloads pkgs and unpacks them with a script that starts the
// program. check judges the script before the folder gets its name, which is
// prefix and the package's version.
func (f *Finder) unpackQEMU(ctx context.Context, a *debian.Apt, prefix string, pkgs []debian.Package, script string, check func(path string) error) (string, error) {
	pkgs = slices.DeleteFunc(pkgs, func(p debian.Package) bool { return slices.Contains(useless, p.Name) })
	i := slices.IndexFunc(pkgs, func(p debian.Package) bool { return p.Name == qemuPackage })
	if i < 0 {
		return "", fmt.Errorf("resolving %s: not among its own packages", qemuPackage)
	}
	cache, err := f.download(ctx, a, pkgs)
	if err != nil {
		return "", err
	}
	done := f.Log.Stage("unpacking QEMU %s", pkgs[i].Version)
	final, err := whole(f.dir(), folderName(prefix, pkgs[i]), func(tmp string) error {
		root, bin := filepath.Join(tmp, "root"), filepath.Join(tmp, "bin")
		for _, d := range []string{root, bin} {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		for _, p := range pkgs {
			if err := debian.Unpack(ctx, cache.Path(p), root, place); err != nil {
				return err
			}
		}
		path := filepath.Join(bin, Program)
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return err
		}
		return check(path)
	})
	if err != nil {
		return "", fmt.Errorf("unpacking QEMU: %w", err)
	}
	done()
	return filepath.Join(final, "bin", Program), nil
}

func folderName(prefix string, p debian.Package) string {
	return prefix + "-" + strings.NewReplacer(":", "_", "~", "_").Replace(p.Version)
}

// whole makes the folder name in dir, which fill fills: it is there complete or
// not at all. The caller holds dir's lock.
func whole(dir, name string, fill func(tmp string) error) (string, error) {
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
	if err := fill(tmp); err != nil {
		return "", err
	}
	final := filepath.Join(dir, name)
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	return final, os.Rename(tmp, final)
}

// wrapper starts the program with its own libraries, firmware and modules.
// Arguments pass through unchanged and the process keeps its id.
const wrapper = `#!/bin/sh
r=$(dirname "$(dirname "$(readlink -f "$0")")")/root
LD_LIBRARY_PATH=$r/` + libraries + `
QEMU_MODULE_DIR=$r/` + libraries + `/qemu
export LD_LIBRARY_PATH QEMU_MODULE_DIR
exec "$r/usr/bin/` + Program + `" ` + dataDirs + ` "$@"
`

const dataDirs = `-L "$r/usr/share/qemu" -L "$r/usr/share/seabios" -L "$r/usr/lib/ipxe/qemu"`

// place keeps the program, libraries and firmware.
func place(name string, h *tar.Header) string {
	// Packages of Debian 12 still ship files in /lib, which is /usr/lib.
	if strings.HasPrefix(name, "lib/") {
		name = "usr/" + name
	}
	for _, keep := range []string{"usr/bin/" + Program, libraries + "/", "usr/share/qemu/", "usr/share/seabios/", "usr/lib/ipxe/"} {
		if strings.HasPrefix(name, keep) && h.Typeflag != tar.TypeDir {
			return name
		}
	}
	return ""
}
