package manager

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

// The test binary is several programs: the tests, a Manager and a service to be
// killed, a shim without a VM, a stranger, and what passes for a QEMU that was left.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "shim":
		exit(fakeShim(vm.Dir(os.Args[2])))
	case len(os.Args) > 1 && os.Args[1] == "leftover":
		select {} // until it is killed
	case len(os.Args) == 3 && os.Args[1] == "listen":
		exit(listenLikeAShim(os.Args[2]))
	case os.Getenv(envManager) != "":
		exit(childManager())
	case os.Getenv(envService) != "":
		exit(childService())
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const (
	envManager = "COCOS_TEST_MANAGER" // the state directory
	envServer  = "COCOS_TEST_SERVER"
	envCA      = "COCOS_TEST_CA"
	envKill    = "COCOS_TEST_KILL" // "point n": die when it is reached the n-th time
	envShim    = "COCOS_TEST_SHIM" // the shims' environment
	// envIdentity is a folder with the key and the certificate of a host.
	envIdentity = "COCOS_TEST_IDENTITY"

	// patience is how long a test waits for what must come; nothing is measured.
	patience = time.Minute
)

// childManager is a Manager in a process of its own.
func childManager() error {
	ca, err := os.ReadFile(os.Getenv(envCA))
	if err != nil {
		return err
	}
	hook, err := killHook()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	cfg, err := testConfig(os.Getenv(envManager), os.Getenv(envServer), ca, strings.Fields(os.Getenv(envShim)))
	if err != nil {
		return err
	}
	if dir := os.Getenv(envIdentity); dir != "" {
		showIdentity(&cfg, dir)
	}
	return runHooked(ctx, cfg, hook)
}

// killHook is what envKill says; nil: nothing.
func killHook() (func(string), error) {
	point, n, ok := strings.Cut(os.Getenv(envKill), " ")
	if !ok {
		return nil, nil
	}
	count, err := strconv.Atoi(n)
	return killAt(point, count), err
}

func killAt(point string, count int) func(string) {
	var mu sync.Mutex
	return func(p string) {
		mu.Lock()
		defer mu.Unlock()
		if p != point {
			return
		}
		if count--; count == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing more happens in this process
		}
	}
}

