// Package hal describes the guest image: which files it has, what they must
// contain, and which kernel command line boots it.
//
// The image is a kernel, an initial RAM disk whose only program is the agent,
// and a read-only disk with the Python runtime, protected by dm-verity. The
// file image.json beside them says so with digests (Image); it is written by
// hal/build and read by whoever starts a VM. Nobody trusts it for more than
// that: what a participant relies on are measurements, computed from the files
// themselves.
//
// The command line is part of what is measured. It is a pure function of the
// Image, the same on every host, and image.json repeats it for readers that are
// not written in Go; a file whose text differs from the function's is refused.
package hal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ultravioletrs/cocos/hal/verity"
)

// The files of an image, all in one folder.
const (
	KernelFile   = "bzImage"
	InitrdFile   = "rootfs.cpio.gz"
	PythonFile   = "python.img"
	ManifestFile = "image.json"
	LockFile     = "hal.lock.json"
)

// ModulesList is where the initial RAM disk lists its kernel modules: one
// absolute path per line, in the order to load them. A module that answers
// ENODEV is not for this machine and is passed over.
const ModulesList = "/lib/modules/cocos.list"

// RuntimeParameter is the kernel parameter that carries the runtime disk's
// verity.Params.
const RuntimeParameter = "cocos.runtime"

// ImageVersion is the version of image.json's format.
const ImageVersion = 1

// Image is what image.json says.
type Image struct {
	Version       int          `json:"version"` // ImageVersion
	KernelVersion string       `json:"kernel_version"`
	Kernel        File         `json:"kernel"`
	Initrd        File         `json:"initrd"`
	Python        Disk         `json:"python"`
	CommandLine   CommandLines `json:"command_line"`
}

// File is one file of the image.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hex
}

// Disk is a file system image with its hash tree behind it.
type Disk struct {
	File
	Verity Verity `json:"verity"`
}

// Verity spells a disk's dm-verity parameters out.
type Verity struct {
	RootHash   string `json:"root_hash"`
	Salt       string `json:"salt"`
	DataBlocks uint64 `json:"data_blocks"`
	BlockSize  int    `json:"block_size"`  // bytes, of data and of hashes
	HashOffset int64  `json:"hash_offset"` // bytes
}

// CommandLines are the two command lines of an image.
type CommandLines struct {
	Plain    string `json:"plain"`
	Attested string `json:"attested"`
}

// hardening is the part of the command line that every guest has: a fault ends
// the VM at once, entropy comes from the CPU, nothing unsigned runs in the
// kernel, freed memory is cleared, no PCI device is plugged in while it runs.
const hardening = "panic=-1 oops=panic random.trust_cpu=on random.trust_bootloader=off lockdown=confidentiality module.sig_enforce=1 init_on_free=1 acpiphp.disable=1"

// CommandLine returns the kernel command line of a guest. An attested guest has
// no console; a plain one shows errors and its last words on the serial port.
// None measures its timer against the interrupt controller: under KVM no guest
// does, and on a busy emulating host the measurement now and then ends in a
// panic.
func CommandLine(img Image, attested bool) string {
	console := "console=ttyS0 quiet"
	if attested {
		console = "console=null"
	}
	v := img.Python.Verity
	return fmt.Sprintf("%s no_timer_check %s %s=%s", console, hardening, RuntimeParameter, v.text())
}

func (v Verity) text() string {
	p, err := v.Params()
	if err != nil {
		return "invalid" // Validate reports it; Parse in the guest refuses it
	}
	return p.String()
}

// NewVerity spells params out.
func NewVerity(p verity.Params) Verity {
	return Verity{
		RootHash: hex.EncodeToString(p.RootHash[:]), Salt: hex.EncodeToString(p.Salt[:]),
		DataBlocks: p.DataBlocks, BlockSize: verity.BlockSize, HashOffset: p.HashOffset(),
	}
}

// Params checks the fields and returns them as the guest uses them.
func (v Verity) Params() (verity.Params, error) {
	p, err := verity.Parse(fmt.Sprintf("sha256-4096:%d:%s:%s", v.DataBlocks, v.RootHash, v.Salt))
	switch {
	case err != nil:
		return p, err
	case v.BlockSize != verity.BlockSize:
		return p, fmt.Errorf("block_size %d: want %d", v.BlockSize, verity.BlockSize)
	case v.HashOffset != p.HashOffset():
		return p, fmt.Errorf("hash_offset %d: want %d, right behind the data", v.HashOffset, p.HashOffset())
	}
	return p, nil
}

