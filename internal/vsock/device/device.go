// Package device is the vsock device of one VM: the connections between the
// guest and this process, their credit, and their ends.
//
// It sees packets, not queues: Receive takes one from the guest, Transmit
// writes one for it. Neither ever waits. Invariants:
//
//   - One lock guards everything. No copy of more than one packet happens under
//     it, and no system call but that of the few warnings about the guest.
//   - What the guest can make this process hold is bounded: connections that
//     this process has not closed by maxConns, bytes by bufferSize for each,
//     answers to strangers by maxStrays. Data for the guest is not buffered at
//     all: Write returns when its bytes are in the guest's own memory.
//   - Replies of a connection are flags, not a queue: a guest that never takes
//     them can't make them pile up.
//   - A guest that breaks the protocol on a connection (data beyond its
//     credit, lies about what it took, packets out of order) loses that
//     connection: both ends see a reset.
//   - Bytes arrive in order and before the end of the stream; an end that the
//     guest did not announce reads as ECONNRESET, never as io.EOF.
package device

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
)

const (
	bufferSize = 256 << 10 // bytes that a connection holds until its reader takes them
	maxConns   = 256       // so 64 MiB in all
	maxStrays  = 256       // resets waiting to go out for packets that belong to no connection
	maxBacklog = 128       // connections that a listener has not accepted yet

	// closeTimeout is how long a closed connection waits for the guest to
	// confirm, as long as Linux waits.
	closeTimeout = 8 * time.Second

	// warnings is how many broken rules are logged for one VM; the rest are
	// counted.
	warnings = 20
)

var (
	// ErrClosed is what connections and listeners end with when the VM is gone.
	ErrClosed = fmt.Errorf("the VM's vsock device has ended: %w", syscall.ECONNRESET)

	errTooMany = errors.New("too many connections")
)

type key struct{ host, guest uint32 } // ports

// Device is one VM's vsock device. Its methods are safe for concurrent use.
type Device struct {
	cid     uint32
	log     *slog.Logger
	forward func(*Conn, uint32)

	mu        sync.Mutex
	wake      func() // there is something for the guest
	conns     map[key]*Conn
	listeners map[uint32]*Listener
	ready     []*Conn  // those with something for the guest, each once
	strays    []header // resets for packets that belong to no connection
	nextPort  uint32
	held      int // connections that count: see Conn.settle
	faults    int
	ended     error // set once: the device has ended
}

// New makes the device of a guest with the given CID. Connections of the guest
// to a port on which nobody here listens go to forward, on the caller's
// goroutine and under no lock; forward must not block, and either calls
// Accept or Reset on the connection in the end. A nil forward refuses.
func New(cid uint32, forward func(c *Conn, port uint32), log *slog.Logger) *Device {
	return &Device{
		cid: cid, log: log, forward: forward, wake: func() {},
		conns: map[key]*Conn{}, listeners: map[uint32]*Listener{},
		nextPort: 1<<30 | rand.Uint32()>>3,
	}
}

// OnWake sets what is called when there is something for the guest; it must
// not block. Call it before the first packet.
func (d *Device) OnWake(wake func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wake = wake
}

// Close ends every connection and listener, and refuses new ones.
func (d *Device) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended != nil {
		return
	}
	d.ended = ErrClosed
	d.dropAll(ErrClosed)
	for _, l := range d.listeners {
		l.end(ErrClosed)
	}
	if d.faults > warnings {
		d.log.Warn("vsock device: the guest broke more rules than were logged", "count", d.faults)
	}
}

// Reset forgets every connection without a word to the guest, which has none
// any more. Listeners stay.
func (d *Device) Reset(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropAll(cause)
}

func (d *Device) dropAll(cause error) {
	for _, c := range d.conns {
		c.fail(cause)
	}
	clear(d.conns)
	d.ready, d.strays = nil, nil
}

// MinBuffer is the smallest receive buffer that is of use, in bytes.
func (d *Device) MinBuffer() int { return headerSize + 1 }

// Pending says whether a packet for the guest is ready.
func (d *Device) Pending() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.strays) > 0 || len(d.ready) > 0
}