// testConfig is the same for a Manager in the test and one beside it. Files
// that QEMU would need lie beside the state directory. env is the shims'.
func testConfig(stateDir, address string, ca []byte, env []string) (Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return Config{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return Config{}, errors.New("no certificate in the test's CA")
	}
	file := func(name string) string { return filepath.Join(filepath.Dir(stateDir), name) }
	for _, name := range []string{"kernel", "initrd"} {
		if err := os.WriteFile(file(name), []byte(name), 0o600); err != nil {
			return Config{}, err
		}
	}
	host := testHost(exe, file("kernel"), file("initrd"))
	host.Forward.Addr = ownAddress(stateDir)
	return Config{
		InstanceID: "host-1",
		Version:    "test",
		StateDir:   stateDir,
		Server: Server{Address: address, Timeout: patience, TLS: func() (*tls.Config, error) {
			return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, nil
		}},
		Host:  host,
		Shim:  append(append([]string{"/usr/bin/env"}, env...), exe, "shim"),
		Clock: hastyClock{},
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, nil
}

// ownAddress is a loopback address for the Managers of one state directory, so
// that tests at the same time do not take each other's ports.
func ownAddress(stateDir string) netip.Addr {
	sum := sha256.Sum256([]byte(stateDir))
	return netip.AddrFrom4([4]byte{127, 100 + sum[0]%100, sum[1], 1 + sum[2]%250})
}

// hastyClock tells the real time and does not wait long.
type hastyClock struct{}

func (hastyClock) Now() time.Time { return time.Now() }
func (hastyClock) After(d time.Duration) <-chan time.Time {
	return time.After(min(d, 10*time.Millisecond))
}

func testHost(qemuPath, kernel, initrd string) Host {
	m := vm.Emulated()
	m.QEMU, m.Memory.MiB = qemuPath, 1024
	m.Boot = vm.Boot{Kernel: kernel, Initrd: initrd, CommandLine: "console=ttyS0"}
	return Host{
		Machine:      m,
		Forward:      Forward{Addr: netip.MustParseAddr("127.0.0.1"), First: 21000, Last: 21999},
		GuestPort:    vm.AgentPort,
		GuestAddress: netip.MustParsePrefix("10.0.2.15/24"),
		GuestGateway: netip.MustParseAddr("10.0.2.2"),
	}
}

// lab is one test's server and state directory.
type lab struct {
	t       *testing.T
	dir     string
	state   string
	server  *server.Server
	address string
	ca      []byte
	env     []string // the shims'
	ctx     context.Context
	// identity is what envIdentity says; may be empty.
	identity string
	// change alters what Managers inside the test are given; nil: nothing.
	change func(*Config)
}

// newLab makes a lab whose shims have env in their environment.
func newLab(t *testing.T, verdict func(*eventv1.Event) server.Verdict, env ...string) *lab {
	t.Helper()
	t.Parallel()
	// Unix sockets need a short path.
	dir, err := os.MkdirTemp("", "cm")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	l := &lab{t: t, dir: dir, state: filepath.Join(dir, "s"), ctx: ctx}
	t.Cleanup(l.sweep)
	cert, ca, err := server.SelfSigned("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	l.ca = ca
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	l.env = append([]string{envCounts + "=" + l.counts()}, env...)
	l.server, err = server.New(server.Config{TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}, Verdict: verdict})
	if err != nil {
		t.Fatal(err)
	}
	l.address = serve(t, l.server, "127.0.0.1:0")
	return l
}

// serve serves until the test ends, and returns the address.
func serve(t *testing.T, s *server.Server, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return listener.Addr().String()
}

// sweep ends shims that a failed test left, by the ids that they wrote down.
func (l *lab) sweep() {
	for _, line := range readLines(l.counts()) {
		if pid, ok := strings.CutPrefix(line, "pid "); ok {
			if n, err := strconv.Atoi(pid); err == nil && isFakeShim(n) {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Error(err)
	}
}

func isFakeShim(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(b), "\x00shim\x00")
}

func (l *lab) counts() string { return filepath.Join(l.dir, "counts") }

func readLines(name string) []string {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// shims returns the ids of the shims that became owners of a folder.
func (l *lab) shims() []int {
	var pids []int
	for _, line := range readLines(l.counts()) {
		if pid, ok := strings.CutPrefix(line, "pid "); ok {
			n, err := strconv.Atoi(pid)
			if err != nil {
				l.t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	return pids
}

// process is a Manager beside the test.
type process struct {
	cmd *exec.Cmd
	log *os.File
}

// spawn starts a Manager; kill as in envKill, or "".
func (l *lab) spawn(kill string) *process {
	l.t.Helper()
	return l.program("manager.log", envManager+"="+l.state, envServer+"="+l.address, envCA+"="+filepath.Join(l.dir, "ca.pem"), envKill+"="+kill,
		envShim+"="+strings.Join(l.env, " "), envIdentity+"="+l.identity)
}

// program starts this test binary as another program.
func (l *lab) program(logName string, env ...string) *process {
	l.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(l.dir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	p := &process{cmd: cmd, log: log}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if l.t.Failed() {
			b, _ := os.ReadFile(filepath.Join(l.dir, logName))
			l.t.Logf("%s:\n%s", logName, b)
		}
	})
	return p
}

// killed waits until p was killed; another end fails the test.
func (p *process) killed(t *testing.T) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed at its point: %v", err)
	}
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.killed(t)
}

// inside runs a Manager in the test's process until stop is called.
func (l *lab) inside() (stop func()) {
	l.t.Helper()
	return l.insideLogging(testWriter{l.t})
}

// insideLogging is inside with a log of the test's own.
func (l *lab) insideLogging(log io.Writer) (stop func()) {
	l.t.Helper()
	cfg, err := testConfig(l.state, l.address, l.ca, l.env)
	if err != nil {
		l.t.Fatal(err)
	}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	if l.change != nil {
		l.change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("the Manager ended: %v", err)
		}
	})
	l.t.Cleanup(stop)
	return stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

var _ io.Writer = testWriter{}

var testKey = sync.OnceValue(func() keys.Private {
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		panic(err)
	}
	return k
})

func testManifest() manifest.Manifest {
	owner := testKey().Public()
	return manifest.Manifest{
		Version: manifest.Version, ID: "test", Name: "Test", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Python, SHA256: manifest.Digest{1}, Size: 10, Provider: owner},
		Datasets:  []manifest.Dataset{{Name: "data.csv", Provider: owner, SHA256: manifest.Digest{2}, Size: 20}},
		Consumers: []keys.Public{owner},
	}
}

func freeze(t *testing.T, m manifest.Manifest) manifest.Frozen {
	t.Helper()
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// submit asks for a new run.
func (l *lab) submit() string {
	l.t.Helper()
	id := uuid.NewString()
	l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: freeze(l.t, testManifest()).Raw})
	return id
}

// event waits for one event.
func (l *lab) event(id, kind string) *eventv1.Event {
	l.t.Helper()
	e, err := l.server.EventOfKind(l.ctx, id, kind)
	if err != nil {
		l.t.Fatal(err)
	}
	return e
}

// complete checks that a run has told everything: each source from 1 without a
// gap, in order, and vm.removed at the very end. It returns the kinds.
func (l *lab) complete(id string) []string {
	l.t.Helper()
	l.event(id, vm.EventRemoved)
	events := l.server.Events(id)
	last := map[eventv1.Source]uint64{}
	var kinds []string
	for _, e := range events {
		if e.GetRunId() != id {
			l.t.Errorf("event of run %q", e.GetRunId())
		}
		if want := last[e.GetSource()] + 1; e.GetSequence() != want {
			l.t.Errorf("%v: event %d comes where %d should", e.GetSource(), e.GetSequence(), want)
		}
		last[e.GetSource()] = e.GetSequence()
		kinds = append(kinds, e.GetKind())
	}
	if kinds[len(kinds)-1] != vm.EventRemoved {
		l.t.Errorf("the last event is %s", kinds[len(kinds)-1])
	}
	return kinds
}

// empty waits until nothing of any VM is left.
func (l *lab) empty() {
	l.t.Helper()
	for l.ctx.Err() == nil {
		entries, err := os.ReadDir(filepath.Join(l.state, vm.VMsDir))
		if err == nil && len(entries) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatal("the folder of VMs does not get empty")
}

func count(kinds []string, kind string) int {
	n := 0
	for range slices.Values(slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return k != kind })) {
		n++
	}
	return n
}
