package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
)

// guestSession stands in for the shim of an agent that runs as an ordinary
// process: it hands out one launch, and keeps the events in memory.
type guestSession struct {
	guestv1.UnimplementedGuestServiceServer
	launch *guestv1.Launch
	server *grpc.Server
	served sync.WaitGroup

	mu      sync.Mutex
	events  []*eventv1.Event
	changed chan struct{}
}

// serveGuestSession serves at a unix socket.
func serveGuestSession(socket string, launch *guestv1.Launch) (*guestSession, error) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("serving the guest session: %w", err)
	}
	s := &guestSession{launch: launch, server: grpc.NewServer(), changed: make(chan struct{})}
	guestv1.RegisterGuestServiceServer(s.server, s)
	s.served.Go(func() { _ = s.server.Serve(ln) }) // ends with close
	return s, nil
}

func (s *guestSession) close() {
	s.server.Stop()
	s.served.Wait()
}

// Session implements the service.
func (s *guestSession) Session(stream guestv1.GuestService_SessionServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.GetHello() == nil {
		return status.Error(codes.FailedPrecondition, "the first message is not a hello")
	}
	if err := stream.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Launch{Launch: s.launch}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		e := m.GetEvent()
		if e == nil {
			continue // a log line
		}
		s.keep(e)
		ack := &guestv1.EventAck{Sequence: e.GetSequence()}
		if err := stream.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_EventAck{EventAck: ack}}); err != nil {
			return err
		}
	}
}

func (s *guestSession) keep(e *eventv1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns the first event that wanted accepts. It gives up when wanted
// does, when the agent ends, or with ctx.
func (s *guestSession) await(ctx context.Context, agent *process, wanted func(*eventv1.Event) (bool, error)) (*eventv1.Event, error) {
	for seen := 0; ; {
		s.mu.Lock()
		fresh, changed := slices.Clone(s.events[seen:]), s.changed
		s.mu.Unlock()
		seen += len(fresh)
		for _, e := range fresh {
			if ok, err := wanted(e); ok || err != nil {
				return e, err
			}
		}
		select {
		case <-changed:
		case <-agent.done:
			return nil, fmt.Errorf("the agent ended: %v: %s", agent.err, agent.lastWords())
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), fmt.Errorf("the agent said: %s", agent.lastWords()))
		}
	}
}
