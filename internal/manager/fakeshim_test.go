package manager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	// envCounts is a file in which each shim that owns a folder leaves a line.
	envCounts = "COCOS_TEST_COUNTS"
	// envEvents is the number of the agent's events.
	envEvents = "COCOS_TEST_EVENTS"
	// envEnds: "yes" makes the VM end by itself after them; otherwise it waits
	// for Stop.
	envEnds = "COCOS_TEST_ENDS"
	// envAgent names them instead: kinds, each with ":STATE" if it is of a state.
	envAgent = "COCOS_TEST_AGENT"
	// envFails makes the shim fail before it listens.
	envFails = "COCOS_TEST_FAILS"
	// envBad names what the first shim does wrong; hostile_test.go lists it.
	envBad = "COCOS_TEST_BAD"
)

// fakeShim keeps the shim's promises without a VM: it owns its folder, spools
// before it tells, trims what is acknowledged, and goes when it is released.
func fakeShim(dir vm.Dir) error {
	if os.Getenv(envFails) != "" {
		return errors.New("told to fail")
	}
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		return err
	}
	own, err := os.Open(string(dir))
	if err != nil {
		return err
	}
	defer own.Close()
	if err := unix.Flock(int(own.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another shim owns %s: %w", dir, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir.ShimSocket() + ".new", Net: "unix"})
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Rename(dir.ShimSocket()+".new", dir.ShimSocket()); err != nil {
		return err
	}
	sp, err := spool.Open(dir.Spool())
	if err != nil {
		return err
	}
	if sp.Last(events.Shim) > 0 {
		return errors.New("a VM is started once")
	}
	bad, err := chosenBad()
	if err != nil {
		return err
	}
	if err := countShim(); err != nil {
		return err
	}
	if raw := rawServers[bad]; raw != nil {
		return raw(listener)
	}
	s := &fakeVM{bad: bad, run: spec.RunID, spool: sp, stops: make(chan struct{}), done: make(chan struct{}), state: vm.Starting}
	s.grpc = grpc.NewServer()
	shimv1.RegisterShimServiceServer(s.grpc, badShim(s))
	life := make(chan error, 1)
	go func() { life <- s.live() }()
	go func() { <-s.done; s.grpc.Stop() }()
	err = s.grpc.Serve(listener)
	return errors.Join(err, <-life, sp.Close())
}

func countShim() error {
	f, err := os.OpenFile(os.Getenv(envCounts), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "pid %d\n", os.Getpid())
	return errors.Join(err, f.Close())
}

type fakeVM struct {
	shimv1.UnimplementedShimServiceServer
	bad   string
	run   string
	spool *spool.Spool
	grpc  *grpc.Server
	stops chan struct{}
	once  sync.Once
	done  chan struct{}

	mu    sync.Mutex
	state vm.State
}

func (s *fakeVM) set(state vm.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

func (s *fakeVM) get() vm.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// live is the VM's life as events.
func (s *fakeVM) live() error {
	tell := func(source spool.Source, kind string) error {
		kind, to, _ := strings.Cut(kind, ":")
		attributes := map[string]string{}
		if to != "" {
			attributes["to"] = to
		}
		if kind == vm.EventExited {
			attributes["exit_status"] = "0"
		}
		b, err := events.Encode(events.Event{Time: time.Now(), Kind: kind, Attributes: attributes})
		if err == nil {
			_, err = s.spool.Append(source, b)
		}
		return err
	}
	n, err := strconv.Atoi(os.Getenv(envEvents))
	if err != nil {
		n = 5
	}
	err = errors.Join(tell(events.Shim, vm.EventStarting), tell(events.Shim, vm.EventBooting))
	told := slices.Repeat([]string{vm.EventState}, n)
	if script := os.Getenv(envAgent); script != "" {
		told = strings.Split(script, ",")
	}
	for _, kind := range told {
		err = errors.Join(err, tell(events.Agent, kind))
	}
	s.set(vm.Running)
	if os.Getenv(envEnds) != "yes" {
		<-s.stops
		err = errors.Join(err, tell(events.Shim, vm.EventStopping))
	}
	err = errors.Join(err, tell(events.Shim, vm.EventExited))
	s.set(vm.Exited)
	return err
}

func (s *fakeVM) Status(context.Context, *shimv1.StatusRequest) (*shimv1.StatusResponse, error) {
	return &shimv1.StatusResponse{ProtocolVersion: ProtocolVersion, RunId: s.run, State: string(s.get()), Unacknowledged: s.spool.Unacknowledged()}, nil
}

func (s *fakeVM) Stop(context.Context, *shimv1.StopRequest) (*shimv1.StopResponse, error) {
	s.once.Do(func() { close(s.stops) })
	return &shimv1.StopResponse{}, nil
}

func (s *fakeVM) Release(context.Context, *shimv1.ReleaseRequest) (*shimv1.ReleaseResponse, error) {
	if s.get() != vm.Exited || s.spool.Unacknowledged() > 0 {
		return nil, status.Error(codes.FailedPrecondition, "there is something left to tell")
	}
	close(s.done)
	return &shimv1.ReleaseResponse{}, nil
}

func (s *fakeVM) Follow(stream grpc.BidiStreamingServer[shimv1.FollowRequest, shimv1.FollowResponse]) error {
	if first, err := stream.Recv(); err != nil || first.GetSource() != eventv1.Source_SOURCE_UNSPECIFIED {
		return status.Error(codes.InvalidArgument, "the first message must be empty")
	}
	acks := make(chan error, 1)
	go func() { // ends with the stream
		for {
			m, err := stream.Recv()
			if err == nil {
				err = s.spool.Ack(spool.Source(m.GetSource()), m.GetSequence())
			}
			if err == nil {
				err = s.spool.Sync()
			}
			if err != nil {
				acks <- err
				return
			}
		}
	}()
	if err := stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Log{Log: &eventv1.Log{
		RunId: s.run, Source: eventv1.Source_SOURCE_SHIM, Level: eventv1.Level_LEVEL_INFO, Message: "followed"}}}); err != nil {
		return err
	}
	reader := s.spool.NewReader()
	for {
		changed := s.spool.Changed()
		record, ok, err := reader.TryNext()
		switch {
		case err != nil:
			return err
		case ok:
			e, err := events.Decode(record)
			if err != nil {
				return err
			}
			if err := stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Event{Event: toProto(s.run, e)}}); err != nil {
				return err
			}
			continue
		case s.get() == vm.Exited && s.spool.Unacknowledged() == 0:
			return stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Drained{Drained: &shimv1.Drained{}}})
		}
		select {
		case <-changed:
		case err := <-acks:
			return err
		case <-stream.Context().Done():
			return nil
		case <-time.After(5 * time.Millisecond): // state has no channel
		}
	}
}
