package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// Service is a process of the Computation Management service.
type Service struct {
	// URL is where people reach the console, GRPC what Managers and cocos-cli call.
	URL, GRPC string
	// Fingerprint is its authority's; Link makes the first administrator, if nobody
	// is it yet.
	Fingerprint, Link string

	t   testing.TB
	bin string
	dir string
	env []string
}

// serviceBinary is built for the tests that want it alone.
var serviceBinary = sync.OnceValues(func() (string, error) {
	dir, err := built()
	if err != nil {
		return "", err
	}
	const pkg = "cmd/computations"
	out := filepath.Join(dir, binary(pkg))
	return out, build(out, "./"+pkg)
})

// StartService starts one, on its embedded database unless env says otherwise. With
// another process it shares what several on one database have to: its authority and
// its address.
func StartService(t testing.TB, with *Service, env ...string) *Service {
	t.Helper()
	bin, err := serviceBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{t: t, bin: bin, dir: t.TempDir(), GRPC: fmt.Sprintf("127.0.0.1:%d", FreePort(t))}
	web := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	if s.URL = "http://" + web; with != nil {
		s.URL = with.URL
		b, err := os.ReadFile(filepath.Join(with.dir, authority.File))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, authority.File), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.env = append([]string{
		"COMPUTATIONS_DATA_DIR=" + s.dir, "COMPUTATIONS_HTTP_ADDR=" + web, "COMPUTATIONS_GRPC_ADDR=" + s.GRPC,
		"COMPUTATIONS_PUBLIC_URL=" + s.URL, "COMPUTATIONS_METRICS_ADDR=none",
	}, env...)
	s.start()
	return s
}

var (
	fingerprintLine = regexp.MustCompile(`(?m)^Its certificate is of +(sha256:[0-9a-f]{64})$`)
	linkLine        = regexp.MustCompile(`(?m)^ +(http://\S+/link/cl_\S+)$`)
)

// start starts the process, and returns when it serves. The test's end stops it.
func (s *Service) start() {
	s.t.Helper()
	files := map[string]*os.File{}
	for _, name := range []string{"out", "log"} {
		f, err := os.Create(filepath.Join(s.dir, name))
		if err != nil {
			s.t.Fatal(err)
		}
		defer f.Close()
		files[name] = f
	}
	cmd := exec.Command(s.bin)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), s.env...), files["out"], files["log"]
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := <-ended; err != nil || s.t.Failed() {
			s.t.Errorf("the service at %s ended: %v; its log:\n%s", s.GRPC, err, s.read("log"))
		}
	})
	// This line comes behind its greeting.
	for late := time.Now().Add(EndLimit); !strings.Contains(s.read("log"), "the service starts"); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			s.t.Fatal("the service does not start")
		default:
		}
		if time.Now().After(late) {
			s.t.Fatal("the service does not start in time")
		}
	}
	out := s.read("out")
	if m := fingerprintLine.FindStringSubmatch(out); m != nil {
		s.Fingerprint = m[1]
	}
	if m := linkLine.FindStringSubmatch(out); m != nil {
		s.Link = m[1]
	}
}

func (s *Service) read(name string) string {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Command runs another command of the program with this process's configuration.
func (s *Service) Command(args ...string) (string, error) {
	cmd := exec.Command(s.bin, args...)
	cmd.Env = append(os.Environ(), s.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// StartEnrolled starts a Manager that has joined a service by a one-time token, and
// no other server: Host.Server is nil.
func StartEnrolled(t testing.TB, s *Service, token string, opts ...Option) *Host {
	t.Helper()
	h := newHost(t)
	for _, o := range opts {
		o(h)
	}
	cmd := exec.Command(filepath.Join(h.bin, "cocos-manager"), "enroll", "--service", s.GRPC, "--token", token, "--fingerprint", s.Fingerprint)
	cmd.Dir, cmd.Env = Root(), append(os.Environ(), h.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("joining %s: %v\n%s", s.GRPC, err, out)
	}
	t.Cleanup(h.end)
	h.StartManager()
	return h
}
