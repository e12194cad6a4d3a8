package frontend

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's requests (linux/vhost.h), each with the size of its argument in
// its upper half.
const (
	vhostSetOwner     = 0xaf01
	vhostSetFeatures  = 0x4008af00
	vhostSetMemTable  = 0x4008af03
	vhostSetVringNum  = 0x4008af10
	vhostSetVringAddr = 0x4028af11
	vhostSetVringBase = 0x4008af12
	vhostSetVringKick = 0x4008af20
	vhostSetVringCall = 0x4008af21
	vhostSetVringErr  = 0x4008af22
	vhostSetRunning   = 0x4004af61
)

// Vhost is a Frontend without Conn of the kernel's /dev/vhost-vsock, whose
// requests are calls.
type Vhost struct {
	*Frontend
	device *os.File
}

// StartVhost plays QEMU and guest on an open device whose guest CID is set,
// until packets can flow. The device stays the caller's.
func StartVhost(device *os.File) (*Vhost, error) {
	f, err := New(nil)
	if err != nil {
		return nil, err
	}
	v := &Vhost{f, device}
	if err := v.negotiate(); err != nil {
		f.Close()
		return nil, err
	}
	return v, nil
}

func (v *Vhost) negotiate() error {
	if err := v.call(vhostSetOwner, nil); err != nil {
		return err
	}
	features := U64(FeatVersion1 | FeatIndirect)
	if err := v.call(vhostSetFeatures, features[:]); err != nil {
		return err
	}
	l := binary.LittleEndian
	table := Pair(2, 0)
	for i := range uint64(2) {
		off := i * RegionSize
		for _, n := range []uint64{GuestBase + off, RegionSize, v.address(off), 0} {
			table = l.AppendUint64(table, n)
		}
	}
	if err := v.call(vhostSetMemTable, table); err != nil {
		return err
	}
	return v.Restart()
}

// address is where a byte of guest memory lies in this process.
func (v *Vhost) address(offset uint64) uint64 {
	return uint64(uintptr(unsafe.Pointer(&v.Mem[offset])))
}

// Restart is a guest's reset: stopped, zeroed, started again.
func (v *Vhost) Restart() error {
	if err := v.Stop(); err != nil {
		return err
	}
	for _, r := range []*Ring{v.RX, v.TX} {
		r.Zero()
		// Errors of its earlier life do not count. There need not be any.
		unix.Read(r.err, make([]byte, 8))
		i := uint32(r.Index)
		addr := Pair(i, 0)
		for _, n := range []uint64{v.address(r.Desc), v.address(r.Used), v.address(r.Avail), 0} {
			addr = binary.LittleEndian.AppendUint64(addr, n)
		}
		for _, c := range []struct {
			request uintptr
			body    []byte
		}{
			{vhostSetVringNum, Pair(i, RingSize)},
			{vhostSetVringBase, Pair(i, 0)},
			{vhostSetVringAddr, addr},
			{vhostSetVringKick, Pair(i, uint32(r.kick))},
			{vhostSetVringCall, Pair(i, uint32(r.call))},
			{vhostSetVringErr, Pair(i, uint32(r.err))},
		} {
			if err := v.call(c.request, c.body); err != nil {
				return err
			}
		}
	}
	if err := v.FillRX(); err != nil {
		return err
	}
	if err := v.call(vhostSetRunning, []byte{1, 0, 0, 0}); err != nil {
		return err
	}
	// The kernel remembers that it wanted no kicks of a queue that broke.
	v.RX.Kick()
	v.TX.Kick()
	return nil
}

// Stop stops the device.
func (v *Vhost) Stop() error { return v.call(vhostSetRunning, make([]byte, 4)) }

func (v *Vhost) call(request uintptr, arg []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, v.device.Fd(), request, uintptr(unsafe.Pointer(unsafe.SliceData(arg)))); errno != 0 {
		return fmt.Errorf("vhost request %#x: %w", request, errno)
	}
	return nil
}