// Bytes returns image.json's text.
func (img Image) Bytes() ([]byte, error) { return encode(ManifestFile, img) }

// ParseImage reads image.json's text. Unknown fields, missing ones and any
// value that is not exactly as the builder writes it are errors.
func ParseImage(b []byte) (Image, error) { return decode[Image](ManifestFile, b) }

var kernelVersionRE = regexp.MustCompile(`^[0-9]+\.[0-9]+[0-9A-Za-z.+~-]*$`)

// Validate reports every fault with the field's name.
func (img Image) Validate() error {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: %s", ManifestFile, field, fmt.Sprintf(format, args...)))
	}
	if img.Version != ImageVersion {
		fault("version", "%d: this program reads version %d: run `make hal`", img.Version, ImageVersion)
	}
	if !kernelVersionRE.MatchString(img.KernelVersion) {
		fault("kernel_version", "%q: not a kernel version", img.KernelVersion)
	}
	for _, f := range []struct {
		field, name string
		File
	}{{"kernel", KernelFile, img.Kernel}, {"initrd", InitrdFile, img.Initrd}, {"python", PythonFile, img.Python.File}} {
		f.validate(f.field, f.name, fault)
	}
	p, err := img.Python.Verity.Params()
	switch {
	case err != nil:
		fault("python.verity", "%v", err)
	case img.Python.Size != p.Size():
		fault("python.size", "%d: the verity parameters say %d", img.Python.Size, p.Size())
	}
	if want := CommandLine(img, false); img.CommandLine.Plain != want {
		fault("command_line.plain", "%q: want %q", img.CommandLine.Plain, want)
	}
	if want := CommandLine(img, true); img.CommandLine.Attested != want {
		fault("command_line.attested", "%q: want %q", img.CommandLine.Attested, want)
	}
	return errors.Join(errs...)
}

func (f File) validate(field, name string, fault func(field, format string, args ...any)) {
	if f.Name != name {
		fault(field+".name", "%q: want %q", f.Name, name)
	}
	if f.Size <= 0 {
		fault(field+".size", "%d: want a positive number of bytes", f.Size)
	}
	if !isSHA256(f.SHA256) {
		fault(field+".sha256", "%q: want %d lower-case hex digits", f.SHA256, 2*sha256.Size)
	}
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && strings.ToLower(s) == s
}

// Load reads image.json in dir. It does not read the files it names: Check
// does.
func Load(dir string) (Image, error) {
	name := filepath.Join(dir, ManifestFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("reading the guest image: %w: run `make hal` to build it", err)
	}
	if err != nil {
		return Image{}, fmt.Errorf("reading the guest image: %w", err)
	}
	img, err := ParseImage(b)
	if err != nil {
		return Image{}, fmt.Errorf("guest image in %s: %w", dir, err)
	}
	return img, nil
}

// Check hashes the image's files in dir and refuses any that is missing or
// differs from what image.json says.
func (img Image) Check(dir string) error {
	var errs []error
	for _, f := range []File{img.Kernel, img.Initrd, img.Python.File} {
		errs = append(errs, f.Check(dir))
	}
	return errors.Join(errs...)
}

// Check hashes the file in dir.
func (f File) Check(dir string) error {
	got, err := Digest(dir, f.Name)
	if err != nil {
		return err
	}
	if got != f {
		return fmt.Errorf("guest image: %s has sha256 %s and %d bytes, %s says %s and %d: run `make hal`",
			filepath.Join(dir, f.Name), got.SHA256, got.Size, ManifestFile, f.SHA256, f.Size)
	}
	return nil
}

// Digest hashes the file called name in dir.
func Digest(dir, name string) (File, error) {
	f, err := digest(dir, name)
	if err != nil {
		return File{}, fmt.Errorf("guest image: %w: run `make hal` to build it", err)
	}
	return f, nil
}

func digest(dir, name string) (File, error) {
	r, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return File{}, err
	}
	return File{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
