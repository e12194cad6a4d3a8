package vsock

import (
	"net"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const anyCID = unix.VMADDR_CID_ANY

// peerListener accepts the connections of one CID and closes all others.
type peerListener struct {
	deadlineListener
	cid uint32
}

type deadlineListener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// Accept waits for a connection of the peer.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.deadlineListener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*vsock.Addr); ok && a.ContextID == l.cid {
			return c, nil
		}
		c.Close()
	}
}
