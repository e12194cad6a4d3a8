package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
)

type state int

const (
	stateDialing state = iota // our request is on its way
	stateOffered              // the guest's request waits for our answer
	stateOpen
	stateDead // no longer in the device's table; what was received may still be read
)

// What a connection has to tell the guest, besides data, in this order.
const (
	tellRequest = 1 << iota
	tellResponse
	tellShutdown
	tellCredit
)

// maxAlloc caps the buffer that a guest may claim, in bytes: half the range of
// the counters would make them ambiguous.
const maxAlloc = 1 << 30

var (
	errReset   = error(syscall.ECONNRESET)
	errRefused = error(syscall.ECONNREFUSED)
)

// Conn is one connection with the guest. It is a net.Conn with half close.
type Conn struct {
	d *Device
	k key

	// All below is guarded by d.mu.
	state  state
	queued bool // in d.ready
	tell   uint // tell* flags
	closed bool // by Close here
	err    error
	timer  *time.Timer // closeTimeout, running
	opened chan struct{}
	gone   bool // no longer counted in d.held

	// From the guest.
	in        buffer
	received  uint32 // bytes in all, modulo 2^32, as all counters of the protocol
	taken     uint32 // of these, taken by our reader
	told      uint32 // taken, as the guest was last told
	guestEnd  bool   // the guest has said that it sends no more
	readable  *sync.Cond
	readUntil deadline

	// To the guest.
	out        []byte // what Write still has to place; the writer's own memory
	writing    bool
	sent       uint32
	peerAlloc  uint32
	peerTaken  uint32
	guestDeaf  bool // the guest has said that it receives no more
	ended      bool // CloseWrite
	writable   *sync.Cond
	writeUntil deadline
}

func newConn(d *Device, k key, s state) *Conn {
	c := &Conn{d: d, k: k, state: s, opened: make(chan struct{})}
	d.held++
	c.readable, c.writable = sync.NewCond(&d.mu), sync.NewCond(&d.mu)
	return c
}

// Dial connects to a port in the guest. It waits until the guest answers, the
// context ends or the device does; a guest without a driver never answers.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	c, err := d.dial(port)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.opened:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.state == stateOpen:
		return c, nil
	case c.state == stateDead && c.err == nil: // the guest opened it and closed it before we looked
		return c, nil
	}
	c.abort(ctx.Err()) // unless it failed already
	c.close()
	return nil, c.err
}

func (d *Device) dial(port uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended != nil {
		return nil, d.ended
	}
	if d.held >= maxConns {
		return nil, errTooMany
	}
	// With fewer connections than ports this ends.
	k := key{host: d.nextPort, guest: port}
	for d.conns[k] != nil {
		k.host++
	}
	d.nextPort = 1<<30 | (k.host+1)&(1<<30-1)
	c := newConn(d, k, stateDialing)
	d.conns[k] = c
	c.say(tellRequest)
	return c, nil
}

// Accept answers the guest's request with yes; see New.
func (c *Conn) Accept() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.state != stateOffered {
		return c.failure()
	}
	c.accept()
	return nil
}

func (c *Conn) accept() {
	c.open()
	c.say(tellResponse)
}

func (c *Conn) open() {
	c.state = stateOpen
	close(c.opened)
}

// say remembers what is to be told to the guest.
func (c *Conn) say(what uint) {
	c.tell |= what
	c.enqueue()
}

// sendable is how many bytes of a waiting Write the guest has room for.
func (c *Conn) sendable() int {
	if c.state != stateOpen {
		return 0
	}
	inFlight := c.sent - c.peerTaken
	if inFlight >= c.peerAlloc {
		return 0
	}
	return int(min(uint64(c.peerAlloc-inFlight), uint64(len(c.out))))
}

// enqueue puts the connection in line if it has something for the guest.
func (c *Conn) enqueue() {
	if c.queued || c.state == stateDead || c.tell == 0 && c.sendable() == 0 {
		return
	}
	c.queued = true
	c.d.ready = append(c.d.ready, c)
	c.d.wake()
}

// unqueue takes a dead connection out of the line. Else a guest that takes no
// packets could make the line grow with ever new connections.
func (c *Conn) unqueue() {
	if !c.queued {
		return
	}
	c.queued = false
	i := slices.Index(c.d.ready, c)
	c.d.ready = slices.Delete(c.d.ready, i, i+1)
}

