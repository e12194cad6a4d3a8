// Package vsock carries connections between a virtual machine and its host.
//
// In the guest it is always AF_VSOCK: DialHost and ListenGuest. On the host
// there are two ways behind one interface, Host: KernelHost uses the kernel's
// /dev/vhost-vsock; UserHost is a vhost-user device in this process and needs
// neither a kernel module nor root. Both pass the suite in vsocktest.
//
// What holds for both:
//
//   - A Host speaks with one VM. Connections of any other are not accepted.
//   - Connections have half close (CloseWriter), deadlines, and back-pressure;
//     one whose reader stalls does not hold up another.
//   - A UserHost's connection that the guest resets reads as ECONNRESET. Linux
//     itself reports a reset AF_VSOCK connection as its end, so a protocol
//     above must mark its own end, as TLS and gRPC do.
//   - A port of the host is dialed by the guest under the number PortFor gives:
//     with the kernel's way all VMs share the host's ports.
//
// The packages below: virtq (queues in guest memory), vhostuser (the session
// with QEMU), device (connections). docs/vsock.md has the whole picture.
package vsock

import (
	"context"
	"net"

	"github.com/ultravioletrs/cocos/internal/vsock/device"
)

// HostCID is the host's address, as guests see it.
const HostCID = 2

// Host is the host's end of one VM's vsock.
type Host interface {
	// GuestCID is the guest's address: QEMU's guest-cid in the kernel's way;
	// the user way's device tells QEMU itself.
	GuestCID() uint32
	// Listen accepts connections that the guest makes with DialHost to port.
	// Its listener has SetDeadline, its connections are CloseWriters.
	Listen(port uint32) (net.Listener, error)
	// Dial connects to a port in the guest; the connection is a CloseWriter. A
	// port on which nobody listens gives an error at once; a guest that is not
	// up may take until the context ends.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Close ends the listeners and waits for what it started. Connections end
	// with it (the user way) or with the VM (the kernel's).
	Close() error
}

// CloseWriter is a connection with half close.
type CloseWriter interface {
	net.Conn
	// CloseWrite tells the peer that nothing more will be written.
	CloseWrite() error
}

// PortFor is the number under which a guest with the given CID dials port of
// its host: the CID in the upper 16 bits, the port in the lower. In the
// kernel's way it keeps the ports of several VMs apart, for AF_VSOCK has one
// set of ports for the whole host; a UserHost accepts it as well as the plain
// number. Ports beyond 65535 stay as they are.
func PortFor(cid, port uint32) uint32 { return device.PortFor(cid, port) }
