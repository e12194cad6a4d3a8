package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// deadline is generous: it ends a test that hangs, and is no aim.
const deadline = 60 * time.Second

const runID = "0b8ad9ad-6dbb-4d8a-9c31-b2b4b8a7f1f0"

// people of a test computation.
type people struct{ algo, data, data2, consumer, consumer2, approver, stranger keys.Private }

var everybody = sync.OnceValue(func() people {
	mk := func(k keys.Kind) keys.Private {
		p, err := keys.Generate(k)
		if err != nil {
			panic(err)
		}
		return p
	}
	return people{mk(keys.Ed25519), mk(keys.ECDSAP256), mk(keys.ECDSAP384), mk(keys.RSA), mk(keys.Ed25519), mk(keys.Ed25519), mk(keys.Ed25519)}
})

// Inputs of the test computation: an algorithm, a file and a folder's archive.
var (
	algorithm = []byte("#!/bin/true")
	fileData  = bytes.Repeat([]byte("0123456789abcdef"), 200_000) // 3.2 MB: several chunks
)

func folderData(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "x.csv"), []byte("1,2\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "y.csv"), []byte("3,4\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	return packed(t, dir)
}

func basic(t testing.TB) manifest.Manifest {
	t.Helper()
	p := everybody()
	folder := folderData(t)
	return manifest.Manifest{
		Version: 1, ID: "c1", Name: "test", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{
			Type: manifest.Python, Args: []string{"--a"}, Env: map[string]string{"K": "v"},
			SHA256: manifest.Sum(algorithm), Size: int64(len(algorithm)), Provider: p.algo.Public(),
		},
		Datasets: []manifest.Dataset{
			{Name: "file.bin", Provider: p.data.Public(), SHA256: manifest.Sum(fileData), Size: int64(len(fileData))},
			{Name: "folder", Provider: p.data2.Public(), SHA256: manifest.Sum(folder), Size: int64(len(folder)), UnpackedMax: 8},
		},
		Consumers: []keys.Public{p.consumer.Public(), p.consumer2.Public()},
	}
}

// runner is a Runner of the test's own.
type runner func(ctx context.Context, job runtime.Job) (runtime.Outcome, error)

func (r runner) Run(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
	return r(ctx, job)
}

// succeed writes a line to each output and one result.
func succeed(_ context.Context, job runtime.Job) (runtime.Outcome, error) {
	io.WriteString(job.Stdout, "secret on stdout\n")
	io.WriteString(job.Stderr, "secret on stderr\n")
	return runtime.Outcome{}, os.WriteFile(filepath.Join(job.Dir, "results", "model"), []byte("secret model"), 0o644)
}

type env struct {
	t       testing.TB
	agent   *agent.Agent
	journal *journal.Journal
	digest  manifest.Digest
	addr    string
	dir     string
	stop    func() error
	// connect is how clients reach it; nil: over TCP.
	connect func(context.Context, string) (net.Conn, error)
	// trust is how clients of an attested agent come to trust it; nil: they pin
	// its key.
	trust *atls.Appraisal
}

type option func(*agent.Config)

// start runs an agent until the test ends.
func start(t testing.TB, m manifest.Manifest, options ...option) *env {
	t.Helper()
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	j := journal.New(time.Now)
	cfg := agent.Config{
		RunID: runID, Manifest: f, Storage: agent.FolderStorage(t.TempDir()), Runner: runner(succeed),
		Journal: j, Log: slog.New(j.Handler(slog.LevelDebug)),
	}
	for _, o := range options {
		o(&cfg)
	}
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	e := &env{t: t, agent: a, journal: j, digest: f.Digest, addr: l.Addr().String(), dir: cfg.Storage.Dir()}
	e.stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() {
		if err := e.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return e
}

// dial connects with whatever signs the calls.
func (e *env) dial(options ...grpc.DialOption) (*grpc.ClientConn, agentv1.AgentServiceClient) {
	e.t.Helper()
	cfg := atls.ClientConfig{Appraisal: e.trust}
	if e.trust == nil {
		cfg.ServerKey = e.agent.Key()
	}
	creds, err := atls.Client(cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	options = append(append(bulk.DialOptions(), grpc.WithTransportCredentials(creds)), options...)
	if e.connect != nil {
		options = append(options, grpc.WithContextDialer(e.connect))
	}
	conn, err := grpc.NewClient("passthrough:///"+e.addr, options...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	return conn, agentv1.NewAgentServiceClient(conn)
}

func (e *env) as(key keys.Private, role manifest.Role) agentv1.AgentServiceClient {
	e.t.Helper()
	_, c := e.dial(grpc.WithPerRPCCredentials(callauth.Signer{Key: key, Role: role, Digest: e.digest}))
	return c
}

func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	e.t.Cleanup(cancel)
	return ctx
}

func algoRef() *agentv1.InputRef {
	return &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_ALGORITHM}
}

func dataRef(name string) *agentv1.InputRef {
	return &agentv1.InputRef{Kind: agentv1.InputKind_INPUT_KIND_DATASET, Name: name}
}

// begin opens an upload.
func (e *env) begin(ctx context.Context, c agentv1.AgentServiceClient, ref *agentv1.InputRef, offset uint64) agentv1.AgentService_UploadClient {
	e.t.Helper()
	s, err := c.Upload(ctx)
	if err != nil {
		e.t.Fatal(err)
	}
	m := &agentv1.UploadRequest{Message: &agentv1.UploadRequest_Begin{Begin: &agentv1.UploadBegin{Input: ref, Offset: offset}}}
	if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
		e.t.Fatal(err)
	}
	return s
}

