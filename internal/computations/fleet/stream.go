package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

const (
	// statusEvery is how often a Manager tells how its host stands.
	statusEvery = 10 * time.Second
	// lookEvery is how often a stream looks into the database when nobody calls.
	lookEvery = 15 * time.Second
	// greetTimeout bounds the wait for a hello.
	greetTimeout = 20 * time.Second
	// Log lines that a host gets into the database, per second and at once.
	logRate, logBurst = 100, 5000
)

// connectService is what Managers keep a stream to.
type connectService struct {
	managerv1.UnimplementedComputationsServiceServer
	f *Fleet
}

type managerStream = grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse]

var errReplaced = status.Error(codes.Aborted, "this host has connected anew")

// stream is one Manager's. Its handler looks after it; another goroutine
// receives, and a third sends while there is something to send, so that a Manager
// that doesn't read can still be told to go.
type stream struct {
	f    *Fleet
	grpc managerStream
	host computations.ID
	// name of the host, for people; mark names the stream in the host's row.
	name, mark string
	who        shown
	logs       *telemetry.Limiter
	// ended has the reason for which the stream is to end.
	ended chan error

	// queue is what waits to be committed.
	queue inbox

	outMu   sync.Mutex
	out     []*managerv1.ConnectResponse
	sending bool

	// asked are run requests that this stream has sent and whose answer is not
	// committed: until then the run is not asked for again, as a host that has
	// refused it might then take it, while another one has it.
	askMu sync.Mutex
	asked map[computations.ID]bool
	// again has a token when the handler is to look again.
	again chan struct{}
	// status is the host's that was kept last; the receiver's alone.
	status   *managerv1.HostStatus
	statusAt time.Time

	// stops is when the end of runs was asked for; the handler's alone.
	stops map[computations.ID]time.Time
}

// Connect implements managerv1.ComputationsServiceServer.
func (c connectService) Connect(g managerStream) error {
	f := c.f
	ctx := g.Context()
	who, err := certificateOf(ctx)
	if err != nil {
		return err
	}
	if !f.connects.allow(who.host) {
		return status.Error(codes.ResourceExhausted, "this host connects too often; wait a while")
	}
	err = f.aside(ctx, func() error {
		return f.cfg.Store.View(ctx, func(r computations.Reader) error { _, err := hostOf(r, who); return err })
	})
	if err != nil {
		if code := status.Code(err); code == codes.PermissionDenied {
			f.log.Warn("a host was refused", "host", string(who.host), "from", who.address, "reason", status.Convert(err).Message())
		}
		return f.hidden(err, "looking for a host")
	}
	hello, err := greeting(g)
	if err != nil {
		return err
	}
	s := &stream{
		f: f, grpc: g, host: who.host, who: who, mark: fmt.Sprintf("%s#%d", f.cfg.Process, f.number.Add(1)),
		logs:  telemetry.NewLimiter(logRate, logBurst, time.Now),
		ended: make(chan error, 1), asked: map[computations.ID]bool{}, again: make(chan struct{}, 1), stops: map[computations.ID]time.Time{},
		queue: inbox{room: make(chan struct{}, 1)},
	}
	if err := f.join(s); err != nil {
		return err
	}
	defer f.leave(s)
	return s.serve(ctx, hello)
}

// greeting waits for the hello, and not for long.
func greeting(g managerStream) (*managerv1.Hello, error) {
	type first struct {
		m   *managerv1.ConnectRequest
		err error
	}
	came := make(chan first, 1)
	go func() { // ends with the stream
		m, err := g.Recv()
		came <- first{m, err}
	}()
	late := time.NewTimer(greetTimeout)
	defer late.Stop()
	select {
	case f := <-came:
		hello := f.m.GetHello()
		switch {
		case f.err != nil:
			return nil, f.err
		case hello == nil:
			return nil, status.Error(codes.InvalidArgument, "the first message must be a hello")
		case hello.GetProtocolVersion() != ProtocolVersion:
			return nil, status.Errorf(codes.FailedPrecondition, "protocol version %d is not spoken here; use %d", hello.GetProtocolVersion(), ProtocolVersion)
		}
		return hello, nil
	case <-late.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "there was no hello within %v", greetTimeout)
	case <-g.Context().Done():
		return nil, g.Context().Err()
	}
}

