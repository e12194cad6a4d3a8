// Package hostcheck shows that `cocos-manager check` tells what keeps a Manager
// from its work: with everything in place nothing fails, with one thing broken
// that row fails, and no other; and a Manager refuses to start with what the
// check says it can't start with.
package hostcheck

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

// patience is a generous deadline for one command.
const patience = 2 * time.Minute

// site is a host on which nothing is missing; env is the Manager's.
type site struct {
	manager string
	dir     string
	env     []string
}

func (s *site) set(name, value string) { s.env = append(s.env, name+"="+value) }

// file writes one into the site's folder.
func (s *site) file(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// busyPort is one that somebody listens on until the test ends.
func busyPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// newSite makes a folder for a server that runs already.
func newSite(t *testing.T, manager, address string, ca []byte) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "check") // short: unix sockets would be made in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{manager: manager, dir: dir}
	s.set("MANAGER_GRPC_URL", address)
	s.set("MANAGER_GRPC_SERVER_CA_CERTS", s.file(t, "ca.pem", ca))
	s.set("MANAGER_STATE_DIR", filepath.Join(dir, "state"))
	s.set("MANAGER_HTTP_ADDR", "none")
	s.set("MANAGER_QEMU_HOST_FWD_ADDR", "127.0.0.1")
	s.set("MANAGER_MAX_VMS", "1")
	s.set("MANAGER_QEMU_MEMORY_SIZE", "256M")
	return s
}

func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.manager, args...)
	cmd.Dir = harness.Root()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "MANAGER_") || name == "MANAGER_QEMU_BIN_PATH" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, s.env...) // the last of a name counts
	return cmd
}

// check returns the rows that fail, each once, in order.
func (s *site) check(t *testing.T) (failed []string, all string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := s.command(ctx, "check", "--json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var report struct {
		Verdict  string
		Findings []struct{ Name, Verdict, Found, Mend string }
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("the report: %v\n%s%s", err, &stdout, &stderr)
	}
	for _, f := range report.Findings {
		if f.Verdict != "fail" {
			continue
		}
		if f.Mend == "" {
			t.Errorf("nothing says how to mend %s: %s", f.Name, f.Found)
		}
		if !slices.Contains(failed, f.Name) {
			failed = append(failed, f.Name)
		}
	}
	var exit *exec.ExitError
	status := 0
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if want := min(len(failed), 1); status != want {
		t.Errorf("exit status %d where %d rows fail; %s", status, len(failed), &stderr)
	}
	if (report.Verdict == "fail") != (len(failed) > 0) {
		t.Errorf("the verdict is %q where %q fail", report.Verdict, failed)
	}
	return failed, stdout.String()
}

// refusesToStart fails the test if the Manager starts.
func (s *site) refusesToStart(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := s.command(ctx).CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Errorf("the Manager starts with that: %v\n%s", err, out)
	}
}

