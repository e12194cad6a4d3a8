package virtq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Descriptor and ring flags (virtio 1.2, sections 2.7.5 to 2.7.8).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1

	descSize = 16
)

const (
	// MaxSize is the largest queue that the specification allows, in entries.
	MaxSize = 1 << 15
	// maxIndirect bounds an indirect table, in descriptors (QEMU's limit).
	maxIndirect = 1024
	// maxChain bounds one chain, in bytes. A vsock packet is 64 KiB or less.
	maxChain = 16 << 20
)

// ErrBroken says that the guest broke the queue's rules.
var ErrBroken = errors.New("the guest broke the virtio queue")

// Layout places a queue: its size in entries, and the front end's addresses of
// its three parts.
type Layout struct {
	Size              int
	Desc, Avail, Used uint64
}

// Chain is one buffer chain that the guest made available.
type Chain struct {
	Head uint16
	Out  Buffers // the device reads these
	In   Buffers // the device writes these
}

// Queue is one split virtqueue.
type Queue struct {
	mem               *Memory
	size              uint16
	desc, avail, used []byte
	next              uint16 // next available entry to take
	filled            uint16 // next used entry to fill
	shown             uint16 // used index that the guest has been shown
}

// Attach places the queue in m; it must be called again when the memory
// changes. next, the available index to go on from, is kept.
func (q *Queue) Attach(m *Memory, l Layout) error {
	q.Detach()
	if l.Size < 1 || l.Size > MaxSize || l.Size&(l.Size-1) != 0 {
		return fmt.Errorf("placing a queue: size %d is not a power of two up to %d", l.Size, MaxSize)
	}
	// 16, 2 and 4 are the specification's alignments. The available ring follows
	// the table in every driver known, so 4 for it too: the atomics want that.
	if l.Desc%descSize != 0 || l.Avail%4 != 0 || l.Used%4 != 0 {
		return fmt.Errorf("placing a queue: misaligned: table %#x, available ring %#x, used ring %#x", l.Desc, l.Avail, l.Used)
	}
	n := uint64(l.Size)
	desc, avail, used := m.user(l.Desc, descSize*n), m.user(l.Avail, 6+2*n), m.user(l.Used, 6+8*n)
	if desc == nil || avail == nil || used == nil {
		return fmt.Errorf("placing a queue of %d: outside guest memory: table %#x, available ring %#x, used ring %#x",
			l.Size, l.Desc, l.Avail, l.Used)
	}
	// The region's own place in this process decides what the atomics see.
	if uintptr(unsafe.Pointer(&avail[0]))%4 != 0 || uintptr(unsafe.Pointer(&used[0]))%4 != 0 {
		return errors.New("placing a queue: the memory region itself is misaligned")
	}
	q.mem, q.size, q.desc, q.avail, q.used = m, uint16(l.Size), desc, avail, used
	q.filled = uint16(word(used).Load() >> 16)
	q.shown = q.filled
	return nil
}

// Detach makes the queue forget its memory; it keeps its index.
func (q *Queue) Detach() {
	q.mem, q.desc, q.avail, q.used = nil, nil, nil, nil
}

// Attached says whether the queue has a place in memory.
func (q *Queue) Attached() bool { return q.used != nil }

// Index returns the next available entry to take, and SetIndex sets it: what
// the front end keeps while the device is stopped.
func (q *Queue) Index() uint16     { return q.next }
func (q *Queue) SetIndex(i uint16) { q.next = i }

// word is a ring's first four bytes, flags | index<<16, as one atomic. Guests
// and hosts here are little-endian (virtio 1.0 demands it of the rings).
func word(b []byte) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&b[0])) }

// Available says whether the guest has made a chain available.
func (q *Queue) Available() bool { return uint16(word(q.avail).Load()>>16) != q.next }

// WantKicks asks the guest to notify the device of new chains, or not to.
// After turning it on, look at Available once more.
func (q *Queue) WantKicks(on bool) {
	w := uint32(q.shown) << 16
	if !on {
		w |= usedNoNotify
	}
	word(q.used).Store(w)
}

