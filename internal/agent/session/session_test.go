package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/ultravioletrs/cocos/api/guest/v1"
	"github.com/ultravioletrs/cocos/internal/agent/session"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestOpen(t *testing.T) {
	l := launch(t)
	l.Config.ServerCert, l.Config.ServerKey, l.Config.ClientCaCerts = []byte("cert"), []byte("key"), []byte("ca")
	_, got := open(t, options(newShim(t, func(s stream) error { return errors.Join(hello(s, l), idle(s)) })))
	want := frozen(t)
	c := got.Config
	if got.RunID != l.RunId || got.Manifest.Digest != want.Digest || c.Port != 7002 || c.LogLevel != "info" ||
		string(c.ServerCert) != "cert" || string(c.ServerKey) != "key" || string(c.ClientCACerts) != "ca" ||
		c.Address.String() != "10.0.2.15/24" || c.Gateway.String() != "10.0.2.2" {
		t.Errorf("got %+v", got)
	}
	if err := got.Manifest.CheckApprovals(got.Approvals); err != nil {
		t.Error(err)
	}
}

// Each launch is right in all but one field.
func TestRefusedLaunches(t *testing.T) {
	manyApprovals := make([]*guestv1.Approval, 257)
	for i := range manyApprovals {
		manyApprovals[i] = launch(t).Approvals[0]
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	for _, tt := range []struct {
		name, want string
		change     func(*guestv1.Launch)
	}{
		{"run missing", "launch.run_id", func(l *guestv1.Launch) { l.RunId = "" }},
		{"run not a UUID", "launch.run_id", func(l *guestv1.Launch) { l.RunId = "../../x" }},
		{"run in capitals", "launch.run_id", func(l *guestv1.Launch) { l.RunId = strings.ToUpper(l.RunId) }},
		{"manifest missing", "launch.manifest", func(l *guestv1.Launch) { l.Manifest = nil }},
		{"manifest not canonical", "launch.manifest", func(l *guestv1.Launch) { l.Manifest = append(l.Manifest, '\n') }},
		{"manifest too long", "launch.manifest", func(l *guestv1.Launch) { l.Manifest = make([]byte, manifest.MaxSize+1) }},
		{"manifest with an unknown key", "launch.manifest", func(l *guestv1.Launch) {
			l.Manifest = []byte(strings.Replace(string(l.Manifest), `{`, `{"aaa":1,`, 1))
		}},
		{"too many approvals", "launch.approvals has 257", func(l *guestv1.Launch) { l.Approvals = manyApprovals }},
		{"approval without key", "launch.approvals[0].public_key", func(l *guestv1.Launch) { l.Approvals[0].PublicKey = nil }},
		{"approval without signature", "launch.approvals[0].signature", func(l *guestv1.Launch) { l.Approvals[0].Signature = nil }},
		{"approval with a long signature", "launch.approvals[0].signature", func(l *guestv1.Launch) { l.Approvals[0].Signature = make([]byte, 3000) }},
		{"no configuration", "launch.config.port", func(l *guestv1.Launch) { l.Config = nil }},
		{"port 0", "launch.config.port", func(l *guestv1.Launch) { l.Config.Port = 0 }},
		{"port 65536", "launch.config.port", func(l *guestv1.Launch) { l.Config.Port = 65536 }},
		{"log level missing", "launch.config.log_level", func(l *guestv1.Launch) { l.Config.LogLevel = "" }},
		{"log level in capitals", "launch.config.log_level", func(l *guestv1.Launch) { l.Config.LogLevel = "INFO" }},
		{"certificate without key", "launch.config", func(l *guestv1.Launch) { l.Config.ServerCert = []byte("x") }},
		{"key without certificate", "launch.config", func(l *guestv1.Launch) { l.Config.ServerKey = []byte("x") }},
		{"long certificate", "launch.config.server_cert", func(l *guestv1.Launch) { l.Config.ServerCert = make([]byte, 300<<10) }},
		{"long client CA", "launch.config.client_ca_certs", func(l *guestv1.Launch) { l.Config.ClientCaCerts = make([]byte, 300<<10) }},
		{"address without length", "launch.network.address", func(l *guestv1.Launch) { l.Network.Address = "10.0.2.15" }},
		{"address missing", "launch.network.address", func(l *guestv1.Launch) { l.Network.Address = "" }},
		{"gateway missing", "launch.network.gateway", func(l *guestv1.Launch) { l.Network.Gateway = "" }},
		{"gateway elsewhere", "launch.network.gateway", func(l *guestv1.Launch) { l.Network.Gateway = "10.9.9.9" }},
		{"unknown field", "launch has fields", func(l *guestv1.Launch) { l.ProtoReflect().SetUnknown(unknown) }},
		{"unknown field of the configuration", "launch.config has fields", func(l *guestv1.Launch) { l.Config.ProtoReflect().SetUnknown(unknown) }},
		{"unknown field of the network", "launch.network has fields", func(l *guestv1.Launch) { l.Network.ProtoReflect().SetUnknown(unknown) }},
		{"unknown field of an approval", "launch.approvals[0] has fields", func(l *guestv1.Launch) { l.Approvals[0].ProtoReflect().SetUnknown(unknown) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := launch(t)
			tt.change(l)
			o := options(newShim(t, func(s stream) error { return errors.Join(hello(s, l), idle(s)) }))
			s, _, err := session.Open(testContext(t), o)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, session.ErrProtocol) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestAShimThatBreaksTheProtocol(t *testing.T) {
	respond := func(m *guestv1.SessionResponse) func(stream) error {
		return func(s stream) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return errors.Join(s.Send(m), idle(s))
		}
	}
	then := func(do func(stream) error) func(stream) error {
		return func(s stream) error { return errors.Join(hello(s, launch(t)), do(s), idle(s)) }
	}
	// What ends the session before or after it is open.
	for name, play := range map[string]func(stream) error{
		"empty first message":   respond(&guestv1.SessionResponse{}),
		"acknowledgement first": respond(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_EventAck{EventAck: &guestv1.EventAck{}}}),
		"stop first":            respond(&guestv1.SessionResponse{Message: &guestv1.SessionResponse_Stop{Stop: &guestv1.Stop{}}}),
		"other version":         func(stream) error { return status.Error(codes.FailedPrecondition, "version 2 is spoken here") },
		"launch twice":          then(func(s stream) error { return sendLaunch(s, launch(t)) }),
		"empty message":         then(func(s stream) error { return s.Send(&guestv1.SessionResponse{}) }),
		"ack from the future":   then(func(s stream) error { return ack(s, 1) }),
	} {
		t.Run(name, func(t *testing.T) {
			s, _, err := session.Open(testContext(t), options(newShim(t, play)))
			if err == nil {
				defer s.Close()
				select {
				case <-s.Ended():
					err = s.Err()
				case <-testContext(t).Done():
					t.Fatal("the session goes on")
				}
			}
			if !errors.Is(err, session.ErrProtocol) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAMessageThatIsTooLong(t *testing.T) {
	big := launch(t)
	big.Manifest = make([]byte, 64<<20)
	o := options(newShim(t, func(s stream) error { return hello(s, big) }))
	ctx, cancel := context.WithCancel(testContext(t))
	broke := make(chan struct{}, 100)
	o.Log = slog.New(onRecord{broke})
	go func() {
		<-broke // a broken stream, like any other
		cancel()
	}()
	if s, _, err := session.Open(ctx, o); err == nil {
		s.Close()
		t.Error("took 64 MiB")
	}
}

// onRecord tells of each log record.
type onRecord struct{ ch chan struct{} }

func (onRecord) Enabled(context.Context, slog.Level) bool { return true }
func (h onRecord) Handle(context.Context, slog.Record) error {
	h.ch <- struct{}{}
	return nil
}
func (h onRecord) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h onRecord) WithGroup(string) slog.Handler      { return h }

// Events go out in order until acknowledged; what a broken stream left open
// goes out again, what was acknowledged does not.
func TestEventsSurviveBrokenStreams(t *testing.T) {
	want := func(s stream, sequences ...uint64) error {
		for _, n := range sequences {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			if e := m.GetEvent(); e.GetSequence() != n || e.GetRunId() != launch(t).RunId || e.GetKind() != fmt.Sprint("kind", n) {
				return fmt.Errorf("got %v, want event %d", m, n)
			}
		}
		return nil
	}
	verdict := make(chan error, 4)
	play := func(do func(stream) error) func(stream) error {
		return func(s stream) error {
			verdict <- errors.Join(hello(s, launch(t)), do(s))
			return status.Error(codes.Unavailable, "cut by the test")
		}
	}
	emitted := make(chan struct{})
	o := options(newShim(t,
		play(func(s stream) error { return want(s, 1, 2, 3) }),
		// Acknowledged is what the shim says, and an older word changes nothing.
		play(func(s stream) error { return errors.Join(want(s, 1, 2, 3), ack(s, 2), ack(s, 1)) }),
		play(func(s stream) error {
			<-emitted
			return errors.Join(want(s, 3, 4), ack(s, 4))
		}),
		func(s stream) error { return errors.Join(hello(s, launch(t)), idle(s)) },
	))
	for i := range 3 {
		o.Journal.Emit(fmt.Sprint("kind", i+1), "", nil)
	}
	s, _ := open(t, o)
	for i := range 2 {
		if err := <-verdict; err != nil {
			t.Fatalf("stream %d: %v", i+1, err)
		}
	}
	o.Journal.Emit("kind4", "", nil)
	close(emitted)
	if err := <-verdict; err != nil {
		t.Fatalf("stream 3: %v", err)
	}
	if err := s.Flush(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestFlush(t *testing.T) {
	acknowledge := make(chan uint64)
	o := options(newShim(t, func(s stream) error {
		if err := hello(s, launch(t)); err != nil {
			return err
		}
		for n := range acknowledge {
			if err := ack(s, n); err != nil {
				return err
			}
		}
		return idle(s)
	}))
	o.Journal.Emit("a", "", nil)
	o.Journal.Emit("b", "", nil)
	s, _ := open(t, o)
	soon, cancel := context.WithCancelCause(testContext(t))
	cancel(errors.New("no patience"))
	if err := s.Flush(soon); err == nil || !strings.Contains(err.Error(), "2 events not delivered: no patience") {
		t.Errorf("nothing acknowledged: %v", err)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.Flush(testContext(t)) }()
	acknowledge <- 1
	select {
	case err := <-flushed:
		t.Fatalf("flushed with one event open: %v", err)
	default:
	}
	acknowledge <- 2
	if err := <-flushed; err != nil {
		t.Error(err)
	}
	o.Journal.Emit("c", "", nil)
	close(acknowledge)
	s.Close()
	if err := s.Flush(testContext(t)); err == nil || !strings.Contains(err.Error(), "1 events not delivered") {
		t.Errorf("after Close: %v", err)
	}
	if s.Err() != nil {
		t.Errorf("Close is no error: %v", s.Err())
	}
}

func TestTheSecondLaunch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*guestv1.Launch)
		same   bool
	}{
		{"equal", func(*guestv1.Launch) {}, true},
		{"another run", func(l *guestv1.Launch) { l.RunId = "1" + l.RunId[1:] }, false},
		{"another manifest", func(l *guestv1.Launch) {
			l.Manifest = []byte(strings.Replace(string(l.Manifest), `"name":"n"`, `"name":"m"`, 1))
		}, false},
		{"an approval less", func(l *guestv1.Launch) { l.Approvals = nil }, false},
		{"another port", func(l *guestv1.Launch) { l.Config.Port++ }, false},
		{"another log level", func(l *guestv1.Launch) { l.Config.LogLevel = "debug" }, false},
		{"another client CA", func(l *guestv1.Launch) { l.Config.ClientCaCerts = []byte("x") }, false},
		{"another gateway", func(l *guestv1.Launch) { l.Network.Gateway = "10.0.2.3" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := launch(t)
			second := proto.CloneOf(first)
			tt.change(second)
			o := options(newShim(t, cutAfter(first), func(s stream) error {
				if err := hello(s, second); err != nil {
					return err
				}
				if _, err := s.Recv(); err != nil { // the event
					return nil
				}
				return errors.Join(ack(s, 1), idle(s))
			}))
			s, _ := open(t, o)
			o.Journal.Emit("a", "", nil)
			err := s.Flush(testContext(t))
			if tt.same {
				if err != nil {
					t.Error(err)
				}
				return
			}
			<-s.Ended()
			if err == nil || !errors.Is(s.Err(), session.ErrProtocol) || !strings.Contains(s.Err().Error(), "differs") {
				t.Errorf("got %v and %v", err, s.Err())
			}
		})
	}
}

// cutAfter is a session that breaks after its launch.
func cutAfter(l *guestv1.Launch) func(stream) error {
	return func(s stream) error {
		return errors.Join(hello(s, l), status.Error(codes.Unavailable, "cut by the test"))
	}
}

func TestStop(t *testing.T) {
	s, _ := open(t, options(newShim(t, func(s stream) error {
		stop := &guestv1.SessionResponse{Message: &guestv1.SessionResponse_Stop{Stop: &guestv1.Stop{}}}
		return errors.Join(hello(s, launch(t)), s.Send(stop), s.Send(stop), idle(s))
	})))
	select {
	case <-s.Stop():
	case <-testContext(t).Done():
		t.Fatal("no stop")
	}
	select {
	case <-s.Ended():
		t.Errorf("the session ended: %v", s.Err())
	default:
	}
}

// A guest that is up before its shim keeps trying, as long as ctx lets it.
func TestOpenWaitsForTheShim(t *testing.T) {
	dial := newShim(t, func(s stream) error { return errors.Join(hello(s, launch(t)), idle(s)) })
	var mu sync.Mutex
	refusals := 0
	open(t, options(func(ctx context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if refusals++; refusals <= 3 {
			return nil, errors.New("nobody there")
		}
		return dial(ctx)
	}))
	ctx, cancel := context.WithCancelCause(context.Background())
	tried := make(chan struct{}, 1000)
	go func() {
		<-tried
		<-tried
		cancel(errors.New("boot took too long"))
	}()
	_, _, err := session.Open(ctx, options(func(context.Context) (net.Conn, error) {
		tried <- struct{}{}
		return nil, errors.New("nobody there")
	}))
	if err == nil || !strings.Contains(err.Error(), "no launch came: boot took too long") {
		t.Errorf("got %v", err)
	}
}
