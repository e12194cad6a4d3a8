// Package server is a computations server for trying and testing Managers: it
// hands out run requests and writes down what comes back.
//
// A request goes to the first Manager that connects, and to the same one again
// when its stream breaks before it has answered; the Manager starts nothing
// twice. Events are kept once each, by their key, and acknowledged after they
// are in the journal, on disk. Logs are kept as they come. A test can cut the
// stream, withhold acknowledgements, and wait for what it expects.
//
// It keeps everything in memory and serves whoever its TLS configuration lets
// in: nothing for production.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

// ProtocolVersion is that of cocos.manager.v1.
const ProtocolVersion = 1

// Verdict is what an Ack hook decides about an event that has just come.
type Verdict int

// The verdicts.
const (
	// Ack commits the event and acknowledges it.
	Ack Verdict = iota
	// Withhold commits it and says nothing.
	Withhold
	// Lose forgets it: it was never committed.
	Lose
	// AckAndCut acknowledges it and breaks the stream at once.
	AckAndCut
	// Cut commits it and breaks the stream instead of acknowledging it.
	Cut
)

// Config of a Server. Only TLS is required.
type Config struct {
	// TLS holds the server's certificate; with client CAs it asks for theirs.
	TLS *tls.Config
	// Journal is a file of JSON lines to which everything is appended; empty:
	// none.
	Journal string
	// Verdict is asked for each event; nil acknowledges all.
	Verdict func(*eventv1.Event) Verdict
	// Watch is told of everything that Managers send, one at a time; nil: none.
	Watch func(Entry)
}

// Server is safe for concurrent use.
type Server struct {
	cfg     Config
	grpc    *grpc.Server
	journal *journal
	watch   sync.Mutex // one entry at a time

	mu       sync.Mutex
	changed  chan struct{}
	managers map[*connection]bool
	hellos   []*managerv1.Hello
	runs     map[string]*run
	order    []string
	keys     map[key]bool
}

type key struct {
	run      string
	source   eventv1.Source
	sequence uint64
}

// run is what is known of one run.
type run struct {
	request *managerv1.RunRequest
	// instance is the Manager that it was sent to; empty: none yet.
	instance string
	reply    *managerv1.RunReply
	address  string
	stops    []*managerv1.StopReply
	events   []*eventv1.Event
	// arrivals are all events as they came, repetitions included.
	arrivals []*eventv1.Event
	logs     []*eventv1.Log
}

// connection is one stream.
type connection struct {
	instance string
	host     string
	cut      context.CancelFunc
	out      chan *managerv1.ConnectResponse
	done     <-chan struct{}
}

// New makes a server. A journal that exists is continued: its events are known.
func New(cfg Config) (*Server, error) {
	if cfg.TLS == nil {
		return nil, errors.New("a computations server needs a TLS configuration")
	}
	s := &Server{cfg: cfg, changed: make(chan struct{}), managers: map[*connection]bool{}, runs: map[string]*run{}, keys: map[key]bool{}}
	if cfg.Journal != "" {
		j, err := openJournal(cfg.Journal, func(k key) { s.keys[k] = true })
		if err != nil {
			return nil, err
		}
		s.journal = j
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg.TLS)),
		// Managers ask every 20 seconds whether this end is still there.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	managerv1.RegisterComputationsServiceServer(s.grpc, service{s: s})
	return s, nil
}

// Serve serves l until ctx ends, and returns when every stream has.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	err := s.grpc.Serve(l)
	s.grpc.Stop()
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, s.journal.Close())
}

// Submit asks for a run: now if a Manager is there, else when one comes.
func (s *Server) Submit(request *managerv1.RunRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.run(request.GetRunId())
	r.request, r.instance, r.reply = request, "", nil
	for c := range s.managers {
		s.offer(c)
		break
	}
}

// Stop asks for a run's end.
func (s *Server) Stop(runID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[runID]
	for c := range s.managers {
		if r == nil || r.instance == "" || c.instance == r.instance {
			return c.send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_StopRequest{
				StopRequest: &managerv1.StopRequest{RunId: runID}}})
		}
	}
	return fmt.Errorf("stopping run %s: its Manager is not connected", runID)
}

// Disconnect breaks every stream.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.managers {
		c.cut()
	}
}

// run returns what is known of a run; s.mu is held.
func (s *Server) run(id string) *run {
	r := s.runs[id]
	if r == nil {
		r = &run{}
		s.runs[id] = r
		s.order = append(s.order, id)
	}
	return r
}

// offer sends what waits for a Manager; s.mu is held.
func (s *Server) offer(c *connection) {
	for _, id := range s.order {
		r := s.runs[id]
		if r.request == nil || r.reply != nil || (r.instance != "" && r.instance != c.instance) {
			continue
		}
		if c.send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_RunRequest{RunRequest: r.request}}) == nil {
			r.instance = c.instance
		}
	}
}

// send never waits: s.mu is held.
func (c *connection) send(m *managerv1.ConnectResponse) error {
	select {
	case c.out <- m:
		return nil
	default:
		c.cut()
		return fmt.Errorf("%s does not read what it is sent", c.instance)
	}
}

// service is the gRPC face.
type service struct {
	managerv1.UnimplementedComputationsServiceServer
	s *Server
}

// Connect implements managerv1.ComputationsServiceServer.
func (g service) Connect(stream grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	switch {
	case hello == nil:
		return status.Error(codes.InvalidArgument, "the first message must be a hello")
	case hello.GetProtocolVersion() != ProtocolVersion:
		return status.Errorf(codes.FailedPrecondition, "protocol version %d is not spoken here; use %d", hello.GetProtocolVersion(), ProtocolVersion)
	}
	if err := stream.Send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_Welcome{
		Welcome: &managerv1.Welcome{ProtocolVersion: ProtocolVersion}}}); err != nil {
		return err
	}
	return g.s.serve(stream, hello)
}

