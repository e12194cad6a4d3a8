package vsock

import (
	"context"
	"fmt"
	"net"

	"github.com/mdlayher/vsock"
)

// DialHost connects, in a guest, to a port of its host. It is tried once; the
// context bounds it. Connections are CloseWriters.
func DialHost(ctx context.Context, port uint32) (net.Conn, error) {
	cid, err := vsock.ContextID()
	if err != nil {
		return nil, fmt.Errorf("reading this VM's vsock CID (are the vsock modules loaded?): %w", err)
	}
	// The library connects without blocking and waits in Go's poller: the
	// signals with which Go preempts goroutines can't interrupt it.
	c, err := vsock.DialContext(ctx, HostCID, PortFor(cid, port), nil)
	if err != nil {
		return nil, fmt.Errorf("dialing port %d of the host over vsock: %w", port, err)
	}
	return c, nil
}

// ListenGuest listens, in a guest, on a vsock port, for the host alone to
// connect to.
func ListenGuest(port uint32) (net.Listener, error) {
	l, err := vsock.ListenContextID(anyCID, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return &peerListener{deadlineListener: l, cid: HostCID}, nil
}
