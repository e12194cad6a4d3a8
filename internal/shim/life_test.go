package shim

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
)

func TestQEMUThatDies(t *testing.T) {
	t.Run("with an exit status", func(t *testing.T) {
		dir, _ := newVM(t, "")
		f := startShim(t, dir, nil).follow()
		f.until(vm.EventBooting)
		control(t, dir, "console \x1b[31mKernel panic\x1b[0m - not syncing\x07: \xff")
		control(t, dir, "exit 3")
		e := f.until(vm.EventExited)
		a := e.GetAttributes()
		if a["exit_status"] != "3" || a["console"] != "Linux version 6.12 (fake)\nKernel panic - not syncing: \ufffd" {
			t.Errorf("got %v", e)
		}
		console, err := os.ReadFile(dir.Console())
		if err != nil || !strings.Contains(string(console), "Kernel panic") {
			t.Errorf("the console's file has %q, %v", console, err)
		}
	})
	t.Run("by a signal", func(t *testing.T) {
		dir, _ := newVM(t, "")
		s := startShim(t, dir, nil)
		f := s.follow()
		pid, _ := strconv.Atoi(f.until(vm.EventBooting).GetAttributes()["qemu_pid"])
		if err := syscall.Kill(pid, syscall.SIGSEGV); err != nil {
			t.Fatal(err)
		}
		if e := f.until(vm.EventExited); e.GetAttributes()["exit_status"] != "139" && e.GetAttributes()["exit_status"] != "2" {
			t.Errorf("got %v", e) // Go's own handler makes it 2
		}
	})
	t.Run("while it starts", func(t *testing.T) {
		dir, _ := newVM(t, "early")
		f := startShim(t, dir, nil).follow()
		for !strings.Contains(f.next().GetLog().GetMessage(), "QEMU: qemu-system-x86_64: could not load kernel") {
		}
		e := newFollow(t, dialAPI(t, dir)).until(vm.EventExited)
		a := e.GetAttributes()
		if a["exit_status"] != "1" || !strings.Contains(a["qemu_error"], "could not load kernel") || !strings.Contains(e.GetMessage(), "while it started") {
			t.Errorf("got %v", e)
		}
	})
}

func TestVMThatCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*vm.Spec)
		want   string
	}{
		"no QEMU":         {func(s *vm.Spec) { s.Machine.QEMU = "/nowhere/qemu" }, "/nowhere/qemu"},
		"no kernel":       {func(s *vm.Spec) { s.Machine.Boot.Kernel = "/nowhere/bzImage" }, "machine.boot.kernel"},
		"no memory":       {func(s *vm.Spec) { s.Machine.Memory.MiB = 0 }, "machine.memory.mib"},
		"ready in -1 s":   {func(s *vm.Spec) { s.Machine.Limits.Ready = -1 }, "machine.limits.ready"},
		"-1 s to stop":    {func(s *vm.Spec) { s.Machine.Limits.Stop = -1 }, "machine.limits.stop"},
		"an endless life": {func(s *vm.Spec) { s.Machine.Limits.Life = 1 << 31 }, "machine.limits.life"},
		"no such socket":  {func(s *vm.Spec) { s.Machine.Vsock.Way = "pigeon" }, "machine.vsock.way"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, spec := newVM(t, "")
			c.change(&spec)
			writeSpec(t, dir, spec)
			s := startShim(t, dir, nil)
			f := s.follow()
			e := f.until(vm.EventExited)
			if e.GetAttributes()["exit_status"] != "127" || !strings.Contains(e.GetMessage(), c.want) {
				t.Errorf("got %v, want %q in it", e, c.want)
			}
			for f.next().GetDrained() == nil {
			}
			if _, err := s.api.Release(t.Context(), &shimv1.ReleaseRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no specification", func(t *testing.T) {
		if err := Run(t.Context(), Config{Dir: vm.Dir(t.TempDir())}); err == nil || !strings.Contains(err.Error(), "spec.json") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no folder", func(t *testing.T) {
		if err := Run(t.Context(), Config{Dir: "/nowhere"}); err == nil || !strings.Contains(err.Error(), "/nowhere") {
			t.Errorf("got %v", err)
		}
	})
}

func TestSilentGuest(t *testing.T) {
	dir, spec := newVM(t, "")
	spec.Machine.Limits.Ready = 1
	writeSpec(t, dir, spec)
	f := startShim(t, dir, nil).follow()
	if e := f.until(vm.EventSilent); !strings.Contains(e.GetMessage(), "1s") {
		t.Errorf("got %v", e)
	}
	f.until(vm.EventStopping)
	if e := f.until(vm.EventExited); e.GetAttributes()["reason"] != "host-qmp-quit" {
		t.Errorf("got %v", e)
	}
}

func TestFrozenMonitor(t *testing.T) {
	dir, _ := newVM(t, "frozen")
	s := startShim(t, dir, func(c *Config) { c.StopGrace = time.Second })
	f := s.follow()
	f.until(vm.EventStarting)
	if c, err := dialSoon(t.Context(), string(dir)+"/"+socketCmd); err != nil {
		t.Fatal(err)
	} else {
		_ = c.Close()
	}
	s.cancel() // a shim that is told to end waits for no greeting
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	if got := kindsIn(t, dir); got[len(got)-1] != vm.EventExited {
		t.Errorf("the spool holds %q", got)
	}
}

