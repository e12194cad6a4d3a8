package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// guestProtocol is the version of cocos.guest.v1 spoken here.
const guestProtocol = 1

// Limits against a hostile guest.
const (
	// maxEvent bounds an event, in bytes of its encoding.
	maxEvent = 64 << 10
	// maxRequest bounds one message on the wire, in bytes.
	maxRequest = 80 << 10
	// maxSpool is the size of the spool, in bytes, at which the agent's events
	// wait until older ones are acknowledged.
	maxSpool = 256 << 20
	// Log lines that come faster, per second and at once, are dropped.
	logRate, logBurst = 2_000, 10_000
	// maxMessage bounds the text of a log line and of the shim's own events.
	maxMessage = 8 << 10
	// maxConnections and maxStreams bound what the guest opens at once: one is
	// used, one may take its place, the rest are leftovers.
	maxConnections = 4
	maxStreams     = 4
	// maxDialLines is how many sessions are worth a line in the shim's log, which
	// is on the host's disk.
	maxDialLines = 20
)

// eventKind is the form of an event's kind, such as "agent.ready".
var eventKind = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}$`)

// hostKinds are those that only the host may tell of.
var hostKinds = regexp.MustCompile(`^(vm|run)\.`)

// session is one stream of the agent's.
type session struct {
	replaced chan struct{} // closed when another one takes its place
	stop     chan struct{} // closed when the agent is to stop
	ended    chan struct{}
	stopOnce sync.Once
}

func (s *session) askStop() { s.stopOnce.Do(func() { close(s.stop) }) }

type guestServer struct {
	guestv1.UnimplementedGuestServiceServer
	*shim
}

// newGuestServer makes a server for a guest, which may be hostile: it takes
// messages of at most maxMessage bytes.
func newGuestServer(maxMessage int) *grpc.Server {
	return grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(time.Minute),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	)
}

// serveGuest serves the agent on l until the returned function is called.
func (s *shim) serveGuest(l net.Listener) (stop func()) {
	server := newGuestServer(maxRequest)
	guestv1.RegisterGuestServiceServer(server, &guestServer{shim: s})
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(netutil.LimitListener(l, maxConnections)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.deaf <- err // QEMU has ended, or soon will have
		}
	})
	return func() {
		server.Stop()
		served.Wait()
	}
}

// Session implements the protocol of guest.proto. This goroutine sends; one of
// its own, which ends with the stream, receives.
func (s *guestServer) Session(stream guestv1.GuestService_SessionServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session is hello")
	}
	if v := hello.GetProtocolVersion(); v != guestProtocol {
		return status.Errorf(codes.FailedPrecondition, "the agent speaks version %d of the guest protocol, this shim version %d: use an image and a Manager of one release", v, guestProtocol)
	}
	sess := s.enter()
	defer s.leave(sess)
	if err := stream.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Launch{Launch: s.launch}}); err != nil {
		return err
	}
	if n := s.dials.Add(1); n <= maxDialLines {
		s.Log.Info("the agent dialled", "agent_version", telemetry.Clean(hello.GetAgentVersion(), 64), "session", n)
	}
	s.readyOnce.Do(func() { close(s.ready) })

	in := &intake{spool: s.spool, logs: s.logs, runID: s.spec.RunID, maxSpool: maxSpool, arrived: make(chan struct{}, 1)}
	broken := make(chan error, 1)
	s.wg.Go(func() { broken <- in.receive(stream) })
	return s.answer(stream, sess, in, broken)
}

// answer sends acknowledgements, and the request to stop, until the stream ends.
func (s *guestServer) answer(stream guestv1.GuestService_SessionServer, sess *session, in *intake, broken <-chan error) error {
	stop := (<-chan struct{})(sess.stop)
	var acked uint64
	var again <-chan time.Time
	acknowledge := func() error {
		again = nil
		sequence := in.last()
		if sequence <= acked {
			return nil
		}
		if err := s.spool.Sync(); err != nil {
			if s.spool.Broken() != nil {
				s.fail(fmt.Errorf("keeping events: %w", err))
				return status.Error(codes.Unavailable, "the host can't keep events")
			}
			s.Log.Error("the agent's events wait for the disk", "error", err)
			again = time.After(syncDelay)
			return nil
		}
		acked = sequence
		return stream.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_EventAck{EventAck: &guestv1.EventAck{Sequence: sequence}}})
	}
	for {
		var err error
		select {
		case <-in.arrived:
			err = acknowledge()
		case <-again:
			err = acknowledge()
		case <-stop:
			stop = nil
			err = stream.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Stop{Stop: &guestv1.Stop{}}})
		case <-sess.replaced:
			return status.Error(codes.Aborted, "another session took the place of this one")
		case err := <-broken:
			// What came before the end is kept and acknowledged all the same.
			_ = acknowledge()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if err != nil {
			return err
		}
	}
}

// intake takes what one stream brings.
type intake struct {
	spool    *spool.Spool
	logs     *logRing
	runID    string
	maxSpool int64
	arrived  chan struct{} // has a token when there is something to acknowledge

	mu       sync.Mutex
	sequence uint64
}

func (in *intake) last() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sequence
}

// receive ends with the stream, or with what the agent must not send.
func (in *intake) receive(stream guestv1.GuestService_SessionServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *guestv1.SessionRequest_Event:
			if err := in.event(stream.Context(), m.Event); err != nil {
				return err
			}
		case *guestv1.SessionRequest_Log:
			in.logs.limited(agentLog(in.runID, m.Log), time.Now())
		case *guestv1.SessionRequest_Hello:
			return status.Error(codes.InvalidArgument, "hello comes once in a session")
		default:
			return status.Error(codes.InvalidArgument, "a message of an unknown kind")
		}
	}
}

// event puts one event into the spool, where it waits for the disk.
func (in *intake) event(ctx context.Context, e *eventv1.Event) error {
	if err := checkEvent(in.runID, e); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	payload, err := events.Encode(fromProto(e))
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	for changed := in.spool.Changed(); in.spool.Size() > in.maxSpool; changed = in.spool.Changed() {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch err := in.spool.Put(events.Agent, e.GetSequence(), payload); {
	case errors.Is(err, spool.ErrGap):
		return status.Error(codes.InvalidArgument, err.Error())
	case err != nil:
		return status.Error(codes.Unavailable, "the host can't keep events")
	}
	in.mu.Lock()
	in.sequence = max(in.sequence, e.GetSequence())
	in.mu.Unlock()
	select {
	case in.arrived <- struct{}{}:
	default:
	}
	return nil
}

// checkEvent is the host's judgement of an event that the guest sent.
func checkEvent(runID string, e *eventv1.Event) error {
	switch {
	case e.GetRunId() != runID:
		return errors.New("event.run_id is not this VM's run")
	case e.GetSource() != eventv1.Source_SOURCE_AGENT:
		return errors.New("event.source is not the agent")
	case e.GetSequence() == 0:
		return errors.New("event.sequence is 0; the first is 1")
	case len(e.GetKind()) > 64 || !eventKind.MatchString(e.GetKind()):
		return errors.New("event.kind is not of the form word.word")
	case hostKinds.MatchString(e.GetKind()):
		return fmt.Errorf("event.kind %q is the host's to tell", e.GetKind())
	case proto.Size(e) > maxEvent:
		return fmt.Errorf("an event has %d bytes; at most %d are taken", proto.Size(e), maxEvent)
	case e.GetTime() != nil && !e.GetTime().IsValid():
		return errors.New("event.time is not a time")
	}
	return nil
}

// enter makes a new session the only one.
func (s *shim) enter() *session {
	sess := &session{replaced: make(chan struct{}), stop: make(chan struct{}), ended: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		close(s.session.replaced)
	}
	s.session = sess
	if s.guestStops {
		sess.askStop()
	}
	return sess
}

func (s *shim) leave(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == sess {
		s.session = nil
	}
	close(sess.ended)
}

// stopSession asks the agent to stop, in this session and any later one.
func (s *shim) stopSession() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guestStops = true
	if s.session != nil {
		s.session.askStop()
	}
}

// drainSession lets the session end by itself once QEMU has hung up.
func (s *shim) drainSession() {
	s.mu.Lock()
	sess := s.session
	s.mu.Unlock()
	if sess == nil {
		return
	}
	select {
	case <-sess.ended:
	case <-time.After(drainDelay):
	}
}
