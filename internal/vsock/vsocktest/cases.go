package vsocktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Case is one thing that must hold between two ends, whichever dials.
type Case struct {
	Name string
	run  func(ctx context.Context, e *end) error
}

// end is where the cases of one run dial from.
type end struct {
	dial Dial
	size Size
	base uint64 // outcomes' names of this run begin here
}

// Size scales the suite: nested emulation gets a smaller one.
type Size struct {
	Bytes int64 // of the large transfers
	Conns int   // at once
}

// The suite's two sizes.
var (
	Full  = Size{Bytes: 16<<20 + 12345, Conns: 100}
	Small = Size{Bytes: 1<<20 + 12345, Conns: 20}
)

// Cases are all of them, in order.
var Cases = []Case{
	{"a port on which nobody listens is refused", refused},
	{"large upload of odd sizes arrives unchanged", upload},
	{"large download of odd sizes arrives unchanged", download},
	{"echo of every size around the packet sizes", echoSizes},
	{"half close: our end first", halfCloseOurs},
	{"half close: their end first", halfCloseTheirs},
	{"many connections at once", many},
	{"connections one after the other", sequence},
	{"a stalled reader holds up nobody else", stalls},
	{"a peer that closes in mid-transfer", peerDrops},
	{"we close in mid-transfer", weDrop},
	{"deadlines end a call, not the connection", deadlines},
	{"Close ends a waiting Read", closeUnblocks},
}

// Run runs the case by dialing the other end's Server.
func (c Case) Run(ctx context.Context, dial Dial, size Size, base uint64) error {
	return c.run(ctx, &end{dial, size, base})
}

func refused(ctx context.Context, e *end) error {
	c, err := e.dial(ctx, DeadPort)
	if err == nil {
		c.Close()
		return errors.New("connected")
	}
	// Linux calls a refused vsock connection a reset one.
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("neither refused nor reset: %w", err)
	}
	return nil
}

func upload(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opDigest, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := transfer(c, newPattern(e.size.Bytes)); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("half close: %w", err)
	}
	return expectReport(c, e.size.Bytes)
}

func expectReport(c net.Conn, n int64) error {
	var r report
	if err := binary.Read(c, binary.LittleEndian, &r); err != nil {
		return fmt.Errorf("reading the report: %w", err)
	}
	if r.Count != uint64(n) || !bytes.Equal(r.Digest[:], patternDigest(n).Sum(nil)) {
		return fmt.Errorf("%d bytes with digest %x arrived, of %d", r.Count, r.Digest, n)
	}
	return nil
}

func download(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opSource, uint64(e.size.Bytes))
	if err != nil {
		return err
	}
	defer c.Close()
	return expectPattern(c, e.size.Bytes)
}

func expectPattern(r io.Reader, n int64) error {
	h := patternDigest(0)
	got, err := transfer(h, r)
	if err != nil {
		return fmt.Errorf("reading byte %d of %d: %w", got, n, err)
	}
	if want := patternDigest(n); got != n || !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("%d bytes with digest %x arrived, of %d", got, h.Sum(nil), n)
	}
	return nil
}

func echoSizes(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opEcho, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, n := range []int{1, 2, 43, 44, 45, 3700, 4051, 4052, 4053, 4096, 65491, 65536, 65537, 70001} {
		if err := echo(c, n); err != nil {
			return err
		}
	}
	return nil
}

// echo sends n bytes and expects them back. n must fit into the buffers.
func echo(c net.Conn, n int) error {
	out, in := make([]byte, n), make([]byte, n)
	io.ReadFull(newPattern(int64(n)), out)
	if _, err := c.Write(out); err != nil {
		return fmt.Errorf("writing %d bytes: %w", n, err)
	}
	if _, err := io.ReadFull(c, in); err != nil {
		return fmt.Errorf("reading %d bytes back: %w", n, err)
	}
	if !bytes.Equal(in, out) {
		return fmt.Errorf("%d bytes came back changed", n)
	}
	return nil
}

func halfCloseOurs(ctx context.Context, e *end) error {
	const n = 300001
	c, err := open(ctx, e.dial, opDigest, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := transfer(c, newPattern(n)); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("half close: %w", err)
	}
	if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("writing after the half close: %w, not a broken pipe", err)
	}
	if err := expectReport(c, n); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("after the report: %w, not the end", err)
	}
	return nil
}

