package vsock

import (
	"net"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const anyCID = unix.VMADDR_CID_ANY

// peerListener accepts the connections of one CID and closes all others.
type peerListener struct {
	*vsock.Listener
	cid uint32
}

// Accept waits for a connection of the peer.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*vsock.Addr); ok && a.ContextID == l.cid {
			return c, nil
		}
		c.Close()
	}
}
