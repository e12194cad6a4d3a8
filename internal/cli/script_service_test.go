package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/cli"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/computations/userapi"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// serviceAddress is what the scripts' service calls itself.
const serviceAddress = "http://127.0.0.1:7080"

// aService is a Computation Management service in this process: the real use
// cases on a real database, with a certificate of its own authority.
type aService struct {
	db        *store.Store
	svc       *computations.Service
	authority *authority.Authority
	creds     credentials.TransportCredentials
	address   string

	mu     sync.Mutex
	server *grpc.Server
	api    *userapi.API
	served chan error
	conns  []net.Conn
	// lie changes what the service answers, as a hostile one would.
	lie func(any)
	// sent is the furthest position that went to a watcher.
	sent int64
}

var services sync.Map

func serviceOf(ts *testscript.TestScript) *aService {
	s, ok := services.Load(ts)
	if !ok {
		ts.Fatalf("no service was started")
	}
	return s.(*aService)
}

// service start sets SERVICE, GRPC, FINGERPRINT and LINK, that of the first
// operator, and writes ca.pem. service cut breaks every connection; service stop
// and service again end it and start it at the same place. service unseen forgets
// what went to watchers. service lies manifest|id|name makes it hostile.
func cmdService(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: service start|cut|stop|again|unseen, or service lies WHAT")
	}
	switch args[0] {
	case "start":
		ts.Check(startService(ts))
	case "cut":
		serviceOf(ts).cut()
	case "stop":
		ts.Check(serviceOf(ts).stop())
	case "again":
		s := serviceOf(ts)
		ts.Check(s.serve(s.address))
	case "unseen":
		s := serviceOf(ts)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent = 0
	case "lies":
		s := serviceOf(ts)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lie = lies[args[1]]
	default:
		ts.Fatalf("service has no %q", args[0])
	}
}

// lies of a hostile service.
var lies = map[string]func(any){
	"not": nil,
	// Other bytes under the same digest.
	"manifest": func(m any) {
		if r, ok := m.(*computationsv1.GetManifestResponse); ok {
			r.Manifest = bytes.Replace(r.Manifest, []byte(`"name":"iris"`), []byte(`"name":"Iris"`), 1)
		}
	},
	// A whole other manifest, with its digest.
	"id": func(m any) {
		switch r := m.(type) {
		case *computationsv1.GetManifestResponse:
			f, err := manifest.Parse(r.Manifest)
			if err != nil {
				return
			}
			f.Manifest.ID = "another"
			if f, err = manifest.Freeze(f.Manifest); err != nil {
				return
			}
			r.Manifest, r.ManifestDigest = f.Raw, f.Digest[:]
		case *computationsv1.ListComputationsResponse:
			for _, c := range r.Computations {
				c.ManifestDigest = nil
			}
		}
	},
	"name": func(m any) {
		if r, ok := m.(*computationsv1.GetServiceResponse); ok {
			r.Name = "https://bank.example.org"
		}
	},
}

func startService(ts *testscript.TestScript) error {
	dir := filepath.Join(ts.Getenv("WORK"), ".service")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s := &aService{}
	ctx := context.Background()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if s.db, err = store.Open(ctx, store.Config{Path: filepath.Join(dir, "cocos.db"), Log: quiet}); err != nil {
		return err
	}
	cheap := computations.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}
	if s.svc, err = computations.New(computations.Config{Store: s.db, Name: serviceAddress, Log: quiet, PasswordCost: cheap}); err != nil {
		return err
	}
	if s.authority, err = authority.Open(authority.Config{Dir: dir}); err != nil {
		return err
	}
	cert, err := s.authority.Server("127.0.0.1")
	if err != nil {
		return err
	}
	s.creds = credentials.NewTLS(s.authority.TLS(cert.Certificate))
	if err := s.serve("127.0.0.1:0"); err != nil {
		return err
	}
	link, err := s.svc.Bootstrap(ctx)
	if err != nil {
		return err
	}
	ts.Setenv("SERVICE", serviceAddress)
	ts.Setenv("GRPC", s.address)
	ts.Setenv("FINGERPRINT", s.authority.Fingerprint())
	ts.Setenv("LINK", link)
	services.Store(ts, s)
	ts.Defer(func() {
		if err := errors.Join(s.stop(), s.db.Close()); err != nil {
			ts.Fatalf("the service ended with %v", err)
		}
	})
	return os.WriteFile(ts.MkAbs("ca.pem"), s.authority.PEM(), 0o600)
}