func halfCloseTheirs(ctx context.Context, e *end) error {
	const n = 300001
	c, err := open(ctx, e.dial, opLate, e.base+1)
	if err != nil {
		return err
	}
	defer c.Close()
	if k, err := c.Read(make([]byte, 1)); k != 0 || err != io.EOF {
		return fmt.Errorf("%d bytes, %w, not the end", k, err)
	}
	if _, err := transfer(c, newPattern(n)); err != nil {
		return fmt.Errorf("writing after their end: %w", err)
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("half close: %w", err)
	}
	got, err := e.outcome(ctx, e.base+1)
	if err == nil && got != n {
		err = fmt.Errorf("%d bytes arrived after their end, of %d", got, n)
	}
	return err
}

// outcome asks the other end.
func (e *end) outcome(ctx context.Context, name uint64) (n uint64, err error) {
	c, err := open(ctx, e.dial, opOutcome, name)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := binary.Read(c, binary.LittleEndian, &n); err != nil {
		return 0, fmt.Errorf("reading an outcome: %w", err)
	}
	return n, nil
}

func many(ctx context.Context, e *end) error {
	var connected sync.WaitGroup
	connected.Add(e.size.Conns)
	g, ctx := errgroup.WithContext(ctx)
	for range e.size.Conns {
		g.Go(func() error {
			c, err := open(ctx, e.dial, opEcho, 0)
			connected.Done()
			if err != nil {
				return err
			}
			defer c.Close()
			connected.Wait() // so that all are open at once
			for range 3 {
				if err := echo(c, 32<<10); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func sequence(ctx context.Context, e *end) error {
	for i := range e.size.Conns {
		c, err := open(ctx, e.dial, opEcho, 0)
		if err == nil {
			err = echo(c, 1)
			c.Close()
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}

func stalls(ctx context.Context, e *end) error {
	const readers, n = 4, 4 << 20
	var writers errgroup.Group
	for i := range uint64(readers) {
		c, err := open(ctx, e.dial, opStall, e.base+10+i)
		if err != nil {
			return err
		}
		defer c.Close()
		writers.Go(func() error {
			if _, err := transfer(c, newPattern(n)); err != nil {
				return fmt.Errorf("writing to a reader that stalled: %w", err)
			}
			if err := c.CloseWrite(); err != nil {
				return err
			}
			return expectReport(c, n)
		})
	}
	unread, err := open(ctx, e.dial, opSource, n)
	if err != nil {
		return err
	}
	defer unread.Close()
	c, err := open(ctx, e.dial, opEcho, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	for range 20 { // goes on although five others stand
		if err := echo(c, 32<<10); err != nil {
			return fmt.Errorf("beside stalled readers: %w", err)
		}
	}
	for i := range uint64(readers) {
		r, err := open(ctx, e.dial, opRelease, e.base+10+i)
		if err != nil {
			return err
		}
		_, err = io.ReadFull(r, make([]byte, 1))
		r.Close()
		if err != nil {
			return fmt.Errorf("releasing a stalled reader: %w", err)
		}
	}
	if err := writers.Wait(); err != nil {
		return err
	}
	return expectPattern(unread, n)
}

func peerDrops(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opDrop, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = transfer(c, newPattern(1<<62))
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("writing to a closed peer: %w, neither a broken pipe nor a reset", err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("reading from a closed peer: %d bytes, %w, neither the end nor a reset", n, err)
	}
	return nil
}

func weDrop(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opEndless, e.base+2)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 100001)); err != nil {
		c.Close()
		return fmt.Errorf("reading: %w", err)
	}
	if err := c.Close(); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	got, err := e.outcome(ctx, e.base+2)
	if err == nil && got != failed {
		err = errors.New("the peer's writes did not fail")
	}
	return err
}

func deadlines(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opEcho, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, at := range []time.Time{time.Unix(1, 0), time.Now().Add(50 * time.Millisecond)} {
		if err := c.SetReadDeadline(at); err != nil {
			return err
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("reading past the deadline: %w", err)
		}
	}
	if err := c.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("writing past the deadline: %w", err)
	}
	d, _ := ctx.Deadline()
	if err := c.SetDeadline(d); err != nil {
		return err
	}
	return echo(c, 5000)
}

func closeUnblocks(ctx context.Context, e *end) error {
	c, err := open(ctx, e.dial, opEcho, 0)
	if err != nil {
		return err
	}
	if err := echo(c, 1); err != nil {
		c.Close()
		return err
	}
	got := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		got <- err
	}()
	if err := c.Close(); err != nil {
		return err
	}
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("the waiting Read: %w", err)
	}
	return nil
}
