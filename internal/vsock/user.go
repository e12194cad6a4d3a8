package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/device"
	"github.com/ultravioletrs/cocos/internal/vsock/vhostuser"
)

// DefaultGuestCID is the guest's CID where UserConfig names none. Every VM may
// have the same: it is not the host's to share.
const DefaultGuestCID = 3

// maxSocketPath is the longest path of a unix socket, in bytes.
const maxSocketPath = 107

// UserConfig says what a UserHost serves, and where.
type UserConfig struct {
	// GuestCID is the guest's address; 0: DefaultGuestCID.
	GuestCID uint32
	// QEMUSocket is the path of the unix socket that QEMU connects to:
	//
	//	-chardev socket,id=vs,path=QEMUSocket -device vhost-user-vsock-pci,chardev=vs
	//
	// Empty: QEMU inherits QEMUFile's descriptor instead (-chardev socket,id=vs,fd=N).
	QEMUSocket string
	// BaseSocket, if not empty, is a path by which other processes take part:
	// one that connects to it and writes "CONNECT <port>\n" gets "OK <host
	// port>\n" and is then connected to that port in the guest; and a connection
	// of the guest to a port on which this process does not listen goes to the
	// unix socket PortSocket(port), if there is one.
	BaseSocket string
	Log        *slog.Logger
}

// UserHost is the host's end as a vhost-user device in this process. QEMU must
// give it the guest's memory: -machine memory-backend=ID with
// -object memory-backend-memfd,id=ID,size=…,share=on. It serves one QEMU; when
// that hangs up, or Close is called, everything ends.
type UserHost struct {
	cfg      UserConfig
	device   *device.Device
	qemuFile *os.File

	ctx    context.Context // ends with the host
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{}
	err    error // valid after done
	ending sync.Once

	qemu net.Listener // one of these two
	conn *net.UnixConn
	base net.Listener
}

var _ Host = (*UserHost)(nil)

// NewUserHost makes the device and its sockets, and serves. Close it in any
// case.
func NewUserHost(cfg UserConfig) (*UserHost, error) {
	if cfg.GuestCID == 0 {
		cfg.GuestCID = DefaultGuestCID
	}
	if cfg.GuestCID <= HostCID || cfg.GuestCID == anyCID {
		return nil, fmt.Errorf("guest CID %d: must be 3 or more, and not 4294967295", cfg.GuestCID)
	}
	if cfg.Log == nil {
		return nil, errors.New("UserConfig.Log is missing")
	}
	h := &UserHost{cfg: cfg, done: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.device = device.New(cfg.GuestCID, h.forward, cfg.Log)
	if err := h.open(); err != nil {
		h.closeSockets()
		h.cancel()
		return nil, fmt.Errorf("starting the built-in vsock device: %w", err)
	}
	h.wg.Go(h.serveQEMU)
	if h.base != nil {
		h.wg.Go(h.serveBase)
	}
	return h, nil
}

func (h *UserHost) open() (err error) {
	if h.cfg.BaseSocket != "" {
		if h.base, err = listenUnix(h.cfg.BaseSocket); err != nil {
			return err
		}
	}
	if h.cfg.QEMUSocket != "" {
		h.qemu, err = listenUnix(h.cfg.QEMUSocket)
		return err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a pair of sockets: %w", err)
	}
	h.qemuFile = os.NewFile(uintptr(fds[1]), "vhost-user-vsock")
	ours := os.NewFile(uintptr(fds[0]), "vhost-user-vsock")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		return fmt.Errorf("making a pair of sockets: %w", err)
	}
	h.conn = c.(*net.UnixConn)
	return nil
}

// listenUnix listens at path, for this user alone. A socket that an earlier
// process left there is replaced; nothing else is.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %q has %d bytes, more than the %d that Linux allows: use a shorter state directory", path, len(path), maxSocketPath)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("socket path %s exists and is not a socket: remove it", path)
		}
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("socket path %s is in use by a running process: %w", path, syscall.EADDRINUSE)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing a stale socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protecting the socket: %w", err)
	}
	return l, nil
}

// QEMUFile is QEMU's end where UserConfig.QEMUSocket is empty, for
// exec.Cmd.ExtraFiles. Close it once QEMU has started, or its end is not seen.
func (h *UserHost) QEMUFile() *os.File { return h.qemuFile }

// serveQEMU serves the one QEMU, and ends everything with it.
func (h *UserHost) serveQEMU() {
	conn := h.conn
	if h.qemu != nil {
		c, err := h.qemu.Accept()
		h.qemu.Close() // also takes the path away: there is no second QEMU
		if err != nil {
			h.end(fmt.Errorf("waiting for QEMU to connect: %w", err))
			return
		}
		conn = c.(*net.UnixConn)
	}
	s := vhostuser.New(conn, h.device, binary.LittleEndian.AppendUint64(nil, uint64(h.cfg.GuestCID)), h.cfg.Log)
	h.device.OnWake(s.Wake)
	h.wg.Go(func() { // ends with the host, which ends with the session
		<-h.ctx.Done()
		s.Close()
	})
	err := s.Serve()
	if h.ctx.Err() != nil {
		err = net.ErrClosed
	}
	h.end(err)
}

// end ends everything, but does not wait.
func (h *UserHost) end(cause error) {
	h.ending.Do(func() {
		h.err = cause
		h.cancel()
		h.device.Close()
		h.closeSockets()
		close(h.done)
	})
}

func (h *UserHost) closeSockets() {
	for _, l := range []net.Listener{h.qemu, h.base} {
		if l != nil {
			l.Close()
		}
	}
	if h.conn != nil {
		h.conn.Close()
	}
}

// Done is closed when the device has ended: QEMU hung up, or Close was called.
func (h *UserHost) Done() <-chan struct{} { return h.done }

// Err says, after Done, why the device ended: nil when QEMU hung up in order,
// net.ErrClosed after Close, or what was wrong.
func (h *UserHost) Err() error {
	select {
	case <-h.done:
		return h.err
	default:
		return nil
	}
}

// GuestCID implements Host.
func (h *UserHost) GuestCID() uint32 { return h.cfg.GuestCID }

// Listen implements Host. It comes before a unix socket of the same port.
func (h *UserHost) Listen(port uint32) (net.Listener, error) {
	l, err := h.device.Listen(port)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Dial implements Host.
func (h *UserHost) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := h.device.Dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("dialing port %d of the guest over vsock: %w", port, err)
	}
	return c, nil
}

// Close ends the device and waits for all that it started.
func (h *UserHost) Close() error {
	h.end(net.ErrClosed)
	h.wg.Wait()
	if h.qemuFile != nil {
		h.qemuFile.Close()
	}
	return nil
}
