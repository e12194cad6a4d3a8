package vsock

import (
	"net"
	"testing"
	"time"

	"github.com/mdlayher/vsock"
)

// addrConn is a connection from somewhere that remembers whether it was closed.
type addrConn struct {
	net.Conn
	addr   net.Addr
	closed bool
}

func (c *addrConn) RemoteAddr() net.Addr { return c.addr }
func (c *addrConn) Close() error         { c.closed = true; return nil }

type fakeListener struct {
	net.Listener
	conns []*addrConn
}

func (l *fakeListener) SetDeadline(time.Time) error { return nil }
func (l *fakeListener) Accept() (net.Conn, error) {
	if len(l.conns) == 0 {
		return nil, net.ErrClosed
	}
	c := l.conns[0]
	l.conns = l.conns[1:]
	return c, nil
}

func TestOnlyThePeerIsAccepted(t *testing.T) {
	var conns []*addrConn
	for _, a := range []net.Addr{
		&vsock.Addr{ContextID: 6}, &vsock.Addr{ContextID: 1}, &vsock.Addr{ContextID: HostCID}, &vsock.Addr{ContextID: 7 | 1<<16},
		&net.UnixAddr{Name: "7"}, &vsock.Addr{ContextID: 7, Port: 5},
	} {
		conns = append(conns, &addrConn{addr: a})
	}
	l := &peerListener{deadlineListener: &fakeListener{conns: conns}, cid: 7}
	c, err := l.Accept()
	if err != nil || c != net.Conn(conns[5]) {
		t.Fatalf("accepted %v, %v", c, err)
	}
	for i, c := range conns {
		if c.closed != (i < 5) {
			t.Errorf("connection of %v is closed: %v", c.addr, c.closed)
		}
	}
	if _, err := l.Accept(); err != net.ErrClosed {
		t.Errorf("Accept after the listener's end: %v", err)
	}
}
