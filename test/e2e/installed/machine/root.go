// Package machine makes a virtual machine that boots systemd from Debian's
// packages: for tests of what is installed, on hosts that need have no systemd
// and with no rights but a user's.
//
// The root file system is a squashfs image under a writable overlay in memory.
// Packages are resolved and verified by apt (hal/debian), unpacked, and entered
// into dpkg's database, so that further packages can be installed in the VM;
// their maintainer scripts do not run. The image is kept in the folder for
// downloads and made once for each recipe: a new one is made when the recipe
// changes, not when Debian does. It appears under its name when it is complete.
//
// The kernel is the guest image's, with modules of the same package.
package machine

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/test/parts"
)

// release is what the VM runs.
const release = "trixie"

// recipe changes with what this file makes of the packages.
const recipe = "6"

// packages are in the VM, with all they depend on: those that every Debian
// system has, and what the Manager's package and its test need.
var packages = []string{
	"base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils",
	"dbus", "grep", "gzip", "hostname", "libc-bin", "mount", "passwd", "sed", "tar", "util-linux",
	"make", "mandoc", "procps", "qemu-system-x86", "sudo", "systemd",
}

// Root returns the path of the root file system's image. source is the root of
// the source tree.
func Root(ctx context.Context, source string, log *progress.Log) (string, error) {
	cacheDir, err := debian.CacheDir(os.Getenv)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(recipe + release + strings.Join(packages, " ")))
	dir := filepath.Join(cacheDir, "systemd-vm")
	name := filepath.Join(dir, release+"-"+hex.EncodeToString(sum[:8])+".squashfs")
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	unlock, err := debian.LockFolder(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(name); err == nil {
		return name, nil // somebody else made it while this one waited
	}
	old, err := filepath.Glob(filepath.Join(dir, ".making-*"))
	if err != nil {
		return "", err
	}
	for _, d := range old { // left by a killed run: the lock is held
		if err := os.RemoveAll(d); err != nil {
			return "", err
		}
	}
	work, err := os.MkdirTemp(dir, ".making-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	cache, pkgs, err := fetch(ctx, cacheDir, log)
	if err != nil {
		return "", fmt.Errorf("fetching the VM's packages: %w", err)
	}
	done := log.Stage("making the root file system of a VM with systemd")
	image := filepath.Join(work, "image")
	root := filepath.Join(work, "root")
	err = makeRoot(ctx, root, cache, pkgs)
	if err == nil {
		err = parts.Squash(ctx, source, root, image, log, special...)
	}
	if err != nil {
		return "", fmt.Errorf("making the VM's root file system: %w", err)
	}
	if err := os.Rename(image, name); err != nil {
		return "", err
	}
	done()
	return name, nil
}

func fetch(ctx context.Context, cacheDir string, log *progress.Log) (*debian.Cache, []debian.Package, error) {
	mirror, err := debian.FindMirror(os.Getenv, "/etc/apt")
	if err != nil {
		return nil, nil, err
	}
	a := debian.NewApt(filepath.Join(cacheDir, "apt", "systemd-vm"), release, debian.Suites(release), mirror, log)
	if err := a.Update(ctx); err != nil {
		return nil, nil, err
	}
	pkgs, err := a.Resolve(ctx, "", packages...)
	if err != nil {
		return nil, nil, err
	}
	cache := debian.NewCache(filepath.Join(cacheDir, "packages"), log)
	missing, err := cache.Missing(pkgs)
	if err != nil {
		return nil, nil, err
	}
	return cache, pkgs, cache.Fetch(ctx, mirror, missing)
}

// left out are files that nothing in the VM reads.
var leftOut = []string{"usr/share/doc/", "usr/share/locale/", "usr/share/man/", "usr/share/info/", "usr/include/", "usr/share/zoneinfo/", "boot/"}

func makeRoot(ctx context.Context, root string, cache *debian.Cache, pkgs []debian.Package) error {
	info := filepath.Join(root, "var/lib/dpkg/info")
	if err := os.MkdirAll(info, 0o755); err != nil {
		return err
	}
	var status strings.Builder
	slices.SortFunc(pkgs, func(x, y debian.Package) int { return strings.Compare(x.Name, y.Name) })
	// base-files has the links of the merged /usr; they must be there before
	// anything goes through them.
	first := slices.IndexFunc(pkgs, func(p debian.Package) bool { return p.Name == "base-files" })
	if first < 0 {
		return fmt.Errorf("base-files is not among the packages")
	}
	for _, p := range slices.Concat(pkgs[first:first+1], pkgs[:first], pkgs[first+1:]) {
		var list strings.Builder
		list.WriteString("/.\n")
		err := debian.Unpack(ctx, cache.Path(p), root, func(name string, h *tar.Header) string {
			list.WriteString("/" + name + "\n")
			if slices.ContainsFunc(leftOut, func(prefix string) bool { return strings.HasPrefix(name+"/", prefix) }) {
				return ""
			}
			return name
		})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(info, p.Name+".list"), []byte(list.String()), 0o644); err != nil {
			return err
		}
		control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", cache.Path(p)).Output()
		if err != nil {
			return fmt.Errorf("reading the control file of %s: %w", p, err)
		}
		name, rest, _ := strings.Cut(string(control), "\n")
		fmt.Fprintf(&status, "%s\nStatus: install ok installed\n%s\n", name, rest)
	}
	for name, text := range map[string]string{
		"var/lib/dpkg/status":    status.String(),
		"var/lib/dpkg/available": "",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return complete(root)
}

// payloadUnit starts what the VM was booted for.
const payloadUnit = `[Unit]
Description=What this VM was booted for

[Service]
Type=exec
ExecStart=/payload/run
`

// manProgram is mandoc's man(1), which the alternatives would choose, taught
// what systemd-analyze asks man-db's: NAME(SECTION).
const manProgram = `#!/bin/sh
case $1 in
*"("*")") name=${1%%"("*} section=${1#*"("} && exec mman -w "${section%")"}" "$name" ;;
esac
exec mman "$@"
`

// complete does what the packages' maintainer scripts would have done.
func complete(root string) error {
	for _, name := range []string{"passwd", "group"} {
		if err := copyFile(filepath.Join(root, "usr/share/base-passwd", name+".master"), filepath.Join(root, "etc", name)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/machine-id":                     "",
		"etc/hostname":                       "installed\n",
		"etc/hosts":                          "127.0.0.1 localhost installed\n::1 localhost\n",
		"etc/fstab":                          "",
		"etc/shadow":                         "root:*:20000:0:99999:7:::\n",
		"etc/gshadow":                        "",
		"etc/shells":                         "/bin/sh\n",
		"etc/systemd/system/payload.service": payloadUnit,
		// What pam-auth-update would write, as far as sudo reads it.
		"etc/pam.d/common-auth":                   "auth required pam_permit.so\n",
		"etc/pam.d/common-account":                "account required pam_unix.so\n",
		"etc/pam.d/common-password":               "password required pam_deny.so\n",
		"etc/pam.d/common-session":                "session required pam_unix.so\n",
		"etc/pam.d/common-session-noninteractive": "session required pam_unix.so\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/man"), []byte(manProgram), 0o755); err != nil {
		return err
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "payload", "var/tmp", "var/log", "etc/systemd/system/multi-user.target.wants"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	links := map[string]string{
		"usr/bin/sh":                        "dash",
		"usr/bin/awk":                       "mawk",
		"usr/bin/man":                       "mman", // mandoc's, which the alternatives would choose
		"sbin/init":                         "../lib/systemd/systemd",
		"etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
		"etc/systemd/system/multi-user.target.wants/payload.service": "../payload.service",
	}
	// Nobody logs in, and there is nothing to wait for.
	for _, unit := range []string{"getty.target", "serial-getty@.service", "console-getty.service", "systemd-networkd-wait-online.service", "systemd-firstboot.service", "systemd-timesyncd.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "systemd-vconsole-setup.service"} {
		links["etc/systemd/system/"+unit] = "/dev/null"
	}
	for name, target := range links {
		to := filepath.Join(root, name)
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	}
	return nil
}

// special are the modes that unpacking without rights leaves out.
var special = []string{"tmp m 1777 0 0", "var/tmp m 1777 0 0", "usr/bin/man m 0755 0 0", "usr/bin/sudo m 4755 0 0", "usr/bin/su m 4755 0 0", "etc/shadow m 0640 0 42", "etc/gshadow m 0640 0 42", "etc/sudoers m 0440 0 0"}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
