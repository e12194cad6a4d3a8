package session_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// deadline is generous: it ends a test that hangs, and is no aim.
const deadline = 60 * time.Second

type stream = grpc.BidiStreamingServer[guestv1.SessionRequest, guestv1.SessionResponse]

// shim is a shim whose sessions are played by the test, one function each.
type shim struct {
	guestv1.UnimplementedGuestServiceServer
	play chan func(s stream) error
}

func (s *shim) Session(st stream) error {
	select {
	case f := <-s.play:
		return f(st)
	case <-st.Context().Done():
		return nil
	}
}

// newShim serves on loopback; sessions are played in order.
func newShim(t testing.TB, plays ...func(stream) error) session.Dialer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &shim{play: make(chan func(stream) error, len(plays))}
	for _, p := range plays {
		s.play <- p
	}
	g := grpc.NewServer()
	guestv1.RegisterGuestServiceServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func options(dial session.Dialer) session.Options {
	return session.Options{Dial: dial, Journal: journal.New(time.Now), AgentVersion: "test", RetryDelay: time.Millisecond}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, o session.Options) (*session.Session, session.Launch) {
	t.Helper()
	s, l, err := session.Open(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, l
}

var participant = sync.OnceValue(func() keys.Private {
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		panic(err)
	}
	return k
})

func frozen(t testing.TB) manifest.Frozen {
	t.Helper()
	k := participant().Public()
	f, err := manifest.Freeze(manifest.Manifest{
		Version: 1, ID: "c", Name: "n", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Digest{1}, Size: 1, Provider: k},
		Consumers: []keys.Public{k}, Approvals: []keys.Public{k},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func launch(t testing.TB) *guestv1.Launch {
	t.Helper()
	f := frozen(t)
	a, err := f.Approve(participant())
	if err != nil {
		t.Fatal(err)
	}
	return &guestv1.Launch{
		RunId:     "0b8ad9ad-6dbb-4d8a-9c31-b2b4b8a7f1f0",
		Manifest:  f.Raw,
		Approvals: []*guestv1.Approval{{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature}},
		Config:    &guestv1.AgentConfig{Port: 7002, LogLevel: "info"},
		Network:   &guestv1.Network{Address: "10.0.2.15/24", Gateway: "10.0.2.2"},
	}
}

func sendLaunch(s stream, l *guestv1.Launch) error {
	return s.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Launch{Launch: l}})
}

func ack(s stream, n uint64) error {
	return s.Send(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_EventAck{EventAck: &guestv1.EventAck{Sequence: n}}})
}

// hello receives the first message and answers it.
func hello(s stream, l *guestv1.Launch) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	if h := m.GetHello(); h.GetProtocolVersion() != session.ProtocolVersion || h.GetAgentVersion() != "test" {
		return fmt.Errorf("hello is %v", m)
	}
	return sendLaunch(s, l)
}

// idle keeps a session open, reading what comes.
func idle(s stream) error {
	for {
		if _, err := s.Recv(); err != nil {
			return nil
		}
	}
}