func TestCheck(t *testing.T) {
	manager := filepath.Join(t.TempDir(), "cocos-manager")
	build := exec.Command("go", "build", "-o", manager, "./cmd/manager")
	build.Dir, build.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address, ca := serve(t)
	_, stranger, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change  func(*testing.T, *site)
		fails   []string
		refuses bool // the Manager, too
	}{
		"nothing": {change: func(*testing.T, *site) {}},
		"an unknown variable": {func(_ *testing.T, s *site) { s.set("MANAGER_NONSENSE", "1") },
			[]string{"variables"}, true},
		"a value out of range": {func(_ *testing.T, s *site) { s.set("MANAGER_QEMU_SMP_COUNT", "0") },
			[]string{"variables"}, true},
		"no QEMU": {func(_ *testing.T, s *site) { s.set("MANAGER_QEMU_BIN_PATH", "/nowhere/qemu") },
			[]string{"qemu"}, true},
		"a CPU that QEMU lacks": {func(_ *testing.T, s *site) { s.set("MANAGER_QEMU_CPU", "EPYC-v999") },
			[]string{"qemu"}, false},
		"no firmware in the file": {func(t *testing.T, s *site) {
			s.set("MANAGER_QEMU_OVMF_CODE_FILE", s.file(t, "CODE.fd", make([]byte, 1<<20)))
			s.set("MANAGER_QEMU_OVMF_VARS_FILE", s.file(t, "VARS.fd", make([]byte, 1<<20)))
		}, []string{"firmware"}, false},
		"a changed image": {func(t *testing.T, s *site) {
			for _, file := range []string{hal.ManifestFile, hal.KernelFile, hal.PythonFile} {
				s.file(t, "img/x", nil) // makes the folder
				if err := os.Symlink(harness.Image(t, file), filepath.Join(s.dir, "img", file)); err != nil {
					t.Fatal(err)
				}
			}
			s.file(t, "img/"+hal.InitrdFile, []byte("not that one"))
			s.set("MANAGER_IMAGE_DIR", filepath.Join(s.dir, "img"))
		}, []string{"image " + hal.InitrdFile}, true},
		"no image": {func(_ *testing.T, s *site) { s.set("MANAGER_IMAGE_DIR", s.dir) },
			[]string{"image"}, true},
		"no certificate for the key": {func(t *testing.T, s *site) {
			s.set("MANAGER_GRPC_CLIENT_CERT", s.file(t, "cert.pem", ca))
			s.set("MANAGER_GRPC_CLIENT_KEY", s.file(t, "key.pem", []byte("no key")))
		}, []string{"certificates", "server"}, true},
		"an authority that does not know the server": {func(t *testing.T, s *site) {
			s.set("MANAGER_GRPC_SERVER_CA_CERTS", s.file(t, "other.pem", stranger))
		}, []string{"server"}, false},
		"a server that speaks no TLS": {func(t *testing.T, s *site) { s.set("MANAGER_GRPC_URL", plain(t)) },
			[]string{"server"}, false},
		"no free port": {func(t *testing.T, s *site) {
			s.set("MANAGER_QEMU_HOST_FWD_AGENT", busyPort(t))
			s.set("MANAGER_QEMU_HOST_FWD_RANGE", "none")
		}, []string{"ports"}, false},
		"an address of another host": {func(_ *testing.T, s *site) { s.set("MANAGER_QEMU_HOST_FWD_ADDR", "192.0.2.1") },
			[]string{"ports"}, false},
		"a port for metrics that is in use": {func(t *testing.T, s *site) { s.set("MANAGER_HTTP_ADDR", "127.0.0.1:"+busyPort(t)) },
			[]string{"http"}, true},
		"a state directory of another version": {func(t *testing.T, s *site) { s.file(t, "state/"+vm.VersionFile, []byte("999\n")) },
			[]string{"state directory"}, true},
		"a state directory with too long a path": {func(_ *testing.T, s *site) { s.set("MANAGER_STATE_DIR", filepath.Join(s.dir, strings.Repeat("x", 80))) },
			[]string{"state directory", "control socket"}, true},
		"a group that there is not": {func(_ *testing.T, s *site) { s.set("MANAGER_CONTROL_GROUP", "no-such-group") },
			[]string{"control socket"}, true},
		"more virtual CPUs than allowed": {func(_ *testing.T, s *site) { s.set("MANAGER_QEMU_SMP_COUNT", "2"); s.set("MANAGER_MAX_VCPUS", "1") },
			[]string{"cpus"}, false},
		"the simulated TEE": {change: func(_ *testing.T, s *site) { s.set("MANAGER_QEMU_ENABLE_SIM", "true") }},
		"two TEEs": {func(_ *testing.T, s *site) {
			s.set("MANAGER_QEMU_ENABLE_SIM", "true")
			s.set("MANAGER_QEMU_ENABLE_SGX", "true")
		}, []string{"variables"}, true},
		"a firmware that measures nothing": {func(t *testing.T, s *site) {
			s.set("MANAGER_QEMU_ENABLE_SIM", "true")
			s.set("MANAGER_QEMU_BIOS_FILE", s.file(t, "OVMF.fd", make([]byte, 1<<20)))
		}, []string{"firmware"}, true},
		"no room on the disk": {func(_ *testing.T, s *site) { s.set("MANAGER_MIN_FREE_DISK", "16384G") },
			[]string{"disk"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, manager, address, ca)
			c.change(t, s)
			failed, all := s.check(t)
			if !slices.Equal(failed, c.fails) {
				t.Errorf("%q fail, expected %q:\n%s", failed, c.fails, all)
			}
			if c.refuses {
				s.refusesToStart(t)
			}
			if _, err := os.Stat(filepath.Join(s.dir, "state", vm.LockFile)); err == nil && !c.refuses {
				t.Error("the check has made a state directory")
			}
		})
	}
}

// serve is a computations server until the test ends.
func serve(t *testing.T) (address string, ca []byte) {
	t.Helper()
	cert, ca, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the computations server: %v", err)
		}
	})
	return l.Addr().String(), ca
}

// plain is a server that greets without TLS until the test ends.
func plain(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "220 mail.example.org ESMTP\r\n")
			_, _ = c.Read(make([]byte, 1024))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}
