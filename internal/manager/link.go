package manager

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
)

// Server says how to reach the computations server.
type Server struct {
	// Address is HOST:PORT.
	Address string
	// Timeout bounds connecting, with greeting.
	Timeout time.Duration
	// TLS is asked before each connection, so that renewed certificates are
	// used. There is no connection without TLS.
	TLS func() (*tls.Config, error)
	// Enrolled, if not nil, is the certificate that TLS shows; where the server
	// gave it, it is renewed there.
	Enrolled *Enrolled
}

const (
	// A peer that is silent for so long is asked, and given up so much later.
	keepaliveTime    = 20 * time.Second
	keepaliveTimeout = 10 * time.Second
	// The waits between attempts grow from the first to the last, each shorter
	// or longer by up to a half, so that many Managers don't come at once.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
	// refusedRetry is the wait of one whom the server does not want: it won't
	// change its mind soon, and must not be bothered.
	refusedRetry = 5 * time.Minute
	// A stream that held for so long was a good one: begin with short waits.
	settled = time.Minute
	// Requests that wait, or are worked on: how many there may be, and what they
	// may have together, in bytes. Further ones are refused at once.
	maxRequests     = 1024
	maxRequestBytes = 64 << 20
	// handlers bounds those that are worked on at once.
	handlers = 64
)

// service is what the link serves.
type service interface {
	accept(RunRequest) Reply
	halt(ctx context.Context, runID string, grace time.Duration) []Fault
	ack(eventKey)
	report(context.Context) []RunState
	standing() Standing
	at(point string)
}

// link keeps the stream to the server.
type link struct {
	cfg      Server
	instance string
	version  string
	eos      string
	tees     []string
	findings func(context.Context) []Finding // may be nil
	images   func(context.Context) []Image   // may be nil
	clock    Clock
	log      *slog.Logger
	service  service
	hub      *hub
	line     *line
	metrics  *metrics // may be nil
}

// serve connects again and again until ctx ends.
func (l *link) serve(ctx context.Context) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstRetry, lastRetry
	wait.Reset()
	for attempt := 1; ; attempt++ {
		begin := time.Now() // and not l.clock: how long a stream held must not depend on a clock that is set
		err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) >= settled {
			wait.Reset()
			attempt = 1
		}
		l.metrics.broken()
		l.line.lost(l.clock.Now(), fmt.Sprint(err))
		d := wait.NextBackOff()
		if unwanted(err) {
			d = refusedRetry/2 + rand.N(refusedRetry)
		}
		l.log.Warn("no connection to the computations server; trying again", "server", l.cfg.Address, "in", d.Round(time.Millisecond).String(), "attempt", attempt, "error", err)
		select {
		case <-l.clock.After(d):
		case <-ctx.Done():
			return
		}
	}
}

// unwanted tells whether the server knows this host and refuses it as a whole.
func unwanted(err error) bool { return status.Code(err) == codes.PermissionDenied }

// connect is one stream, from dialling to its end. It never returns nil.
func (l *link) connect(ctx context.Context) error {
	cfg, err := l.cfg.TLS()
	if err != nil {
		return err
	}
	if cfg.Time == nil {
		cfg.Time = l.clock.Now
	}
	creds := &watchedTLS{TransportCredentials: credentials.NewTLS(cfg)}
	conn, err := grpc.NewClient("passthrough:///"+l.cfg.Address,
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		// Longer than our own deadline below, whose error names the variable.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 2 * l.cfg.Timeout}),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", l.cfg.Address, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(l.cfg.Timeout, func() {
		cancel(fmt.Errorf("%s did not greet within %v (MANAGER_GRPC_TIMEOUT)", l.cfg.Address, l.cfg.Timeout))
	})
	defer late.Stop()
	stream, err := managerv1.NewComputationsServiceClient(conn).Connect(ctx)
	var statusEvery time.Duration
	if err == nil {
		statusEvery, err = l.greet(ctx, stream)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return explain(err, creds.failure(), l.cfg.Address)
	}
	if !late.Stop() {
		return context.Cause(ctx)
	}
	l.log.Info("connected to the computations server", "server", l.cfg.Address, "instance", l.instance)
	l.metrics.connected()
	l.line.connected(l.clock.Now())

	s := newSession(ctx, l.service.at, l.metrics)
	l.hub.set(s)
	defer l.hub.set(nil)
	group, groupCtx := errgroup.WithContext(ctx)
	work := newLanes(maxRequests, maxRequestBytes, handlers)
	group.Go(func() error { return s.send(groupCtx, stream) })
	group.Go(func() error { l.tellStanding(groupCtx, s, statusEvery); return nil })
	group.Go(func() error { l.renewals(groupCtx, conn); return nil })
	group.Go(func() error {
		err := l.receive(ctx, stream, s, work, cancel)
		cancel(err) // nothing goes on without it, neither handlers nor runs
		return err
	})
	err = group.Wait()
	cancel(err)
	work.wait()
	return explain(context.Cause(ctx), nil, l.cfg.Address)
}

