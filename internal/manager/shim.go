package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// shimAlive tells whether the VM's shim is there. An error says that it can't be
// told, or that a stranger stands before it.
func shimAlive(dir vm.Dir) (bool, error) {
	_, err := listenerOf(dir)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, unix.EAGAIN):
		return true, nil // its backlog is full, so it is there
	case errors.Is(err, errStranger):
		if locked, lockErr := folderLocked(dir); lockErr == nil && !locked {
			return false, nil // whoever that is, the shim is gone
		}
	}
	return false, fmt.Errorf("reaching the shim: %w", err)
}

// shimConn is a connection to a shim's API.
type shimConn struct {
	conn *oneConn
	api  shimv1.ShimServiceClient
}

// oneConn is a client on one connection, which it never makes again: what came
// after that might be another process.
type oneConn struct {
	*grpc.ClientConn
	unused atomic.Pointer[net.Conn]
}

// Close ends the connection.
func (c *oneConn) Close() error {
	err := c.ClientConn.Close()
	if conn := c.unused.Swap(nil); conn != nil {
		err = errors.Join(err, (*conn).Close())
	}
	return err
}

// maxShimMessage bounds what is taken from a shim at once, in bytes: an event
// with room to spare.
const maxShimMessage = 1 << 20

// dialShim connects to the VM's shim. Whether that answers is seen at the first
// call.
func dialShim(ctx context.Context, dir vm.Dir) (*shimConn, error) {
	raw, _, err := connectTo(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("reaching the shim: %w", err)
	}
	c := &oneConn{}
	c.unused.Store(&raw)
	c.ClientConn, err = grpc.NewClient("passthrough:///shim",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the kernel vouches for who listens
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if conn := c.unused.Swap(nil); conn != nil {
				return *conn, nil
			}
			return nil, errors.New("the shim has ended the connection")
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxShimMessage)),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reaching the shim: %w", err), raw.Close())
	}
	return &shimConn{conn: c, api: shimv1.NewShimServiceClient(c)}, nil
}

// lost waits until the connection breaks or ctx ends.
func (c *shimConn) lost(ctx context.Context) {
	for s := connectivity.Ready; s == connectivity.Ready; s = c.conn.GetState() {
		if !c.conn.WaitForStateChange(ctx, s) {
			return
		}
	}
}

// status checks that the shim is the one of this run, and asks for its state.
func (c *shimConn) status(ctx context.Context, runID string) (vm.State, error) {
	s, err := c.api.Status(ctx, &shimv1.StatusRequest{})
	if err != nil {
		return "", fmt.Errorf("asking the shim for its state: %w", err)
	}
	if s.GetRunId() != runID {
		return "", fmt.Errorf("the shim's socket belongs to run %q", s.GetRunId())
	}
	if s.GetProtocolVersion() != ProtocolVersion {
		return "", fmt.Errorf("%w: it speaks version %d, this Manager %d; let that Manager end its VM, or stop the run",
			errOtherVersion, s.GetProtocolVersion(), ProtocolVersion)
	}
	switch state := vm.State(s.GetState()); state {
	case vm.Starting, vm.Booting, vm.Running, vm.Stopping, vm.Exited:
		return state, nil
	default:
		return "", fmt.Errorf("asking the shim for its state: it says %q, which is none", state)
	}
}

// errOtherVersion: the shim is the run's, but can't be followed.
var errOtherVersion = errors.New("the shim was started by another version of the Manager")

// follow opens a feed of the shim's events and logs.
func (c *shimConn) follow(ctx context.Context, runID string) (feed, error) {
	stream, err := c.api.Follow(ctx)
	if err != nil {
		return nil, fmt.Errorf("following the shim: %w", err)
	}
	if err := stream.Send(&shimv1.FollowRequest{}); err != nil {
		return nil, fmt.Errorf("following the shim: %w", err)
	}
	return &shimFeed{run: runID, stream: stream}, nil
}

type shimFeed struct {
	run    string
	stream grpc.BidiStreamingClient[shimv1.FollowRequest, shimv1.FollowResponse]
}