// Transmit writes one packet for the guest; it returns its size in bytes, or 0
// where there is none.
func (d *Device) Transmit(to virtq.Buffers) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.strays) > 0 {
		h := d.strays[0]
		d.strays = d.strays[1:]
		b := h.bytes()
		return to.CopyIn(0, b[:])
	}
	for len(d.ready) > 0 {
		c := d.ready[0]
		d.ready = d.ready[1:]
		c.queued = false
		n := c.transmit(to)
		c.enqueue() // at the end: connections take turns
		if n > 0 {
			return n
		}
	}
	return 0
}

// Receive takes one packet from the guest.
func (d *Device) Receive(from virtq.Buffers) {
	if c, port := d.receive(from); c != nil {
		if d.forward == nil {
			c.Reset()
			return
		}
		d.forward(c, port)
	}
}

// receive returns a new connection that no listener here has taken.
func (d *Device) receive(from virtq.Buffers) (forward *Conn, port uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var raw [headerSize]byte
	if n := from.CopyOut(0, raw[:]); n != headerSize {
		d.fault("a packet of %d bytes, shorter than its header", n)
		return nil, 0
	}
	h := parseHeader(&raw)
	if h.src != uint64(d.cid) || h.dst != hostCID {
		d.fault("a packet from CID %d to CID %d", h.src, h.dst)
		return nil, 0
	}
	if h.typ != typeStream {
		d.fault("a packet of socket type %d", h.typ)
		d.stray(&h)
		return nil, 0
	}
	k := key{host: h.dstPort, guest: h.srcPort}
	c := d.conns[k]
	if h.op == opRequest {
		return d.request(c, k, &h)
	}
	if c == nil {
		d.stray(&h)
		return nil, 0
	}
	if err := c.receive(&h, from); err != nil {
		d.fault("port %d to port %d: %w", h.srcPort, h.dstPort, err)
		c.abort(fmt.Errorf("%w: %w", errFault, err))
	}
	return nil, 0
}

// errFault is what a connection ends with whose guest broke the rules.
var errFault = fmt.Errorf("the guest broke the vsock protocol: %w", syscall.ECONNRESET)

// fault logs, within bounds, that the guest broke a rule; mu is held.
func (d *Device) fault(format string, args ...any) {
	if d.faults++; d.faults <= warnings {
		d.log.Warn("vsock device: the guest broke the protocol", "error", fmt.Errorf(format, args...))
	}
}

// stray answers a packet that belongs to no connection with a reset. Beyond a
// bound the answer is left out: a guest that floods has no use for it.
func (d *Device) stray(h *header) {
	if h.op == opReset || len(d.strays) >= maxStrays {
		return
	}
	d.strays = append(d.strays, header{
		src: hostCID, dst: uint64(d.cid), srcPort: h.dstPort, dstPort: h.srcPort, typ: h.typ, op: opReset,
	})
	d.wake()
}

// request is a guest's wish to connect; old is what stands under its key.
func (d *Device) request(old *Conn, k key, h *header) (forward *Conn, port uint32) {
	if old != nil {
		if !old.closed { // a guest that reuses a port after our close may; any other may not
			d.fault("a second request for port %d from port %d", k.host, k.guest)
			old.abort(errFault)
			return nil, 0
		}
		old.drop(errReset)
	}
	port = listenPort(d.cid, k.host)
	l := d.listeners[port]
	if d.ended != nil || d.held >= maxConns || l != nil && !l.room() {
		d.stray(h)
		return nil, 0
	}
	c := newConn(d, k, stateOffered)
	c.peerAlloc = min(h.alloc, maxAlloc)
	d.conns[k] = c
	if l == nil {
		return c, port
	}
	c.accept()
	l.offer(c)
	return nil, 0
}

// PortFor is the port number on which a guest of the given CID dials port of
// its own host: see docs/vsock.md. It is port itself where that is already
// beyond 16 bits.
func PortFor(cid, port uint32) uint32 {
	if port > 0xffff {
		return port
	}
	return cid<<16 | port
}

// listenPort undoes PortFor, and leaves other ports alone.
func listenPort(cid, port uint32) uint32 {
	if port>>16 == cid&0xffff {
		return port & 0xffff
	}
	return port
}
