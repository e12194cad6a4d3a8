package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// fakeAgent does what a test tells it to, lies included; the real one is used
// by the scripts.
type fakeAgent struct {
	agentv1.UnimplementedAgentServiceServer
	addr string
	key  string // pin
	stop func()
	// creds stand in for those of its own.
	creds credentials.TransportCredentials

	mu    sync.Mutex
	conns map[net.Conn]bool
	calls map[string]int
	roles []string

	// Upload.
	want, held []byte
	complete   bool
	cuts       []int   // break the connection when so many bytes are held
	uploadErrs []error // answers of the first uploads
	gone       bool    // after the first cut nothing is served any more

	// State and Result.
	state      *agentv1.StateResponse
	result     []byte
	lie        func(*agentv1.ResultInfo)
	resultCuts []int // break the connection after so many bytes of the result
	excess     []byte
	confirmed  []byte
	confirm    []error
	receipt    []byte

	// Events and Logs.
	events    []*eventv1.Event
	eventCuts []int // break the connection after the event of this sequence
	always    bool  // these cuts hit again
	// beforeEvent is told what comes next.
	beforeEvent func(*eventv1.Event)
	logs        []*eventv1.Log

	hang chan struct{} // State waits for it
}

// serve starts f, or f with another port after a stop.
func (f *fakeAgent) serve(t *testing.T, opts ...func(*atls.ServerConfig)) {
	t.Helper()
	id, err := atls.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	cfg := atls.ServerConfig{Identity: id}
	for _, o := range opts {
		o(&cfg)
	}
	creds := f.creds
	if creds == nil {
		if creds, err = atls.Server(cfg); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr, f.key = l.Addr().String(), cfg.Identity.Key()
	f.conns, f.calls = map[net.Conn]bool{}, map[string]int{}
	s := grpc.NewServer(append(bulk.ServerOptions(), grpc.Creds(creds))...)
	agentv1.RegisterAgentServiceServer(s, f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(&watchedListener{l, f}) }()
	f.stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
}

type watchedListener struct {
	net.Listener
	f *fakeAgent
}

func (l *watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.f.mu.Lock()
		l.f.conns[c] = true
		gone := l.f.gone && len(l.f.cuts) == 0
		l.f.mu.Unlock()
		if gone {
			c.Close()
		}
	}
	return c, err
}

// cutLocked breaks every connection.
func (f *fakeAgent) cutLocked() {
	for c := range f.conns {
		c.Close()
		delete(f.conns, c)
	}
}

func (f *fakeAgent) called(ctx context.Context, method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	md, _ := metadata.FromIncomingContext(ctx)
	f.roles = append(f.roles, md.Get("cocos-role")...)
}

func (f *fakeAgent) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func (f *fakeAgent) inputState() *agentv1.InputState {
	return &agentv1.InputState{Received: uint64(len(f.held)), Size: uint64(len(f.want)), Complete: f.complete}
}

func (f *fakeAgent) UploadStatus(ctx context.Context, _ *agentv1.UploadStatusRequest) (*agentv1.UploadStatusResponse, error) {
	f.called(ctx, "UploadStatus")
	f.mu.Lock()
	defer f.mu.Unlock()
	return &agentv1.UploadStatusResponse{State: f.inputState()}, nil
}

func (f *fakeAgent) Upload(s grpc.ClientStreamingServer[agentv1.UploadRequest, agentv1.UploadResponse]) error {
	f.called(s.Context(), "Upload")
	first, err := s.Recv()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.uploadErrs) > 0 {
		err := f.uploadErrs[0]
		f.uploadErrs = f.uploadErrs[1:]
		return err
	}
	if first.GetBegin().GetOffset() != uint64(len(f.held)) {
		return status.Error(codes.OutOfRange, "wrong offset")
	}
	for {
		if len(f.cuts) > 0 && len(f.held) >= f.cuts[0] {
			f.held = f.held[:f.cuts[0]]
			f.cuts = f.cuts[1:]
			f.cutLocked()
			return status.Error(codes.Unavailable, "cut")
		}
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		f.held = append(f.held, r.GetChunk()...)
	}
	if !bytes.Equal(f.held, f.want) {
		f.held = nil
		return refusal(codes.DataLoss, "digest_mismatch", "sha256", "give the right file")
	}
	f.complete = true
	return s.SendAndClose(&agentv1.UploadResponse{State: f.inputState()})
}

