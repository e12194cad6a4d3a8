package cli_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/agent/journal"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/cli"
	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cocos-cli": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			os.Exit(cli.Run(ctx, cli.OSEnv("1.2.3")))
		},
	})
}

// TestScripts runs the sessions of testdata/script against the real agent, in
// this process, with an algorithm that is a function of this file.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("COCOS_HOME", filepath.Join(e.WorkDir, "home"))
			// A script's commands are this binary again, and a script's
			// environment is otherwise empty.
			e.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent":     cmdAgent,
			"release":   cmdRelease,
			"proxy":     cmdProxy,
			"stalled":   cmdStalled,
			"manifest":  cmdManifest,
			"sourceweb": cmdSourceWeb,
			"noise":     cmdNoise,
			"flip":      cmdFlip,
			"mode":      cmdMode,
			"policy":    cmdPolicy,
			"bend":      cmdBend,
			"image":     cmdImage,
			"container": cmdContainer,
			"firmware":  cmdFirmware,
			"evidence":  cmdEvidence,
			"simroot":   cmdSimRoot,
			// A key broker, and VMs that ask it.
			"port":        cmdPort,
			"certificate": cmdCertificate,
			"sourced":     cmdSourced,
			"ask":         cmdAsk,
			"consent":     cmdConsent,
			// The Computation Management service.
			"service":     cmdService,
			"let":         cmdLet,
			"answer":      cmdAnswer,
			"member":      cmdMember,
			"todos":       cmdTodos,
			"host":        cmdHost,
			"tell":        cmdTell,
			"runstate":    cmdRunState,
			"makereceipt": cmdMakeReceipt,
			"gapless":     cmdGapless,
			"watched":     cmdWatched,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// container OUT NAME... writes an archive with an image under these names, and sets
// CONFIG to the digest of its config.
func cmdContainer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: container OUT NAME...")
	}
	img := build.Image{
		Names:  args[1:],
		Config: oci.Config{Entrypoint: []string{"/stats", "-v"}, Env: []string{"A=b c"}, User: "app"},
		Layers: []build.Layer{{Entries: []build.Entry{build.File("stats", 0o755, make([]byte, 9000)), build.Folder("etc"), build.Link("x", "y")}, Compression: "gzip"}},
	}
	entries, err := build.OCI(img)
	ts.Check(err)
	b, err := build.Tar(entries)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
	parts, err := img.Parts()
	ts.Check(err)
	ts.Setenv("CONFIG", manifest.Sum(parts.Config).String())
}

// sourceweb serves the script's folder over TLS, to those alone who know the user
// alice and her password s3cret, and sets SOURCE_HOST and SOURCE_CA for manifests.
func cmdSourceWeb(ts *testscript.TestScript, _ bool, _ []string) {
	files := http.FileServer(http.Dir(ts.Getenv("WORK")))
	w := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "s3cret" && !strings.HasSuffix(r.URL.Path, ".age") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	ts.Defer(w.Close)
	ts.Setenv("SOURCE_HOST", strings.TrimPrefix(w.URL, "https://"))
	ts.Setenv("SOURCE_CA", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})))
}

