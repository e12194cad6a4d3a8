package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest"
)

// vhostModules are loaded by the outer VM, in this order.
var vhostModules = []string{"vhost_iotlb", "vhost", "vhost_vsock"}

// archive is the outer VM's files by their paths.
type archive map[string]cpio.Entry

// add puts a file there, with its folders.
func (a archive) add(name string, mode fs.FileMode, data []byte) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		a[dir] = cpio.Entry{Name: dir, Mode: fs.ModeDir | 0o755}
	}
	a[name] = cpio.Entry{Name: name, Mode: mode, Data: data}
}

func (a archive) addFile(name string, mode fs.FileMode, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	a.add(name, mode, data)
	return nil
}

// pack makes the outer VM's initial RAM disk: the guest image's own, for its
// modules, with all the rest behind it. tests is the pattern of those to run.
func pack(ctx context.Context, image, qemu, tests, dir, to string) error {
	a := archive{}
	for pkg, args := range map[string][]string{
		"./test/vsock-kernel/outer": {"build"},
		"./internal/vsock":          {"test", "-c"},
	} {
		bin := filepath.Join(dir, path.Base(pkg))
		cmd := exec.CommandContext(ctx, "go", append(args, "-trimpath", "-ldflags=-s -w", "-o", bin, pkg)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
		}
		if err := a.addFile(path.Base(pkg), 0o755, bin); err != nil {
			return err
		}
	}
	guest, err := vsocktest.PackGuest(dir)
	if err != nil {
		return err
	}
	rootfs := filepath.Join(image, "rootfs.cpio.gz")
	for name, from := range map[string]string{
		"inner/guest.cpio": guest, "inner/rootfs.cpio.gz": rootfs, "inner/bzImage": filepath.Join(image, "bzImage"),
	} {
		if err := a.addFile(name, 0o644, from); err != nil {
			return err
		}
	}
	if err := a.addModules(ctx, image); err != nil {
		return err
	}
	if err := a.addQEMU(qemu); err != nil {
		return err
	}
	a.add("tests", 0o644, []byte(tests))
	a["tmp"] = cpio.Entry{Name: "tmp", Mode: fs.ModeDir | 0o777}

	out, err := os.ReadFile(rootfs)
	if err != nil {
		return err
	}
	// An archive that is not compressed begins at a multiple of four bytes.
	buf := bytes.NewBuffer(append(out, make([]byte, -len(out)&3)...))
	entries := make([]cpio.Entry, 0, len(a))
	for _, e := range a {
		entries = append(entries, e)
	}
	if err := cpio.Write(buf, entries); err != nil {
		return err
	}
	return os.WriteFile(to, buf.Bytes(), 0o600)
}

// addModules takes the vhost modules from the kernel package of the image.
func (a archive) addModules(ctx context.Context, image string) error {
	lock, err := debian.ReadLock(filepath.Join(image, "hal.lock.json"))
	if err != nil {
		return err
	}
	cache, err := debian.CacheDir(os.Getenv)
	if err != nil {
		return err
	}
	kernels := lock.Using("kernel")
	if len(kernels) != 1 {
		return fmt.Errorf("the image's lock file names %d kernel packages", len(kernels))
	}
	deb := (&debian.Cache{Dir: filepath.Join(cache, "packages")}).Path(kernels[0])
	if _, err := os.Stat(deb); err != nil {
		return fmt.Errorf("the kernel's package is not in the cache: %w: run `make hal`", err)
	}
	missing := slices.Clone(vhostModules)
	err = debian.Walk(ctx, deb, func(name string, _ *tar.Header, r io.Reader) error {
		module, ok := strings.CutSuffix(path.Base(name), ".ko.xz")
		i := slices.Index(missing, module)
		if !ok || i < 0 {
			return nil
		}
		x, err := xz.NewReader(r)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(x)
		if err != nil {
			return err
		}
		a.add("vhost/"+module+".ko", 0o644, data)
		missing = slices.Delete(missing, i, i+1)
		return nil
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%s has no modules %s", filepath.Base(deb), strings.Join(missing, ", "))
	}
	a.add("vhost/list", 0o644, []byte(strings.Join(vhostModules, "\n")))
	return err
}

// Where QEMU and its libraries lie, below the root of a system.
const (
	libraries = "usr/lib/x86_64-linux-gnu"
	loader    = "lib64/ld-linux-x86-64.so.2"
	qemuPath  = "usr/bin/qemu-system-x86_64"
)

// addQEMU packs the emulator so that it runs without any wrapper. It may be
// one that was fetched, with its own root beside it, or one that is installed.
func (a archive) addQEMU(qemu string) error {
	roots := []string{"/"}
	if real, err := filepath.EvalSymlinks(qemu); err == nil {
		if own := filepath.Join(filepath.Dir(real), "../root"); exists(filepath.Join(own, qemuPath)) {
			roots, qemu = []string{own, "/"}, filepath.Join(own, qemuPath)
		}
	}
	if err := a.addFile(qemuPath, 0o755, qemu); err != nil {
		return err
	}
	if err := a.addLibraries(roots, qemu); err != nil {
		return err
	}
	if err := a.addFile(loader, 0o755, "/"+loader); err != nil {
		return err
	}
	// The firmware that q35 and its devices ask for by name.
	for _, f := range []string{"bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin", "efi-virtio.rom"} {
		found := false
		for _, root := range roots {
			for _, folder := range []string{"usr/share/seabios", "usr/share/qemu", "usr/lib/ipxe/qemu"} {
				if from := filepath.Join(root, folder, f); !found && exists(from) {
					if err := a.addFile("usr/share/qemu/"+f, 0o644, from); err != nil {
						return err
					}
					found = true
				}
			}
		}
		if !found && f == "bios-256k.bin" {
			return errors.New("QEMU's firmware bios-256k.bin is nowhere: install seabios")
		}
	}
	return nil
}

// addLibraries packs what a program is linked to, and what that is.
func (a archive) addLibraries(roots []string, program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%s is neither a program nor the wrapper of one that was fetched: %w", program, err)
	}
	names, err := f.ImportedLibraries()
	f.Close()
	if err != nil {
		return err
	}
next:
	for _, name := range names {
		if _, ok := a[libraries+"/"+name]; ok || strings.HasPrefix(name, "ld-linux") {
			continue
		}
		for _, root := range roots {
			// Some packages alternate between several versions of a library.
			for _, folder := range []string{libraries, "lib/x86_64-linux-gnu"} {
				if from := filepath.Join(root, folder, name); exists(from) {
					if err := a.addFile(libraries+"/"+name, 0o755, from); err != nil {
						return err
					}
					if err := a.addLibraries(roots, from); err != nil {
						return err
					}
					continue next
				}
			}
		}
		return fmt.Errorf("library %s, which %s needs, is nowhere", name, program)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