func refusal(c codes.Code, reason, field, hint string) error {
	s, err := status.New(c, "it is not right").WithDetails(&errdetails.ErrorInfo{
		Reason: reason, Domain: "cocos", Metadata: map[string]string{"field": field, "hint": hint},
	})
	if err != nil {
		return err
	}
	return s.Err()
}

func (f *fakeAgent) State(ctx context.Context, _ *agentv1.StateRequest) (*agentv1.StateResponse, error) {
	f.called(ctx, "State")
	if f.hang != nil {
		<-f.hang // beyond the client's patience, which ends this context, too
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, nil
}

func (f *fakeAgent) Result(r *agentv1.ResultRequest, s grpc.ServerStreamingServer[agentv1.ResultResponse]) error {
	f.called(s.Context(), "Result")
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := manifest.Sum(f.result)
	info := &agentv1.ResultInfo{Size: uint64(len(f.result)), Sha256: sum[:]}
	if f.lie != nil {
		f.lie(info)
	}
	if err := s.Send(&agentv1.ResultResponse{Info: info}); err != nil {
		return err
	}
	end := len(f.result)
	if len(f.resultCuts) > 0 {
		end = f.resultCuts[0]
	}
	for at := int(r.GetOffset()); at < end; {
		n := min(64<<10, end-at)
		if err := s.Send(&agentv1.ResultResponse{Chunk: f.result[at : at+n]}); err != nil {
			return err
		}
		at += n
	}
	if len(f.resultCuts) > 0 {
		f.resultCuts = f.resultCuts[1:]
		return status.Error(codes.Unavailable, "cut")
	}
	if len(f.excess) > 0 {
		return s.Send(&agentv1.ResultResponse{Chunk: f.excess})
	}
	return nil
}

func (f *fakeAgent) ConfirmResult(ctx context.Context, r *agentv1.ConfirmResultRequest) (*agentv1.ConfirmResultResponse, error) {
	f.called(ctx, "ConfirmResult")
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.confirm) > 0 {
		err := f.confirm[0]
		f.confirm = f.confirm[1:]
		return nil, err
	}
	f.confirmed = r.GetSha256()
	return &agentv1.ConfirmResultResponse{}, nil
}

func (f *fakeAgent) Receipt(ctx context.Context, _ *agentv1.ReceiptRequest) (*agentv1.ReceiptResponse, error) {
	f.called(ctx, "Receipt")
	if f.receipt == nil {
		return nil, refusal(codes.FailedPrecondition, "NO_RECEIPT", "", "take the result without")
	}
	return &agentv1.ReceiptResponse{Receipt: f.receipt}, nil
}

func (f *fakeAgent) Events(r *agentv1.EventsRequest, s grpc.ServerStreamingServer[agentv1.EventsResponse]) error {
	f.called(s.Context(), "Events")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.always && len(f.eventCuts) > 0 && r.GetAfter() >= uint64(f.eventCuts[0]) {
		return status.Error(codes.Unavailable, "cut")
	}
	for _, e := range f.events {
		if e.GetSequence() <= r.GetAfter() {
			continue
		}
		if f.beforeEvent != nil {
			f.beforeEvent(e)
		}
		if err := s.Send(&agentv1.EventsResponse{Event: e}); err != nil {
			return err
		}
		if len(f.eventCuts) > 0 && e.GetSequence() == uint64(f.eventCuts[0]) {
			f.eventCuts = f.eventCuts[1:]
			return status.Error(codes.Unavailable, "cut")
		}
	}
	return nil
}

func (f *fakeAgent) Logs(_ *agentv1.LogsRequest, s grpc.ServerStreamingServer[agentv1.LogsResponse]) error {
	f.called(s.Context(), "Logs")
	for _, l := range f.logs {
		if err := s.Send(&agentv1.LogsResponse{Log: l}); err != nil {
			return err
		}
	}
	return nil
}

