package emulator

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// FirmwareRelease is the one to take unless there is a reason for another.
const FirmwareRelease = "trixie"

// The firmware that TEEs measure, as Measuring brings it.
const (
	// AmdSev is OVMF.amdsev.fd, for SEV, SEV-ES and SEV-SNP.
	AmdSev = "amdsev"
	// TDX is an OVMF.fd that measures what it boots into a TD's registers.
	TDX = "tdx"
)

// builds are files of one package of Debian's. sha256 pins the one file of a
// build that a TEE measures.
type builds struct {
	release, suite, pkg string
	dir                 string
	files               []string
	sha256              string
}

// firmwares lists, by name, what Firmware and Measuring bring: of releases
// builds for a flash of 4 MiB, and before Debian 13 also for one of 2 MiB.
var firmwares = map[string]builds{
	"bookworm": {release: "bookworm", suite: "bookworm", pkg: "ovmf", dir: "usr/share/OVMF",
		files: []string{"OVMF_CODE.fd", "OVMF_VARS.fd", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"}},
	"trixie": {release: "trixie", suite: "trixie", pkg: "ovmf", dir: "usr/share/OVMF",
		files: []string{"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"}},
	// No released Debian has a build that compares what it boots with the hashes.
	AmdSev: {release: "sid", suite: "sid", pkg: "ovmf-amdsev", dir: "usr/share/ovmf",
		files: []string{"OVMF.amdsev.fd"}, sha256: ovmf.AmdSevSHA256},
	TDX: {release: "trixie", suite: "trixie", pkg: "ovmf", dir: "usr/share/ovmf",
		files: []string{"OVMF.fd"}, sha256: ovmf.TDXSHA256},
}

// Firmware returns a folder with the firmware of a Debian release, "bookworm" or
// "trixie": its OVMF_CODE_4M.fd and OVMF_VARS_4M.fd, of bookworm also
// OVMF_CODE.fd and OVMF_VARS.fd. It was fetched before or is fetched now. The
// files are for reading: a VM gets its own copy of a VARS file.
func (f *Finder) Firmware(ctx context.Context, release string) (string, error) {
	b, ok := firmwares[release]
	if !ok || b.sha256 != "" {
		return "", fmt.Errorf("firmware of %q: want bookworm or trixie", release)
	}
	return f.firmware(ctx, release, b)
}

// Measuring returns the file of a firmware that a TEE measures, AmdSev or TDX:
// the very build that is known to check or to measure what it boots. It was
// fetched before or is fetched now.
func (f *Finder) Measuring(ctx context.Context, name string) (string, error) {
	b := firmwares[name]
	if b.sha256 == "" {
		return "", fmt.Errorf("measuring firmware %q: want %s or %s", name, AmdSev, TDX)
	}
	dir, err := f.firmware(ctx, name, b)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, b.files[0]), nil
}

func (f *Finder) firmware(ctx context.Context, name string, b builds) (string, error) {
	dir := filepath.Join(f.CacheDir, "firmware")
	if got := b.cached(dir, name); got != "" {
		return got, nil
	}
	unlock, err := debian.LockFolder(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if got := b.cached(dir, name); got != "" {
		return got, nil // somebody else fetched it while this one waited
	}
	suites := debian.Suites(b.release)
	if b.release == "sid" {
		suites = []string{b.release} // which has neither updates nor an archive of security updates
	}
	a, err := f.open(ctx, "firmware-"+b.release, b.release, suites)
	if err != nil {
		return "", err
	}
	pkgs, err := a.Resolve(ctx, b.suite, b.pkg)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(pkgs, func(p debian.Package) bool { return p.Name == b.pkg })
	if i < 0 {
		return "", fmt.Errorf("resolving %s: not among its own packages", b.pkg)
	}
	p := pkgs[i]
	cache, err := f.download(ctx, a, []debian.Package{p})
	if err != nil {
		return "", err
	}
	got, err := whole(dir, folderName(name, p), func(tmp string) error {
		err := debian.Unpack(ctx, cache.Path(p), tmp, func(name string, h *tar.Header) string {
			if h.Typeflag == tar.TypeReg && path.Dir(name) == b.dir && slices.Contains(b.files, path.Base(name)) {
				return path.Base(name)
			}
			return ""
		})
		if err != nil {
			return err
		}
		return b.check(tmp)
	})
	var other *otherBuildError
	if errors.As(err, &other) {
		return "", fmt.Errorf("%s is not the build of %s that is known: the mirror has moved on to %w; set %s to an archive that keeps older packages, or name a file with the SHA-256 %s yourself", p, b.files[0], other, debian.MirrorVariable, b.sha256)
	}
	if err != nil {
		return "", fmt.Errorf("unpacking the firmware: %w", err)
	}
	return got, nil
}

// cached is the newest that is whole of those fetched before, or "".
func (b builds) cached(dir, prefix string) string {
	names, err := filepath.Glob(filepath.Join(dir, prefix+"-*"))
	if err != nil {
		return ""
	}
	slices.SortFunc(names, func(x, y string) int { return modTime(y).compare(modTime(x)) })
	for _, name := range names {
		if b.check(name) == nil {
			return name
		}
	}
	return ""
}

// otherBuildError is a file that is no broken firmware, only another than the
// one that is known.
type otherBuildError struct{ sum string }

func (e *otherBuildError) Error() string { return "one with the SHA-256 " + e.sum }

// check refuses a folder that lacks one of the files, or where one does
// not begin with a firmware volume, as a flash chip does (UEFI Platform
// Initialization 1.8, volume 3, 3.2.1: the signature follows 40 bytes).
func (b builds) check(dir string) error {
	const volume, signature = 40, "_FVH"
	for _, name := range b.files {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if len(content) < volume || !bytes.HasPrefix(content[volume:], []byte(signature)) {
			return fmt.Errorf("%s does not begin with a firmware volume", filepath.Join(dir, name))
		}
		// QEMU's flash is made of whole blocks.
		if block := 4096; len(content)%block != 0 {
			return fmt.Errorf("%s has %d bytes: not a multiple of %d", filepath.Join(dir, name), len(content), block)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(content)); b.sha256 != "" && sum != b.sha256 {
			return &otherBuildError{sum}
		}
	}
	return nil
}