func (s *Server) serve(stream grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse], hello *managerv1.Hello) error {
	ctx, cut := context.WithCancel(stream.Context())
	defer cut()
	c := &connection{instance: hello.GetInstanceId(), cut: cut, out: make(chan *managerv1.ConnectResponse, 4096), done: ctx.Done()}
	if p, ok := peer.FromContext(ctx); ok {
		c.host, _, _ = net.SplitHostPort(p.Addr.String())
	}
	s.mu.Lock()
	s.managers[c] = true
	s.hellos = append(s.hellos, hello)
	s.mu.Unlock()
	s.note(Entry{Type: "connected", Instance: c.instance})
	s.mu.Lock()
	s.offer(c)
	s.announce()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.managers, c)
		s.announce()
		s.mu.Unlock()
		s.note(Entry{Type: "disconnected", Instance: c.instance})
	}()

	// The handler's return ends the stream, and with it the goroutine.
	received := make(chan error, 1)
	go func() { received <- s.receive(stream, c) }()
	for {
		select {
		case m := <-c.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-received:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			// What was put out before the cut still goes.
			for {
				select {
				case m := <-c.out:
					if err := stream.Send(m); err != nil {
						return err
					}
					continue
				default:
				}
				return status.Error(codes.Unavailable, "the server cut the stream")
			}
		}
	}
}

func (s *Server) receive(stream grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse], c *connection) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case <-c.done:
			return nil // cut: what comes now never arrived
		default:
		}
		switch m := m.GetMessage().(type) {
		case *managerv1.ConnectRequest_RunReply:
			err = s.replied(c, m.RunReply)
		case *managerv1.ConnectRequest_StopReply:
			err = s.stopped(m.StopReply)
		case *managerv1.ConnectRequest_Event:
			err = s.event(c, m.Event)
		case *managerv1.ConnectRequest_Log:
			err = s.logged(m.Log)
		case *managerv1.ConnectRequest_HostStatus:
			// Nobody asked for it; it costs nothing.
		default:
			err = status.Errorf(codes.InvalidArgument, "a message that is not valid here: %T", m)
		}
		if err != nil {
			return err
		}
	}
}

func (s *Server) replied(c *connection, reply *managerv1.RunReply) error {
	address := ""
	if reply.GetRefusal() == nil {
		address = net.JoinHostPort(c.host, fmt.Sprint(reply.GetAgentHostPort()))
	}
	s.mu.Lock()
	r := s.run(reply.GetRunId())
	r.reply, r.address = reply, address
	s.announce()
	s.mu.Unlock()
	return s.note(Entry{Type: "run_reply", RunID: reply.GetRunId(), AgentAddress: address, Faults: faults(reply.GetRefusal())})
}

func (s *Server) stopped(reply *managerv1.StopReply) error {
	s.mu.Lock()
	r := s.run(reply.GetRunId())
	r.stops = append(r.stops, reply)
	s.announce()
	s.mu.Unlock()
	return s.note(Entry{Type: "stop_reply", RunID: reply.GetRunId(), Faults: faults(reply.GetRefusal())})
}

func (s *Server) logged(l *eventv1.Log) error {
	s.mu.Lock()
	r := s.run(l.GetRunId())
	r.logs = append(r.logs, l)
	s.announce()
	s.mu.Unlock()
	return s.note(Entry{Type: "log", RunID: l.GetRunId(), Source: source(l.GetSource()), Time: l.GetTime().AsTime(),
		Level: level(l.GetLevel()), Message: l.GetMessage(), Dropped: l.GetDropped()})
}

func (s *Server) event(c *connection, e *eventv1.Event) error {
	verdict := Ack
	if s.cfg.Verdict != nil {
		verdict = s.cfg.Verdict(e)
	}
	s.mu.Lock()
	r := s.run(e.GetRunId())
	r.arrivals = append(r.arrivals, e)
	k := key{e.GetRunId(), e.GetSource(), e.GetSequence()}
	fresh := !s.keys[k]
	s.announce()
	s.mu.Unlock()
	if verdict == Lose {
		return nil
	}
	if fresh {
		if err := s.note(Entry{Type: "event", RunID: e.GetRunId(), Source: source(e.GetSource()), Sequence: e.GetSequence(),
			Time: e.GetTime().AsTime(), Kind: e.GetKind(), Message: e.GetMessage(), Attributes: e.GetAttributes()}); err != nil {
			return err
		}
		s.mu.Lock()
		s.keys[k] = true
		r.events = append(r.events, e)
		s.announce()
		s.mu.Unlock()
	}
	if verdict == Ack || verdict == AckAndCut {
		ack := &managerv1.EventAck{RunId: e.GetRunId(), Source: e.GetSource(), Sequence: e.GetSequence()}
		select {
		case c.out <- &managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_EventAck{EventAck: ack}}:
		case <-c.done:
		}
	}
	if verdict == Cut || verdict == AckAndCut {
		c.cut()
	}
	return nil
}

// note puts an entry into the journal, on disk, and tells whoever watches.
func (s *Server) note(e Entry) error {
	if err := s.journal.append(e); err != nil {
		return status.Errorf(codes.Internal, "%v", err)
	}
	if s.cfg.Watch != nil {
		s.watch.Lock()
		defer s.watch.Unlock()
		s.cfg.Watch(e)
	}
	return nil
}

// announce wakes those who wait; s.mu is held.
func (s *Server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}
