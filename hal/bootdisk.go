package hal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The bootable disk, beside the image that it is made of. Its description has a
// file of its own: a host that starts kernels needs no disk.
const (
	BootDiskFile         = "disk.qcow2"
	BootDiskManifestFile = "disk.json"
)

// BootDiskVersion is the version of disk.json's format.
const BootDiskVersion = 1

// BootDisk is what disk.json says: one file, and what is in it.
type BootDisk struct {
	Version     int    `json:"version"` // BootDiskVersion
	Format      string `json:"format"`  // "qcow2"
	Disk        File   `json:"disk"`
	VirtualSize int64  `json:"virtual_size"` // bytes, as the guest sees it
	// Unified is EFI/BOOT/BOOTX64.EFI on the disk; Stub is what its code comes
	// from.
	Unified File `json:"unified_kernel_image"`
	Stub    Stub `json:"stub"`
	// The parts, as image.json names them.
	KernelVersion string `json:"kernel_version"`
	Kernel        File   `json:"kernel"`
	Initrd        File   `json:"initrd"`
	CommandLine   string `json:"command_line"`
}

// Stub is the program that starts the kernel.
type Stub struct {
	Package string `json:"package"` // name and version
	SHA256  string `json:"sha256"`  // of the program, lower-case hex
}

// UnifiedFile is where firmware looks for what to start.
const UnifiedFile = "EFI/BOOT/BOOTX64.EFI"

// Bytes returns disk.json's text.
func (d BootDisk) Bytes() ([]byte, error) { return encode(BootDiskManifestFile, d) }

// ParseBootDisk reads disk.json's text. Unknown fields, missing ones and values
// that the builder doesn't write are errors.
func ParseBootDisk(b []byte) (BootDisk, error) { return decode[BootDisk](BootDiskManifestFile, b) }

// Validate reports every fault with the field's name.
func (d BootDisk) Validate() error {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: %s", BootDiskManifestFile, field, fmt.Sprintf(format, args...)))
	}
	if d.Version != BootDiskVersion {
		fault("version", "%d: this program reads version %d: run `make hal-disk`", d.Version, BootDiskVersion)
	}
	if d.Format != "qcow2" {
		fault("format", "%q: want %q", d.Format, "qcow2")
	}
	d.Disk.validate("disk", BootDiskFile, fault)
	d.Unified.validate("unified_kernel_image", UnifiedFile, fault)
	d.Kernel.validate("kernel", KernelFile, fault)
	d.Initrd.validate("initrd", InitrdFile, fault)
	if least := d.Unified.Size; d.VirtualSize < least || d.VirtualSize%512 != 0 {
		fault("virtual_size", "%d: want a multiple of 512, and room for the %d bytes of %s", d.VirtualSize, least, UnifiedFile)
	}
	if d.Stub.Package == "" {
		fault("stub.package", "empty")
	}
	if !isSHA256(d.Stub.SHA256) {
		fault("stub.sha256", "%q: want 64 lower-case hex digits", d.Stub.SHA256)
	}
	if !kernelVersionRE.MatchString(d.KernelVersion) {
		fault("kernel_version", "%q: not a kernel version", d.KernelVersion)
	}
	if d.CommandLine == "" {
		fault("command_line", "empty")
	}
	return errors.Join(errs...)
}

// LoadBootDisk reads disk.json in dir. It does not read the disk: Check does.
func LoadBootDisk(dir string) (BootDisk, error) {
	b, err := os.ReadFile(filepath.Join(dir, BootDiskManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return BootDisk{}, fmt.Errorf("reading the bootable disk's description: %w: run `make hal-disk` to build it", err)
	}
	if err != nil {
		return BootDisk{}, fmt.Errorf("reading the bootable disk's description: %w", err)
	}
	d, err := ParseBootDisk(b)
	if err != nil {
		return BootDisk{}, fmt.Errorf("bootable disk in %s: %w", dir, err)
	}
	return d, nil
}

// Check hashes the disk in dir and refuses one that is missing or differs from
// what disk.json says.
func (d BootDisk) Check(dir string) error {
	got, err := digest(dir, d.Disk.Name)
	if err != nil {
		return fmt.Errorf("bootable disk: %w: run `make hal-disk` to build it", err)
	}
	if got != d.Disk {
		return fmt.Errorf("bootable disk: %s has sha256 %s and %d bytes, %s says %s and %d: run `make hal-disk`",
			filepath.Join(dir, d.Disk.Name), got.SHA256, got.Size, BootDiskManifestFile, d.Disk.SHA256, d.Disk.Size)
	}
	return nil
}

// MadeOf refuses a disk that was made of another image than img.
func (d BootDisk) MadeOf(img Image) error {
	var other []error
	for _, f := range []struct{ field, disk, image string }{
		{"kernel_version", d.KernelVersion, img.KernelVersion},
		{"kernel.sha256", d.Kernel.SHA256, img.Kernel.SHA256},
		{"initrd.sha256", d.Initrd.SHA256, img.Initrd.SHA256},
		{"command_line", d.CommandLine, CommandLine(img, false)},
	} {
		if f.disk != f.image {
			other = append(other, fmt.Errorf("%s: %s says %s, the image %s", f.field, BootDiskManifestFile, f.disk, f.image))
		}
	}
	if len(other) > 0 {
		return fmt.Errorf("the bootable disk was made of another image: run `make hal-disk`: %w", errors.Join(other...))
	}
	return nil
}

// CheckBootDisk checks the disk in the file called name, if disk.json lies
// beside it and speaks of it: against disk.json, and that it was made of img,
// whose Python disk it expects. A disk that nothing describes is somebody's own:
// described is false, and nothing is checked.
func CheckBootDisk(name string, img Image) (described bool, err error) {
	dir, base := filepath.Split(name)
	if base != BootDiskFile {
		return false, nil
	}
	d, err := LoadBootDisk(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	return true, errors.Join(d.Check(dir), d.MadeOf(img))
}