// upload sends all of b from offset on and returns the agent's answer.
func (e *env) upload(c agentv1.AgentServiceClient, ref *agentv1.InputRef, b []byte, offset uint64) (*agentv1.InputState, error) {
	e.t.Helper()
	s := e.begin(e.ctx(), c, ref, offset)
	chunks := bulk.NewSender(s.SendMsg, nil)
	if _, err := chunks.Write(b); err != nil && !errors.Is(err, io.EOF) {
		e.t.Fatal(err)
	}
	if err := chunks.Close(); err != nil && !errors.Is(err, io.EOF) {
		e.t.Fatal(err)
	}
	r, err := s.CloseAndRecv()
	return r.GetState(), err
}

// uploadAll sends every input.
func (e *env) uploadAll() {
	e.t.Helper()
	p := everybody()
	for _, in := range []struct {
		key  keys.Private
		role manifest.Role
		ref  *agentv1.InputRef
		b    []byte
	}{
		{p.algo, manifest.AlgorithmProvider, algoRef(), algorithm},
		{p.data, manifest.DatasetProvider, dataRef("file.bin"), fileData},
		{p.data2, manifest.DatasetProvider, dataRef("folder"), folderData(e.t)},
	} {
		st, err := e.upload(e.as(in.key, in.role), in.ref, in.b, 0)
		if err != nil {
			e.t.Fatal(err)
		}
		if !st.GetComplete() || st.GetReceived() != uint64(len(in.b)) {
			e.t.Fatalf("after the upload: %v", st)
		}
	}
}

// wait follows the agent's events to the state.
func (e *env) wait(want agent.State) {
	e.t.Helper()
	ctx := e.ctx()
	var after uint64
	for {
		changed := e.journal.Changed()
		for _, ev := range e.journal.EventsAfter(after) {
			if ev.Attributes["to"] == string(want) {
				return
			}
			after = ev.Sequence
		}
		select {
		case <-changed:
		case <-ctx.Done():
			e.t.Fatalf("state %s was not reached; events: %v", want, e.journal.EventsAfter(0))
		}
	}
}

// kinds of the events so far, with the state of state changes.
func (e *env) kinds() (kinds []string) {
	for _, ev := range e.journal.EventsAfter(0) {
		k := ev.Kind
		if to := ev.Attributes["to"]; to != "" {
			k += ":" + to
		}
		kinds = append(kinds, k)
	}
	return kinds
}

// takeResult downloads from an offset.
func (e *env) takeResult(c agentv1.AgentServiceClient, offset uint64) (*agentv1.ResultInfo, []byte, error) {
	s, err := c.Result(e.ctx(), &agentv1.ResultRequest{Offset: offset})
	if err != nil {
		return nil, nil, err
	}
	first, err := s.Recv()
	if err != nil {
		return nil, nil, err
	}
	b := bytes.Clone(first.GetChunk())
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return first.GetInfo(), b, nil
		}
		if err != nil {
			return first.GetInfo(), b, err
		}
		b = append(b, m.GetChunk()...)
	}
}

// refused checks code and reason of an error, and that people get a hint.
func refused(t testing.TB, err error, code codes.Code, reason rpcerr.Reason) {
	t.Helper()
	d, ok := rpcerr.DetailOf(err)
	if status.Code(err) != code || !ok || d.Reason != reason {
		t.Errorf("got %v %+v, want %s %s", err, d, code, reason)
		return
	}
	if d.Hint == "" {
		t.Errorf("%v has no hint", err)
	}
}

func count(kinds []string, kind string) int {
	n := 0
	for _, k := range kinds {
		if k == kind {
			n++
		}
	}
	return n
}

// left lists the files below incoming, datasets and program.
func (e *env) left() (names []string) {
	e.t.Helper()
	for _, sub := range []string{"incoming", "work/datasets", "program"} {
		err := filepath.WalkDir(filepath.Join(e.dir, sub), func(p string, d os.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, os.ErrNotExist) {
					return nil
				}
				return err
			}
			if rel, _ := filepath.Rel(e.dir, p); rel != sub || !d.IsDir() {
				names = append(names, rel)
			}
			return nil
		})
		if err != nil {
			e.t.Fatal(err)
		}
	}
	slices.Sort(names)
	return names
}
