package dm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestRequest(t *testing.T) {
	b, err := request("runtime", unix.DM_READONLY_FLAG, &Target{Type: "verity", Sectors: 80, Params: []byte("1 2 3")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	const header = 312 // struct dm_ioctl (linux/dm-ioctl.h)
	if len(b) != header+40+8 || u32(12) != uint32(len(b)) || u32(16) != header {
		t.Errorf("%d bytes, data_size %d, data_start %d", len(b), u32(12), u32(16))
	}
	if u32(0) != 4 || u32(20) != 1 || u32(28) != unix.DM_READONLY_FLAG {
		t.Errorf("version %d, target_count %d, flags %#x", u32(0), u32(20), u32(28))
	}
	if name := b[48:]; !bytes.HasPrefix(name, []byte("runtime\x00")) {
		t.Errorf("name %q", name[:16])
	}
	if got := binary.NativeEndian.Uint64(b[header+8:]); got != 80 {
		t.Errorf("length %d sectors", got)
	}
	if u32(header+20) != 48 || !bytes.Equal(b[header+24:header+40], append([]byte("verity"), make([]byte, 10)...)) {
		t.Errorf("next %d, type %q", u32(header+20), b[header+24:header+40])
	}
	if got := b[header+40:]; string(got) != "1 2 3\x00\x00\x00" {
		t.Errorf("parameters %q", got)
	}
	if unsafe.Sizeof(unix.DmIoctl{}) != header {
		t.Errorf("struct dm_ioctl has %d bytes", unsafe.Sizeof(unix.DmIoctl{}))
	}
}

func TestRequestRefuses(t *testing.T) {
	ok := Target{Type: "verity", Sectors: 8, Params: []byte("1")}
	for _, tt := range []struct {
		name   string
		target Target
	}{
		{"", ok},
		{strings.Repeat("x", 128), ok},
		{"a/b", ok},
		{"a\x00b", ok},
		{"a", Target{Type: "", Params: []byte("1")}},
		{"a", Target{Type: strings.Repeat("x", 16), Params: []byte("1")}},
		{"a", Target{Type: "verity", Params: []byte("1\x002")}},
	} {
		if _, err := request(tt.name, 0, &tt.target, 0); err == nil {
			t.Errorf("device %q with target %+v was accepted", tt.name, tt.target)
		}
	}
}

func TestStatus(t *testing.T) {
	answer, err := request("x", 0, &Target{Type: "verity", Sectors: 8, Params: []byte("C - 1")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	header := unix.DmIoctl{Data_start: unix.SizeofDmIoctl, Target_count: 1}
	if got, err := parseStatus(header, answer); err != nil || got != "C - 1" {
		t.Errorf("status %q, %v", got, err)
	}
	for name, change := range map[string]func(h *unix.DmIoctl, b []byte) []byte{
		"no target":       func(h *unix.DmIoctl, b []byte) []byte { h.Target_count = 0; return b },
		"no room":         func(h *unix.DmIoctl, b []byte) []byte { h.Flags = unix.DM_BUFFER_FULL_FLAG; return b },
		"nothing behind":  func(h *unix.DmIoctl, b []byte) []byte { return b[:unix.SizeofDmIoctl] },
		"beyond all":      func(h *unix.DmIoctl, b []byte) []byte { h.Data_start = 1<<32 - 1; return b },
		"without its end": func(h *unix.DmIoctl, b []byte) []byte { return b[:unix.SizeofDmIoctl+unix.SizeofDmTargetSpec+5] },
	} {
		h := header
		b := change(&h, answer)
		if got, err := parseStatus(h, b); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}
