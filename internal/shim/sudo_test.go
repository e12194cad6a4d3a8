package shim

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// passes is a sudo that asks for nothing: it starts the rest of its command, and
// waits for it. Like the real one it passes no descriptor on. A signal to its
// group does not reach QEMU, as one to root's processes does not.
const passes = `[ "$1" = --non-interactive ] && [ "$2" = -- ] || exit 9
shift 2
setsid "$@" 3>&-`

// fakeSudo puts a sudo on PATH.
func fakeSudo(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sudo"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func newSudoVM(t *testing.T, mode string) (vm.Dir, vm.Spec) {
	t.Helper()
	dir, spec := newVM(t, mode)
	spec.Machine.Sudo = true
	writeSpec(t, dir, spec)
	return dir, spec
}

// processes returns QEMU and the sudo above it.
func processes(t *testing.T, f *follow) (qemuPID, sudoPID int) {
	t.Helper()
	qemuPID, err := strconv.Atoi(f.until(vm.EventBooting).GetAttributes()["qemu_pid"])
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(qemuPID) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	sudoPID, err = strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile("/proc/" + strconv.Itoa(sudoPID) + "/cmdline")
	if err != nil || !strings.Contains(string(line), "/sudo\x00--non-interactive\x00--\x00") {
		t.Fatalf("above QEMU (pid %d) is %q, %v", qemuPID, line, err)
	}
	return qemuPID, sudoPID
}

func left(t *testing.T, spec vm.Spec) []int {
	t.Helper()
	pids, err := qemu.Leftovers(spec.RunID, spec.Machine.QEMU)
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func TestSudo(t *testing.T) {
	fakeSudo(t, passes)
	for mode, status := range map[string]string{"": "0", "stubborn": "137"} {
		t.Run("QEMU "+mode, func(t *testing.T) {
			dir, spec := newSudoVM(t, mode)
			// Of its own run: the other tests' are not its leftovers.
			spec.RunID = "sudo-" + mode
			writeSpec(t, dir, spec)
			s := startShim(t, dir, nil)
			f := s.follow()
			qemuPID, _ := processes(t, f)
			st, err := s.api.Status(t.Context(), &shimv1.StatusRequest{})
			if err != nil || int(st.GetQemuPid()) != qemuPID {
				t.Errorf("status %v, %v", st, err)
			}
			if got := left(t, spec); len(got) != 1 || got[0] != qemuPID {
				t.Errorf("QEMU is %d, found is %d", qemuPID, got)
			}
			if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: 1}); err != nil {
				t.Fatal(err)
			}
			if e := f.until(vm.EventExited); e.GetAttributes()["exit_status"] != status {
				t.Errorf("got %v", e)
			}
			if got := left(t, spec); len(got) != 0 || alive(qemuPID) {
				t.Errorf("left: %d", got)
			}
		})
	}
}

// A sudo that is killed leaves its QEMU behind; the VM has not ended before that
// has.
func TestSudoThatIsKilled(t *testing.T) {
	fakeSudo(t, passes)
	dir, spec := newSudoVM(t, "stubborn")
	spec.RunID = "sudo-is-killed"
	writeSpec(t, dir, spec)
	f := startShim(t, dir, nil).follow()
	qemuPID, sudoPID := processes(t, f)
	if err := syscall.Kill(sudoPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.until(vm.EventExited)
	if got := left(t, spec); len(got) != 0 || alive(qemuPID) {
		t.Errorf("left: %d", got)
	}
}

// What outlives the shim under sudo is found, and ended, by its command line.
func TestLeftoverOfAShim(t *testing.T) {
	fakeSudo(t, passes)
	dir, spec := newSudoVM(t, "stubborn")
	spec.RunID = "leftover-of-a-shim"
	writeSpec(t, dir, spec)
	cmd := child(t, dir)
	qemuPID, _ := processes(t, newFollow(t, dialAPI(t, dir)))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	got := left(t, spec)
	if len(got) != 1 || got[0] != qemuPID {
		t.Fatalf("QEMU is %d, found is %d", qemuPID, got)
	}
	if err := qemu.EndLeftover(t.Context(), qemuPID, spec.RunID, spec.Machine.QEMU, true); err != nil {
		t.Fatal(err)
	}
	if alive(qemuPID) || len(left(t, spec)) != 0 {
		t.Error("QEMU lives on")
	}
}

func TestSudoThatRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   []string
	}{
		"a password":    {`echo "sudo: a password is required" >&2; exit 1`, []string{"a password is required", " ALL=(root) NOPASSWD: ", "/etc/sudoers.d/cocos-manager"}},
		"another error": {`echo "qemu-system-x86_64: no kernel" >&2; exit 1`, []string{"QEMU ended while it started"}},
	} {
		t.Run(name, func(t *testing.T) {
			fakeSudo(t, c.script)
			dir, _ := newSudoVM(t, "")
			e := startShim(t, dir, nil).follow().until(vm.EventExited)
			for _, want := range c.want {
				if e.GetAttributes()["exit_status"] != "1" || !strings.Contains(e.GetMessage(), want) {
					t.Errorf("%q is not in %v", want, e)
				}
			}
		})
	}
	t.Run("no sudo", func(t *testing.T) {
		dir, _ := newSudoVM(t, "")
		t.Setenv("PATH", "/nowhere")
		e := startShim(t, dir, nil).follow().until(vm.EventExited)
		if e.GetAttributes()["exit_status"] != "127" || !strings.Contains(e.GetMessage(), "install sudo") {
			t.Errorf("got %v", e)
		}
	})
}

// Through sudo QEMU takes the guest's CID by number: nobody may hold it then,
// and no descriptor is promised.
func TestSudoGetsTheCID(t *testing.T) {
	for _, sudo := range []bool{true, false} {
		t.Run(strconv.FormatBool(sudo), func(t *testing.T) {
			fakeSudo(t, passes)
			dir, spec := newVM(t, "")
			spec.Machine.Sudo = sudo
			writeSpec(t, dir, spec)
			device, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			host := &cidHost{socketHost: socketHost{dir}}
			f := startShim(t, dir, func(c *Config) {
				c.NewHost = func(vm.Spec, vm.Dir, *slog.Logger) (Host, []*os.File, error) {
					return host, []*os.File{device}, nil
				}
			}).follow()
			pid := f.until(vm.EventBooting).GetAttributes()["qemu_pid"]
			target, err := os.Readlink("/proc/" + pid + "/fd/" + strconv.Itoa(qemu.VhostFD))
			if inherited := err == nil && target == os.DevNull; inherited == sudo {
				t.Errorf("descriptor %d is %q, %v", qemu.VhostFD, target, err)
			}
			if host.released.IsZero() == sudo {
				t.Error("the CID is not in the right hands")
			}
		})
	}
}

type cidHost struct {
	socketHost
	released time.Time
}

func (h *cidHost) ReleaseCID() error {
	h.released = time.Now()
	return nil
}