// tracked notes connections, so that they can be cut.
type tracked struct {
	net.Listener
	s *aService
}

func (l tracked) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		l.s.conns = append(l.s.conns, c)
	}
	return c, err
}

func (s *aService) serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s.address = l.Addr().String()
	api, err := userapi.New(userapi.Config{Service: s.svc, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	lying := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lie != nil && err == nil {
			s.lie(resp)
		}
		return resp, err
	}
	s.server = grpc.NewServer(append([]grpc.ServerOption{grpc.Creds(s.creds), grpc.ChainUnaryInterceptor(lying),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, noting{stream, s})
		})}, api.ServerOptions()...)...)
	s.api, s.served = api, make(chan error, 1)
	api.Register(s.server)
	go func() { s.served <- s.server.Serve(tracked{l, s}) }()
	return nil
}

func (s *aService) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close() //nolint:errcheck // cut, however that goes
	}
	s.conns = nil
}

// stop is as a service ends: watchers are sent away first.
func (s *aService) stop() error {
	if s.server == nil {
		return nil
	}
	s.api.Drain()
	s.server.Stop()
	s.server = nil
	return <-s.served
}

// let NAME FILE sets a variable to what a file has, or stdout.
func cmdLet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: let NAME FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// member NAME FILE MEMBER sets a variable to a member of a JSON object.
func cmdMember(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: member NAME FILE MEMBER")
	}
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &object))
	value, ok := object[args[2]].(string)
	if !ok {
		ts.Fatalf("%s has no member %q that is a text", args[1], args[2])
	}
	ts.Setenv(args[0], value)
}

// todos FILE wants each command line that computations show --json tells to be one
// of this program, with flags that it has.
func cmdTodos(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: todos FILE")
	}
	var view struct {
		Todo []struct{ Text, Command string }
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &view))
	commands := 0
	for _, todo := range view.Todo {
		words := strings.Fields(todo.Command) // none of these scripts' has a blank in a word
		if len(words) == 0 {
			continue
		}
		commands++
		var stdout, stderr bytes.Buffer
		code := cli.Run(context.Background(), cli.Env{
			Args: append(words[1:], "--help"), Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
			Getenv: func(string) string { return "" }, Columns: func() int { return 0 },
		})
		_, usage, _ := strings.Cut(stdout.String(), "Usage:\n  ")
		var path []string // the command's name
		for _, w := range strings.Fields(usage) {
			if w != strings.ToLower(w) || strings.HasPrefix(w, "[") || strings.HasPrefix(w, "-") {
				break
			}
			path = append(path, w)
		}
		runs := !strings.Contains(stdout.String(), "Available Commands:") || len(words) > len(path) && strings.HasPrefix(words[len(path)], "-")
		if code != cli.ExitOK || words[0] != "cocos-cli" || !runs || len(words) < len(path) || !slices.Equal(words[:len(path)], path) {
			ts.Fatalf("%q is no command of this program: it is taken for %q\n%s", todo.Command, path, &stderr)
		}
		ts.Logf("%s", todo.Command)
	}
	if commands == 0 {
		ts.Fatalf("no command was told")
	}
}

func (s *aService) put(ts *testscript.TestScript, f func(computations.Writer) error) {
	ts.Check(s.db.Update(context.Background(), f))
}

// host NAME TEE puts a host into the service's database, as if it had enrolled
// and were connected.
func cmdHost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: host NAME TEE")
	}
	now := time.Now()
	serviceOf(ts).put(ts, func(w computations.Writer) error {
		return w.PutHost(computations.Host{
			ID: computations.NewID(), Name: args[0], Serial: "0a", Enrolled: now, Contact: now, Connected: true, Process: "test", Address: "192.0.2.7",
			CertificateExpires: now.Add(time.Hour),
			Report: computations.HostReport{
				Version: "1.2.3", TEEs: []manifest.TEE{manifest.TEENone, manifest.TEE(args[1])}, Capacity: 10, MemoryTotal: 8 << 30, MemoryFree: 6 << 30, CPUs: 4, Load: 0.5,
				Findings: []computations.Finding{{Name: "kvm", Verdict: "ok", Found: "/dev/kvm"}},
			},
		})
	})
}

