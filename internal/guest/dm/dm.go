// Package dm sets up device-mapper devices: read-only, of one target each.
//
// It speaks the kernel's ioctl interface version 4 (linux/dm-ioctl.h) and knows
// the three calls that a device takes: create, load a table, resume. A device
// that could not be set up is removed again.
package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is where the kernel takes the calls.
const control = "/dev/mapper/control"

// Target is the one line of a device's table, from sector 0 on.
type Target struct {
	// Type is the target's name, such as "verity".
	Type string
	// Sectors is the device's length in units of 512 bytes.
	Sectors uint64
	Params  string
}

// Create makes the device and returns the path of its node.
func Create(name string, t Target) (string, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("opening the device mapper: %w", err)
	}
	defer f.Close()
	created, err := call(f, "DM_DEV_CREATE", unix.DM_DEV_CREATE, name, 0, nil)
	if err != nil {
		return "", err
	}
	for _, c := range []struct {
		what   string
		cmd    uintptr
		flags  uint32
		target *Target
	}{
		{"DM_TABLE_LOAD", unix.DM_TABLE_LOAD, unix.DM_READONLY_FLAG, &t},
		{"DM_DEV_SUSPEND", unix.DM_DEV_SUSPEND, 0, nil}, // without its flag: resume
	} {
		if _, err := call(f, c.what, c.cmd, name, c.flags, c.target); err != nil {
			// What is wrong has been said; the device never had a table.
			_, _ = call(f, "DM_DEV_REMOVE", unix.DM_DEV_REMOVE, name, 0, nil)
			return "", err
		}
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(created.Dev)), nil
}

func call(f *os.File, what string, cmd uintptr, name string, flags uint32, t *Target) (unix.DmIoctl, error) {
	buf, err := request(name, flags, t)
	if err != nil {
		return unix.DmIoctl{}, err
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return unix.DmIoctl{}, fmt.Errorf("%s of %q: %w", what, name, errno)
	}
	var answer unix.DmIoctl
	if err := binary.Read(bytes.NewReader(buf), binary.NativeEndian, &answer); err != nil {
		return unix.DmIoctl{}, fmt.Errorf("%s of %q: %w", what, name, err)
	}
	return answer, nil
}

// request encodes struct dm_ioctl and, behind it, the target with its
// parameters.
func request(name string, flags uint32, t *Target) ([]byte, error) {
	header := unix.DmIoctl{
		Version:    [3]uint32{4, 0, 0},
		Data_start: unix.SizeofDmIoctl,
		Flags:      flags,
	}
	if name == "" || len(name) >= len(header.Name) || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("device name %q: want 1 to %d bytes without slash and NUL", name, len(header.Name)-1)
	}
	copy(header.Name[:], name)
	var body bytes.Buffer
	if t != nil {
		spec := unix.DmTargetSpec{Length: t.Sectors}
		if t.Type == "" || len(t.Type) >= len(spec.Target_type) || strings.ContainsRune(t.Type+t.Params, 0) {
			return nil, fmt.Errorf("target type %q: want 1 to %d bytes, and no NUL there and in its parameters", t.Type, len(spec.Target_type)-1)
		}
		copy(spec.Target_type[:], t.Type)
		params := append([]byte(t.Params), 0)
		for len(params)%8 != 0 {
			params = append(params, 0)
		}
		spec.Next = uint32(unix.SizeofDmTargetSpec + len(params))
		if err := binary.Write(&body, binary.NativeEndian, spec); err != nil {
			return nil, fmt.Errorf("encoding a target: %w", err)
		}
		body.Write(params)
		header.Target_count = 1
	}
	header.Data_size = uint32(unix.SizeofDmIoctl + body.Len())
	var out bytes.Buffer
	if err := binary.Write(&out, binary.NativeEndian, header); err != nil {
		return nil, fmt.Errorf("encoding a request: %w", err)
	}
	out.Write(body.Bytes())
	return out.Bytes(), nil
}
