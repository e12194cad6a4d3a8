package device

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
)

// Read reads what the guest sent. After the guest's announced end it returns
// io.EOF; after an unannounced one an error that wraps syscall.ECONNRESET.
func (c *Conn) Read(p []byte) (int, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readUntil.passed:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		}
		if n := c.in.take(p); n > 0 {
			c.taken += uint32(n)
			if c.state == stateOpen && !c.guestEnd && c.taken-c.told >= bufferSize/4 {
				c.say(tellCredit)
			}
			return n, nil
		}
		if c.guestEnd {
			return 0, io.EOF
		}
		if c.state == stateDead {
			return 0, c.opError("read", c.failure())
		}
		c.readable.Wait()
	}
}

// Write returns when all of p lies in the guest's memory, or with an error and
// the number of bytes that do. Once the guest receives no more, the error
// wraps syscall.EPIPE.
func (c *Conn) Write(p []byte) (int, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for c.writing && c.writeError() == nil {
		c.writable.Wait()
	}
	if err := c.writeError(); err != nil || len(p) == 0 {
		return 0, c.opError("write", err)
	}
	c.writing, c.out = true, p
	c.enqueue()
	for len(c.out) > 0 && c.writeError() == nil {
		c.writable.Wait()
	}
	n := len(p) - len(c.out)
	c.writing, c.out = false, nil
	c.writable.Broadcast() // the next writer
	if n == len(p) {
		return n, nil
	}
	return n, c.opError("write", c.writeError())
}

// writeError says why nothing can be written, if so.
func (c *Conn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeUntil.passed:
		return os.ErrDeadlineExceeded
	case c.ended || c.guestDeaf:
		return syscall.EPIPE
	case c.state == stateDead:
		return c.failure()
	}
	return nil
}

// failure is what a dead connection answers with.
func (c *Conn) failure() error {
	if c.err == nil {
		return syscall.EPIPE
	}
	return c.err
}

// CloseWrite tells the guest that no more data will come; reading goes on.
func (c *Conn) CloseWrite() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	switch {
	case c.closed:
		return c.opError("close", net.ErrClosed)
	case c.state == stateDead:
		return c.opError("close", c.failure())
	case c.ended:
		return nil
	}
	c.ended = true
	c.writable.Broadcast()
	c.say(tellShutdown)
	return nil
}

// Close ends the connection. What was written arrives. If there is something
// unread the guest sees a reset, as with TCP.
func (c *Conn) Close() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	unread := c.in.len() > 0
	c.close()
	switch {
	case c.state == stateDead:
	case c.state != stateOpen || unread:
		c.abort(net.ErrClosed)
	default:
		c.say(tellShutdown)
		c.timer = time.AfterFunc(closeTimeout, func() {
			c.d.mu.Lock()
			defer c.d.mu.Unlock()
			c.abort(net.ErrClosed)
		})
	}
	return nil
}

// Reset ends the connection at once; the guest sees a reset.
func (c *Conn) Reset() {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.close()
	c.abort(net.ErrClosed)
}

// close wakes everyone who waits on the connection's own end.
func (c *Conn) close() {
	c.closed = true
	c.in.drop()
	c.settle()
	c.readUntil.stop()
	c.writeUntil.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// SetDeadline, SetReadDeadline and SetWriteDeadline are as in net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

// SetReadDeadline sets the deadline of Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline sets the deadline of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	if read {
		c.readUntil.set(t, c.readable)
	}
	if write {
		c.writeUntil.set(t, c.writable)
	}
	return nil
}

// LocalAddr is the host's end, a *vsock.Addr.
func (c *Conn) LocalAddr() net.Addr { return &vsock.Addr{ContextID: hostCID, Port: c.k.host} }

// RemoteAddr is the guest's end, a *vsock.Addr.
func (c *Conn) RemoteAddr() net.Addr { return &vsock.Addr{ContextID: c.d.cid, Port: c.k.guest} }

func (c *Conn) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// HostPort is the connection's port on the host.
func (c *Conn) HostPort() uint32 { return c.k.host }
