package hostcheck

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	installOVMF = "apt install ovmf"
	codeVar     = "MANAGER_QEMU_OVMF_CODE_FILE"
	varsVar     = "MANAGER_QEMU_OVMF_VARS_FILE"
	biosVar     = "MANAGER_QEMU_BIOS_FILE"
	// maxFlash is all that QEMU maps below 4 GiB for both chips, in bytes.
	maxFlash = 8 << 20
)

// firmware looks at OVMF's files: their contents say what they are, not their
// names.
func firmware(_ context.Context, h *host, c Config) []Finding {
	if c.TEE.BIOS != "" {
		return bios(c)
	}
	if c.TEE.Kind.Encrypts() {
		return fail("none is set", "firmware that the TEE measures, for "+c.TEE.Switch, "set "+biosVar+" to it; docs/vm.md says which")
	}
	f := c.Firmware
	if f.Code == "" {
		if c.Image.Disk != "" {
			return fail("none is set", "OVMF, to boot the disk image (MANAGER_QEMU_DISK_IMG_FILE)", installOVMF+"; or set "+codeVar)
		}
		for _, name := range []string{"usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_CODE_4M.fd"} {
			if _, err := os.Stat(h.path(name)); err == nil {
				return info("QEMU's own BIOS boots the kernel; OVMF is installed and not used")
			}
		}
		return []Finding{{Verdict: Info, Found: "QEMU's own BIOS boots the kernel; OVMF is not installed", Mend: installOVMF + ", to boot through it"}}
	}
	code, err := readFlash(f.Code, f.CodeFormat)
	if err == nil && code.variables {
		err = errors.New("begins with variables: it is a VARS file, or code and variables in one")
	}
	if err != nil {
		return fail(fmt.Sprintf("%s=%s: %v", codeVar, f.Code, err), "a file with OVMF's code, such as OVMF_CODE_4M.fd", installOVMF+"; or correct "+codeVar)
	}
	if f.Vars == "" {
		return warn(f.Code+" without a file of variables", "the VARS file that belongs to it, so that each VM has a copy", "set "+varsVar)
	}
	vars, err := readFlash(f.Vars, f.VarsFormat)
	if err == nil && !vars.variables && !vars.opaque {
		err = errors.New("does not begin with variables: it is not a VARS file")
	}
	if err != nil {
		return fail(fmt.Sprintf("%s=%s: %v", varsVar, f.Vars, err), "a file with OVMF's variables, such as OVMF_VARS_4M.fd", installOVMF+"; or correct "+varsVar)
	}
	if code.opaque || vars.opaque {
		return ok(fmt.Sprintf("%s with %s (qcow2: not looked into)", f.Code, f.Vars))
	}
	// OVMF is built as one flash of a power of two and cut in two.
	if sum := code.size + vars.size; sum&(sum-1) != 0 || sum > maxFlash {
		return fail(fmt.Sprintf("%s and %s do not belong together: %d and %d bytes make no whole flash", f.Code, f.Vars, code.size, vars.size),
			"both of one build: OVMF_CODE.fd with OVMF_VARS.fd, OVMF_CODE_4M.fd with OVMF_VARS_4M.fd", "correct "+codeVar+" or "+varsVar)
	}
	return ok(fmt.Sprintf("%s with %s, together %s", f.Code, f.Vars, bytesText(code.size+vars.size)))
}

// bios judges the firmware of a TEE by its tables and its digest.
func bios(c Config) []Finding {
	b, err := JudgeBIOS(c.TEE.Kind, c.TEE.BIOS)
	if err != nil {
		return fail(fmt.Sprintf("%s=%s: %v", biosVar, c.TEE.BIOS, err), "firmware that the TEE measures and that measures what it boots, for "+c.TEE.Switch, "correct "+biosVar+"; docs/vm.md says which")
	}
	text := fmt.Sprintf("%s, %s, sha256 %x", c.TEE.BIOS, bytesText(b.Size), b.SHA256)
	if c.TEE.Kind == vm.TDX {
		return ok(text + "; has TDX metadata")
	}
	return ok(fmt.Sprintf("%s; compares what it boots with the hashes at %#x", text, b.HashTable))
}

// flash is what is known of a firmware file.
type flash struct {
	size      int64
	variables bool
	opaque    bool // in qcow2, not looked into
}

// The file systems of firmware volumes that OVMF's files begin with (UEFI
// Platform Initialization specification, volume 3, 2.2 and 3.2; the variables'
// is edk2's gEfiSystemNvDataFvGuid), as they lie in the file.
var (
	ffs2      = []byte{0x78, 0xe5, 0x8c, 0x8c, 0x3d, 0x8a, 0x1c, 0x4f, 0x99, 0x35, 0x89, 0x61, 0x85, 0xc3, 0x2d, 0xd3}
	ffs3      = []byte{0x7a, 0xc0, 0x73, 0x54, 0xcb, 0x3d, 0xca, 0x4d, 0xbd, 0x6f, 0x1e, 0x96, 0x89, 0xe7, 0x34, 0x9a}
	variable  = []byte{0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50}
	qcow2Mark = []byte("QFI\xfb")
)

// readFlash checks the firmware volume header that name begins with
// (EFI_FIRMWARE_VOLUME_HEADER): file system at 16, length at 32, signature at
// 40, length of the header at 48; its 16-bit words sum up to zero.
func readFlash(name, format string) (flash, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return flash{}, err
	}
	defer file.Close()
	st, err := file.Stat()
	switch {
	case err != nil:
		return flash{}, err
	case !st.Mode().IsRegular():
		return flash{}, errors.New("not a regular file")
	}
	head := make([]byte, 4096)
	n, err := file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return flash{}, err
	}
	head = head[:n]
	if bytes.HasPrefix(head, qcow2Mark) != (format == "qcow2") {
		return flash{}, fmt.Errorf("is not in the format %q that is set for it", format)
	}
	f := flash{size: st.Size()}
	if format == "qcow2" {
		f.opaque = true
		return f, nil
	}
	if len(head) < 56 || !bytes.Equal(head[40:44], []byte("_FVH")) {
		return flash{}, errors.New("does not begin with a firmware volume (no _FVH at byte 40)")
	}
	volume, header := binary.LittleEndian.Uint64(head[32:]), int(binary.LittleEndian.Uint16(head[48:]))
	if volume > uint64(st.Size()) {
		return flash{}, fmt.Errorf("is cut off: %d bytes of a volume of %d", st.Size(), volume)
	}
	if header < 56 || header%2 != 0 || header > len(head) {
		return flash{}, fmt.Errorf("is damaged: a header of %d bytes", header)
	}
	var sum uint16
	for i := 0; i < header; i += 2 {
		sum += binary.LittleEndian.Uint16(head[i:])
	}
	if sum != 0 {
		return flash{}, errors.New("is damaged: the sum over its header is wrong")
	}
	guid := head[16:32]
	f.variables = bytes.Equal(guid, variable)
	if !f.variables && !bytes.Equal(guid, ffs2) && !bytes.Equal(guid, ffs3) {
		return flash{}, fmt.Errorf("holds a volume of an unknown kind (%x)", guid)
	}
	return f, nil
}
