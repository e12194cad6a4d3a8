package device

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
)

// Listener accepts the guest's connections to one port of the host.
type Listener struct {
	d    *Device
	port uint32

	// Guarded by d.mu.
	waiting []*Conn
	err     error
	arrived *sync.Cond
	until   deadline
}

// Listen accepts connections of the guest to port. A port can be listened on
// once; the error then wraps syscall.EADDRINUSE.
func (d *Device) Listen(port uint32) (*Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended != nil {
		return nil, d.ended
	}
	if d.listeners[port] != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, syscall.EADDRINUSE)
	}
	l := &Listener{d: d, port: port, arrived: sync.NewCond(&d.mu)}
	d.listeners[port] = l
	return l, nil
}

func (l *Listener) room() bool { return len(l.waiting) < maxBacklog }

func (l *Listener) offer(c *Conn) {
	l.waiting = append(l.waiting, c)
	l.arrived.Signal()
}

// end makes Accept fail with cause.
func (l *Listener) end(cause error) {
	l.err = cause
	l.until.stop()
	delete(l.d.listeners, l.port)
	for _, c := range l.waiting {
		c.abort(cause)
		c.close()
	}
	l.waiting = nil
	l.arrived.Broadcast()
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	for {
		switch {
		case l.err != nil:
			return nil, l.opError(l.err)
		case l.until.passed:
			return nil, l.opError(os.ErrDeadlineExceeded)
		case len(l.waiting) > 0:
			c := l.waiting[0]
			l.waiting = l.waiting[1:]
			return c, nil
		}
		l.arrived.Wait()
	}
}

// SetDeadline sets the deadline of Accept.
func (l *Listener) SetDeadline(t time.Time) error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.err != nil {
		return l.opError(l.err)
	}
	l.until.set(t, l.arrived)
	return nil
}

// Close stops listening; connections that nobody has accepted are reset.
func (l *Listener) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.err != nil {
		return l.opError(l.err)
	}
	l.end(net.ErrClosed)
	return nil
}

// Addr is the host's address, a *vsock.Addr.
func (l *Listener) Addr() net.Addr { return &vsock.Addr{ContextID: hostCID, Port: l.port} }

func (l *Listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: err}
}