// transmit writes the connection's next packet; 0: it has none.
func (c *Conn) transmit(to virtq.Buffers) int {
	if c.state == stateDead {
		return 0
	}
	h := header{
		src: hostCID, dst: uint64(c.d.cid), srcPort: c.k.host, dstPort: c.k.guest, typ: typeStream,
		alloc: bufferSize, taken: c.taken,
	}
	n := 0
	switch {
	case c.tell&tellRequest != 0:
		h.op, c.tell = opRequest, c.tell&^tellRequest
	case c.tell&tellResponse != 0:
		h.op, c.tell = opResponse, c.tell&^tellResponse
	case c.sendable() > 0:
		n = to.CopyIn(headerSize, c.out[:c.sendable()])
		h.op, h.size = opData, uint32(n)
		c.sent += uint32(n)
		if c.out = c.out[n:]; len(c.out) == 0 {
			c.writable.Broadcast()
		}
	case c.tell&tellShutdown != 0:
		h.op, h.flags, c.tell = opShutdown, shutSend, c.tell&^tellShutdown
		if c.closed {
			h.flags = shutBoth
		}
	case c.tell&tellCredit != 0:
		h.op = opCreditUpdate
	default:
		return 0
	}
	c.tell &^= tellCredit // every packet carries it
	c.told = c.taken
	b := h.bytes()
	to.CopyIn(0, b[:])
	return headerSize + n
}

var (
	errOrder  = errors.New("a packet out of order")
	errCredit = errors.New("data beyond the credit given")
)

// receive takes a packet that belongs to c. An error is the guest's fault.
func (c *Conn) receive(h *header, from virtq.Buffers) error {
	if h.op == opReset {
		if c.state == stateDialing {
			c.drop(errRefused)
		} else {
			c.drop(errReset)
		}
		return nil
	}
	switch {
	case c.state == stateOffered:
		return fmt.Errorf("%w: operation %d before the connection was accepted", errOrder, h.op)
	case (c.state == stateDialing) != (h.op == opResponse), c.tell&tellRequest != 0:
		return fmt.Errorf("%w: operation %d", errOrder, h.op)
	}
	if inFlight := int32(c.sent - h.taken); inFlight < 0 {
		return fmt.Errorf("it says it took %d bytes more than it was sent", -inFlight)
	}
	c.peerAlloc = min(h.alloc, maxAlloc)
	if int32(h.taken-c.peerTaken) > 0 { // Linux may send an older count after a newer one
		c.peerTaken = h.taken
	}
	switch h.op {
	case opResponse:
		c.open()
	case opData:
		if err := c.receiveData(h, from); err != nil {
			return err
		}
	case opShutdown:
		c.receiveShutdown(h.flags)
	case opCreditRequest:
		c.say(tellCredit)
	case opCreditUpdate:
	default:
		return fmt.Errorf("operation %d does not exist", h.op)
	}
	c.enqueue() // new credit may let a Write go on
	return nil
}

func (c *Conn) receiveData(h *header, from virtq.Buffers) error {
	switch {
	case c.guestEnd:
		return fmt.Errorf("%w: data after its end", errOrder)
	case uint64(h.size)+uint64(c.received-c.told) > bufferSize:
		return fmt.Errorf("%w: %d bytes", errCredit, h.size)
	}
	c.received += h.size
	if c.closed { // nobody will read it
		c.taken += h.size
		return nil
	}
	if !c.in.fill(int(h.size), from, headerSize) {
		return fmt.Errorf("a packet shorter than the %d bytes of data that it announces", h.size)
	}
	c.readable.Broadcast()
	return nil
}

func (c *Conn) receiveShutdown(flags uint32) {
	c.guestEnd = c.guestEnd || flags&shutSend != 0
	c.guestDeaf = c.guestDeaf || flags&shutRecv != 0
	c.readable.Broadcast()
	c.writable.Broadcast()
	if c.guestEnd && c.guestDeaf {
		// Nothing can follow. The reset frees the guest's port; our reader still
		// gets what is buffered, and then the end.
		c.abort(nil)
	}
}

// abort drops the connection and tells the guest.
func (c *Conn) abort(cause error) {
	if c.state == stateDead {
		return
	}
	if c.state != stateDialing || c.tell&tellRequest == 0 { // else the guest knows nothing of it
		c.d.stray(&header{srcPort: c.k.guest, dstPort: c.k.host, typ: typeStream})
	}
	c.drop(cause)
}

// drop forgets the connection. cause is what reads (after what is buffered)
// and writes end with; nil: the guest ended it in order.
func (c *Conn) drop(cause error) {
	delete(c.d.conns, c.k)
	c.fail(cause)
}

func (c *Conn) fail(cause error) {
	if c.state == stateDead {
		return
	}
	if c.state == stateDialing || c.state == stateOffered {
		close(c.opened)
	}
	c.state, c.err, c.tell = stateDead, cause, 0
	if c.timer != nil {
		c.timer.Stop()
	}
	c.unqueue()
	c.settle()
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// settle stops counting a connection that both ends have left. Until then it
// may hold bytes, and somebody's goroutine.
func (c *Conn) settle() {
	if !c.gone && c.state == stateDead && c.closed {
		c.gone = true
		c.d.held--
	}
}
