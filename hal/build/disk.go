package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/disk"
	"github.com/ultravioletrs/cocos/internal/qcow2"
)

// stubPackage holds stubFile, systemd's EFI stub.
const (
	stubPackage = "systemd-boot-efi"
	stubFile    = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
)

// Disk brings the image in cfg.Out up to date, and then the bootable disk that
// is made of it, and returns the disk's description. Making it takes less time
// than hashing what it is made of, so it is always made, and put in place when
// it differs.
func Disk(ctx context.Context, cfg Config) (hal.BootDisk, error) {
	img, err := Build(ctx, cfg)
	if err != nil {
		return hal.BootDisk{}, err
	}
	b := newBuilder(cfg)
	unlock, err := debian.LockFolder(b.CacheDir)
	if err != nil {
		return hal.BootDisk{}, err
	}
	defer unlock()
	if err := removeAll(filepath.Join(b.Out, ".*"+partSuffix+"*")); err != nil {
		return hal.BootDisk{}, err
	}
	work, err := b.workFolder()
	if err != nil {
		return hal.BootDisk{}, err
	}
	defer os.RemoveAll(work)
	d, err := b.disk(ctx, img, work)
	if err != nil {
		return hal.BootDisk{}, fmt.Errorf("building the bootable disk: %w", err)
	}
	return d, nil
}

func (b *builder) disk(ctx context.Context, img hal.Image, work string) (hal.BootDisk, error) {
	lock, err := debian.ReadLock(b.Lock)
	if err != nil {
		return hal.BootDisk{}, err
	}
	stub, from, err := b.stub(ctx, lock)
	if err != nil {
		return hal.BootDisk{}, err
	}
	parts := disk.Parts{Stub: stub, CommandLine: hal.CommandLine(img, false), KernelVersion: img.KernelVersion}
	if parts.Kernel, err = readPart(b.Out, img.Kernel); err != nil {
		return hal.BootDisk{}, err
	}
	if parts.Initrd, err = readPart(b.Out, img.Initrd); err != nil {
		return hal.BootDisk{}, err
	}
	tmp := filepath.Join(work, hal.BootDiskFile)
	info, err := writeDisk(tmp, parts)
	if err != nil {
		return hal.BootDisk{}, err
	}
	d := hal.BootDisk{
		Version: hal.BootDiskVersion, Format: qcow2.FormatQcow2, VirtualSize: info.VirtualSize,
		Unified:       hal.File{Name: hal.UnifiedFile, Size: info.UnifiedSize, SHA256: info.UnifiedSHA256},
		Stub:          from,
		KernelVersion: img.KernelVersion, Kernel: img.Kernel, Initrd: img.Initrd, CommandLine: parts.CommandLine,
	}
	if d.Disk, err = hal.Digest(work, hal.BootDiskFile); err != nil {
		return hal.BootDisk{}, err
	}
	if old, err := hal.LoadBootDisk(b.Out); err == nil && old == d && old.Check(b.Out) == nil {
		b.Log.Printf("the bootable disk is up to date")
		return d, nil
	}
	text, err := d.Bytes()
	if err != nil {
		return hal.BootDisk{}, err
	}
	if err := os.WriteFile(filepath.Join(work, hal.BootDiskManifestFile), text, 0o644); err != nil {
		return hal.BootDisk{}, err
	}
	for _, name := range []string{hal.BootDiskFile, hal.BootDiskManifestFile} {
		if _, err := install(filepath.Join(work, name), b.Out, name); err != nil {
			return hal.BootDisk{}, err
		}
	}
	return d, nil
}

// stub takes the EFI stub from its locked package.
func (b *builder) stub(ctx context.Context, lock debian.Lock) (stub []byte, from hal.Stub, err error) {
	pkgs := lock.Using(useDisk)
	if len(pkgs) != 1 {
		return nil, hal.Stub{}, fmt.Errorf("lock file %s: %d packages are for use as %q, want 1: run `make hal-update`", b.Lock, len(pkgs), useDisk)
	}
	if err := b.cache.Ensure(ctx, b.apt, pkgs); err != nil {
		return nil, hal.Stub{}, err
	}
	err = debian.Walk(ctx, b.cache.Path(pkgs[0]), func(name string, h *tar.Header, r io.Reader) error {
		if name != stubFile || h.Typeflag != tar.TypeReg {
			return nil
		}
		var err error
		if stub, err = io.ReadAll(r); err != nil {
			return err
		}
		return errFound
	})
	if err == nil {
		err = fmt.Errorf("package %s: it has no %s", pkgs[0], stubFile)
	}
	if !errors.Is(err, errFound) {
		return nil, hal.Stub{}, err
	}
	sum := sha256.Sum256(stub)
	return stub, hal.Stub{Package: pkgs[0].String(), SHA256: hex.EncodeToString(sum[:])}, nil
}

// readPart reads a file of the image, and refuses one that was changed since
// the image was looked at.
func readPart(dir string, want hal.File) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, want.Name))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want.SHA256 {
		return nil, fmt.Errorf("%s was changed meanwhile: try again", filepath.Join(dir, want.Name))
	}
	return b, nil
}

func writeDisk(name string, p disk.Parts) (disk.Info, error) {
	f, err := os.Create(name)
	if err != nil {
		return disk.Info{}, err
	}
	info, err := disk.Write(f, p)
	if err := errors.Join(err, f.Close()); err != nil {
		return disk.Info{}, err
	}
	return info, nil
}
