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

// shimAlive tells whether somebody listens on a shim's socket. An error says
// that it can't be told.
func shimAlive(socket string) (bool, error) {
	c, err := net.Dial("unix", socket)
	switch {
	case err == nil:
		return true, c.Close()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, unix.EAGAIN):
		return true, nil // its backlog is full, so it is there
	}
	return false, fmt.Errorf("reaching the shim: %w", err)
}

// shimConn is a connection to a shim's API.
type shimConn struct {
	conn *grpc.ClientConn
	api  shimv1.ShimServiceClient
}

// dialShim connects to a shim that is alive.
func dialShim(ctx context.Context, socket string) (*shimConn, error) {
	conn, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // its folder is closed to others
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("reaching the shim: %w", err)
	}
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if s == connectivity.TransientFailure || s == connectivity.Shutdown {
			_ = conn.Close()
			return nil, fmt.Errorf("reaching the shim: nobody answers on %s", socket)
		}
		if !conn.WaitForStateChange(ctx, s) {
			_ = conn.Close()
			return nil, fmt.Errorf("reaching the shim: %w", ctx.Err())
		}
	}
	return &shimConn{conn: conn, api: shimv1.NewShimServiceClient(conn)}, nil
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
	if s.GetProtocolVersion() != ProtocolVersion {
		return "", fmt.Errorf("the shim speaks protocol version %d, this Manager %d: it was started by another version of the Manager, which must end its VM",
			s.GetProtocolVersion(), ProtocolVersion)
	}
	if s.GetRunId() != runID {
		return "", fmt.Errorf("the shim's socket belongs to run %q", s.GetRunId())
	}
	return vm.State(s.GetState()), nil
}

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
	pid int
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
	pid := cmd.Process.Pid
	if err := cmd.Process.Release(); err != nil {
		return nil, fmt.Errorf("starting the shim: %w", err)
	}
	return &child{pid: pid}, nil
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
)
