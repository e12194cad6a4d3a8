package measure

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// TD is what TDX measures of a launch. RTMR0 is not in it: it depends on the
// host's ACPI tables and the TD's memory, and is to be taken from evidence or
// from a replayed event log. RTMR3 stays zero.
type TD struct {
	// MRTD is over the firmware, before the TD runs.
	MRTD [48]byte
	// RTMR1 is over the kernel, RTMR2 over its command line and the initial RAM
	// disk, as the firmware and the kernel's EFI stub measure them.
	RTMR1, RTMR2 [48]byte
}

// TDXOptions say in which of the ways that are in use a TD is launched. The zero
// value is QEMU's on a host with Linux 6.16 or later, and firmware of EDK II up to
// 2025.02.
type TDXOptions struct {
	PageOrder PageOrder
	// InitrdFirst: the firmware puts "initrd=initrd" before the command line, as
	// EDK II after 2025.02 does, and not behind it.
	InitrdFirst bool
}

// PageOrder is in which order the host adds a TD's pages and has their content
// measured. MRTD depends on it.
type PageOrder string

// The orders.
const (
	// SinglePass adds a page, has it measured and goes on to the next; empty
	// means it, too. Linux 6.16 and later (KVM_TDX_INIT_MEM_REGION).
	SinglePass PageOrder = "single-pass"
	// TwoPass adds all pages of a section and then has them measured, as host
	// kernels with patches of their own have done.
	TwoPass PageOrder = "two-pass"
)

// PageOrders lists the orders, QEMU's first.
func PageOrders() []PageOrder { return []PageOrder{SinglePass, TwoPass} }

// TDX returns what a TD measures under QEMU with direct kernel boot.
//
// QEMU hands a TD's kernel to the firmware as it is in the file: it leaves the
// boot protocol's fields in its header alone for guests with a TEE. So a digest of
// the file is what counts, whatever the TD's memory.
func TDX(l Launch) (TD, error) {
	var td TD
	var err error
	if td.MRTD, err = MRTD(l.Firmware, l.TDX.PageOrder); err != nil {
		return TD{}, err
	}
	if td.RTMR1, err = RTMR1(l.Kernel); err != nil {
		return TD{}, err
	}
	if td.RTMR2, err = RTMR2(l.CommandLine, l.Initrd, l.TDX.InitrdFirst); err != nil {
		return TD{}, err
	}
	return td, nil
}

// extendChunk is how much TDH.MR.EXTEND measures at once, in bytes.
const extendChunk = 256

// MRTD measures a firmware as QEMU has a TD built from it ("TDX Module Base
// Architecture Specification", "TD Measurement": SHA-384 over a block of 128 bytes
// for each TDH.MEM.PAGE.ADD, and one with the content behind it for each
// TDH.MR.EXTEND).
func MRTD(firmware []byte, order PageOrder) (mrtd [48]byte, err error) {
	fault := func(err error) ([48]byte, error) {
		return [48]byte{}, fmt.Errorf("measuring the TD: %w", err)
	}
	tables, err := ovmf.Parse(firmware)
	switch {
	case err != nil:
		return fault(err)
	case tables.TDXFault != nil:
		return fault(fmt.Errorf("the firmware's TDX metadata: %w", tables.TDXFault))
	case !tables.TDX():
		return fault(errors.New("the firmware has no TDX metadata: TDX can't launch it"))
	}
	switch order {
	case "", SinglePass, TwoPass:
	default:
		return fault(fmt.Errorf("the page order %q is not known; expected %s or %s", order, SinglePass, TwoPass))
	}
	h := sha512.New384()
	for i, s := range tables.TDXSections {
		var content []byte
		switch {
		case s.Type == ovmf.TDXBootVolume || s.Type == ovmf.TDXConfigVolume:
			if uint64(s.RawSize) != s.Size && s.Attributes&ovmf.TDXExtend != 0 {
				return fault(fmt.Errorf("section %d: %d bytes of content in %d that are measured; what the rest holds is not known", i, s.RawSize, s.Size))
			}
			content = firmware[s.Offset : s.Offset+s.RawSize]
		case s.Type == ovmf.TDXHandOff && s.Attributes&ovmf.TDXExtend != 0:
			return fault(fmt.Errorf("section %d: the hand-off block, which the host writes, is to be measured", i))
		case s.Type != ovmf.TDXHandOff && s.Type != ovmf.TDXTempMemory:
			return fault(fmt.Errorf("section %d: has type %d, which QEMU does not launch", i, s.Type))
		default:
			content = make([]byte, s.Size)
		}
		if s.Attributes&ovmf.TDXAug != 0 {
			return fault(fmt.Errorf("section %d: is to be added when the TD runs, which QEMU does not do", i))
		}
		extend := s.Attributes&ovmf.TDXExtend != 0
		for at := uint64(0); at < s.Size; at += ovmf.PageSize {
			block(h, "MEM.PAGE.ADD", s.Base+at)
			if extend && order != TwoPass {
				extendPage(h, s.Base+at, content[at:])
			}
		}
		for at := uint64(0); extend && order == TwoPass && at < s.Size; at += ovmf.PageSize {
			extendPage(h, s.Base+at, content[at:])
		}
	}
	return [48]byte(h.Sum(nil)), nil
}