// serve is the stream's life after the greeting.
func (s *stream) serve(ctx context.Context, hello *managerv1.Hello) error {
	f := s.f
	signals, cancel := f.cfg.Store.Listen(computations.HostTopic(s.host))
	defer cancel()
	if err := f.aside(ctx, func() error { return s.arrive(ctx, hello) }); err != nil {
		return f.hidden(err, "greeting a host")
	}
	defer s.depart()
	f.log.Info("a Manager has connected", "host", s.name, "from", s.who.address, "version", telemetry.Clean(hello.GetVersion(), 64))
	s.send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_Welcome{
		Welcome: &managerv1.Welcome{ProtocolVersion: ProtocolVersion, StatusSeconds: uint32(statusEvery / time.Second)}}})
	hello = nil // it may be large, and the stream long

	go func() { s.end(s.receive()) }() // ends with the stream
	err := s.attend(ctx, signals)
	f.log.Info("a Manager's stream has ended", "host", s.name, "reason", status.Convert(err).Message())
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// attend looks after the stream until it is to end, and says why.
func (s *stream) attend(ctx context.Context, signals <-chan struct{}) error {
	f := s.f
	look := time.NewTimer(0) // what waits for the host already
	defer look.Stop()
	for {
		tick := false
		select {
		case err := <-s.ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-signals:
		case <-s.again:
		case <-look.C:
			tick = true
			look.Reset(lookEvery*3/4 + rand.N(lookEvery/2))
		}
		if f.now().After(s.who.expires) {
			return status.Error(codes.Unavailable, "the certificate that this connection began with has expired; connect again with the renewed one")
		}
		if tick {
			f.committer.contact(s)
		}
		if err := f.aside(ctx, func() error { return s.tell(ctx, tick) }); err != nil {
			return f.hidden(err, "looking for what a host is to be told")
		}
	}
}

// aside does what goes deep, such as a look into the database, on a goroutine of its
// own: else each stream would keep for its life the stack that it needs for a moment.
// A few are done at once.
func (f *Fleet) aside(ctx context.Context, do func() error) error {
	select {
	case f.looks <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-f.looks }()
		done <- do()
	}()
	return <-done
}

// end makes the handler return with an error; the first one counts.
func (s *stream) end(why error) {
	select {
	case s.ended <- why:
	default:
	}
}

// answered is the commit of answers to run requests.
func (s *stream) answered(runs []computations.ID) {
	if len(runs) == 0 {
		return
	}
	s.askMu.Lock()
	for _, id := range runs {
		delete(s.asked, id)
	}
	s.askMu.Unlock()
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// send puts messages out, in order, and never waits.
func (s *stream) send(messages ...*managerv1.ConnectResponse) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.out = append(s.out, messages...)
	if !s.sending && len(s.out) > 0 {
		s.sending = true
		go s.drain() // ends with the stream, or when nothing is left
	}
}

// drain sends until nothing is left.
func (s *stream) drain() {
	for {
		s.outMu.Lock()
		batch := s.out
		s.out = nil
		if len(batch) == 0 {
			s.sending = false
			s.outMu.Unlock()
			return
		}
		s.outMu.Unlock()
		acks := 0
		for _, m := range batch {
			if err := s.grpc.Send(m); err != nil {
				s.end(err)
				return // sending stays set: nothing more is sent
			}
			if m.GetEventAck() != nil {
				acks++
				s.f.step("ack.sent")
			}
		}
		s.f.committer.acknowledged(s, acks)
	}
}

// receive takes what the Manager says until the stream ends. It stands still
// while too much of it waits.
func (s *stream) receive() error {
	for {
		m, err := s.grpc.Recv()
		if err != nil {
			return err
		}
		it, err := s.take(m)
		if err != nil {
			return err
		}
		if it == nil {
			continue
		}
		s.f.step("item.received")
		if err := s.f.committer.add(s.grpc.Context(), s, *it); err != nil {
			return err
		}
	}
}

// take makes of a message what is to be committed; nil is nothing.
func (s *stream) take(m *managerv1.ConnectRequest) (*item, error) {
	switch m := m.GetMessage().(type) {
	case *managerv1.ConnectRequest_Event:
		return eventItem(m.Event, s.f.now())
	case *managerv1.ConnectRequest_Log:
		ok, dropped := s.logs.Allow()
		if !ok {
			s.f.metrics.linesDropped.Inc()
			return nil, nil
		}
		return logItem(m.Log, dropped, s.f.now())
	case *managerv1.ConnectRequest_RunReply:
		return runReplyItem(m.RunReply)
	case *managerv1.ConnectRequest_StopReply:
		return stopReplyItem(m.StopReply)
	case *managerv1.ConnectRequest_HostStatus:
		if !s.statusCounts(m.HostStatus, time.Now()) {
			return nil, nil
		}
		return statusItem(m.HostStatus), nil
	}
	return nil, status.Errorf(codes.InvalidArgument, "a message that is not valid here: %T", m.GetMessage())
}

const (
	// statusKept is how often a host's status is kept that says nothing new, and
	// statusChanged how often one that does.
	statusKept    = 5 * time.Second
	statusChanged = 500 * time.Millisecond
)

// statusCounts tells whether a host's status is worth keeping: every write gets in
// the way of others.
func (s *stream) statusCounts(m *managerv1.HostStatus, now time.Time) bool {
	least := statusKept
	if was := s.status; was.GetRunning() != m.GetRunning() || was.GetCapacity() != m.GetCapacity() || was.GetClosed() != m.GetClosed() {
		least = statusChanged
	}
	if now.Sub(s.statusAt) < least {
		return false
	}
	s.status, s.statusAt = m, now
	return true
}
