// Package measuretest makes small kernels and images for tests of measurements.
package measuretest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
)

// Sizes of a Kernel, in bytes: headers, then two sections, then its signature.
const (
	Headers   = 0x200
	Section   = 0x200
	Signature = 0x20
)

// Places in a Kernel.
const (
	PEAt          = 0x40
	OptionalAt    = PEAt + 24
	ChecksumAt    = OptionalAt + 64
	CertificateAt = OptionalAt + 112 + 4*8
	SectionsAt    = OptionalAt + 112 + 6*8
)

// Kernel is a PE image for 64 bits, as firmware starts it, with text in its first
// section and a signature that is none behind the second.
func Kernel(text string) []byte {
	le := binary.LittleEndian
	b := make([]byte, Headers+2*Section+Signature)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], PEAt)
	copy(b[PEAt:], "PE\x00\x00")
	le.PutUint16(b[PEAt+4:], 0x8664)
	le.PutUint16(b[PEAt+6:], 2)
	le.PutUint16(b[PEAt+20:], SectionsAt-OptionalAt)
	le.PutUint16(b[OptionalAt:], 0x20b)
	le.PutUint32(b[OptionalAt+60:], Headers)
	le.PutUint32(b[ChecksumAt:], 0x1234)
	le.PutUint32(b[OptionalAt+108:], 6)
	le.PutUint32(b[CertificateAt:], Headers+2*Section)
	le.PutUint32(b[CertificateAt+4:], Signature)
	// The second in the file comes first in the table.
	for i, at := range []uint32{Headers + Section, Headers} {
		s := b[SectionsAt+40*i:]
		le.PutUint32(s[16:], Section)
		le.PutUint32(s[20:], at)
	}
	copy(b[Headers:], text)
	b[Headers+Section] = 1
	copy(b[Headers+2*Section:], "signature")
	return b
}

// Image writes the folder of an image with this kernel and initial RAM disk. Its
// Python disk is described and not there.
func Image(dir string, kernel, initrd []byte) (hal.Image, error) {
	p, err := verity.Parse("sha256-4096:2:" + strings.Repeat("11", 32) + ":" + strings.Repeat("22", 32))
	if err != nil {
		return hal.Image{}, err
	}
	file := func(name string, b []byte) hal.File {
		sum := sha256.Sum256(b)
		return hal.File{Name: name, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
	}
	img := hal.Image{
		Version: hal.ImageVersion, KernelVersion: "6.12.1-test",
		Kernel: file(hal.KernelFile, kernel), Initrd: file(hal.InitrdFile, initrd),
		Python: hal.Disk{File: hal.File{Name: hal.PythonFile, Size: p.Size(), SHA256: hex.EncodeToString(make([]byte, 32))}, Verity: hal.NewVerity(p)},
	}
	img.CommandLine = hal.CommandLines{Plain: hal.CommandLine(img, false), Attested: hal.CommandLine(img, true)}
	b, err := img.Bytes()
	if err != nil {
		return hal.Image{}, fmt.Errorf("describing an image: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return hal.Image{}, err
	}
	for name, content := range map[string][]byte{hal.KernelFile: kernel, hal.InitrdFile: initrd, hal.ManifestFile: b} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return hal.Image{}, err
		}
	}
	return img, nil
}
