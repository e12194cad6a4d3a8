// Package harness puts a host together for end-to-end tests: a computations
// server in the test's own process, a real Manager process, and whatever VMs it
// boots. A test talks to the agent through the cocos-cli binary alone.
//
// It needs the guest image (make hal) and a QEMU (MANAGER_QEMU_BIN_PATH, or one
// on PATH that the Manager accepts). Without them a test fails. Everything that
// was started is gone when the test ends, VMs included.
package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
)

// Limits on waiting. An emulated VM on a busy machine is slow.
const (
	BootLimit = 5 * time.Minute
	RunLimit  = 10 * time.Minute
	EndLimit  = 2 * time.Minute
)

// Root is the source tree, in which tests run.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(fmt.Sprintf("finding the source tree: %v", err))
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at
		}
		if at == filepath.Dir(at) {
			panic(dir + " is not in the source tree")
		}
	}
}

// Image is a file of the guest image that `make hal` built.
func Image(t testing.TB, name string) string {
	t.Helper()
	file := filepath.Join(Root(), "cmd", "manager", "img", name)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("the guest image is missing: %v; run: make hal", err)
	}
	return file
}

// built are the binaries. They lie in build/e2e for all test processes, since go
// links again only what has changed; one process at a time looks.
var built = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(Root(), "build", "e2e")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	for _, name := range []string{"cmd/manager", "cmd/cli", "test/e2e/algorithms/probe"} {
		if err := build(filepath.Join(dir, binary(name)), "./"+name); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// binary is the name of what is built of a package.
func binary(pkg string) string {
	if kind, name := path.Split(pkg); kind == "cmd/" {
		return "cocos-" + name
	}
	return path.Base(pkg)
}

func build(out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// Algorithm is the static test algorithm, test/e2e/algorithms/probe.
func Algorithm(t testing.TB) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "probe")
}

// Host is one machine with its Manager, and the server that it serves.
type Host struct {
	Server *server.Server
	// StateDir is the Manager's.
	StateDir string

	t       testing.TB
	bin     string
	dir     string
	env     []string
	verdict func(*eventv1.Event) server.Verdict
	manager *process
	runs    []*Run
}

// process is a Manager process; ended is closed when it is gone.
type process struct {
	*os.Process
	ended chan struct{}
}

// Option changes a Host before its Manager starts.
type Option func(*Host)

// Env sets a variable of the Manager, as "NAME=value".
func Env(v string) Option { return func(h *Host) { h.env = append(h.env, v) } }

// Verdict decides what the server does with each event.
func Verdict(f func(*eventv1.Event) server.Verdict) Option {
	return func(h *Host) { h.verdict = f }
}

// Start starts a server and a Manager.
func Start(t testing.TB, opts ...Option) *Host {
	t.Helper()
	h := newHost(t)
	h.env = append(h.env, "MANAGER_GRPC_URL="+h.serve(), "MANAGER_GRPC_SERVER_CA_CERTS="+filepath.Join(h.dir, "ca.pem"))
	for _, o := range opts {
		o(h)
	}
	t.Cleanup(h.end)
	h.StartManager()
	return h
}

// newHost is one whose Manager does not run yet, and knows of no server.
func newHost(t testing.TB) *Host {
	t.Helper()
	Image(t, "image.json")
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: the sockets of a VM need a short path.
	dir, err := os.MkdirTemp("", "cocos-")
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{t: t, bin: bin, dir: dir, StateDir: filepath.Join(dir, "state")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs are kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	port := 20000 + 20*rand.IntN(500) // tests of other packages run beside this one
	h.env = []string{
		"MANAGER_STATE_DIR=" + h.StateDir,
		"MANAGER_LOG_LEVEL=debug",
		"MANAGER_HTTP_ADDR=none",
		"MANAGER_QEMU_HOST_FWD_ADDR=127.0.0.1",
		fmt.Sprintf("MANAGER_QEMU_HOST_FWD_AGENT=%d", port),
		fmt.Sprintf("MANAGER_QEMU_HOST_FWD_RANGE=%d-%d", port, port+19),
	}
	return h
}

// serve starts the computations server; the test's end stops it.
func (h *Host) serve() (address string) {
	h.t.Helper()
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "ca.pem"), ca, 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.Server, err = server.New(server.Config{
		TLS:     &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
		Journal: filepath.Join(h.dir, "events.jsonl"),
		Verdict: func(e *eventv1.Event) server.Verdict {
			if h.verdict == nil {
				return server.Ack
			}
			return h.verdict(e)
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Server.Serve(ctx, l) }()
	h.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			h.t.Errorf("the computations server: %v", err)
		}
	})
	return l.Addr().String()
}