// Pop takes the next chain into c, whose slices are reused. It is false when
// there is none. An error wraps ErrBroken.
func (q *Queue) Pop(c *Chain) (bool, error) {
	n := uint16(word(q.avail).Load()>>16) - q.next
	if n == 0 {
		return false, nil
	}
	if n > q.size {
		return false, fmt.Errorf("%w: the available index jumped by %d in a queue of %d", ErrBroken, n, q.size)
	}
	c.Head = binary.LittleEndian.Uint16(q.avail[4+2*int(q.next&(q.size-1)):])
	c.Out, c.In = c.Out[:0], c.In[:0]
	if err := q.walk(c); err != nil {
		return false, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	q.next++
	return true, nil
}

// Unpop gives the chain that Pop took last back unused.
func (q *Queue) Unpop() { q.next-- }

type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

func parseDescriptor(b *[descSize]byte) descriptor {
	l := binary.LittleEndian
	return descriptor{l.Uint64(b[:]), l.Uint32(b[8:]), l.Uint16(b[12:]), l.Uint16(b[14:])}
}

// walk collects the chain that starts at c.Head.
func (q *Queue) walk(c *Chain) error {
	var (
		table    Buffers // the indirect table; nil: the queue's own
		size     = uint32(q.size)
		i        = uint32(c.Head)
		total    uint64
		raw      [descSize]byte
		indirect [4][]byte
	)
	for hops := uint32(0); ; hops++ {
		if i >= size {
			return fmt.Errorf("descriptor %d of %d", i, size)
		}
		if hops >= size {
			return fmt.Errorf("a chain longer than its table of %d (a loop)", size)
		}
		if table == nil {
			copy(raw[:], q.desc[descSize*i:])
		} else {
			table.CopyOut(int(descSize*i), raw[:])
		}
		d := parseDescriptor(&raw)
		if d.flags&descIndirect != 0 {
			if table != nil {
				return errors.New("an indirect table inside an indirect table")
			}
			if d.flags&descNext != 0 || d.len == 0 || d.len%descSize != 0 || d.len/descSize > maxIndirect {
				return fmt.Errorf("an indirect table of %d bytes with flags %#x", d.len, d.flags)
			}
			t, ok := q.mem.appendGuest(indirect[:0], d.addr, uint64(d.len))
			if !ok {
				return fmt.Errorf("an indirect table outside guest memory, at %#x", d.addr)
			}
			table, size, i = t, d.len/descSize, 0
			hops = ^uint32(0) // counts from zero again in the new table
			continue
		}
		if total += uint64(d.len); total > maxChain {
			return fmt.Errorf("a chain of more than %d bytes", maxChain)
		}
		var ok bool
		switch {
		case d.flags&descWrite != 0:
			c.In, ok = q.mem.appendGuest(c.In, d.addr, uint64(d.len))
		case len(c.In) > 0:
			return errors.New("a readable buffer after a writable one")
		default:
			c.Out, ok = q.mem.appendGuest(c.Out, d.addr, uint64(d.len))
		}
		if !ok {
			return fmt.Errorf("a buffer of %d bytes outside guest memory, at %#x", d.len, d.addr)
		}
		if d.flags&descNext == 0 {
			return nil
		}
		i = uint32(d.next)
	}
}

// Push returns a chain to the guest with n bytes written to it. The guest sees
// it after Publish.
func (q *Queue) Push(head uint16, n int) {
	e := q.used[4+8*int(q.filled&(q.size-1)):]
	binary.LittleEndian.PutUint32(e, uint32(head))
	binary.LittleEndian.PutUint32(e[4:], uint32(n))
	q.filled++
}

// Publish shows the guest what was pushed, and says whether it wants an
// interrupt for that.
func (q *Queue) Publish() (interrupt bool) {
	if q.filled == q.shown {
		return false
	}
	q.shown = q.filled
	w := word(q.used)
	w.Store(w.Load()&usedNoNotify | uint32(q.shown)<<16)
	return word(q.avail).Load()&availNoInterrupt == 0
}