// manifest OUT algo=KEY:FILE[:SALT] file=NAME:PATH[:SALT] python=REQUIREMENTS:WHEELS data=NAME:KEY:PATH[:SALT] consumer=KEY approver=KEY
// source=NAME:FILE (a dataset's source, SOURCE in its url standing for sourceweb's)
// release=KEY:PATTERN,… output=KEY pad=N tee=TEE attested=TEE nonce=N writes a frozen
// manifest; KEY is a prefix of key files, SALT the file of a commitment's salt.
func cmdManifest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: manifest OUT PART...")
	}
	m := manifest.Manifest{
		Version: manifest.Version, ID: "test", Name: "A test", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Python},
	}
	key := func(prefix string) keys.Public {
		k, err := keys.ParsePublicPEM([]byte(ts.ReadFile(prefix + ".pub.pem")))
		ts.Check(err)
		return k
	}
	for _, part := range args[1:] {
		what, value, _ := strings.Cut(part, "=")
		v := strings.Split(value, ":")
		switch what {
		case "algo":
			d, n, err := archive.Sum(ts.MkAbs(v[1]))
			ts.Check(err)
			c := content(ts, d, v[2:])
			m.Algorithm.Provider, m.Algorithm.SHA256, m.Algorithm.Commitment, m.Algorithm.Size = key(v[0]), c.SHA256, c.Commitment, n
		case "data":
			path := ts.MkAbs(v[2])
			d, n, err := archive.Sum(path)
			ts.Check(err)
			c := content(ts, d, v[3:])
			ds := manifest.Dataset{Name: v[0], Provider: key(v[1]), SHA256: c.SHA256, Commitment: c.Commitment, Size: n}
			info, err := os.Stat(path)
			ts.Check(err)
			if info.IsDir() {
				ds.UnpackedMax = 1 << 30
			}
			m.Datasets = append(m.Datasets, ds)
		case "source":
			var s manifest.Source
			ts.Check(json.Unmarshal([]byte(ts.ReadFile(v[1])), &s))
			s.Authorities = ts.Getenv("SOURCE_CA")
			s.URL = strings.Replace(s.URL, "SOURCE", ts.Getenv("SOURCE_HOST"), 1)
			i := slices.IndexFunc(m.Datasets, func(d manifest.Dataset) bool { return d.Name == v[0] })
			m.Datasets[i].Source = s
		case "file":
			path := ts.MkAbs(v[1])
			d, n, err := archive.Sum(path)
			ts.Check(err)
			c := content(ts, d, v[2:])
			f := manifest.File{Name: v[0], SHA256: c.SHA256, Commitment: c.Commitment, Size: n}
			info, err := os.Stat(path)
			ts.Check(err)
			if info.IsDir() {
				f.UnpackedMax = 1 << 30
			}
			m.Algorithm.Files = append(m.Algorithm.Files, f)
		case "python":
			m.Algorithm.Python = manifest.Packages{Requirements: v[0], Wheels: v[1]}
		case "consumer":
			m.Consumers = append(m.Consumers, key(v[0]))
		case "approver":
			m.Approvals = append(m.Approvals, key(v[0]))
		case "release":
			r := manifest.Release{Consumer: key(v[0])}
			if v[1] != "" {
				r.Files = strings.Split(v[1], ",")
			}
			m.Outputs.Release = append(m.Outputs.Release, r)
		case "output":
			m.Outputs.Release = append(m.Outputs.Release, manifest.Release{Consumer: key(v[0]), Output: true})
		case "pad":
			n, err := strconv.ParseInt(value, 10, 64)
			ts.Check(err)
			m.Outputs.Pad, m.Outputs.ResultMax = true, n
		case "tee":
			m.TEE = manifest.TEE(value)
		case "attested":
			m.TEE, m.AttestedTLS = manifest.TEE(value), true
		case "nonce":
			n, err := strconv.ParseUint(value, 10, 8)
			ts.Check(err)
			m.Nonce = manifest.Nonce{byte(n)}
		default:
			ts.Fatalf("unknown part %q", part)
		}
	}
	f, err := manifest.Freeze(m)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), f.Raw, 0o600))
	ts.Setenv("DIGEST", f.Digest.String())
}

// content is how a manifest names an input: by its digest, or by a commitment
// whose salt is in a file.
func content(ts *testscript.TestScript, d manifest.Digest, salt []string) manifest.Content {
	if len(salt) == 0 {
		return manifest.Content{SHA256: d}
	}
	var s manifest.Salt
	ts.Check(s.UnmarshalText([]byte(strings.TrimSpace(ts.ReadFile(salt[0])))))
	return manifest.Content{Commitment: manifest.Commit(s, d)}
}

// runner stands in for an algorithm: it lists its datasets and files in results/, or
// fails if the program says so. A program that says hold waits for "release".
type runner struct{ released chan struct{} }

func (r *runner) Run(ctx context.Context, job runtime.Job) (runtime.Outcome, error) {
	program, err := os.ReadFile(job.Program)
	if err != nil {
		return runtime.Outcome{}, err
	}
	if strings.Contains(string(program), "hold") {
		select {
		case <-r.released:
		case <-ctx.Done():
			return runtime.Outcome{}, context.Cause(ctx)
		}
	}
	if strings.Contains(string(program), "fail") {
		fmt.Fprintln(job.Stderr, "Traceback: it went wrong")
		return runtime.Outcome{ExitCode: 3}, nil
	}
	for _, dir := range []string{"datasets", "files"} {
		entries, err := os.ReadDir(filepath.Join(job.Dir, dir))
		if err != nil {
			return runtime.Outcome{}, err
		}
		var list strings.Builder
		for _, e := range entries {
			d, n, err := archive.Sum(filepath.Join(job.Dir, dir, e.Name()))
			if err != nil {
				return runtime.Outcome{}, err
			}
			fmt.Fprintf(&list, "%s %d %s\n", e.Name(), n, d)
		}
		if dir == "files" && len(entries) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(job.Dir, "results", dir+".txt"), []byte(list.String()), 0o644); err != nil {
			return runtime.Outcome{}, err
		}
	}
	fmt.Fprintln(job.Stdout, "it ran")
	return runtime.Outcome{}, nil
}

