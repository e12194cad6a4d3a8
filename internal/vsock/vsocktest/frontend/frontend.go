// Package frontend plays QEMU and a guest's vsock driver together, without a
// VM: the front end of a vhost-user device, with guest memory in a memfd and
// both queues in it. A test can do through it all that a hostile guest or a
// broken QEMU can: every byte of the rings, of the packets and of the control
// messages is the test's to choose.
//
// It shares no code with the device, so that an error in one is not repeated
// in the other. All waits end after Patience. Vhost is the same for the
// kernel's device.
package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Patience bounds every wait for the device.
const Patience = 20 * time.Second

// Requests of the protocol, by QEMU's numbers.
const (
	GetFeatures         = 1
	SetFeatures         = 2
	SetOwner            = 3
	ResetOwner          = 4
	SetMemTable         = 5
	SetVringNum         = 8
	SetVringAddr        = 9
	SetVringBase        = 10
	GetVringBase        = 11
	SetVringKick        = 12
	SetVringCall        = 13
	SetVringErr         = 14
	GetProtocolFeatures = 15
	SetProtocolFeatures = 16
	GetQueueNum         = 17
	SetVringEnable      = 18
	GetConfig           = 24
	SetConfig           = 25
)

// Feature bits.
const (
	FeatIndirect  = 1 << 28
	FeatProtocol  = 1 << 30
	FeatVersion1  = 1 << 32
	ProtoMQ       = 1 << 0
	ProtoReplyAck = 1 << 3
	ProtoConfig   = 1 << 9
)

// Guest memory: two regions that touch in the guest's addresses, and lie apart
// in the front end's.
const (
	RegionSize = 1 << 20
	MemSize    = 2 * RegionSize
	GuestBase  = 0x100000
	userBase   = 0x7f0000000000
	userGap    = 1 << 32
)

// UserAddr is the front end's address of a byte of guest memory, by its offset.
func UserAddr(offset uint64) uint64 {
	return userBase + offset/RegionSize*userGap + offset%RegionSize
}

// Frontend is one session with a device.
type Frontend struct {
	Conn *net.UnixConn
	Mem  []byte // all of guest memory
	RX   *Ring
	TX   *Ring

	memfd  int
	closed bool
}

// New makes the guest's memory and rings. conn is the front end's to close; it
// is nil where requests go another way.
func New(conn *net.UnixConn) (*Frontend, error) {
	fd, err := Memfd(MemSize, unix.F_SEAL_SHRINK)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(fd, 0, MemSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mapping guest memory: %w", err)
	}
	f := &Frontend{Conn: conn, Mem: mem, memfd: fd}
	if f.RX, err = newRing(f, 0, 0x1000); err == nil {
		f.TX, err = newRing(f, 1, 0x8000)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Memfd makes a memory file with seals.
func Memfd(size int64, seals int) (int, error) {
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("making guest memory: %w", err)
	}
	if err = unix.Ftruncate(fd, size); err == nil && seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("making guest memory: %w", err)
	}
	return fd, nil
}

// Close hangs up and lets go of everything.
func (f *Frontend) Close() {
	if f.closed {
		return
	}
	f.closed = true
	if f.Conn != nil {
		f.Conn.Close()
	}
	for _, r := range []*Ring{f.RX, f.TX} {
		if r != nil {
			r.close()
		}
	}
	unix.Munmap(f.Mem)
	unix.Close(f.memfd)
}

// Send sends one request as it is.
func (f *Frontend) Send(request, flags uint32, body []byte, files ...int) error {
	l := binary.LittleEndian
	msg := make([]byte, 12, 12+len(body))
	l.PutUint32(msg, request)
	l.PutUint32(msg[4:], flags)
	l.PutUint32(msg[8:], uint32(len(body)))
	var oob []byte
	if len(files) > 0 {
		oob = unix.UnixRights(files...)
	}
	if err := f.Conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return err
	}
	_, _, err := f.Conn.WriteMsgUnix(append(msg, body...), oob, nil)
	return err
}

