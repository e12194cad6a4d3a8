package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RingSize is the number of entries of each ring.
const RingSize = 32

// BufferSize is what each entry's own buffer holds, in bytes.
const BufferSize = 4096

// Descriptor flags.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Desc is one descriptor, as it stands in memory.
type Desc struct {
	Addr        uint64
	Len         uint32
	Flags, Next uint16
}

// Ring is the driver's side of one queue. The places are offsets in memory.
type Ring struct {
	Index             int
	Desc, Avail, Used uint64
	Buffers           uint64 // of the first entry's own buffer
	Base              uint32 // where the device goes on
	next              uint16 // available index
	seen              uint16 // used index

	f               *Frontend
	kick, call, err int
}

func newRing(f *Frontend, index int, at uint64) (*Ring, error) {
	r := &Ring{
		Index: index, Desc: at, Avail: at + 0x1000, Used: at + 0x2000, Buffers: 0x20000 + uint64(index)*RingSize*BufferSize,
		f: f, kick: -1, call: -1, err: -1,
	}
	for _, fd := range []*int{&r.kick, &r.call, &r.err} {
		var err error
		if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			r.close()
			return nil, fmt.Errorf("making an eventfd: %w", err)
		}
	}
	return r, nil
}

func (r *Ring) close() {
	for _, fd := range []int{r.kick, r.call, r.err} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Zero makes the ring as a driver finds it after a reset.
func (r *Ring) Zero() {
	for i := range uint64(0x3000) {
		r.f.Mem[r.Desc+i] = 0
	}
	r.next, r.seen, r.Base = 0, 0, 0
}

// messages are those that start the ring.
func (r *Ring) messages() []Message {
	i := uint32(r.Index)
	l := binary.LittleEndian
	addr := Pair(i, 0)
	for _, off := range []uint64{r.Desc, r.Used, r.Avail} {
		addr = l.AppendUint64(addr, UserAddr(off))
	}
	addr = l.AppendUint64(addr, 0)
	event := U64(uint64(i))
	return []Message{
		{SetVringNum, Pair(i, RingSize), nil},
		{SetVringBase, Pair(i, r.Base), nil},
		{SetVringAddr, addr, nil},
		{SetVringKick, event[:], []int{r.kick}},
		{SetVringCall, event[:], []int{r.call}},
		{SetVringErr, event[:], []int{r.err}},
		{SetVringEnable, Pair(i, 1), nil},
	}
}

func (r *Ring) word(off uint64) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&r.f.Mem[off]))
}

// SetDesc writes one descriptor of a table at an offset in memory.
func (f *Frontend) SetDesc(table uint64, i int, d Desc) {
	b := f.Mem[table+16*uint64(i):]
	l := binary.LittleEndian
	l.PutUint64(b, d.Addr)
	l.PutUint32(b[8:], d.Len)
	l.PutUint16(b[12:], d.Flags)
	l.PutUint16(b[14:], d.Next)
}

// Offer makes the chain at head available, with the index moved by step (1 is
// what a driver does), and kicks unless the device asked for no kicks.
func (r *Ring) Offer(head, step uint16) {
	binary.LittleEndian.PutUint16(r.f.Mem[r.Avail+4+2*uint64(r.next%RingSize):], head)
	r.next += step
	r.word(r.Avail).Store(uint32(r.next) << 16)
	if r.word(r.Used).Load()&1 == 0 { // VRING_USED_F_NO_NOTIFY
		r.Kick()
	}
}

// Kick notifies the device.
func (r *Ring) Kick() {
	unix.Write(r.kick, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// NextUsed waits for the device to return a chain.
func (r *Ring) NextUsed() (head uint32, n int, err error) {
	deadline := time.Now().Add(Patience)
	for uint16(r.word(r.Used).Load()>>16) == r.seen {
		if time.Now().After(deadline) {
			return 0, 0, errors.New("the device returns no buffer")
		}
		if err := waitEvent(r.call, 100*time.Millisecond); err != nil {
			return 0, 0, err
		}
		// Or the next wait would not wait. What came before this counts below.
		_, _ = unix.Read(r.call, make([]byte, 8))
	}
	e := r.f.Mem[r.Used+4+8*uint64(r.seen%RingSize):]
	r.seen++
	return binary.LittleEndian.Uint32(e), int(binary.LittleEndian.Uint32(e[4:])), nil
}

// Broken waits until the device reports that it gave the ring up.
func (r *Ring) Broken() error {
	if err := waitEvent(r.err, Patience); err != nil {
		return err
	}
	var b [8]byte
	if _, err := unix.Read(r.err, b[:]); err != nil {
		return fmt.Errorf("the device reports no broken ring: %w", err)
	}
	return nil
}

// waitEvent waits for an event descriptor, or a while.
func waitEvent(fd int, d time.Duration) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(p, int(d.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for the device: %w", err)
	}
	return nil
}

// Buffer is an entry's own buffer, as an offset in memory.
func (r *Ring) Buffer(i uint16) uint64 { return r.Buffers + uint64(i)*BufferSize }
