// Package dm sets up device-mapper devices of one target each.
//
// It speaks the kernel's ioctl interface version 4 (linux/dm-ioctl.h) and knows
// the calls that a device takes: create, load a table, resume, ask for its status,
// remove. A device that could not be set up is removed again. What a table holds
// that is secret is wiped here and in the kernel's copy of the request; it then
// stands in the target alone.
package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is where the kernel takes the calls.
const control = "/dev/mapper/control"

// statusSize is room for one target's status, in bytes.
const statusSize = 4096

// Target is the one line of a device's table, from sector 0 on.
type Target struct {
	// Type is the target's name, such as "verity".
	Type string
	// Sectors is the device's length in units of 512 bytes.
	Sectors uint64
	Params  []byte
	// Writable: the device can be written to.
	Writable bool
	// Secret: Params hold a key. Whoever made them has to wipe them.
	Secret bool
}

// Create makes the device and returns the path of its node.
func Create(name string, t Target) (string, error) {
	f, err := open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	created, _, err := call(f, "DM_DEV_CREATE", unix.DM_DEV_CREATE, name, 0, nil, 0)
	if err != nil {
		return "", err
	}
	var flags uint32
	if !t.Writable {
		flags |= unix.DM_READONLY_FLAG
	}
	if t.Secret {
		flags |= unix.DM_SECURE_DATA_FLAG
	}
	for _, c := range []struct {
		what   string
		cmd    uintptr
		flags  uint32
		target *Target
	}{
		{"DM_TABLE_LOAD", unix.DM_TABLE_LOAD, flags, &t},
		{"DM_DEV_SUSPEND", unix.DM_DEV_SUSPEND, 0, nil}, // without its flag: resume
	} {
		if _, _, err := call(f, c.what, c.cmd, name, c.flags, c.target, 0); err != nil {
			// What is wrong has been said; the device never had a table.
			_, _, _ = call(f, "DM_DEV_REMOVE", unix.DM_DEV_REMOVE, name, 0, nil, 0)
			return "", err
		}
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(created.Dev)), nil
}

// Remove removes a device; one that is in use goes when it isn't any more, and then
// gone is false.
func Remove(name string) (gone bool, err error) {
	f, err := open()
	if err != nil {
		return false, err
	}
	defer f.Close()
	answer, _, err := call(f, "DM_DEV_REMOVE", unix.DM_DEV_REMOVE, name, unix.DM_DEFERRED_REMOVE, nil, 0)
	return err == nil && answer.Flags&unix.DM_DEFERRED_REMOVE == 0, err
}

// Status is what a device's target says of itself.
func Status(name string) (string, error) {
	f, err := open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	header, answer, err := call(f, "DM_TABLE_STATUS", unix.DM_TABLE_STATUS, name, 0, nil, statusSize)
	if err != nil {
		return "", err
	}
	return parseStatus(header, answer)
}

// parseStatus takes the text of the one target in an answer.
func parseStatus(header unix.DmIoctl, answer []byte) (string, error) {
	at := uint64(header.Data_start) + unix.SizeofDmTargetSpec
	if header.Flags&unix.DM_BUFFER_FULL_FLAG != 0 || header.Target_count != 1 || at > uint64(len(answer)) {
		return "", fmt.Errorf("DM_TABLE_STATUS: %d targets in %d bytes; expected one", header.Target_count, len(answer))
	}
	text, _, ok := bytes.Cut(answer[at:], []byte{0})
	if !ok {
		return "", errors.New("DM_TABLE_STATUS: the target's status has no end")
	}
	return string(text), nil
}

func open() (*os.File, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the device mapper: %w", err)
	}
	return f, nil
}

// call makes one call with room for an answer. The request is wiped when it held a
// secret, and then there is no answer but its header.
func call(f *os.File, what string, cmd uintptr, name string, flags uint32, t *Target, room int) (header unix.DmIoctl, answer []byte, err error) {
	buf, err := request(name, flags, t, room)
	if err != nil {
		return header, nil, err
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(&buf[0])))
	if t != nil && t.Secret {
		clear(buf[unix.SizeofDmIoctl:])
	}
	if errno != 0 {
		return header, nil, fmt.Errorf("%s of %q: %w", what, name, errno)
	}
	if _, err := binary.Decode(buf, binary.NativeEndian, &header); err != nil {
		return header, nil, fmt.Errorf("%s of %q: %w", what, name, err)
	}
	return header, buf, nil
}

// request encodes struct dm_ioctl and, behind it, the target with its
// parameters and room for an answer. There is one copy of the parameters in it,
// and none elsewhere.
func request(name string, flags uint32, t *Target, room int) ([]byte, error) {
	header := unix.DmIoctl{
		Version:    [3]uint32{4, 0, 0},
		Data_start: unix.SizeofDmIoctl,
		Flags:      flags,
	}
	if name == "" || len(name) >= len(header.Name) || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("device name %q: want 1 to %d bytes without slash and NUL", name, len(header.Name)-1)
	}
	copy(header.Name[:], name)
	size := unix.SizeofDmIoctl + room
	var spec unix.DmTargetSpec
	if t != nil {
		spec.Length = t.Sectors
		if t.Type == "" || len(t.Type) >= len(spec.Target_type) || strings.Contains(t.Type, "\x00") || bytes.IndexByte(t.Params, 0) >= 0 {
			return nil, fmt.Errorf("target type %q: want 1 to %d bytes, and no NUL there and in its parameters", t.Type, len(spec.Target_type)-1)
		}
		copy(spec.Target_type[:], t.Type)
		// A NUL ends the parameters, and more of them fill up to 8 bytes.
		spec.Next = uint32(unix.SizeofDmTargetSpec + len(t.Params)/8*8 + 8)
		header.Target_count = 1
		size += int(spec.Next)
	}
	header.Data_size = uint32(size)
	buf := make([]byte, size)
	_, err := binary.Encode(buf, binary.NativeEndian, header)
	if err == nil && t != nil {
		body := buf[unix.SizeofDmIoctl:]
		_, err = binary.Encode(body, binary.NativeEndian, spec)
		copy(body[unix.SizeofDmTargetSpec:], t.Params)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding a request: %w", err)
	}
	return buf, nil
}