// Reply reads a reply's body.
func (f *Frontend) Reply(request uint32) ([]byte, error) {
	var hdr [12]byte
	if _, err := io.ReadFull(f.Conn, hdr[:]); err != nil {
		return nil, fmt.Errorf("reading the reply to %d: %w", request, err)
	}
	l := binary.LittleEndian
	if l.Uint32(hdr[:]) != request || l.Uint32(hdr[4:]) != 1|1<<2 || l.Uint32(hdr[8:]) > 4096 {
		return nil, fmt.Errorf("a reply with header %x to %d", hdr, request)
	}
	body := make([]byte, l.Uint32(hdr[8:]))
	_, err := io.ReadFull(f.Conn, body)
	return body, err
}

// Get sends a request that has a reply of its own, and returns it.
func (f *Frontend) Get(request uint32, body []byte) ([]byte, error) {
	if err := f.Send(request, 1, body); err != nil {
		return nil, err
	}
	return f.Reply(request)
}

// ErrRefused says that the device answered a request with a failure.
var ErrRefused = errors.New("refused")

// Set sends a request and waits for its acknowledgement.
func (f *Frontend) Set(request uint32, body []byte, files ...int) error {
	if err := f.Send(request, 1|1<<3, body, files...); err != nil {
		return err
	}
	reply, err := f.Reply(request)
	if err == nil && U64(0) != [8]byte(reply) {
		err = fmt.Errorf("request %d: %w", request, ErrRefused)
	}
	return err
}

// U64 and Pair make the usual bodies.
func U64(v uint64) (b [8]byte) {
	binary.LittleEndian.PutUint64(b[:], v)
	return b
}

// Pair is two 32-bit numbers: a queue and its value.
func Pair(a, b uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, a), b)
}

// Negotiate settles features, as QEMU does after it has connected.
func (f *Frontend) Negotiate() error {
	want := uint64(FeatVersion1 | FeatProtocol | FeatIndirect)
	b, err := f.Get(GetFeatures, nil)
	if err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint64(b); got&want != want {
		return fmt.Errorf("features %#x are offered, without %#x", got, want)
	}
	p := U64(ProtoMQ | ProtoReplyAck | ProtoConfig)
	if err := f.Send(SetProtocolFeatures, 1, p[:]); err != nil {
		return err
	}
	v := U64(want)
	if err := f.Set(SetOwner, nil); err != nil {
		return err
	}
	return f.Set(SetFeatures, v[:])
}

// MemTable is the body of SetMemTable for the guest's memory.
func (f *Frontend) MemTable() []byte {
	l := binary.LittleEndian
	b := Pair(2, 0)
	for i := range uint64(2) {
		off := i * RegionSize
		for _, v := range []uint64{GuestBase + off, RegionSize, UserAddr(off), off} {
			b = l.AppendUint64(b, v)
		}
	}
	return b
}

// Message is one request with its file descriptors.
type Message struct {
	Request uint32
	Body    []byte
	Files   []int
}

// Messages are those that give the device memory and rings, in order.
func (f *Frontend) Messages() []Message {
	ms := []Message{{SetMemTable, f.MemTable(), []int{f.memfd, f.memfd}}}
	return append(append(ms, f.RX.messages()...), f.TX.messages()...)
}

// StartDevice gives the device memory and rings, as QEMU does when the guest's
// driver is ready, or goes on after a pause. Each ring goes on at its base.
func (f *Frontend) StartDevice() error {
	for _, m := range f.Messages() {
		if err := f.Set(m.Request, m.Body, m.Files...); err != nil {
			return err
		}
	}
	return nil
}

// StopDevice stops the rings, as QEMU does for a pause and for a reset.
func (f *Frontend) StopDevice() error {
	for _, r := range []*Ring{f.RX, f.TX} {
		b, err := f.Get(GetVringBase, Pair(uint32(r.Index), 0))
		if err != nil {
			return err
		}
		r.Base = binary.LittleEndian.Uint32(b[4:])
	}
	return nil
}

// Start does everything until packets can flow, with receive buffers posted.
func (f *Frontend) Start() error {
	if err := f.Negotiate(); err != nil {
		return err
	}
	if err := f.StartDevice(); err != nil {
		return err
	}
	return f.FillRX()
}

// Dial connects to a device's socket.
func Dial(path string) (*Frontend, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	f, err := New(c.(*net.UnixConn))
	if err != nil {
		c.Close()
	}
	return f, err
}

// FromFile takes over one end of a pair of sockets.
func FromFile(file *os.File) (*Frontend, error) {
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	f, err := New(c.(*net.UnixConn))
	if err != nil {
		c.Close()
	}
	return f, err
}