// kindsIn reads what a shim has left in its spool.
func kindsIn(t *testing.T, dir vm.Dir) []string {
	t.Helper()
	sp, err := spool.Open(dir.Spool())
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	var kinds []string
	for r := sp.NewReader(); ; {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return kinds
		}
		e, err := events.Decode(rec)
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Kind)
	}
}

func TestStopEscalates(t *testing.T) {
	for name, c := range map[string]struct {
		mode, status, reason string
		grace                uint32
	}{
		"the power button works": {"button", "0", "guest-shutdown", 10},
		"quit works":             {"", "0", "host-qmp-quit", 1},
		"nothing works":          {"stubborn", "137", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := newVM(t, c.mode)
			s := startShim(t, dir, nil)
			f := s.follow()
			g, _ := dialGuest(t, dir)
			f.until(vm.EventBooting)
			if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: c.grace}); err != nil {
				t.Fatal(err)
			}
			if g.next().GetStop() == nil {
				t.Error("the agent was not asked first")
			}
			e := f.until(vm.EventExited)
			if a := e.GetAttributes(); a["exit_status"] != c.status || a["reason"] != c.reason {
				t.Errorf("got %v", e)
			}
			st, err := s.api.Status(t.Context(), &shimv1.StatusRequest{})
			if err != nil || st.GetState() != string(vm.Exited) || strconv.Itoa(int(st.GetExitStatus())) != c.status || st.GetQemuPid() != 0 {
				t.Errorf("status %v, %v", st, err)
			}
		})
	}
}

// A session that comes while the VM is being stopped is asked to stop as well.
func TestStopReachesALaterSession(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	f := s.follow()
	g, _ := dialGuest(t, dir)
	f.until(vm.EventBooting)
	if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	if g.next().GetStop() == nil {
		t.Fatal("the agent was not asked to stop")
	}
	again, _ := dialGuest(t, dir)
	if again.next().GetStop() == nil {
		t.Fatal("the agent's new session was not asked to stop")
	}
	// A stricter request shortens a generous one.
	if _, err := s.api.Stop(t.Context(), &shimv1.StopRequest{GraceSeconds: 1}); err != nil {
		t.Fatal(err)
	}
	f.until(vm.EventExited)
}

func TestOneShimForAFolder(t *testing.T) {
	dir, _ := newVM(t, "")
	s := startShim(t, dir, nil)
	f := s.follow()
	f.until(vm.EventBooting)
	err := Run(t.Context(), Config{Dir: dir, NewHost: unixHost})
	if err == nil || !strings.Contains(err.Error(), "has a shim already") {
		t.Errorf("a second shim got %v", err)
	}
	if st, err := s.api.Status(t.Context(), &shimv1.StatusRequest{}); err != nil || st.GetState() != string(vm.Booting) {
		t.Errorf("the first one answers %v, %v", st, err)
	}
	info, err := os.Stat(dir.ShimSocket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

// child is a shim in a process of its own.
func child(t *testing.T, dir vm.Dir) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, string(dir))
	cmd.Env = append(os.Environ(), roleVar+"=shim")
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestQEMUDiesWithItsShim(t *testing.T) {
	dir, _ := newVM(t, "stubborn")
	cmd := child(t, dir)
	f := newFollow(t, dialAPI(t, dir))
	pid, err := strconv.Atoi(f.until(vm.EventBooting).GetAttributes()["qemu_pid"])
	if err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Fatal("QEMU does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(patience); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("QEMU outlives its shim")
		}
	}
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func TestTermEndsTheVMInOrder(t *testing.T) {
	dir, _ := newVM(t, "button")
	cmd := child(t, dir)
	f := newFollow(t, dialAPI(t, dir))
	g, _ := dialGuest(t, dir)
	f.event() // neither is acknowledged
	f.event()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if g.next().GetStop() == nil {
		t.Error("the agent was not asked to stop")
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the shim ended with %v", err)
	}
	want := []string{vm.EventStarting, vm.EventBooting, vm.EventStopping, vm.EventExited}
	if got := kindsIn(t, dir); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the spool holds %q", got)
	}
	if _, err := os.Stat(dir.ShimSocket()); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// While the disk takes nothing no event is acknowledged; afterwards all are.
func TestAcknowledgedIsOnDisk(t *testing.T) {
	dir, _ := newVM(t, "")
	cmd := child(t, dir)
	api := dialAPI(t, dir)
	f := newFollow(t, api)
	g, _ := dialGuest(t, dir)
	f.until(vm.EventBooting)
	g.event(1)
	g.acked(1)
	limit := func(n uint64) {
		t.Helper()
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(n uint64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for {
			st, err := api.Status(ctx, &shimv1.StatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if st.GetUnacknowledged() >= n {
				return
			}
		}
	}
	f.ack(f.event()) // the agent's first
	limit(0)
	g.event(2)
	arrived(1)
	limit(unix.RLIM_INFINITY)
	g.acked(2)
	limit(0)
	g.event(3)
	arrived(2)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := g.stream.Recv()
		if err != nil {
			break
		}
		if m.GetEventAck().GetSequence() > 2 {
			t.Error("an event was acknowledged that is not on disk")
		}
	}
	_ = cmd.Wait()
	if got := kindsIn(t, dir); got[len(got)-1] != vm.EventState {
		t.Errorf("the spool holds %q", got)
	}
	sp, err := spool.Open(dir.Spool())
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	if n := sp.Last(events.Agent); n != 2 {
		t.Errorf("the spool's last event is %d", n)
	}
}
