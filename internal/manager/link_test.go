package manager

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

// quiet is a service with nothing to do.
type quiet struct{}

func (quiet) accept(r RunRequest) Reply                           { return Reply{RunID: r.RunID} }
func (quiet) halt(context.Context, string, time.Duration) []Fault { return nil }
func (quiet) ack(eventKey)                                        {}
func (quiet) at(string)                                           {}
func (quiet) standing() Standing                                  { return Standing{Running: 1, Capacity: 3} }
func (quiet) report(context.Context) []RunState {
	return []RunState{{RunID: goodID, State: vm.Running}}
}

// steppedClock passes the time at once and writes down how long was waited.
type steppedClock struct {
	mu    sync.Mutex
	now   time.Time
	waits []time.Duration
	each  func(n int)
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *steppedClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.waits = append(c.waits, d)
	n := len(c.waits)
	ch := make(chan time.Time, 1)
	ch <- c.now
	c.mu.Unlock()
	c.each(n)
	return ch
}

func newLink(address string, clock Clock, tlsConfig *tls.Config) *link {
	return &link{cfg: Server{Address: address, Timeout: 10 * time.Second, TLS: func() (*tls.Config, error) { return tlsConfig.Clone(), nil }},
		instance: "host-1", version: "test", clock: clock, log: slog.New(slog.DiscardHandler), service: quiet{}, hub: &hub{}}
}

// TestServerGoneForMinutes: attempts go on, ever slower up to a bound and never
// in step, and the first one after the server is back succeeds.
func TestServerGoneForMinutes(t *testing.T) {
	cert, ca, err := server.SelfSigned("127.0.78.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.78.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(server.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	clock := &steppedClock{now: time.Now(), each: func(n int) {
		if n == 40 {
			serve(t, srv, address)
		}
	}}
	lk := newLink(address, clock, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13})
	done := make(chan struct{})
	go func() { defer close(done); lk.serve(ctx) }()
	hello, err := srv.Hello(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if len(hello.GetRuns()) != 1 || hello.GetInstanceId() != "host-1" || hello.GetProtocolVersion() != ProtocolVersion {
		t.Errorf("hello: %v", hello)
	}
	if len(clock.waits) < 40 {
		t.Fatalf("%d attempts before the server came", len(clock.waits))
	}
	waits := clock.waits[:40]
	total, distinct := time.Duration(0), map[time.Duration]bool{}
	for i, d := range waits {
		total += d
		distinct[d] = true
		if d < firstRetry/2 || d > lastRetry*3/2 {
			t.Errorf("wait %d is %v", i, d)
		}
	}
	if waits[0] > firstRetry*3/2 {
		t.Errorf("the first wait is %v", waits[0])
	}
	if total < 5*time.Minute {
		t.Errorf("40 attempts within %v", total)
	}
	if len(distinct) < 30 {
		t.Errorf("the waits keep step: %v", waits)
	}
}

var brokenOff = regexp.MustCompile("broken pipe|connection reset")

// TestServerThatIsNotTrusted: each server is right in all but one thing, and
// none gets as far as a greeting.
func TestServerThatIsNotTrusted(t *testing.T) {
	good, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, elsewhereCA, err := server.SelfSigned("server.example.org")
	if err != nil {
		t.Fatal(err)
	}
	dated := func(from, to time.Duration) (tls.Certificate, []byte) {
		t.Helper()
		cert, key := pair(t, func(c *x509.Certificate) {
			c.IPAddresses, c.NotBefore, c.NotAfter = []net.IP{net.IPv4(127, 0, 0, 1)}, time.Now().Add(from), time.Now().Add(to)
		})
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return p, cert
	}
	old, oldCA := dated(-2*time.Hour, -time.Hour)
	early, earlyCA := dated(time.Hour, 2*time.Hour)
	for name, c := range map[string]struct {
		tls  *tls.Config
		ca   []byte
		says string
		hint string // what the operator is to look at
	}{
		"another authority": {&tls.Config{Certificates: []tls.Certificate{other}}, ca, "unknown authority", "MANAGER_GRPC_SERVER_CA_CERTS"},
		"another name":      {&tls.Config{Certificates: []tls.Certificate{elsewhere}}, elsewhereCA, "127.0.0.1", "MANAGER_GRPC_URL"},
		"expired":           {&tls.Config{Certificates: []tls.Certificate{old}}, oldCA, "expired", "must be renewed"},
		"not yet valid":     {&tls.Config{Certificates: []tls.Certificate{early}}, earlyCA, "not yet valid", "this host's clock"},
		"old TLS":           {&tls.Config{Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS12}, ca, "protocol version", "TLS 1.3"},
		"no TLS":            {nil, ca, "first record does not look like a TLS handshake", "MANAGER_GRPC_URL"},
		"wants a certificate": {&tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAnyClientCert}, ca,
			"certificate required", "MANAGER_GRPC_CLIENT_CERT"},
	} {
		t.Run(name, func(t *testing.T) {
			var opts []grpc.ServerOption
			if c.tls != nil {
				opts = append(opts, grpc.Creds(credentials.NewTLS(c.tls)))
			}
			greeted := &greeter{hellos: make(chan *managerv1.Hello, 1), answer: welcome(ProtocolVersion)}
			address := serveGreeter(t, greeted, opts...)
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(c.ca)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			link := newLink(address, SystemClock{}, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13})
			for {
				err := link.connect(ctx)
				if len(greeted.hellos) > 0 {
					t.Fatal("the Manager greeted it")
				}
				if err != nil && strings.Contains(err.Error(), c.says) {
					if !strings.Contains(err.Error(), c.hint) {
						t.Errorf("%v\nexpected %q in it", err, c.hint)
					}
					return
				}
				// Our own write can break before the server's alert is read.
				if !brokenOff.MatchString(fmt.Sprint(err)) || ctx.Err() != nil {
					t.Fatalf("%v\nexpected %q in it", err, c.says)
				}
			}
		})
	}
}

