package vsocktest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock"
)

// What one measurement moves.
const (
	measureBytes  = 64 << 20
	measureRounds = 2000
	measureSize   = 64 // bytes, of a round trip
)

// Rates are what one connection does.
type Rates struct {
	ToGuest   float64       // bytes per second, host to guest
	FromGuest float64       // bytes per second, guest to host
	RoundTrip time.Duration // median, of 64 bytes each way
}

// Figures are the rates over vsock, and in the same run those of a pair of
// unix sockets with the same copy loop, both of its ends in this process.
type Figures struct {
	Vsock, Reference Rates
}

// Measure measures the connections to a guest that runs this package's Guest.
func Measure(ctx context.Context, dial Dial) (f Figures, err error) {
	if f.Reference, err = measure(ctx, dialPair); err != nil {
		return f, fmt.Errorf("measuring a pair of sockets: %w", err)
	}
	if f.Vsock, err = measure(ctx, dial); err != nil {
		return f, fmt.Errorf("measuring vsock: %w", err)
	}
	return f, nil
}

// MeasureUser boots a VM on the built-in device, emulated, and measures as often
// as runs says. QEMU and the guest image are found as in the tests.
func MeasureUser(ctx context.Context, runs int) ([]Figures, error) {
	dir, err := os.MkdirTemp("", "vsock")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	files, err := FindFiles(dir)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "vhost.sock")
	host, err := vsock.NewUserHost(vsock.UserConfig{QEMUSocket: socket, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer host.Close()
	sessions, err := host.Listen(SessionPort)
	if err != nil {
		return nil, err
	}
	vm, err := Start(files, Machine{Device: UserDevice(socket)}, dir)
	if err != nil {
		return nil, err
	}
	defer vm.Kill()
	patience := 5 * time.Minute
	if d, ok := ctx.Deadline(); ok {
		patience = time.Until(d)
	}
	session, err := acceptSession(sessions, patience)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, vm.Console())
	}
	defer session.conn.Close()
	figures := make([]Figures, runs)
	for i := range figures {
		if figures[i], err = Measure(ctx, host.Dial); err != nil {
			return nil, err
		}
	}
	return figures, nil
}

// UserDevice is QEMU's arguments for the built-in device at a socket.
func UserDevice(socket string) []string {
	return []string{"-chardev", "socket,id=vs,path=" + socket, "-device", "vhost-user-vsock-pci,chardev=vs"}
}

func measure(ctx context.Context, dial Dial) (r Rates, err error) {
	if r.ToGuest, err = rate(ctx, dial, opSink, func(c net.Conn) error {
		if _, err := transfer(c, io.LimitReader(zeros{}, measureBytes)); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1)) // all of it was read
		return err
	}); err != nil {
		return r, err
	}
	if r.FromGuest, err = rate(ctx, dial, opZeros, func(c net.Conn) error {
		n, err := transfer(io.Discard, c)
		if err == nil && n != measureBytes {
			err = fmt.Errorf("%d bytes came, of %d", n, measureBytes)
		}
		return err
	}); err != nil {
		return r, err
	}
	r.RoundTrip, err = roundTrip(ctx, dial)
	return r, err
}

func rate(ctx context.Context, dial Dial, o op, move func(net.Conn) error) (float64, error) {
	c, err := open(ctx, dial, o, measureBytes)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if err := move(c); err != nil {
		return 0, err
	}
	return measureBytes / time.Since(start).Seconds(), nil
}

func roundTrip(ctx context.Context, dial Dial) (time.Duration, error) {
	c, err := open(ctx, dial, opEcho, 0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := make([]byte, measureSize)
	took := make([]time.Duration, measureRounds)
	for i := range took {
		start := time.Now()
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// dialPair connects to a Server of this process over a pair of unix sockets.
// The server's side ends with the connection.
func dialPair(context.Context, uint32) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, cerr := net.FileConn(f)
		f.Close()
		if cerr != nil {
			err = cerr
			continue
		}
		ends[i] = c
	}
	if err != nil {
		for _, c := range ends {
			if c != nil {
				c.Close()
			}
		}
		return nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	p := &pairConn{UnixConn: ends[0].(*net.UnixConn), served: make(chan struct{})}
	go func() {
		defer close(p.served)
		defer ends[1].Close()
		NewServer().answer(ends[1].(*net.UnixConn))
	}()
	return p, nil
}

// pairConn waits, when it is closed, for its server.
type pairConn struct {
	*net.UnixConn
	served chan struct{}
}

// Close closes the connection and waits until its server has seen it.
func (c *pairConn) Close() error {
	err := c.UnixConn.Close()
	<-c.served
	return err
}

// zeros is what the measurements move: making it costs nothing.
type zeros struct{}

// Read fills p.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