// greet exchanges Hello and Welcome, and returns how often the server wants to
// hear how the host stands; 0: never.
func (l *link) greet(ctx context.Context, stream grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse]) (statusEvery time.Duration, err error) {
	hello := &managerv1.Hello{ProtocolVersion: ProtocolVersion, InstanceId: l.instance, Version: l.version, EosVersion: l.eos, Tees: l.tees}
	if l.findings != nil {
		for _, f := range l.findings(ctx) {
			hello.Findings = append(hello.Findings, &managerv1.Finding{Name: f.Name, Verdict: f.Verdict, Found: f.Found, Needed: f.Needed, Mend: f.Mend})
		}
	}
	l.describe(ctx, hello)
	for _, r := range l.service.report(ctx) {
		hello.Runs = append(hello.Runs, &managerv1.RunStatus{RunId: r.RunID, State: string(r.State)})
	}
	// An error of Send is io.EOF; Recv says which.
	if err := stream.Send(&managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_Hello{Hello: hello}}); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	m, err := stream.Recv()
	if err != nil {
		return 0, ended(err)
	}
	w := m.GetWelcome()
	if w == nil {
		return 0, fmt.Errorf("%s did not greet: its first message is %T", l.cfg.Address, m.GetMessage())
	}
	if w.GetProtocolVersion() != ProtocolVersion {
		return 0, fmt.Errorf("%s speaks protocol version %d, this Manager %d: use versions of both that go together", l.cfg.Address, w.GetProtocolVersion(), ProtocolVersion)
	}
	return time.Duration(w.GetStatusSeconds()) * time.Second, nil
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the server ended the stream")
	}
	return err
}

// receive takes what the server says until the stream breaks. It never waits for
// what is asked: the requests for one run are worked on in their order, those
// for different runs side by side, and what is too much is refused.
func (l *link) receive(ctx context.Context, stream grpc.BidiStreamingClient[managerv1.ConnectRequest, managerv1.ConnectResponse], s *session, work *lanes, end context.CancelCauseFunc) error {
	answer := func(m *managerv1.ConnectRequest) {
		if err := s.reply(m); err != nil {
			end(err)
		}
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		switch m := m.GetMessage().(type) {
		case *managerv1.ConnectResponse_RunRequest:
			id := m.RunRequest.GetRunId()
			if !work.add(id, proto.Size(m.RunRequest), func() { answer(runReply(l.service.accept(runRequest(m.RunRequest)))) }) {
				answer(runReply(Reply{RunID: id, Faults: []Fault{tooMuch}}))
			}
		case *managerv1.ConnectResponse_StopRequest:
			id := m.StopRequest.GetRunId()
			if !work.add(id, proto.Size(m.StopRequest), func() { answer(stopReply(id, l.service.halt(ctx, id, 0))) }) {
				answer(stopReply(id, []Fault{tooMuch}))
			}
		case *managerv1.ConnectResponse_EventAck:
			a := m.EventAck
			l.service.ack(eventKey{run: a.GetRunId(), source: a.GetSource(), sequence: a.GetSequence()})
		default:
			return fmt.Errorf("%s sent a message that is not valid here: %T", l.cfg.Address, m)
		}
	}
}

var tooMuch = Fault{Reason: NoCapacity, Message: "too many requests wait for this Manager", Hint: "send it again when others have been answered"}

func stopReply(runID string, faults []Fault) *managerv1.ConnectRequest {
	reply := &managerv1.StopReply{RunId: runID, Refusal: refusal(faults)}
	return &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_StopReply{StopReply: reply}}
}

func runRequest(m *managerv1.RunRequest) RunRequest {
	c := m.GetAgentConfig()
	r := RunRequest{
		RunID: m.GetRunId(), Manifest: m.GetManifest(), TTLSeconds: m.GetTtlSeconds(), Traceparent: m.GetTraceparent(),
		Agent: AgentConfig{Port: c.GetPort(), LogLevel: c.GetLogLevel(), ServerCert: c.GetServerCert(),
			ServerKey: c.GetServerKey(), ClientCACerts: c.GetClientCaCerts()},
	}
	for _, a := range m.GetApprovals() {
		r.Approvals = append(r.Approvals, Approval{PublicKey: a.GetPublicKey(), Signature: a.GetSignature()})
	}
	return r
}

func runReply(r Reply) *managerv1.ConnectRequest {
	reply := &managerv1.RunReply{RunId: r.RunID, Refusal: refusal(r.Faults), AgentHostPort: uint32(r.Port)}
	return &managerv1.ConnectRequest{Message: &managerv1.ConnectRequest_RunReply{RunReply: reply}}
}

func refusal(faults []Fault) *managerv1.Refusal {
	if len(faults) == 0 {
		return nil
	}
	r := &managerv1.Refusal{}
	for _, f := range faults {
		r.Faults = append(r.Faults, &managerv1.Fault{Reason: string(f.Reason), Field: f.Field, Message: f.Message, Hint: f.Hint})
	}
	return r
}

var _ sink = (*session)(nil)
