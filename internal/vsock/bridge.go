package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/device"
)

const (
	// bridgeTimeout bounds what another process has to do before it is connected.
	bridgeTimeout = 5 * time.Second
	bridgeBuffer  = 64 << 10 // bytes, each way
	maxLine       = len("CONNECT 4294967295\n")
)

// PortSocket is the path of the unix socket to which the guest's connections
// to port go where this process does not listen on it itself.
func (h *UserHost) PortSocket(port uint32) string {
	return h.cfg.BaseSocket + "_" + strconv.FormatUint(uint64(port), 10)
}

// forward connects the guest with another process's unix socket.
func (h *UserHost) forward(c *device.Conn, port uint32) {
	if h.cfg.BaseSocket == "" {
		c.Reset()
		return
	}
	h.wg.Go(func() {
		d := net.Dialer{Timeout: bridgeTimeout}
		u, err := d.DialContext(h.ctx, "unix", h.PortSocket(port))
		if err != nil {
			c.Reset()
			return
		}
		uc := u.(*net.UnixConn)
		defer h.closeAtEnd(uc)()
		if err := c.Accept(); err != nil {
			c.Reset()
			uc.Close()
			return
		}
		h.bridge(c, uc)
	})
}

// serveBase serves other processes that want to connect to the guest.
func (h *UserHost) serveBase() {
	for {
		u, err := h.base.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, as a rule: others will be closed
			select {
			case <-h.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		h.wg.Go(func() { h.serveConnect(u.(*net.UnixConn)) })
	}
}

// serveConnect answers one CONNECT line.
func (h *UserHost) serveConnect(u *net.UnixConn) {
	defer h.closeAtEnd(u)()
	ctx, cancel := context.WithTimeout(h.ctx, bridgeTimeout)
	defer cancel()
	c, err := h.connect(ctx, u)
	if err != nil {
		fmt.Fprintf(u, "ERROR %s\n", err)
		u.Close()
		return
	}
	h.bridge(c, u)
}

// closeAtEnd closes the socket when the host ends, unless stop comes first.
func (h *UserHost) closeAtEnd(u *net.UnixConn) (stop func()) {
	stopped := make(chan struct{})
	h.wg.Go(func() {
		select {
		case <-h.ctx.Done():
			u.Close()
		case <-stopped:
		}
	})
	return func() { close(stopped) }
}

func (h *UserHost) connect(ctx context.Context, u *net.UnixConn) (*device.Conn, error) {
	if err := u.SetDeadline(time.Now().Add(bridgeTimeout)); err != nil {
		return nil, err
	}
	line, err := readLine(u)
	if err != nil {
		return nil, err
	}
	arg, ok := strings.CutPrefix(line, "CONNECT ")
	port, err := strconv.ParseUint(arg, 10, 32)
	if !ok || err != nil {
		return nil, fmt.Errorf("got %q, expected CONNECT <port>", line)
	}
	c, err := h.device.Dial(ctx, uint32(port))
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(u, "OK %d\n", c.HostPort())
	if err == nil {
		err = u.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Reset()
		return nil, err
	}
	return c, nil
}

// readLine reads byte by byte: what follows the line belongs to the guest.
func readLine(r io.Reader) (string, error) {
	line := make([]byte, 0, maxLine)
	var b [1]byte
	for len(line) < maxLine {
		if _, err := r.Read(b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("the line is too long, expected CONNECT <port>")
}

// bridge carries bytes, half closes and ends both ways until both ways have
// ended. It closes both connections.
func (h *UserHost) bridge(c *device.Conn, u *net.UnixConn) {
	fail := func() {
		c.Reset()
		u.Close()
	}
	var toProcess sync.WaitGroup
	var guestEnded atomic.Bool
	toProcess.Go(func() {
		if _, err := copyAll(u, c); err != nil {
			fail()
			return
		}
		guestEnded.Store(true)
		u.CloseWrite()
	})
	if _, err := copyAll(c, u); err != nil {
		fail()
	} else {
		c.CloseWrite()
		if waitHangUp(u); !guestEnded.Load() {
			fail()
		}
	}
	toProcess.Wait()
	c.Close()
	u.Close()
}

// copyAll hides the io.ReaderFrom and io.WriterTo of its ends, which would
// splice, and so choose their own buffers.
func copyAll(to io.Writer, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, bridgeBuffer))
}

// waitHangUp waits, after the process's end of stream, until it has closed its
// socket altogether, or we have ended our direction, or closed it. Without it
// a process that has gone would keep a connection to a silent guest.
func waitHangUp(u *net.UnixConn) {
	raw, err := u.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool { // called again at each edge that the poller reports
		p := []unix.PollFd{{Fd: int32(fd)}}
		unix.Poll(p, 0)
		return p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}
