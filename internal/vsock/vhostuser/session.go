// Package vhostuser is the back end of a vhost-user device (QEMU's
// docs/interop/vhost-user) with a receive and a transmit queue: it talks to
// one QEMU over one unix socket, maps the guest's memory and works its queues,
// and leaves what the packets mean to a Handler.
//
// Invariants:
//
//   - Control messages change queues and memory under the write half of one
//     lock; each queue has one worker, which holds the read half for a bounded
//     batch. So no message ever pulls memory from under a worker.
//   - The transmit worker never waits: not for receive buffers, not for a
//     reader on the host. Back-pressure is the credit of the vsock protocol.
//   - Used entries are published before a worker waits.
//   - A guest that breaks a queue's rules loses the queue until it resets the
//     device; a front end that breaks the protocol ends the session, and so
//     does a fault in guest memory. What a guest makes this package log is
//     bounded.
//   - QEMU stops and starts queues both for a pause and for a reset. A resume
//     brings back the index that was handed out; a queue that had moved and
//     comes back with index 0 is a reset, and every connection of the guest's
//     earlier life ends.
//   - Serve returns when every goroutine of the session has ended.
package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/virtq"
)

// Queue numbers, as the guest names them. The event queue stays with QEMU.
const (
	queueRX   = 0 // to the guest
	queueTX   = 1 // from the guest
	numQueues = 2
)

// Feature bits: virtio's, and the protocol's own.
const (
	featIndirect = 1 << 28
	featProtocol = 1 << 30
	featVersion1 = 1 << 32
	features     = featVersion1 | featProtocol | featIndirect

	protoMQ          = 1 << 0
	protoReplyAck    = 1 << 3
	protoConfig      = 1 << 9
	protocolFeatures = protoMQ | protoReplyAck | protoConfig
)

const (
	// batch is how many chains a worker takes before it lets control messages in.
	batch = 64

	// warnings is how many broken queues are logged; the rest are counted.
	warnings = 20
)

// Handler is the device behind the queues. Its methods must not block.
type Handler interface {
	// Receive takes one packet from the guest. The buffers are valid, and may
	// change, until it returns.
	Receive(virtq.Buffers)
	// Pending says whether a packet for the guest is ready.
	Pending() bool
	// Transmit writes one packet for the guest to the buffers and returns its
	// length in bytes, or 0 where none is ready any more.
	Transmit(virtq.Buffers) int
	// MinBuffer is the smallest receive buffer in bytes that Transmit can use.
	MinBuffer() int
	// Reset forgets every connection: the guest has none any more.
	Reset(error)
}

// Session is one QEMU's connection to one device.
type Session struct {
	conn    *net.UnixConn
	handler Handler
	config  []byte
	log     *slog.Logger

	acked, proto uint64 // control loop alone

	mu     sync.RWMutex // the design's one lock: mem and queues
	mem    *virtq.Memory
	queues [numQueues]*vring

	breaks atomic.Int64          // how often the guest broke a queue
	fault  atomic.Pointer[error] // the first that a worker met

	stop chan struct{}
	wg   sync.WaitGroup // workers and kick readers
}

// New makes a session on conn, which it owns from now on. config is the
// device's configuration space, which the guest reads.
func New(conn *net.UnixConn, h Handler, config []byte, log *slog.Logger) *Session {
	s := &Session{conn: conn, handler: h, config: config, log: log, stop: make(chan struct{})}
	for i := range s.queues {
		s.queues[i] = newVring(i)
	}
	return s
}

// Wake tells the session that the handler has something for the guest.
func (s *Session) Wake() { s.queues[queueRX].notify() }

// Close ends the session; Serve then returns.
func (s *Session) Close() error { return s.conn.Close() }

