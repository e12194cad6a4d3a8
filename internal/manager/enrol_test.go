package manager

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

const enrolledID = "01936f7a-0000-7000-8000-00000000000a"

// registry is a service that lets hosts in: the answer is as change has it.
type registry struct {
	managerv1.UnimplementedEnrolServiceServer
	managerv1.UnimplementedComputationsServiceServer
	authority *authority.Authority
	said      []byte // authorities
	change    func(*managerv1.EnrolResponse)
	// refuse, if not nil, answers every connection.
	refuse error

	mu      sync.Mutex
	tokens  []string
	shown   []string // serials, one for each connection
	renewed int
	status  chan *managerv1.HostStatus
}

func (r *registry) Enrol(_ context.Context, in *managerv1.EnrolRequest) (*managerv1.EnrolResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens = append(r.tokens, in.GetToken())
	if in.GetToken() != "good" {
		return nil, status.Error(codes.PermissionDenied, "the token is not one of this service")
	}
	c, err := r.authority.SignHost(enrolledID, in.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	out := &managerv1.EnrolResponse{HostId: enrolledID, HostName: "rack-1", Certificate: c.PEM, Authorities: r.said}
	if r.change != nil {
		r.change(out)
	}
	return out, nil
}

func (r *registry) Renew(_ context.Context, in *managerv1.RenewRequest) (*managerv1.RenewResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.renewed++
	c, err := r.authority.SignHost(enrolledID, in.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	out := &managerv1.EnrolResponse{Certificate: c.PEM}
	if r.change != nil {
		r.change(out)
	}
	return &managerv1.RenewResponse{Certificate: out.GetCertificate(), Authorities: r.said}, nil
}

func (r *registry) Connect(stream grpc.BidiStreamingServer[managerv1.ConnectRequest, managerv1.ConnectResponse]) error {
	if r.refuse != nil {
		return r.refuse
	}
	serial := "none"
	if p, ok := peer.FromContext(stream.Context()); ok {
		if certs := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates; len(certs) > 0 {
			serial = authority.SerialOf(certs[0])
		}
	}
	r.mu.Lock()
	r.shown = append(r.shown, serial)
	r.mu.Unlock()
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&managerv1.ConnectResponse{Message: &managerv1.ConnectResponse_Welcome{
		Welcome: &managerv1.Welcome{ProtocolVersion: ProtocolVersion, StatusSeconds: 7}}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case r.status <- m.GetHostStatus():
		default:
		}
	}
}

// serveRegistry serves on loopback with a certificate for names.
func serveRegistry(t *testing.T, r *registry, now func() time.Time, names ...string) (address string, leaf []byte) {
	t.Helper()
	var err error
	if r.authority, err = authority.Open(authority.Config{Dir: t.TempDir(), Now: now}); err != nil {
		t.Fatal(err)
	}
	r.status = make(chan *managerv1.HostStatus, 100)
	own, err := r.authority.Server(names...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(r.authority.TLS(own.Certificate))))
	managerv1.RegisterEnrolServiceServer(s, r)
	managerv1.RegisterComputationsServiceServer(s, r)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	c, err := own.Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), c.Certificate[0]
}

func enrolment(dir, address string) Enrolment {
	return Enrolment{Address: address, Token: "good", InstanceID: "host-1", Version: "test", Timeout: patience, Clock: SystemClock{},
		Into: Enrolled{Key: filepath.Join(dir, "e", "key.pem"), Certificate: filepath.Join(dir, "e", "certificate.pem"), Authorities: filepath.Join(dir, "e", "authorities.pem")}}
}

