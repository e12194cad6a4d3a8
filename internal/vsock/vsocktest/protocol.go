// Package vsocktest is one suite for every way of internal/vsock: what the
// guest's part and the host's part of a real VM do to each other.
//
// Both ends run the same two things: a Server, which answers connections as
// their first bytes ask, and the Cases, which dial the other end's Server. A
// host runs the cases itself and tells the guest, over the Session that the
// guest opens when it is up, to run them the other way round. Suite adds what
// only a host can do: pause, resume and reboot in the middle of a transfer.
//
// Nothing here sleeps to get an order: a stalled reader is one that waits to
// be released by another connection, an outcome on the far end is asked for.
// Deadlines are there only so that a fault ends a test.
package vsocktest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"net"
	"sync"

	"github.com/ultravioletrs/cocos/internal/vsock"
)

// Ports, in the guest and on the host alike.
const (
	ServerPort  = 1024 // a Server
	SessionPort = 9100 // on the host: the guest's Session
	DeadPort    = 9999 // nobody listens here
)

// op says what a Server does with a connection. Its request is the op and a
// number n, little-endian: a count of bytes, or the name of an outcome.
type op byte

const (
	opEcho    op = 'E' // send back what comes, to the end
	opSink    op = 'S' // read n bytes, answer one
	opZeros   op = 'N' // send n zero bytes, then end
	opSource  op = 'G' // send n bytes of the pattern, then end
	opDigest  op = 'H' // read to the end, answer count and SHA-256
	opStall   op = 'D' // like opDigest, but only after opRelease of n
	opRelease op = 'R'
	opDrop    op = 'X' // close at once, whatever comes
	opEndless op = 'Z' // send until it fails; outcome n is then known
	opLate    op = 'L' // send the end first, then read to the end; the count is outcome n
	opOutcome op = 'T' // wait for outcome n, answer its number
)

const (
	requestSize = 9          // bytes
	chunk       = 64 << 10   // bytes a copy loop moves at a time
	failed      = ^uint64(0) // the outcome of what ended with an error
)

// Dial connects to a port of the other end.
type Dial func(ctx context.Context, port uint32) (net.Conn, error)

// Server answers connections of the other end.
type Server struct {
	mu       sync.Mutex
	outcomes map[uint64]chan uint64 // by name; holds one number once it is known
}

// NewServer makes a Server.
func NewServer() *Server { return &Server{outcomes: map[uint64]chan uint64{}} }

// Serve answers connections until the listener is closed, and waits for them.
func (s *Server) Serve(l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			s.answer(c.(vsock.CloseWriter))
		})
	}
}

// outcome is the mailbox of a name.
func (s *Server) outcome(name uint64) chan uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outcomes[name] == nil {
		s.outcomes[name] = make(chan uint64, 1)
	}
	return s.outcomes[name]
}

func (s *Server) answer(c vsock.CloseWriter) {
	var req [requestSize]byte
	if _, err := io.ReadFull(c, req[:]); err != nil {
		return
	}
	n := binary.LittleEndian.Uint64(req[1:])
	switch op(req[0]) {
	case opEcho:
		if _, err := transfer(c, c); err == nil {
			c.CloseWrite()
			io.Copy(io.Discard, c)
		}
	case opSink:
		if _, err := transfer(io.Discard, io.LimitReader(c, int64(n))); err == nil {
			c.Write([]byte{1})
		}
	case opZeros:
		if _, err := transfer(c, io.LimitReader(zeros{}, int64(n))); err == nil {
			c.CloseWrite()
			io.Copy(io.Discard, c)
		}
	case opSource:
		if _, err := transfer(c, newPattern(int64(n))); err == nil {
			c.CloseWrite()
			io.Copy(io.Discard, c)
		}
	case opDigest:
		s.digest(c)
	case opStall:
		<-s.outcome(n)
		s.digest(c)
	case opRelease:
		s.outcome(n) <- 0
		c.Write([]byte{1})
	case opDrop:
	case opEndless:
		if _, err := transfer(c, newPattern(1<<62)); err != nil {
			s.outcome(n) <- failed
		}
	case opLate:
		c.CloseWrite()
		k, err := transfer(io.Discard, c)
		if err != nil {
			s.outcome(n) <- failed
			return
		}
		s.outcome(n) <- uint64(k)
	case opOutcome:
		binary.Write(c, binary.LittleEndian, <-s.outcome(n))
	}
}

// report is what opDigest and opStall answer.
type report struct {
	Count  uint64
	Digest [sha256.Size]byte
}

func (s *Server) digest(c net.Conn) {
	h := sha256.New()
	n, err := transfer(h, c)
	if err != nil {
		return
	}
	binary.Write(c, binary.LittleEndian, report{uint64(n), [sha256.Size]byte(h.Sum(nil))})
}

// transfer is the copy loop of everything here, and of the measurements.
func transfer(to io.Writer, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, chunk))
}

// ask sends a request.
func ask(c net.Conn, o op, n uint64) error {
	req := binary.LittleEndian.AppendUint64([]byte{byte(o)}, n)
	if _, err := c.Write(req); err != nil {
		return fmt.Errorf("sending request %c: %w", o, err)
	}
	return nil
}

// open dials the other end's Server and sends a request.
func open(ctx context.Context, dial Dial, o op, n uint64) (vsock.CloseWriter, error) {
	c, err := dial(ctx, ServerPort)
	if err != nil {
		return nil, fmt.Errorf("connecting for request %c: %w", o, err)
	}
	cw, ok := c.(vsock.CloseWriter)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("a %T has no CloseWrite", c)
	}
	if d, ok := ctx.Deadline(); ok {
		err = c.SetDeadline(d)
	}
	if err == nil {
		err = ask(c, o, n)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return cw, nil
}

// pattern is a stream of bytes of which no two places look alike.
type pattern struct {
	left int64
	at   uint64
	odd  int
}

func newPattern(n int64) *pattern { return &pattern{left: n} }

// Read fills p, in pieces of odd sizes.
func (r *pattern) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	r.odd = r.odd*7%chunk + 997
	n := int(min(int64(len(p)), int64(r.odd), r.left))
	for i := range n {
		x := (r.at + uint64(i)) >> 3 * 0x9e3779b97f4a7c15
		p[i] = byte(x >> (8 * ((r.at + uint64(i)) & 7)))
	}
	r.at += uint64(n)
	r.left -= int64(n)
	return n, nil
}

// patternDigest is the SHA-256 of the pattern's first n bytes.
func patternDigest(n int64) (h hash.Hash) {
	h = sha256.New()
	transfer(h, newPattern(n))
	return h
}