// tell RUN WORD... has the run's agent tell events, one for each word.
func cmdTell(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: tell RUN WORD...")
	}
	run := computations.ID(args[0])
	serviceOf(ts).put(ts, func(w computations.Writer) error {
		there, err := w.Entries(run, computations.EntryFilter{Sources: []string{"agent"}})
		if err != nil {
			return err
		}
		var entries []computations.Entry
		for i, word := range args[1:] {
			entries = append(entries, computations.Entry{
				Run: run, Type: computations.EntryEvent, Source: "agent", Sequence: int64(len(there) + i + 1), Time: time.Now(), Level: "info",
				Kind: "agent.state", Message: word, Attributes: map[string]string{"to": word},
			})
		}
		entries = append(entries, computations.Entry{Run: run, Type: computations.EntryLog, Source: "shim", Time: time.Now(), Level: "warn", Message: "\x1b[31ma line of " + args[1]})
		if _, err := w.Append(entries); err != nil {
			return err
		}
		w.Signal(computations.RunTopic(run))
		return nil
	})
}

// runstate RUN STATE [REASON] is as the fleet would change it.
func cmdRunState(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: runstate RUN STATE [REASON]")
	}
	s := serviceOf(ts)
	s.put(ts, func(w computations.Writer) error {
		r, err := w.LockRun(computations.ID(args[0]))
		if err != nil {
			return err
		}
		r.State, r.Reason = computations.RunState(args[1]), strings.Join(args[2:], " ")
		switch {
		case r.State.Ended():
			r.Ended = time.Now()
		case r.State == computations.RunRunning:
			hosts, err := w.Hosts()
			if err != nil {
				return err
			}
			r.Host, r.AgentAddress, r.AgentKey, r.AgentState = hosts[0].ID, "192.0.2.7:6100", "sha256:"+strings.Repeat("a", 64), "AwaitingInputs"
			r.Simulated, r.Started = true, time.Now()
		}
		w.Signal(computations.RunTopic(r.ID))
		return w.PutRun(r)
	})
}

// makereceipt OUT MANIFEST RUN KEY makes the receipt of a run that succeeded.
func cmdMakeReceipt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: makereceipt OUT MANIFEST RUN KEY")
	}
	f, err := manifest.Parse([]byte(ts.ReadFile(args[1])))
	ts.Check(err)
	host, err := sim.LoadOrCreate(ts.MkAbs("host"))
	ts.Check(err)
	instance, err := keys.Generate(keys.Ed25519)
	ts.Check(err)
	approver, err := keys.ParsePrivatePEM([]byte(ts.ReadFile(args[3])))
	ts.Check(err)
	approval, err := f.Approve(approver)
	ts.Check(err)
	zero := 0
	b, err := receipt.Make(context.Background(), receipt.Request{
		Attester: host.Attester([48]byte(bytes.Repeat([]byte{measured}, 48)), f.Digest), Instance: instance, Manifest: f,
		Approvals: []manifest.Approval{approval}, Run: args[2], Outcome: receipt.Succeeded, ExitStatus: &zero,
		Result: &receipt.Result{SHA256: manifest.Sum([]byte("result")), Size: 6}, Started: time.Now(), Finished: time.Now(),
	})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// gapless FILE N wants the JSON lines of a watch to have the positions 1 to N,
// each once and in order.
func cmdGapless(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: gapless FILE N")
	}
	var got []string
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if _, rest, ok := strings.Cut(line, `"position":`); ok {
			position, _, _ := strings.Cut(rest, ",")
			got = append(got, position)
		}
	}
	var want []string
	for i := 1; fmt.Sprint(i-1) != args[1]; i++ {
		want = append(want, fmt.Sprint(i))
	}
	if !slices.Equal(got, want) {
		ts.Fatalf("positions %v, want %v", got, want)
	}
}

// watched N waits until the service has sent the entry at position N to somebody.
func cmdWatched(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: watched POSITION")
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	s := serviceOf(ts)
	for range 600 {
		s.mu.Lock()
		sent := s.sent
		s.mu.Unlock()
		if sent >= n {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("position %d was never sent", n)
}

// noting notes how far watchers have come.
type noting struct {
	grpc.ServerStream
	s *aService
}

func (n noting) SendMsg(m any) error {
	err := n.ServerStream.SendMsg(m)
	if r, ok := m.(*computationsv1.WatchResponse); ok && err == nil {
		n.s.mu.Lock()
		defer n.s.mu.Unlock()
		for _, e := range r.GetEntries() {
			n.s.sent = max(n.s.sent, e.GetPosition())
		}
	}
	return err
}