// TestEnrol: whoever is sure of the server joins, and then has what it takes to
// connect.
func TestEnrol(t *testing.T) {
	for name, c := range map[string]struct {
		says  bool // the server names its authorities
		trust func(e *Enrolment, r *registry, leaf []byte)
	}{
		"by the authorities":              {true, func(e *Enrolment, r *registry, _ []byte) { e.Authorities = r.authority.PEM() }},
		"by the authorities, told none":   {false, func(e *Enrolment, r *registry, _ []byte) { e.Authorities = r.authority.PEM() }},
		"by the authority's fingerprint":  {true, func(e *Enrolment, r *registry, _ []byte) { e.Fingerprint = r.authority.Fingerprint() }},
		"by its fingerprint, told none":   {false, func(e *Enrolment, r *registry, _ []byte) { e.Fingerprint = r.authority.Fingerprint() }},
		"by the certificate's":            {true, func(e *Enrolment, _ *registry, leaf []byte) { e.Fingerprint = authority.Fingerprint(leaf) }},
		"by the certificate's, told none": {false, func(e *Enrolment, _ *registry, leaf []byte) { e.Fingerprint = authority.Fingerprint(leaf) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := &registry{}
			address, leaf := serveRegistry(t, r, nil, "127.0.0.1")
			if c.says {
				r.said = r.authority.PEM()
			}
			e := enrolment(t.TempDir(), address)
			c.trust(&e, r, leaf)
			joined, err := Enrol(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			if joined.ID != enrolledID || joined.Name != "rack-1" || !joined.Authorities || time.Until(joined.Expires) < 29*24*time.Hour {
				t.Errorf("%+v", joined)
			}
			for _, name := range []string{e.Into.Key, e.Into.Certificate, e.Into.Authorities} {
				if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
			pair, err := tls.LoadX509KeyPair(e.Into.Certificate, e.Into.Key)
			if err != nil {
				t.Fatal(err)
			}
			cas, err := os.ReadFile(e.Into.Authorities)
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(cas)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			link := newLink(address, SystemClock{}, &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
			done := make(chan struct{})
			go func() { defer close(done); link.serve(ctx) }()
			select {
			case s := <-r.status:
				if s.GetRunning() != 1 || s.GetCapacity() != 3 || s.GetMemoryFreeBytes() == 0 {
					t.Errorf("the host's status: %v", s)
				}
			case <-ctx.Done():
				t.Error("the Manager did not connect")
			}
			cancel()
			<-done
			if r.shown[0] != authority.SerialOf(pair.Leaf) {
				t.Errorf("it showed %v", r.shown)
			}
		})
	}
}

// TestEnrolRefuses: each server, or what is known of it, is right in all but one
// thing. A server that isn't trusted never sees the token.
func TestEnrolRefuses(t *testing.T) {
	other, err := authority.Open(authority.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	byCA := func(e *Enrolment, r *registry) { e.Authorities = r.authority.PEM() }
	for name, c := range map[string]struct {
		names  string // of the server; empty: its own
		set    func(e *Enrolment, r *registry)
		change func(*managerv1.EnrolResponse)
		says   string
		asked  bool // the server saw the token
	}{
		"another authority":    {"", func(e *Enrolment, _ *registry) { e.Authorities = other.PEM() }, nil, "unknown authority; give the service's --fingerprint", false},
		"nothing known of it":  {"", func(*Enrolment, *registry) {}, nil, "unknown authority", false},
		"another fingerprint":  {"", func(e *Enrolment, _ *registry) { e.Fingerprint = other.Fingerprint() }, nil, "has the fingerprint that you gave", false},
		"another name":         {"elsewhere.example.org", byCA, nil, "127.0.0.1", false},
		"another name, pinned": {"elsewhere.example.org", func(e *Enrolment, r *registry) { e.Fingerprint = r.authority.Fingerprint() }, nil, "127.0.0.1", false},
		"no fingerprint":       {"", func(e *Enrolment, _ *registry) { e.Fingerprint = "sha256:12" }, nil, "64 hexadecimal digits", false},
		"another digest": {"", func(e *Enrolment, r *registry) {
			e.Fingerprint = strings.Replace(r.authority.Fingerprint(), "sha256", "sha512", 1)
		}, nil, "64 hexadecimal digits", false},
		"both":                     {"", func(e *Enrolment, r *registry) { byCA(e, r); e.Fingerprint = r.authority.Fingerprint() }, nil, "give one of them", false},
		"no certificates":          {"", func(e *Enrolment, _ *registry) { e.Authorities = []byte("x") }, nil, "--ca: the file is not PEM", false},
		"a folder that is none":    {"", func(e *Enrolment, r *registry) { byCA(e, r); e.Into.Key = os.DevNull + "/key.pem" }, nil, "the token is still good", false},
		"a token that is used":     {"", func(e *Enrolment, r *registry) { byCA(e, r); e.Token = "bad" }, nil, "not one of this service (PermissionDenied)", true},
		"a certificate of another": {"", byCA, func(a *managerv1.EnrolResponse) { a.Certificate = other.PEM() }, "a certificate of another key", true},
		"no certificate":           {"", byCA, func(a *managerv1.EnrolResponse) { a.Certificate = nil }, "the certificate has no certificate", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &registry{change: c.change}
			names := "127.0.0.1"
			if c.names != "" {
				names = c.names
			}
			address, _ := serveRegistry(t, r, nil, names)
			dir := t.TempDir()
			e := enrolment(dir, address)
			c.set(&e, r)
			_, err := Enrol(t.Context(), e)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
			if got := len(r.tokens) > 0; got != c.asked {
				t.Errorf("the server saw the tokens %v", r.tokens)
			}
			for _, name := range []string{e.Into.Certificate, filepath.Join(dir, "e", "key.pem")} {
				if _, err := os.Stat(name); err == nil {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
}

// TestCertificateIsRenewed when a third of its life is left, while the stream goes
// on; the next connection shows the new one.
func TestCertificateIsRenewed(t *testing.T) {
	begin := time.Now()
	clock := &steppedClock{now: begin, each: func(int) {}}
	r := &registry{}
	address, _ := serveRegistry(t, r, clock.Now, "127.0.0.1")
	e := enrolment(t.TempDir(), address)
	e.Clock, e.Fingerprint = clock, r.authority.Fingerprint()
	if _, err := Enrol(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	first := serialIn(t, e.Into.Certificate)
	key, err := os.ReadFile(e.Into.Key)
	if err != nil {
		t.Fatal(err)
	}
	link := newLink(address, clock, nil)
	link.cfg.Enrolled = &e.Into
	link.cfg.TLS = func() (*tls.Config, error) {
		pair, err := tls.LoadX509KeyPair(e.Into.Certificate, e.Into.Key)
		return &tls.Config{RootCAs: r.authority.Pool(), Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, Time: clock.Now}, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connected, stop := context.WithCancel(ctx)
	clock.each = func(int) {
		if serialIn(t, e.Into.Certificate) != first {
			stop()
		}
	}
	_ = link.connect(connected)
	if ctx.Err() != nil {
		t.Fatal("it was not renewed")
	}
	renewed := serialIn(t, e.Into.Certificate)
	if renewed == first || r.renewed != 1 {
		t.Errorf("serial %s, then %s, after %d requests", first, renewed, r.renewed)
	}
	if passed := clock.Now().Sub(begin); passed < 19*24*time.Hour {
		t.Errorf("after %v already", passed)
	}
	if after, err := os.ReadFile(e.Into.Key); err != nil || string(after) != string(key) {
		t.Errorf("the key has changed: %v", err)
	}
	again, stop := context.WithCancel(ctx)
	clock.each = func(int) { stop() }
	_ = link.connect(again)
	if len(r.shown) != 2 || r.shown[0] != first || r.shown[1] != renewed {
		t.Errorf("it showed %v", r.shown)
	}
}

func serialIn(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseCertificates(b)
	if err != nil {
		t.Fatal(err)
	}
	return authority.SerialOf(certs[0])
}

// TestRenewalRefuses an answer that is not this host's, and keeps what it has.
func TestRenewalRefuses(t *testing.T) {
	r := &registry{}
	address, _ := serveRegistry(t, r, nil, "127.0.0.1")
	e := enrolment(t.TempDir(), address)
	e.Fingerprint = r.authority.Fingerprint()
	if _, err := Enrol(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: r.authority.Pool()})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	link := newLink(address, SystemClock{}, nil)
	link.cfg.Enrolled = &e.Into
	old, err := e.Into.read()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(e.Into.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := parseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	der, err := certificateRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	another, err := r.authority.SignHost("another", der)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		answer []byte
		says   string
	}{
		"of another key":  {r.authority.PEM(), "of another key"},
		"of another host": {another.PEM, `of the host "another"`},
		"nothing":         {nil, "has no certificate"},
	} {
		r.change = func(a *managerv1.EnrolResponse) { a.Certificate = c.answer }
		err := link.renew(t.Context(), managerv1.NewEnrolServiceClient(conn), old)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v\nexpected %q in it", name, err, c.says)
		}
		if serialIn(t, e.Into.Certificate) != authority.SerialOf(old) {
			t.Errorf("%s: the certificate was replaced", name)
		}
	}
}

// TestRefusedHostRetriesSlowly and says why it is refused.
func TestRefusedHostRetriesSlowly(t *testing.T) {
	r := &registry{refuse: status.Error(codes.PermissionDenied, "this host, rack-1, was revoked on 2026-11-29T10:00:00Z")}
	address, _ := serveRegistry(t, r, nil, "127.0.0.1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	clock := &steppedClock{now: time.Now(), each: func(n int) {
		if n == 5 {
			cancel()
		}
	}}
	var log strings.Builder
	link := newLink(address, clock, &tls.Config{RootCAs: r.authority.Pool(), MinVersion: tls.VersionTLS13})
	link.cfg.TLS = func() (*tls.Config, error) {
		return &tls.Config{RootCAs: r.authority.Pool(), MinVersion: tls.VersionTLS13, Time: time.Now}, nil
	}
	link.log = slog.New(slog.NewTextHandler(&log, nil))
	link.serve(ctx)
	if len(clock.waits) < 5 {
		t.Fatalf("%d attempts: %s", len(clock.waits), log.String())
	}
	for i, d := range clock.waits {
		if d < refusedRetry/2 || d > refusedRetry*3/2 {
			t.Errorf("wait %d is %v", i, d)
		}
	}
	for _, want := range []string{"was revoked on 2026-11-29", "cocos-manager enroll"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q: %s", want, log.String())
		}
	}
}

// TestRoom: what more VMs the limits allow is bounded by the tightest.
func TestRoom(t *testing.T) {
	used := demand{vms: 2, memoryMiB: 2048, vcpus: 4, disk: 100}
	want := demand{vms: 1, memoryMiB: 1024, vcpus: 2, disk: 50}
	for name, c := range map[string]struct {
		limits Limits
		free   int64
		room   int
	}{
		"VMs":             {Limits{MaxVMs: 5}, 1000, 3},
		"memory":          {Limits{MaxVMs: 5, MaxMemoryMiB: 4096}, 1000, 2},
		"virtual CPUs":    {Limits{MaxVMs: 5, MaxVCPUs: 7}, 1000, 1},
		"disk":            {Limits{MaxVMs: 9, MinFreeDisk: 700}, 1000, 4},
		"full disk":       {Limits{MaxVMs: 5, MinFreeDisk: 950}, 1000, 0},
		"over the limit":  {Limits{MaxVMs: 1}, 1000, 0},
		"less than asked": {Limits{MaxVMs: 5, MaxMemoryMiB: 2049}, 1000, 0},
	} {
		got := c.limits.room(used, want, c.free)
		if got != c.room {
			t.Errorf("%s: room for %d, want %d", name, got, c.room)
		}
		more := used
		for range got {
			if faults := c.limits.refuse(more, want, c.free); faults != nil {
				t.Errorf("%s: there is room for %d, and yet: %v", name, got, faults)
			}
			more = more.plus(want)
		}
		if faults := c.limits.refuse(more, want, c.free); faults == nil {
			t.Errorf("%s: there is room for more than %d", name, got)
		}
	}
}
