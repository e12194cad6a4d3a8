package manager

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// listenLikeAShim listens on a socket and says so, until its input ends: a
// stranger, in a process of its own.
func listenLikeAShim(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("listening")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return nil
}

// folder makes a VM's folder without a VM.
func folder(t *testing.T) vm.Dir {
	t.Helper()
	dir := vm.DirOf(shortDir(t), goodID)
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lock holds a VM's folder as a shim does.
func lock(t *testing.T, dir vm.Dir) *os.File {
	t.Helper()
	f, err := os.Open(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := patiently(unix.EWOULDBLOCK, func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		t.Fatal(err)
	}
	return f
}

// listenAt listens on a VM's socket in this process.
func listenAt(t *testing.T, dir vm.Dir) net.Listener {
	t.Helper()
	if err := os.Remove(dir.ShimSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir.ShimSocket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestWhoIsAShim: each listener lacks one thing that a shim has.
func TestWhoIsAShim(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		if alive, err := shimAlive(folder(t)); alive || err != nil {
			t.Errorf("%v, %v", alive, err)
		}
	})
	t.Run("a dead socket", func(t *testing.T) {
		dir := folder(t)
		l := listenAt(t, dir).(*net.UnixListener)
		l.SetUnlinkOnClose(false)
		l.Close()
		if alive, err := shimAlive(dir); alive || err != nil {
			t.Errorf("%v, %v", alive, err)
		}
	})
	t.Run("the folder is not held", func(t *testing.T) {
		dir := folder(t)
		listenAt(t, dir)
		if alive, err := shimAlive(dir); alive || err != nil {
			t.Errorf("%v, %v", alive, err)
		}
		if _, err := listenerOf(dir); !errors.Is(err, errStranger) {
			t.Errorf("%v", err)
		}
	})
	t.Run("not started for the folder", func(t *testing.T) {
		dir := folder(t)
		listenAt(t, dir)
		lock(t, dir)
		if alive, err := shimAlive(dir); !alive || err != nil {
			t.Errorf("%v, %v", alive, err)
		}
		if pid, err := listenerOf(dir); err != nil || pid != os.Getpid() {
			t.Errorf("process %d, %v", pid, err)
		}
		// It can be asked, and is not killed.
		if _, err := provenProcess(dir); !errors.Is(err, errStranger) {
			t.Errorf("%v", err)
		}
	})
	t.Run("another user", func(t *testing.T) {
		us := os.Geteuid()
		for uid, good := range map[int]bool{us: true, us + 1: false, 65534 - us: false} {
			err := checkPeer(&unix.Ucred{Pid: 1, Uid: uint32(uid)}, us)
			if (err == nil) != good || (err != nil && !errors.Is(err, errStranger)) {
				t.Errorf("user %d before user %d: %v", uid, us, err)
			}
		}
		if us != 0 {
			return // only root can be somebody else
		}
		dir := folder(t)
		for _, d := range []string{string(dir), string(dir) + "/..", string(dir) + "/../.."} {
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("/proc/self/exe", "listen", dir.ShimSocket())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { in.Close(); _ = cmd.Wait() }()
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if alive, err := shimAlive(dir); alive || err != nil {
			t.Errorf("without the shim: %v, %v", alive, err)
		}
		lock(t, dir)
		if alive, err := shimAlive(dir); alive || !errors.Is(err, errStranger) || !strings.Contains(err.Error(), "user 65534") {
			t.Errorf("before a shim: %v, %v", alive, err)
		}
		if _, err := dialShim(t.Context(), dir); !errors.Is(err, errStranger) {
			t.Errorf("%v", err)
		}
	})
}

// TestForgedAdoption: a process that listens where a shim did is not taken for
// it: the VM is lost, and the stranger left alone.
func TestForgedAdoption(t *testing.T) {
	l := newLab(t, nil)
	stop := l.inside()
	id := l.submit()
	l.accepted(id)
	l.waitShim(id)
	stop()
	l.killShim()
	listenAt(t, vm.DirOf(l.state, id))
	l.inside()
	kinds := l.complete(id)
	if count(kinds, vm.EventLost) != 1 || count(kinds, vm.EventState) != 5 {
		t.Errorf("events: %v", kinds)
	}
	l.empty()
}

// TestStopOfAStranger: who holds folder and socket, but was not started for
// them, is not killed; the operator is told.
func TestStopOfAStranger(t *testing.T) {
	l := newLab(t, nil)
	l.change = hasty
	stop := l.inside()
	id := l.submit()
	l.accepted(id)
	l.waitShim(id)
	stop()
	l.killShim()
	dir := vm.DirOf(l.state, id)
	listener := listenAt(t, dir)
	held := lock(t, dir)
	l.inside()
	if _, err := l.server.Hello(l.ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := l.server.Stop(id); err != nil {
		t.Fatal(err)
	}
	reply, err := l.server.StopReply(l.ctx, id, 1)
	if err != nil {
		t.Fatal(err)
	}
	if f := reply.GetRefusal().GetFaults(); len(f) != 1 || f[0].GetReason() != string(Internal) || !strings.Contains(f[0].GetMessage(), "stranger") {
		t.Errorf("the stop is answered %v", reply)
	}
	listener.Close()
	held.Close()
	l.complete(id) // when it has gone, the VM is lost
	l.empty()
}

// TestPortTakenBeforeTheStart: a program that listens on the port that was held
// for a VM is named, and nothing is started.
func TestPortTakenBeforeTheStart(t *testing.T) {
	l := newLab(t, nil)
	id := l.submit()
	l.spawn("run.committed 1").killed(t)
	spec, err := vm.ReadSpec(vm.DirOf(l.state, id))
	if err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp", spec.Machine.Net.Forward.String())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	l.inside()
	lost := l.event(id, vm.EventLost)
	if !strings.Contains(lost.GetMessage(), spec.Machine.Net.Forward.String()) || !strings.Contains(lost.GetMessage(), "MANAGER_QEMU_HOST_FWD") {
		t.Errorf("the event says %q", lost.GetMessage())
	}
	l.complete(id)
	l.empty()
	if n := len(l.shims()); n != 0 {
		t.Errorf("%d shims were started", n)
	}
}

// TestPortIsHeldAfterAdoption: between its adoption and its start, as before,
// nobody is given the port of a run.
func TestPortIsHeldAfterAdoption(t *testing.T) {
	l := newLab(t, nil)
	id := l.submit()
	l.spawn("run.committed 1").killed(t)
	spec, err := vm.ReadSpec(vm.DirOf(l.state, id))
	if err != nil {
		t.Fatal(err)
	}
	l.inside()
	l.waitShim(id) // which listens on no port: only the hold keeps it
	if h, err := holdPort(spec.Machine.Net.Forward, true); err == nil {
		h.Close()
		t.Error("the port is free")
	}
	l.stop(id)
	l.empty()
	l.freed(spec.Machine.Net.Forward)
}

// freed waits until a port is nobody's, a moment after its run's folder.
func (l *lab) freed(addr netip.AddrPort) {
	l.t.Helper()
	for {
		h, err := holdPort(addr, true)
		if err == nil {
			h.Close()
			return
		}
		if l.ctx.Err() != nil {
			l.t.Fatalf("a port does not become free: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}
