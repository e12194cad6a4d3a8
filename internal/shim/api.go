package shim

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// shimProtocol is the version of cocos.shim.v1 spoken here.
const shimProtocol = 1

// goodbye bounds how long the API's last answers may take.
const goodbye = 2 * time.Second

type apiServer struct {
	shimv1.UnimplementedShimServiceServer
	*shim
}

// follower is one Follow of the Manager's.
type follower struct{ replaced chan struct{} }

// serveAPI serves the Manager on l until the returned function is called.
func (s *shim) serveAPI(l net.Listener) (stop func()) {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<10), grpc.WaitForHandlers(true))
	shimv1.RegisterShimServiceServer(server, &apiServer{shim: s})
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.Log.Error("serving the Manager", "error", err)
		}
	})
	return func() {
		close(s.closing)
		// The answer to Release is still on its way.
		force := time.AfterFunc(goodbye, server.Stop)
		defer force.Stop()
		server.GracefulStop()
		served.Wait()
	}
}

// Status implements shim.proto.
func (s *apiServer) Status(context.Context, *shimv1.StatusRequest) (*shimv1.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &shimv1.StatusResponse{
		ProtocolVersion: shimProtocol,
		RunId:           s.spec.RunID,
		State:           string(s.state),
		QemuPid:         uint32(s.pid),
		ExitStatus:      int32(s.exit),
		Unacknowledged:  s.spool.Unacknowledged(),
		AgeSeconds:      uint32(time.Since(s.begun) / time.Second),
	}, nil
}

// Stop implements shim.proto. It returns at once; vm.exited tells of the end.
func (s *apiServer) Stop(_ context.Context, r *shimv1.StopRequest) (*shimv1.StopResponse, error) {
	grace := s.StopGrace
	if n := r.GetGraceSeconds(); n > 0 {
		grace = time.Duration(n) * time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The one that is waiting to be taken is replaced if this one is stricter.
	select {
	case earlier := <-s.stops:
		grace = min(grace, earlier)
	default:
	}
	s.stops <- grace
	return &shimv1.StopResponse{}, nil
}

// Release implements shim.proto.
func (s *apiServer) Release(context.Context, *shimv1.ReleaseRequest) (*shimv1.ReleaseResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != vm.Exited {
		return nil, status.Errorf(codes.FailedPrecondition, "the VM is %s: stop it first", s.state)
	}
	if n := s.spool.Unacknowledged(); n > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "%d events are not acknowledged", n)
	}
	if !s.release {
		s.release = true
		close(s.released)
	}
	return &shimv1.ReleaseResponse{}, nil
}

// Follow implements shim.proto. This goroutine sends; one of its own, which ends
// with the stream, takes acknowledgements.
func (s *apiServer) Follow(stream shimv1.ShimService_FollowServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetSource() != eventv1.Source_SOURCE_UNSPECIFIED || first.GetSequence() != 0 {
		return status.Error(codes.InvalidArgument, "the first message of follow is empty")
	}
	f := &follower{replaced: make(chan struct{})}
	s.mu.Lock()
	if s.follower != nil {
		close(s.follower.replaced)
	}
	s.follower = f
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.follower == f {
			s.follower = nil
		}
	}()
	broken := make(chan error, 1)
	s.wg.Go(func() { broken <- s.takeAcks(stream) })
	return s.send(stream, f, broken)
}

// takeAcks ends with the stream. Acknowledgements reach the disk with the next
// events, or with the goroutine that this one wakes.
func (s *apiServer) takeAcks(stream shimv1.ShimService_FollowServer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			// The Manager has nothing more to say and may go on listening.
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		if err != nil {
			return err
		}
		source := spool.Source(m.GetSource())
		if source != events.Agent && source != events.Shim {
			return status.Errorf(codes.InvalidArgument, "source: is %s; expected SOURCE_AGENT or SOURCE_SHIM", m.GetSource())
		}
		if last := s.spool.Last(source); m.GetSequence() > last {
			return status.Errorf(codes.InvalidArgument, "sequence: is %d; the last one of %s is %d", m.GetSequence(), m.GetSource(), last)
		}
		if err := s.spool.Ack(source, m.GetSequence()); err != nil {
			s.Log.Error("taking an acknowledgement", "error", err)
			return status.Error(codes.Unavailable, "the disk of the host takes nothing: "+err.Error())
		}
		select {
		case s.retry <- struct{}{}:
		default:
		}
	}
}

// send sends what is there, events first, and waits for more.
func (s *apiServer) send(stream shimv1.ShimService_FollowServer, f *follower, broken <-chan error) error {
	reader := s.spool.NewReader()
	drained := false
	for {
		select {
		case <-f.replaced:
			return status.Error(codes.Aborted, "another follow took the place of this one")
		default:
		}
		kept := s.spool.Changed()
		state, changed := s.current()
		rec, ok, err := reader.TryNext()
		if err != nil {
			s.Log.Error("reading events", "error", err)
			return status.Error(codes.DataLoss, err.Error())
		}
		if ok {
			e, err := events.Decode(rec)
			if err != nil {
				return status.Error(codes.DataLoss, err.Error())
			}
			if err := stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Event{Event: toProto(s.spec.RunID, e)}}); err != nil {
				return err
			}
			continue
		}
		line, logged := s.logs.take()
		if line != nil {
			if err := stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Log{Log: line}}); err != nil {
				return err
			}
			continue
		}
		if !drained && state == vm.Exited && s.spool.Unacknowledged() == 0 {
			drained = true
			if err := stream.Send(&shimv1.FollowResponse{Item: &shimv1.FollowResponse_Drained{Drained: &shimv1.Drained{}}}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-kept:
		case <-changed:
		case <-logged:
		case <-f.replaced:
		case <-s.released:
			return nil
		case <-s.closing:
			return status.Error(codes.Unavailable, "the shim ends")
		case err := <-broken:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