// Next implements feed. What does not belong to the run or to the shim is an
// error: a shim that talks nonsense is not passed on.
func (f *shimFeed) Next(context.Context) (item, error) {
	r, err := f.stream.Recv()
	if errors.Is(err, io.EOF) {
		return item{}, errors.New("following the shim: it ended the stream")
	}
	if err != nil {
		return item{}, fmt.Errorf("following the shim: %w", err)
	}
	switch it := r.GetItem().(type) {
	case *shimv1.FollowResponse_Event:
		e := it.Event
		if err := f.check(e.GetRunId(), e.GetSource()); err != nil {
			return item{}, err
		}
		if e.GetSequence() == 0 {
			return item{}, errors.New("following the shim: it sent an event without a sequence")
		}
		if !mayTell(e.GetSource(), e.GetKind()) {
			return item{}, fmt.Errorf("following the shim: it sent %q as an event of %v", e.GetKind(), e.GetSource())
		}
		return item{event: e}, nil
	case *shimv1.FollowResponse_Log:
		if err := f.check(it.Log.GetRunId(), it.Log.GetSource()); err != nil {
			return item{}, err
		}
		return item{log: it.Log}, nil
	case *shimv1.FollowResponse_Drained:
		return item{}, io.EOF
	}
	return item{}, errors.New("following the shim: it sent a message that this version does not know")
}

func (f *shimFeed) check(runID string, source eventv1.Source) error {
	if runID != f.run {
		return fmt.Errorf("following the shim: it speaks for run %q", runID)
	}
	if source != eventv1.Source_SOURCE_AGENT && source != eventv1.Source_SOURCE_SHIM {
		return fmt.Errorf("following the shim: it speaks as %v", source)
	}
	return nil
}

// mayTell keeps agents from speaking of their VM, and shims for the Manager.
func mayTell(source eventv1.Source, kind string) bool {
	if strings.HasPrefix(kind, "run.") || kind == vm.EventLost || kind == vm.EventRemoved {
		return false
	}
	return source == eventv1.Source_SOURCE_SHIM || !strings.HasPrefix(kind, "vm.")
}

// Ack implements feed.
func (f *shimFeed) Ack(source eventv1.Source, sequence uint64) error {
	err := f.stream.Send(&shimv1.FollowRequest{Source: source, Sequence: sequence})
	if errors.Is(err, io.EOF) {
		return nil // the stream is broken; Next says why
	}
	return err
}

// child is a shim that this Manager started. Nobody waits for it all the time,
// as it is to live on; its end is taken note of when its socket is gone.
type child struct {
	pid     int
	process *os.Process
	// how it ended; empty while it lives.
	how string
}

// launch starts the shim of a VM as a process of its own: its own session, its
// output in the VM's folder, no descriptor of the Manager's.
func launch(command []string, dir vm.Dir) (*child, error) {
	logFile, err := os.OpenFile(dir.ShimLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting the shim: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], string(dir))...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the shim: %w", err)
	}
	return &child{pid: cmd.Process.Pid, process: cmd.Process}, nil
}

// ended tells whether the child has ended, and how. A nil child is one of an
// earlier Manager, of which nothing can be told.
func (c *child) ended() (bool, string) {
	if c == nil || c.how != "" {
		return c != nil, c.text()
	}
	var status unix.WaitStatus
	pid, err := unix.Wait4(c.pid, &status, unix.WNOHANG, nil)
	switch {
	case errors.Is(err, unix.ECHILD):
		c.how = "ended"
	case err != nil || pid == 0:
	case status.Signaled():
		c.how = fmt.Sprintf("was ended by signal %d (%v)", status.Signal(), status.Signal())
	default:
		c.how = fmt.Sprintf("ended with exit status %d", status.ExitStatus())
	}
	return c.how != "", c.text()
}

func (c *child) text() string {
	if c == nil {
		return ""
	}
	return c.how
}

// lastWords is the last line of a shim's log, for people.
func lastWords(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return "none"
	}
	defer f.Close()
	const most = 512
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Sprintf("%q", lines[len(lines)-1])
}

// Timeouts of calls to a shim: generous, as nothing depends on them but that a
// frozen shim does not hold others up.
const (
	statusTimeout = 2 * time.Second
	callTimeout   = 30 * time.Second
	// defaultGrace is a shim's where its specification says nothing.
	defaultGrace = 30 * time.Second
	// overdue is for QEMU to quit or be killed, and the shim to say so.
	overdue = time.Minute
)
