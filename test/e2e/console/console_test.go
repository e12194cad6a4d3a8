package console

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programs are built once.
var programs struct {
	dir                string
	service, cli, root string
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if programs.dir, err = os.MkdirTemp("", "console-*"); err == nil {
			defer os.RemoveAll(programs.dir) //nolint:errcheck // a temporary folder
			programs.service, programs.cli = filepath.Join(programs.dir, "cocos-computations"), filepath.Join(programs.dir, "cocos-cli")
			for out, pkg := range map[string]string{programs.service: "./cmd/computations", programs.cli: "./cmd/cli"} {
				build := exec.Command("go", "build", "-o", out, pkg)
				build.Dir, build.Stderr = "../../..", os.Stderr
				if err = build.Run(); err != nil {
					break
				}
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "building the programs:", err)
			return 1
		}
		return m.Run()
	}())
}

// service is the real one: the program, with a new data folder, on loopback.
type service struct {
	t         *testing.T
	url, grpc string
	// link makes its first operator.
	link string
	cmd  *exec.Cmd

	mu  sync.Mutex
	log bytes.Buffer
}

// freePort is one that nobody had a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it was only asked for a number
	return l.Addr().String()
}

func startService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, grpc: freePort(t)}
	web := freePort(t)
	s.url = "http://" + web
	s.cmd = exec.Command(programs.service)
	s.cmd.Env = append(os.Environ(), "COMPUTATIONS_DATA_DIR="+filepath.Join(t.TempDir(), "data"), "COMPUTATIONS_HTTP_ADDR="+web,
		"COMPUTATIONS_GRPC_ADDR="+s.grpc, "COMPUTATIONS_METRICS_ADDR=none")
	s.cmd.Stderr = s
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for s.link == "" && lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); strings.HasPrefix(line, s.url+"/link/") {
			s.link = line
		}
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines.Scan() {
		}
	})
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		reading.Wait()
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("the service ends: %v\n%s", err, s.said())
		}
	})
	if s.link == "" {
		t.Fatalf("the service prints no link\n%s", s.said())
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", web); err == nil {
			_ = c.Close()
			return s
		} else if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, s.said())
		}
	}
}

// Write keeps what the service logs.
func (s *service) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *service) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// machine is a person's own, with a folder and the command-line program.
type machine struct {
	t   *testing.T
	dir string
	env []string
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	return &machine{t, dir, append(os.Environ(), "COCOS_HOME="+filepath.Join(dir, "home"), "PATH="+programs.dir+":"+os.Getenv("PATH"))}
}

// types is a line in a shell there.
func (m *machine) types(line string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	sh := exec.CommandContext(ctx, "sh", "-c", line)
	sh.Dir, sh.Env = m.dir, m.env
	var stderr bytes.Buffer
	sh.Stderr = &stderr
	out, err := sh.Output()
	if err != nil {
		m.t.Fatalf("%s: %v\n%s%s", line, err, out, stderr.String())
	}
	return string(out)
}

func (m *machine) file(name, content string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}
