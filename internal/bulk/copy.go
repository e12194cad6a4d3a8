package bulk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/mem"
)

// Stream is the part of a gRPC stream that Receive needs.
type Stream interface{ RecvMsg(m any) error }

// Errors of Receive.
var (
	// ErrNotChunk: a message was not a chunk of at most ChunkSize bytes.
	ErrNotChunk = fmt.Errorf("a message is not a chunk of at most %d bytes", ChunkSize)
	// ErrTooLong: there came more bytes than were asked for; the excess
	// reached no sink.
	ErrTooLong = errors.New("more bytes came than expected")
)

// SinkError is an error of a sink; the sinks may differ in what they hold.
type SinkError struct{ Err error }

func (e *SinkError) Error() string { return e.Err.Error() }
func (e *SinkError) Unwrap() error { return e.Err }

// Receive hands the chunks of a stream to each sink until the stream ends. It
// returns how many bytes every sink has taken, at most limit. Each sink has a
// goroutine, which ends before Receive returns. The error is nil when the
// sender said that this was all; after any but a SinkError the sinks hold the
// same bytes. taken, if not nil, is told each chunk's size by the first sink's
// goroutine.
func Receive(s Stream, limit int64, taken func(n int), sinks ...io.Writer) (int64, error) {
	p := startPipeline(taken, sinks)
	var total int64
	for {
		var c Chunk
		if err := s.RecvMsg(&c); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, p.close(err)
		}
		n := int64(c.Data.Len())
		var err error
		switch {
		case c.NotChunk:
			err = ErrNotChunk
		case total+n > limit:
			err = ErrTooLong
		case !p.put(c):
			err = context.Canceled // close has the sink's error
		}
		if err != nil {
			c.Free()
			return total, p.close(err)
		}
		total += n
		c.Free()
	}
}

// pipeline feeds sinks in parallel.
type pipeline struct {
	queues []chan mem.BufferSlice
	done   sync.WaitGroup
	failed chan struct{}
	once   sync.Once
	err    error
}

func startPipeline(taken func(int), sinks []io.Writer) *pipeline {
	p := &pipeline{failed: make(chan struct{})}
	for i, w := range sinks {
		q := make(chan mem.BufferSlice, queued)
		p.queues = append(p.queues, q)
		report := taken
		if i > 0 {
			report = nil
		}
		p.done.Go(func() { p.drain(q, w, report) })
	}
	return p
}

func (p *pipeline) drain(q <-chan mem.BufferSlice, w io.Writer, report func(int)) {
	for data := range q {
		for _, b := range data {
			if p.hasFailed() {
				break
			}
			if _, err := w.Write(b.ReadOnlyData()); err != nil {
				p.once.Do(func() {
					p.err = err
					close(p.failed)
				})
			}
		}
		n := data.Len()
		data.Free()
		if report != nil {
			report(n)
		}
	}
}

func (p *pipeline) hasFailed() bool {
	select {
	case <-p.failed:
		return true
	default:
		return false
	}
}

// put returns false if a sink has failed.
func (p *pipeline) put(c Chunk) bool {
	for _, q := range p.queues {
		c.Data.Ref()
		select {
		case q <- c.Data:
		case <-p.failed:
			c.Data.Free()
			return false
		}
	}
	return true
}

// close waits for the sinks; a sink's error is more than err.
func (p *pipeline) close(err error) error {
	for _, q := range p.queues {
		close(q)
	}
	p.done.Wait()
	if p.hasFailed() {
		return &SinkError{Err: p.err}
	}
	return err
}

// Sender turns what is written to it into chunks on a stream. Writes are
// gathered into whole chunks that a goroutine sends; Close sends the last one
// and waits. After an error every Write fails with it.
type Sender struct {
	send   func(m any) error
	sent   func(n int)
	buf    *[]byte
	n      int
	queue  chan *Chunk
	failed chan struct{}
	ended  chan struct{}
	err    error
}

// NewSender starts a sender on a stream's SendMsg; sent, if not nil, is told
// the size of each chunk that gRPC has taken.
func NewSender(sendMsg func(m any) error, sent func(n int)) *Sender {
	s := &Sender{
		send: sendMsg, sent: sent,
		queue: make(chan *Chunk, 2), failed: make(chan struct{}), ended: make(chan struct{}),
	}
	go s.run()
	return s
}

func (s *Sender) run() {
	defer close(s.ended)
	for c := range s.queue {
		n := c.Data.Len()
		if s.err != nil {
			c.Free()
			continue
		}
		// gRPC frees the buffers, also when it fails.
		if err := s.send(c); err != nil {
			s.err = err
			close(s.failed)
			continue
		}
		if s.sent != nil {
			s.sent(n)
		}
	}
}

// Write implements io.Writer.
func (s *Sender) Write(b []byte) (written int, err error) {
	for len(b) > 0 {
		buf, err := s.free()
		if err != nil {
			return written, err
		}
		n := copy(buf, b)
		b, written = b[n:], written+n
		s.n += n
	}
	return written, nil
}

// ReadFrom implements io.ReaderFrom: r's bytes go straight into chunks.
func (s *Sender) ReadFrom(r io.Reader) (total int64, err error) {
	for {
		buf, err := s.free()
		if err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		s.n += n
		total += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// free is the rest of the chunk that is being filled.
func (s *Sender) free() ([]byte, error) {
	if s.buf != nil && s.n == ChunkSize {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	if s.buf == nil {
		select {
		case <-s.failed:
			return nil, s.err
		default:
		}
		s.buf = pool.Get(ChunkSize)
	}
	return (*s.buf)[s.n:ChunkSize], nil
}

func (s *Sender) flush() error {
	if s.buf == nil || s.n == 0 {
		return nil
	}
	*s.buf = (*s.buf)[:s.n]
	c := &Chunk{Data: mem.BufferSlice{mem.NewBuffer(s.buf, pool)}}
	s.buf, s.n = nil, 0
	select {
	case s.queue <- c:
		return nil
	case <-s.failed:
		c.Free()
		return s.err
	}
}

// Close sends what is left and waits for it; it must be called once. A stream
// error of a client's stream is io.EOF: ask the stream for the status.
func (s *Sender) Close() error {
	err := s.flush()
	close(s.queue)
	<-s.ended
	if err != nil {
		return err
	}
	return s.err
}

// Abandon ends the sender without the chunk that is being filled.
func (s *Sender) Abandon() {
	s.buf, s.n = nil, 0
	close(s.queue)
	<-s.ended
}
