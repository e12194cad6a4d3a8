// Package session is the agent's end of the line to its shim: the one stream
// over which the host hands in the manifest and takes events and logs out.
//
// Everything that comes in is a hostile host's: a message is capped before it
// is read, the manifest is hashed as it came and parsed afterwards, a field that
// is not known refuses. The first Launch counts: one that differs from it later
// ends the session for good, and with it the agent.
//
// Events go out in order, each until the shim says that it is on disk; after a
// broken stream those without that word go out again. Log lines go out once, and
// are dropped, oldest first and counted, while nobody listens; of a VM that
// participants appraise none goes out. The session never
// holds up whoever writes to the journal. One goroutine owns the stream; Close
// waits for it.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/manifest"
)

// ProtocolVersion of cocos.guest.v1 that this agent speaks.
const ProtocolVersion = 1

// maxMessage bounds what the shim may send at once: a manifest, its approvals
// and three PEM texts.
const maxMessage = manifest.MaxSize + maxApprovals*(2<<10+maxSignature) + 3*maxPEM + 64<<10

// Dialer connects to the shim, over vsock in a VM.
type Dialer func(ctx context.Context) (net.Conn, error)

// Options of a session; all but Log are required.
type Options struct {
	Dial    Dialer
	Journal *journal.Journal
	// AgentVersion is for people.
	AgentVersion string
	// Log, if set, hears of broken streams.
	Log *slog.Logger
	// RetryDelay between broken streams; zero means 200 ms.
	RetryDelay time.Duration
}

// ErrProtocol says that the shim broke the protocol or refused the agent; there
// is no way on.
var ErrProtocol = errors.New("guest session")

// Session is an open session. Use Open.
type Session struct {
	opts   Options
	conn   *grpc.ClientConn
	client guestv1.GuestServiceClient
	cancel context.CancelFunc
	ended  chan struct{} // closed when the owner goroutine has returned
	err    error         // valid once ended is closed

	first     chan struct{} // closed with the first Launch
	stop      chan struct{} // closed when the shim asks to stop
	askedStop sync.Once

	mu     sync.Mutex
	launch *guestv1.Launch
	parsed Launch
	acked  uint64 // last event that is on the shim's disk
	logged uint64 // last log line that was sent
	onAck  chan struct{}
}

// Open dials, says Hello and returns with the Launch. It tries until ctx ends,
// which bounds opening alone; the session then lives until Close. A Launch that
// is refused, or a shim that refuses the agent, is an ErrProtocol.
func Open(ctx context.Context, opts Options) (*Session, Launch, error) {
	if opts.RetryDelay == 0 {
		opts.RetryDelay = 200 * time.Millisecond
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	conn, err := grpc.NewClient("passthrough:///shim",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return opts.Dial(ctx) }),
		// The host is not trusted with or without encryption.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return nil, Launch{}, fmt.Errorf("guest session: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Session{
		opts: opts, conn: conn, client: guestv1.NewGuestServiceClient(conn), cancel: cancel,
		ended: make(chan struct{}), first: make(chan struct{}), stop: make(chan struct{}), onAck: make(chan struct{}),
	}
	go func() {
		defer close(s.ended)
		s.err = s.run(run)
	}()
	select {
	case <-s.first:
		return s, s.parsed, nil
	case <-s.ended:
		err = s.err
	case <-ctx.Done():
		err = fmt.Errorf("guest session: no launch came: %w", context.Cause(ctx))
	}
	s.Close()
	return nil, Launch{}, err
}

// Stop is closed when the shim asks the agent to end the run.
func (s *Session) Stop() <-chan struct{} { return s.stop }

// Ended is closed when the session is over: by Close, or for a reason that Err
// tells and that ends the agent.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Err is nil after Close, an ErrProtocol otherwise. Valid once Ended is closed.
func (s *Session) Err() error { return s.err }

// Flush waits until every event emitted before the call is on the shim's disk.
func (s *Session) Flush(ctx context.Context) error {
	last := s.opts.Journal.LastEvent()
	for {
		s.mu.Lock()
		acked, onAck := s.acked, s.onAck
		s.mu.Unlock()
		if acked >= last {
			return nil
		}
		select {
		case <-onAck:
		case <-s.ended:
			return fmt.Errorf("guest session ended with %d events not delivered", last-acked)
		case <-ctx.Done():
			return fmt.Errorf("%d events not delivered: %w", last-acked, context.Cause(ctx))
		}
	}
}

// Close ends the session and waits for it.
func (s *Session) Close() {
	s.cancel()
	<-s.ended
	s.conn.Close()
}

// run opens streams until ctx ends (nil) or the protocol is broken.
func (s *Session) run(ctx context.Context) error {
	for {
		err := s.stream(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrProtocol):
			return err
		case status.Code(err) == codes.FailedPrecondition:
			return fmt.Errorf("%w: the shim refused: %s", ErrProtocol, status.Convert(err).Message())
		}
		s.opts.Log.Warn("the session with the shim broke; opening it again", "error", err)
		select {
		case <-time.After(s.opts.RetryDelay):
		case <-ctx.Done():
			return nil
		}
	}
}

// stream is one stream from its Hello to its end.
func (s *Session) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.Session(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	hello := &guestv1.Hello{ProtocolVersion: ProtocolVersion, AgentVersion: s.opts.AgentVersion}
	if err := stream.Send(&guestv1.SessionRequest{Message: &guestv1.SessionRequest_Hello{Hello: hello}}); err != nil {
		_, err := stream.Recv() // has the reason
		return err
	}
	if err := s.receiveLaunch(stream); err != nil {
		return err
	}

	received := make(chan error, 1)
	go func() {
		received <- s.receive(stream)
		cancel()
	}()
	sendErr := s.send(ctx, stream)
	cancel()
	if err := <-received; err != nil && !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
		return err
	}
	return sendErr
}

// receiveLaunch takes the stream's first message.
func (s *Session) receiveLaunch(stream guestv1.GuestService_SessionClient) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	launch := m.GetLaunch()
	if launch == nil {
		return fmt.Errorf("%w: the shim's first message is not a launch", ErrProtocol)
	}
	s.mu.Lock()
	known := s.launch
	s.mu.Unlock()
	if known != nil {
		if !proto.Equal(known, launch) {
			return fmt.Errorf("%w: the shim sent a launch that differs from the first one", ErrProtocol)
		}
		return nil
	}
	parsed, err := parseLaunch(launch)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	s.mu.Lock()
	s.launch, s.parsed = launch, parsed
	s.mu.Unlock()
	close(s.first)
	return nil
}

func (s *Session) receive(stream guestv1.GuestService_SessionClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *guestv1.SessionResponse_EventAck:
			if err := s.acknowledge(m.EventAck.GetSequence()); err != nil {
				return err
			}
		case *guestv1.SessionResponse_Stop:
			s.askedStop.Do(func() { close(s.stop) })
		case *guestv1.SessionResponse_Launch:
			return fmt.Errorf("%w: the shim sent a second launch in one stream", ErrProtocol)
		default:
			return fmt.Errorf("%w: the shim sent a message that this agent does not know", ErrProtocol)
		}
	}
}

func (s *Session) acknowledge(sequence uint64) error {
	if last := s.opts.Journal.LastEvent(); sequence > last {
		return fmt.Errorf("%w: the shim acknowledged event %d of %d", ErrProtocol, sequence, last)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sequence > s.acked {
		s.acked = sequence
		close(s.onAck)
		s.onAck = make(chan struct{})
	}
	return nil
}