// Serve works until the front end hangs up (nil), Close is called (an error
// that wraps net.ErrClosed), or something is wrong.
func (s *Session) Serve() error {
	s.wg.Go(func() { s.work(s.queues[queueTX], s.receiveBatch) })
	s.wg.Go(func() { s.work(s.queues[queueRX], s.transmitBatch) })
	err := guard(s.control)
	close(s.stop)
	s.conn.Close()
	s.mu.Lock()
	for _, q := range s.queues {
		q.close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.mem.Unmap()
	if n := s.breaks.Load(); n > warnings {
		s.log.Warn("vsock device: the guest broke its queues more often than was logged", "count", n)
	}
	if fault := s.fault.Load(); fault != nil { // this is why the connection was closed
		return *fault
	}
	return err
}

// control answers requests until the front end goes.
func (s *Session) control() error {
	for {
		err := s.step()
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("vhost-user: %w", err)
		}
	}
}

// step reads and answers one request.
func (s *Session) step() error {
	m, err := readMessage(s.conn)
	defer m.closeFiles()
	if err != nil {
		return err
	}
	return s.answer(&m)
}

func (s *Session) answer(m *message) error {
	reply, err := s.handle(m)
	if err != nil {
		err = fmt.Errorf("request %d: %w", m.request, err)
	}
	if reply == nil && m.flags&flagNeedReply != 0 && s.proto&protoReplyAck != 0 {
		reply = make([]byte, 8)
		if err != nil {
			reply[0] = 1
		}
	}
	if reply != nil {
		if werr := writeReply(s.conn, m.request, reply); err == nil {
			err = werr
		}
	}
	return err
}

// guard runs what touches guest memory. A fault there (which the seals should
// make impossible) ends the session with an error, not the process.
func guard(run func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("fault while working on guest memory: %v", r)
		}
	}()
	return run()
}

// work runs one queue's batches until the session ends.
func (s *Session) work(q *vring, run func() (more bool)) {
	err := guard(func() error {
		for {
			select {
			case <-s.stop:
				return nil
			case <-q.wake:
			}
			for run() {
				select {
				case <-s.stop:
					return nil
				default:
				}
			}
		}
	})
	if err != nil {
		err = fmt.Errorf("queue %d: %w", q.index, err)
		s.fault.CompareAndSwap(nil, &err)
		s.conn.Close() // the control loop ends, and with it the session
	}
}

// receiveBatch takes packets that the guest sent.
func (s *Session) receiveBatch() (more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	q := s.queues[queueTX]
	if !q.ready() {
		return false
	}
	q.ring.WantKicks(false)
	for range batch {
		ok, err := q.ring.Pop(&q.chain)
		if err != nil {
			s.broken(q, err)
			return false
		}
		if !ok {
			break
		}
		s.handler.Receive(q.chain.Out)
		q.ring.Push(q.chain.Head, 0)
	}
	q.publish()
	q.ring.WantKicks(true)
	return q.ring.Available()
}

// transmitBatch fills receive buffers of the guest with what the handler has.
func (s *Session) transmitBatch() (more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	q := s.queues[queueRX]
	if !q.ready() {
		return false
	}
	q.ring.WantKicks(false)
	for range batch {
		if !s.handler.Pending() {
			break
		}
		ok, err := q.ring.Pop(&q.chain)
		if err == nil && ok && q.chain.In.Len() < s.handler.MinBuffer() {
			err = fmt.Errorf("%w: a receive buffer of %d bytes, at least %d are needed", virtq.ErrBroken, q.chain.In.Len(), s.handler.MinBuffer())
		}
		if err != nil {
			s.broken(q, err)
			return false
		}
		if !ok {
			// The guest must see what is filled before we wait for it to refill.
			q.publish()
			q.ring.WantKicks(true)
			return q.ring.Available()
		}
		n := s.handler.Transmit(q.chain.In)
		if n == 0 {
			q.ring.Unpop()
			break
		}
		q.ring.Push(q.chain.Head, n)
	}
	q.publish()
	return s.handler.Pending()
}

// broken takes a queue out of use; the caller holds the read half of mu, which
// keeps control messages out, and is the queue's only worker.
func (s *Session) broken(q *vring, err error) {
	q.broken.Store(true)
	q.signalError()
	if s.breaks.Add(1) <= warnings {
		s.log.Warn("vsock device: the guest broke its queue; the device rests until the guest resets it", "queue", q.index, "error", err)
	}
	s.handler.Reset(err)
}

// u64 is a reply's usual body.
func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