// block is the operation's name and the page's address, little endian at 16.
func block(h hash.Hash, name string, address uint64) {
	var b [128]byte
	copy(b[:], name)
	binary.LittleEndian.PutUint64(b[16:], address)
	h.Write(b[:])
}

func extendPage(h hash.Hash, address uint64, content []byte) {
	for i := uint64(0); i < ovmf.PageSize; i += extendChunk {
		block(h, "MR.EXTEND", address+i)
		h.Write(content[i : i+extendChunk])
	}
}

// What EDK II measures beside the kernel (OvmfPkg/Tcg/TdTcg2Dxe; "TCG PC Client
// Platform Firmware Profile", 10.4.4), into RTMR1 in this order.
var (
	callingApplication = []byte("Calling EFI Application from Boot Option")
	separator          = make([]byte, 4)
	exitInvoked        = []byte("Exit Boot Services Invocation")
	exitSucceeded      = []byte("Exit Boot Services Returned with Success")
)

// rtmr is a register while events extend it. It begins with zeros.
type rtmr [48]byte

func (r *rtmr) extend(digest [48]byte) {
	*r = sha512.Sum384(append(r[:], digest[:]...))
}

// RTMR1 measures a kernel that the firmware loads, starts at its first attempt,
// and that leaves the firmware's services.
func RTMR1(kernel []byte) ([48]byte, error) {
	h := sha512.New384()
	if err := authenticode(h, kernel); err != nil {
		return [48]byte{}, fmt.Errorf("measuring the TD: the kernel %w", err)
	}
	var r rtmr
	r.extend([48]byte(h.Sum(nil)))
	for _, event := range [][]byte{callingApplication, separator, exitInvoked, exitSucceeded} {
		r.extend(sha512.Sum384(event))
	}
	return r, nil
}

// RTMR2 measures the command line as the firmware hands it to the kernel, in
// UTF-16 with its NUL, and the initial RAM disk, as the kernel's EFI stub does.
func RTMR2(commandLine string, initrd []byte, initrdFirst bool) ([48]byte, error) {
	return rtmr2(commandLine, sha512.Sum384(initrd), len(initrd) > 0, initrdFirst)
}

func rtmr2(commandLine string, initrd [48]byte, hasInitrd, initrdFirst bool) ([48]byte, error) {
	if i := strings.IndexFunc(commandLine, func(r rune) bool { return r == 0 || r > 0x7e }); i >= 0 {
		return [48]byte{}, fmt.Errorf("measuring the TD: the command line has %q at byte %d; firmware hands on ASCII alone", commandLine[i:i+1], i)
	}
	text := commandLine
	switch {
	case hasInitrd && initrdFirst:
		text = "initrd=initrd " + text
	case hasInitrd:
		text += " initrd=initrd"
	}
	var r rtmr
	if text != "" {
		var wide []byte
		for _, c := range []byte(text + "\x00") {
			wide = append(wide, c, 0)
		}
		r.extend(sha512.Sum384(wide))
	}
	if hasInitrd {
		r.extend(initrd)
	}
	return r, nil
}