// user is one run of the CLI, with a key of its own, against a fake agent.
type user struct {
	t   *testing.T
	dir string
	key string // file
	pub keys.Public
	// manifest is a file, which gives the user every role and two datasets.
	manifest string
	digest   manifest.Digest
	sleeps   []time.Duration
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{t: t, dir: t.TempDir()}
	priv, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := priv.PEM()
	if err != nil {
		t.Fatal(err)
	}
	u.pub = priv.Public()
	u.key = u.file("me.pem", pem)
	u.freeze(func(*manifest.Manifest) {})
	return u
}

// freeze makes another manifest the user's.
func (u *user) freeze(change func(*manifest.Manifest)) manifest.Frozen {
	u.t.Helper()
	m := manifest.Manifest{
		Version: manifest.Version, ID: "test", Name: "A test", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Digest{1}, Size: 1, Provider: u.pub},
		Datasets: []manifest.Dataset{
			{Name: "d", Provider: u.pub, SHA256: manifest.Digest{2}, Size: 1},
			{Name: "photos", Provider: u.pub, SHA256: manifest.Digest{3}, Size: 1, UnpackedMax: 1 << 30},
		},
		Consumers: []keys.Public{u.pub}, Approvals: []keys.Public{u.pub},
	}
	change(&m)
	f, err := manifest.Freeze(m)
	if err != nil {
		u.t.Fatal(err)
	}
	u.manifest, u.digest = u.file("manifest.json", f.Raw), f.Digest
	return f
}

func (u *user) path(name string) string { return filepath.Join(u.dir, name) }

func (u *user) file(name string, content []byte) string {
	u.t.Helper()
	if err := os.MkdirAll(filepath.Dir(u.path(name)), 0o755); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(u.path(name), content, 0o600); err != nil {
		u.t.Fatal(err)
	}
	return u.path(name)
}

// outcome of a run.
type outcome struct {
	code           int
	stdout, stderr string
}

// failure is the error that --json printed.
func (o outcome) failure(t *testing.T) (message, reason, field, hint string) {
	t.Helper()
	var e struct {
		Error struct{ Message, Reason, Field, Hint string }
	}
	if err := json.Unmarshal([]byte(o.stderr), &e); err != nil {
		t.Fatalf("standard error is not one JSON object: %v\n%s", err, o.stderr)
	}
	return e.Error.Message, e.Error.Reason, e.Error.Field, e.Error.Hint
}

// wants fails the test unless the run ended so, saying all of that.
func (o outcome) wants(t *testing.T, code int, texts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit status %d, want %d", o.code, code)
	}
	for _, s := range texts {
		if !strings.Contains(o.stdout+o.stderr, s) {
			t.Errorf("output lacks %q", s)
		}
	}
	if t.Failed() {
		t.Fatalf("stdout:\n%s\nstderr:\n%s", o.stdout, o.stderr)
	}
}

func (u *user) run(ctx context.Context, args ...string) outcome {
	return u.start(ctx, nil, args...)
}

func (u *user) runEnv(env map[string]string, args ...string) outcome {
	return u.start(u.t.Context(), env, args...)
}

func (u *user) start(ctx context.Context, env map[string]string, args ...string) outcome {
	env = maps.Clone(env)
	if env == nil {
		env = map[string]string{}
	}
	env["COCOS_HOME"] = u.path("home")
	var stdout, stderr bytes.Buffer
	code := run(ctx, Env{
		Args: args, Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(name string) string { return env[name] }, Columns: columns(0), Version: "test",
	}, timing{time.Now, func(ctx context.Context, d time.Duration) error {
		u.sleeps = append(u.sleeps, d)
		return ctx.Err()
	}})
	return outcome{code, stdout.String(), stderr.String()}
}

// with runs a command that talks to f.
func (u *user) with(f *fakeAgent, args ...string) outcome {
	return u.run(u.t.Context(), u.flags(f, args...)...)
}

func (u *user) flags(f *fakeAgent, args ...string) []string {
	if args[0] == "algo" || args[0] == "data" {
		args = append(args, "--skip-check") // the agent says what it expects
	}
	return append(args, "--agent", f.addr, "--agent-key", f.key, "--key", u.key,
		"--manifest", u.manifest, "--timeout", "20s")
}