// agent MANIFEST starts an agent and sets AGENT_GRPC_URL and AGENT_KEY. If the
// manifest asks for the simulated TEE, it has one: measured=N, image=DIR:VCPUS and
// host=NAME as of simulation, launched=OTHER for a VM that was launched for another manifest.
// approver=KEY gives it that person's approval.
func cmdAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: agent MANIFEST [approver=KEY]... [measured=N] [image=DIR:VCPUS] [host=NAME] [launched=OTHER]")
	}
	f, err := manifest.Parse([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	dir, err := os.MkdirTemp(ts.Getenv("WORK"), ".agent-*")
	ts.Check(err)
	j := journal.New(time.Now)
	r := &runner{make(chan struct{})}
	cfg := agent.Config{
		RunID: "9b2a6f7e-52cb-4c1a-8e3c-0c7d0f2a51b4", Manifest: f, Storage: agent.FolderStorage(dir),
		Runner: r, Journal: j, Log: slog.New(j.Handler(slog.LevelInfo)),
	}
	args = slices.DeleteFunc(args[1:], func(part string) bool {
		who, ok := strings.CutPrefix(part, "approver=")
		if ok {
			k, err := keys.ParsePrivatePEM([]byte(ts.ReadFile(who + ".pem")))
			ts.Check(err)
			approval, err := f.Approve(k)
			ts.Check(err)
			cfg.Approvals = append(cfg.Approvals, approval)
		}
		return ok
	})
	if f.TEE == manifest.TEESim {
		launched := f
		host, measurement := simulation(ts, args, func(what, value string) bool {
			if what == "launched" {
				launched, err = manifest.Parse([]byte(ts.ReadFile(value)))
				ts.Check(err)
			}
			return what == "launched"
		})
		cfg.Attester = host.Attester(measurement, launched.Digest)
		cfg.Instance, err = keys.Generate(keys.Ed25519)
		ts.Check(err)
	}
	a, err := agent.New(cfg)
	ts.Check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Fatalf("the agent ended with %v", err)
		}
	})
	ts.Setenv("AGENT_GRPC_URL", l.Addr().String())
	ts.Setenv("AGENT_KEY", a.Key())
	agents.Store(ts, r)
}

// agents has the runner of each script's agent.
var agents sync.Map

// release lets an algorithm go on that holds.
func cmdRelease(ts *testscript.TestScript, _ bool, _ []string) {
	r, ok := agents.Load(ts)
	if !ok {
		ts.Fatalf("no agent was started")
	}
	close(r.(*runner).released)
}

// proxy cut|stall N puts itself between the CLI and the agent. After N bytes
// from the CLI it breaks that connection and is transparent from then on, or
// it reads no more, for good. proxy off takes it away and breaks what it had.
func cmdProxy(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 1 && args[0] == "off" {
		p, ok := proxies.Load(ts)
		if !ok {
			ts.Fatalf("no proxy was started")
		}
		ts.Setenv("AGENT_GRPC_URL", p.(*proxy).agent)
		p.(*proxy).close()
		return
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: proxy cut|stall BYTES, or proxy off")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	p := &proxy{agent: ts.Getenv("AGENT_GRPC_URL"), stall: args[0] == "stall", left: n, reached: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.running.Go(func() { p.serve(l) })
	ts.Defer(func() {
		l.Close()
		p.close()
		p.running.Wait()
	})
	ts.Setenv("AGENT_GRPC_URL", l.Addr().String())
	proxies.Store(ts, p)
}

// stalled waits until the proxy has had its bytes, and the agent something of them:
// what it has not read when the connection breaks never comes.
func cmdStalled(ts *testscript.TestScript, _ bool, _ []string) {
	p, ok := proxies.Load(ts)
	if !ok {
		ts.Fatalf("no proxy was started")
	}
	select {
	case <-p.(*proxy).reached:
	case <-time.After(time.Minute):
		ts.Fatalf("the proxy never had its bytes")
	}
	const some = 1 << 17
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		files, err := filepath.Glob(ts.MkAbs(".agent-*/incoming/*"))
		ts.Check(err)
		for _, name := range files {
			if info, err := os.Stat(name); err == nil && info.Size() >= some {
				return
			}
		}
		if time.Now().After(end) {
			ts.Fatalf("the agent never had its bytes")
		}
	}
}

var proxies sync.Map

type proxy struct {
	agent   string
	stall   bool
	reached chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex
	left   int64
	conns  map[net.Conn]bool
	closed bool
}

// close breaks every connection.
func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", p.agent)
		if err != nil {
			c.Close()
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[s] = true, true
		if p.closed {
			c.Close()
			s.Close()
		}
		p.mu.Unlock()
		p.running.Go(func() {
			io.Copy(c, s) //nolint:errcheck // ends with the connection
			c.Close()
		})
		p.running.Go(func() {
			if err := p.forward(s, c); errors.Is(err, errStall) {
				return // both stay open
			}
			s.Close()
			c.Close()
		})
	}
}

var (
	errStall = errors.New("stalled")
	errCut   = errors.New("cut")
)

func (p *proxy) forward(to, from net.Conn) error {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return err
		}
		p.mu.Lock()
		hit := p.left > 0 && int64(n) >= p.left
		p.left -= int64(n)
		p.mu.Unlock()
		if hit {
			close(p.reached)
			if p.stall {
				return errStall
			}
			return errCut
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
	}
}

// noise FILE BYTES makes a file of that size that does not compress.
func cmdNoise(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: noise FILE BYTES")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	for i, x := 0, uint32(len(args[0])); i < n; i++ {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// flip FILE OFFSET changes one bit.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := []byte(ts.ReadFile(args[0]))
	b[n] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// mode OCTAL FILE checks a file's permissions.
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has the mode %s, want %s", args[1], got, args[0])
	}
}