// TestNoServer: what is not a computations server is told by what it is not.
func TestNoServer(t *testing.T) {
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
	done := make(chan struct{})
	go func() { defer close(done); _ = other.Serve(l) }()
	defer func() { other.Stop(); <-done }()
	gone, err := net.Listen("tcp", "127.0.79.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for address, says := range map[string]string{
		l.Addr().String():    "is no computations server",
		gone.Addr().String(): "is the computations server running at MANAGER_GRPC_URL=",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := newLink(address, SystemClock{}, &tls.Config{RootCAs: pool}).connect(ctx)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v\nexpected %q in it", err, says)
		}
		cancel()
	}
}

// TestCertificatesAreJudgedByTheClock that the Manager is given.
func TestCertificatesAreJudgedByTheClock(t *testing.T) {
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for jump, says := range map[time.Duration]string{0: "ended the stream", 20 * 8766 * time.Hour: "expired", -20 * 8766 * time.Hour: "not yet valid"} {
		address := serveGreeter(t, &greeter{hellos: make(chan *managerv1.Hello, 1), answer: welcome(ProtocolVersion)},
			grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := newLink(address, &steppedClock{now: time.Now().Add(jump)}, &tls.Config{RootCAs: pool}).connect(ctx)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("a clock off by %v: %v\nexpected %q in it", jump, err, says)
		}
		cancel()
	}
}

// TestServerThatSpeaksOtherwise ends the stream with what is wrong.
func TestServerThatSpeaksOtherwise(t *testing.T) {
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	ack := &managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_EventAck{EventAck: &managerv1.EventAck{}}}
	for name, c := range map[string]struct {
		answer []*managerv1.ConnectResponse
		says   string
	}{
		"no welcome":      {nil, "ended the stream"},
		"another version": {welcome(2), "protocol version 2"},
		"an ack first":    {[]*managerv1.ConnectResponse{ack}, "did not greet"},
		"nothing":         {[]*managerv1.ConnectResponse{{}}, "did not greet"},
		"welcome twice":   {append(welcome(ProtocolVersion), welcome(ProtocolVersion)...), "not valid here"},
		"empty message":   {append(welcome(ProtocolVersion), &managerv1.ConnectResponse{}), "not valid here"},
		"good, then ends": {welcome(ProtocolVersion), "ended the stream"},
	} {
		t.Run(name, func(t *testing.T) {
			address := serveGreeter(t, &greeter{hellos: make(chan *managerv1.Hello, 1), answer: c.answer},
				grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := newLink(address, SystemClock{}, &tls.Config{RootCAs: pool}).connect(ctx)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
		})
	}
}

// TestServerThatDoesNotGreet: a server that takes connections and is silent is
// given up.
func TestServerThatDoesNotGreet(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lk := newLink(l.Addr().String(), SystemClock{}, &tls.Config{})
	lk.cfg.Timeout = 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lk.connect(ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "MANAGER_GRPC_TIMEOUT") {
		t.Errorf("%v", err)
	}
}

func welcome(version uint32) []*managerv1.ConnectResponse {
	return []*managerv1.ConnectResponse{{Message: &managerv1.ConnectResponse_Welcome{Welcome: &managerv1.Welcome{ProtocolVersion: version}}}}
}

// greeter answers a hello with fixed messages and ends the stream.
type greeter struct {
	managerv1.UnimplementedComputationsServiceServer
	hellos chan *managerv1.Hello
	answer []*managerv1.ConnectResponse
}

func (g *greeter) Connect(stream grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse]) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	g.hellos <- m.GetHello()
	for _, m := range g.answer {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func serveGreeter(t *testing.T, g managerv1.ComputationsServiceServer, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	managerv1.RegisterComputationsServiceServer(s, g)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}
