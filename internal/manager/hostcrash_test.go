package manager

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// deadSocket leaves a unix socket that nobody listens on.
func deadSocket(t *testing.T, name string) {
	t.Helper()
	_ = os.Remove(name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// wreck leaves in the state directory what a crash of the host can: files half
// written, sockets of the dead, and the end of a shim's spool cut off by cut
// bytes, which are of its last frame at most.
func (l *lab) wreck(cut int64) {
	l.t.Helper()
	half := uuid.NewString()
	unfinished := filepath.Join(l.state, vm.VMsDir, half+newSuffix)
	if err := os.MkdirAll(unfinished, 0o700); err != nil {
		l.t.Fatal(err)
	}
	put(l.t, unfinished, "spec.json.new", `{"run_id":`)
	ledger, err := os.OpenFile(filepath.Join(l.state, vm.EndedFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := ledger.WriteString(half + " sha256:1234"); err != nil {
		l.t.Fatal(err)
	}
	ledger.Close()
	folders, err := filepath.Glob(filepath.Join(l.state, vm.VMsDir, "*-*-*-*-????????????"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range folders {
		dir := vm.Dir(f)
		put(l.t, f, "spec.json.new", `{"run`)
		put(l.t, f, "OVMF_VARS.fd", "half")
		put(l.t, f, "overlay.qcow2", "QFI")
		for _, name := range []string{dir.ShimSocket(), dir.ShimSocket() + ".new", dir.ConsoleSocket(), dir.QMPSocket(), dir.VhostSocket(), dir.VsockSocket() + "_9000"} {
			deadSocket(l.t, name)
		}
		segments, _ := filepath.Glob(filepath.Join(dir.Spool(), "*"))
		slices.Sort(segments)
		for _, s := range slices.Backward(segments) {
			info, err := os.Stat(s)
			if err != nil || !info.Mode().IsRegular() || info.Size() <= cut {
				continue
			}
			if err := os.Truncate(s, info.Size()-cut); err != nil {
				l.t.Fatal(err)
			}
			break
		}
	}
}

// crash kills every process of the lab, those that are just being started, too.
func (l *lab) crash() {
	l.t.Helper()
	for again := true; again; {
		again = false
		names, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			l.t.Fatal(err)
		}
		for _, name := range names {
			pid, err := strconv.Atoi(filepath.Base(name))
			if err != nil || pid == os.Getpid() {
				continue
			}
			// One that has ended has neither.
			args, _ := os.ReadFile(filepath.Join(name, "cmdline"))
			env, _ := os.ReadFile(filepath.Join(name, "environ"))
			if bytes.Contains(args, []byte(l.dir+"/")) || bytes.Contains(env, []byte(l.dir+"/")) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				again = true
			}
		}
	}
}

// settled checks the true end of every run: lost or exited, and removed, once
// each; and that nothing is left.
func (l *lab) settled(ids []string) {
	l.t.Helper()
	for _, id := range ids {
		kinds := l.complete(id)
		ends := count(kinds, vm.EventLost) + count(kinds, vm.EventExited)
		if ends != 1 || count(kinds, vm.EventAccepted) != 1 || count(kinds, vm.EventRemoved) != 1 {
			l.t.Errorf("events: %v", kinds)
		}
	}
	l.empty()
	b, err := os.ReadFile(filepath.Join(l.state, vm.EndedFile))
	if err != nil || strings.Count(string(b), "\n") != len(ids) || strings.Contains(string(b), "1234") {
		l.t.Errorf("ledger %q, %v", b, err)
	}
}

// TestHostCrashAtEachStep: Manager and shims die at once, wherever the Manager
// stood. What it had accepted has one true end, what it had not begins anew.
func TestHostCrashAtEachStep(t *testing.T) {
	for _, point := range []string{"run.spooled 2", "run.committed 2", "shim.started 2", "run.replied 2", "event.received 5",
		"event.sent 5", "ack.received 3", "ack.forwarded 3", "vm.drained 1", "run.ended 1", "run.cleared 1", "run.told 1"} {
		t.Run(strings.ReplaceAll(point, " ", "-"), func(t *testing.T) {
			l := newLab(t, nil, envEnds+"=yes")
			ids := []string{l.submit(), l.submit(), l.submit()}
			l.spawn(point).killed(t)
			l.crash()
			l.wreck(0)
			l.spawn("")
			l.settled(ids)
		})
	}
}

// TestHostCrash leaves running VMs behind, and of their spools what a crash can.
func TestHostCrash(t *testing.T) {
	for _, cut := range []int64{0, 1, 9} {
		t.Run(fmt.Sprintf("cut by %d", cut), func(t *testing.T) {
			l := newLab(t, nil)
			first := l.spawn("")
			ids := []string{l.submit(), l.submit(), l.submit()}
			var ports []netip.AddrPort
			for _, id := range ids {
				l.event(id, vm.EventState)
				l.waitShim(id)
				spec, err := vm.ReadSpec(vm.DirOf(l.state, id))
				if err != nil {
					t.Fatal(err)
				}
				ports = append(ports, spec.Machine.Net.Forward)
			}
			first.kill(t)
			l.crash()
			l.wreck(cut)
			l.spawn("")
			l.settled(ids)
			for _, id := range ids {
				if count(l.complete(id), vm.EventLost) != 1 {
					t.Error("a VM that was running is not called lost")
				}
			}
			for _, p := range ports {
				l.freed(p)
			}
		})
	}
}

// TestQEMUThatOutlivesItsShim is ended before its VM is called lost.
func TestQEMUThatOutlivesItsShim(t *testing.T) {
	l := newLab(t, nil)
	stop := l.inside()
	id := l.submit()
	l.waitShim(id)
	dir := vm.DirOf(l.state, id)
	spec, err := vm.ReadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := qemu.Args(spec, dir)
	i := slices.Index(args, "-name")
	left := exec.Command(spec.Machine.QEMU, append([]string{"leftover"}, args[i:]...)...)
	other := exec.Command(spec.Machine.QEMU, "leftover", "-name", strings.Replace(args[i+1], id, uuid.NewString(), 1))
	for _, c := range []*exec.Cmd{left, other} {
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	l.killShim()
	l.event(id, vm.EventLost)
	select {
	case err := <-ended:
		if s, ok := left.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Errorf("the QEMU that was left ended otherwise: %v", err)
		}
	case <-l.ctx.Done():
		t.Error("the VM is called lost, and its QEMU runs")
	}
	if other.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("the QEMU of another run was ended")
	}
	l.complete(id)
	l.empty()
	stop()
}