// StartManager starts the Manager process, again after KillManager.
func (h *Host) StartManager() {
	h.t.Helper()
	log, err := os.OpenFile(filepath.Join(h.dir, "manager.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(h.bin, "cocos-manager"))
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), h.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.manager = &process{Process: cmd.Process, ended: make(chan struct{})}
	go func(p *process) {
		_ = cmd.Wait() // how it ended is in its log
		close(p.ended)
	}(h.manager)
}

// within is a context for waiting; it also ends when the Manager does.
func (h *Host) within(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	if h.manager == nil {
		return ctx, cancel
	}
	ctx, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func(p *process) {
		defer close(watched)
		select {
		case <-p.ended:
			stop(errors.New("the Manager has ended"))
		case <-ctx.Done():
		}
	}(h.manager)
	return ctx, func() { cancel(); <-watched }
}

// Until asks again and again until something is so, and fails as soon as the
// Manager has ended.
func (h *Host) Until(what string, limit time.Duration, is func() bool) {
	h.t.Helper()
	ctx, cancel := h.within(limit)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			h.t.Fatalf("waiting for %s: %v\n%s", what, context.Cause(ctx), h.ManagerLog())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ManagerReady waits until the Manager has checked its host and greets the
// server.
func (h *Host) ManagerReady() {
	h.t.Helper()
	ctx, cancel := h.within(BootLimit)
	defer cancel()
	if _, err := h.Server.Hello(ctx, 1); err != nil {
		h.t.Fatalf("%v\n%s", err, h.ManagerLog())
	}
}

// KillManager kills the Manager with SIGKILL.
func (h *Host) KillManager() {
	h.t.Helper()
	if err := h.manager.Kill(); err != nil {
		h.t.Fatal(err)
	}
	<-h.manager.ended
	h.manager = nil
}

// ManagerEnds waits until the Manager has ended by itself, as one that refuses
// its configuration does.
func (h *Host) ManagerEnds() {
	h.t.Helper()
	select {
	case <-h.manager.ended:
		h.manager = nil
	case <-time.After(EndLimit):
		h.t.Fatalf("the Manager runs on:\n%s", h.ManagerLog())
	}
}

// ManagerLog returns what the Manager has logged.
func (h *Host) ManagerLog() string {
	b, err := os.ReadFile(filepath.Join(h.dir, "manager.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// end stops every VM and the Manager.
func (h *Host) end() {
	for _, r := range h.runs {
		if r.removed() || h.manager == nil {
			continue
		}
		if err := h.Server.Stop(r.ID); err == nil {
			ctx, cancel := h.within(EndLimit)
			if _, err := h.Server.EventOfKind(ctx, r.ID, vm.EventRemoved); err != nil {
				h.t.Errorf("stopping run %s: %v", r.ID, err)
			}
			cancel()
		}
	}
	if h.Server == nil && h.manager != nil {
		if _, _, err := h.CLI("manager", "stop", "--all", "--wait", "--yes"); err != nil {
			h.t.Errorf("stopping what runs: %v", err)
		}
	}
	if h.manager != nil {
		if err := h.manager.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			h.t.Error(err)
		}
		select {
		case <-h.manager.ended:
		case <-time.After(30 * time.Second):
			h.t.Error("the Manager did not end within 30 s of SIGTERM and was killed")
			_ = h.manager.Kill()
			<-h.manager.ended
		}
	}
	h.sweep()
	if h.t.Failed() {
		h.t.Logf("the Manager's log:\n%s", h.ManagerLog())
	}
}

// sweep ends the shims that a failed test left behind.
func (h *Host) sweep() {
	sockets, _ := filepath.Glob(filepath.Join(h.StateDir, vm.VMsDir, "*", "shim.sock"))
	for _, s := range sockets {
		conn, err := grpc.NewClient("unix:"+s, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		_, err = shimv1.NewShimServiceClient(conn).Stop(ctx, &shimv1.StopRequest{GraceSeconds: 1})
		if err == nil {
			h.t.Logf("a shim was left behind and told to stop: %s", s)
		}
		cancel()
		conn.Close()
	}
}

// CLI runs cocos-cli to its end.
func (h *Host) CLI(args ...string) (stdout, stderr string, err error) { return h.cli(nil, args...) }

func (h *Host) cli(env []string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), RunLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "cocos-cli"), args...)
	cmd.Env = append(os.Environ(), "COCOS_MANAGER_SOCKET="+filepath.Join(h.StateDir, vm.ControlSocket))
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if err != nil {
		err = fmt.Errorf("cocos-cli %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), errs.String(), err
}
