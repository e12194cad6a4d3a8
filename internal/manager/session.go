package manager

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

const (
	// logLines and logBytes bound the log lines that wait for a slow server.
	logLines = 4096
	logBytes = 8 << 20
	// maxReplies bounds the answers that wait for one.
	maxReplies = 4096
)

// session is one stream to the server, after the greeting. Runs put events into
// it; one goroutine sends: replies first, then events and logs as they come.
type session struct {
	// ctx ends with the stream.
	ctx     context.Context
	replies chan *managerv1.ConnectRequest
	events  chan *managerv1.ConnectRequest
	// status is how the host stands.
	status  chan *managerv1.ConnectRequest
	logs    *logRing
	at      func(string)
	metrics *metrics // may be nil
}

func newSession(ctx context.Context, at func(string), m *metrics) *session {
	return &session{
		ctx:     ctx,
		replies: make(chan *managerv1.ConnectRequest, maxReplies),
		events:  make(chan *managerv1.ConnectRequest, 64),
		status:  make(chan *managerv1.ConnectRequest),
		logs:    newLogRing(logLines, logBytes),
		at:      at,
		metrics: m,
	}
}

// Event implements sink.
func (s *session) Event(ctx context.Context, e *eventv1.Event) error {
	return s.put(ctx, s.events, &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Event{Event: e}})
}

// Log implements sink.
func (s *session) Log(l *eventv1.Log) {
	if n := s.logs.put(l); n > 0 {
		s.metrics.lostLines(n)
	}
}

// reply never waits, so that whoever receives never stands still.
func (s *session) reply(r *managerv1.ConnectRequest) error {
	select {
	case s.replies <- r:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	default:
		return fmt.Errorf("the server asks on and does not take the %d answers that wait", maxReplies)
	}
}

func (s *session) put(ctx context.Context, to chan *managerv1.ConnectRequest, m *managerv1.ConnectRequest) error {
	select {
	case to <- m:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send is the one sender of the stream, until ctx ends or the stream breaks.
func (s *session) send(ctx context.Context, stream grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse]) error {
	for {
		select {
		case m := <-s.replies:
			if err := stream.Send(m); err != nil {
				return err
			}
			s.at("run.replied")
			continue
		default:
		}
		select {
		case m := <-s.replies:
			if err := stream.Send(m); err != nil {
				return err
			}
			s.at("run.replied")
		case m := <-s.events:
			if err := stream.Send(m); err != nil {
				return err
			}
			s.at("event.sent")
		case m := <-s.status:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-s.logs.ready:
			l := s.logs.take()
			if l == nil {
				continue
			}
			if err := stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Log{Log: l}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hub hands the session of the moment to the runs.
type hub struct {
	mu      sync.Mutex
	current *session
	changed chan struct{}
}

// set announces a session, or with nil that there is none.
func (h *hub) set(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current = s
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// get returns the session, nil where there is none, and a channel that closes
// when that changes.
func (h *hub) get() (*session, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.current, h.changed
}

// wait is get once there is a session; nil when ctx has ended.
func (h *hub) wait(ctx context.Context) (*session, <-chan struct{}) {
	for {
		s, changed := h.get()
		if s != nil {
			return s, changed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil
		}
	}
}
