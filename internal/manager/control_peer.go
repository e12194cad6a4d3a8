package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// caller is who is at the other end of the control socket, as the kernel says.
type caller struct {
	uid, gid uint32
	pid      int32
}

// LogValue implements slog.LogValuer.
func (c caller) LogValue() slog.Value {
	name := "unknown"
	if u, err := user.LookupId(strconv.FormatUint(uint64(c.uid), 10)); err == nil {
		name = u.Username
	}
	return slog.GroupValue(slog.String("user", name), slog.Uint64("uid", uint64(c.uid)), slog.Int("pid", int(c.pid)))
}

// callerOf is who makes a call.
func callerOf(ctx context.Context) slog.LogValuer {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(peerInfo); ok {
			return info.caller
		}
	}
	return caller{uid: 1<<32 - 1, gid: 1<<32 - 1}
}

type peerInfo struct {
	credentials.CommonAuthInfo
	caller caller
}

// AuthType implements credentials.AuthInfo.
func (peerInfo) AuthType() string { return "unix" }

// peerCredentials asks the kernel who connects, and bounds how many do at once.
// Who may connect at all is said by the socket's permissions.
type peerCredentials struct {
	slots chan struct{}
}

// errCrowded is told to the log of the server alone.
var errCrowded = errors.New("too many connections to the control socket")

// ServerHandshake implements credentials.TransportCredentials.
func (p peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, nil, err
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("asking who connects: %w", credErr)
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return nil, nil, errCrowded
	}
	info := peerInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		caller:         caller{uid: cred.Uid, gid: cred.Gid, pid: cred.Pid},
	}
	return &slottedConn{Conn: c, free: sync.OnceFunc(func() { <-p.slots })}, info, nil
}

// ClientHandshake implements credentials.TransportCredentials; there are no
// clients here.
func (p peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info implements credentials.TransportCredentials.
func (p peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone implements credentials.TransportCredentials.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (p peerCredentials) OverrideServerName(string) error { return nil }

// slottedConn gives its slot back when it is closed.
type slottedConn struct {
	net.Conn
	free func()
}

func (c *slottedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
