package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	shimv1 "github.com/ultravioletrs/cocos/api/shim/v1"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// errStranger: who listens on a shim's socket is not the shim.
var errStranger = errors.New("its socket is answered by a stranger")

// connectTo connects to the shim of dir. What is believed is the kernel's word:
// the listener is a process of this user, and somebody holds the folder's lock,
// which a shim takes before it listens and which nobody has without a shim.
func connectTo(ctx context.Context, dir vm.Dir) (_ net.Conn, pid int, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", dir.ShimSocket())
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	cred, err := peerOf(conn.(*net.UnixConn))
	if err != nil {
		return nil, 0, err
	}
	if err := checkPeer(cred, os.Geteuid()); err != nil {
		return nil, 0, err
	}
	locked, err := folderLocked(dir)
	if err != nil {
		return nil, 0, err
	}
	if !locked {
		return nil, 0, fmt.Errorf("%w: process %d does not hold the VM's folder", errStranger, cred.Pid)
	}
	return conn, int(cred.Pid), nil
}

// checkPeer refuses every user but the shim's, which is the Manager's own.
func checkPeer(cred *unix.Ucred, uid int) error {
	if int(cred.Uid) != uid {
		return fmt.Errorf("%w: process %d of user %d, and the shim's user is %d", errStranger, cred.Pid, cred.Uid, uid)
	}
	return nil
}

// listenerOf is the process that listens on the shim's socket.
func listenerOf(dir vm.Dir) (pid int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	conn, pid, err := connectTo(ctx, dir)
	if err != nil {
		return 0, err
	}
	return pid, conn.Close()
}

// peerOf is who listened (SO_PEERCRED, unix(7)).
func peerOf(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("asking who listens: %w", err)
	}
	return cred, nil
}

// folderLocked tells whether a process holds a VM's folder.
func folderLocked(dir vm.Dir) (bool, error) {
	f, err := os.Open(string(dir))
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// shimProcess finds the shim's process by what can't point to another one: the
// handle of a child, that of a shim which has proved itself, or the listener on
// its socket if that was started for this folder.
func (r *run) shimProcess() (*os.Process, error) {
	var known []*os.Process
	if c := r.child.Load(); c != nil {
		known = append(known, c.process)
	}
	if p := r.process.Load(); p != nil {
		known = append(known, p)
	}
	for _, p := range known {
		if p.Signal(unix.Signal(0)) == nil {
			return p, nil
		}
	}
	return provenProcess(r.dir)
}

// provenProcess is the process that listens on the shim's socket, by a handle
// that stays its own when the number is given to another.
func provenProcess(dir vm.Dir) (*os.Process, error) {
	pid, err := listenerOf(dir)
	if err != nil {
		return nil, err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	if !startedFor(pid, dir) {
		return nil, fmt.Errorf("%w: process %d was not started for %s", errStranger, pid, dir)
	}
	// The number was the listener's before the handle was made, and still is.
	if again, err := listenerOf(dir); err != nil || again != pid {
		return nil, errors.Join(fmt.Errorf("the shim changed from process %d to %d", pid, again), err)
	}
	return p, nil
}

// startedFor tells whether a process has the folder as its last argument.
func startedFor(pid int, dir vm.Dir) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0})
	named, err := os.Stat(string(args[len(args)-1]))
	if err != nil {
		return false
	}
	folder, err := os.Stat(string(dir))
	return err == nil && os.SameFile(named, folder)
}

// insist kills the shim; its VM dies with it. What is to be told then follows
// from what it has left.
func (r *run) insist(why string) error {
	p, err := r.shimProcess()
	if err == nil {
		err = p.Kill()
	}
	if errors.Is(err, os.ErrProcessDone) || r.over.Load() {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("the VM's shim is to be killed (%s): %w", why, err)
	}
	r.log.Error("the shim was killed, and its VM with it if that lived", "why", why)
	r.wake()
	return nil
}

// halt asks the shim to end the VM, within grace or, if that is 0, as long as
// this host gives. A VM that has ended needs nothing; one whose shim is just
// starting is waited for. A shim that can't be asked, or does not do it, is
// killed.
func (r *run) halt(ctx context.Context, grace time.Duration) error {
	callCtx, cancel := context.WithTimeout(ctx, r.m.cfg.call)
	defer cancel()
	for {
		if r.over.Load() {
			return nil
		}
		err := r.askToStop(callCtx, grace)
		if err == nil {
			r.log.Info("the VM is being stopped")
			r.endBy(grace)
			return nil
		}
		wait(callCtx, startPause)
		switch {
		case ctx.Err() != nil:
			return err
		case callCtx.Err() != nil:
			return r.insist(fmt.Sprintf("it does not stop its VM: %v", err))
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// askToStop hands a stop to the run's own shim and no other.
func (r *run) askToStop(ctx context.Context, grace time.Duration) error {
	c, err := dialShim(ctx, r.dir)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	if _, err := c.status(ctx, r.id); err != nil && !errors.Is(err, errOtherVersion) {
		return err
	}
	_, err = c.api.Stop(ctx, &shimv1.StopRequest{GraceSeconds: uint32((grace + time.Second - 1) / time.Second)})
	return err
}

// lookPause is between looks at a VM that is being stopped.
const lookPause = 500 * time.Millisecond

// endBy sees to it that a VM whose shim was asked to stop it ends, and that the
// shim goes: what it has not told then lies in its spool for the Manager to tell.
func (r *run) endBy(grace time.Duration) {
	if grace == 0 {
		grace = r.grace
	}
	by := time.Now().Add(grace + r.m.cfg.overdue)
	r.mu.Lock()
	watched := !r.stopBy.IsZero()
	if !watched || by.Before(r.stopBy) {
		r.stopBy = by
	}
	r.mu.Unlock()
	if watched {
		return
	}
	r.m.group.Go(func() {
		var trouble complaint
		for ctx := r.m.stop; ctx.Err() == nil; {
			select {
			case <-r.left:
				return
			case <-ctx.Done():
				return
			case <-time.After(lookPause):
			}
			why := "it did not end its VM when it was told to"
			if r.state(ctx); r.over.Load() { // known also while no server takes events
				why = "its VM has ended, and it does not let go"
				if alive, err := shimAlive(r.dir); !alive && err == nil {
					return
				}
			}
			r.mu.Lock()
			late := time.Now().After(r.stopBy)
			r.mu.Unlock()
			if !late {
				continue
			}
			again := r.m.cfg.call
			if err := r.insist(why); err != nil {
				again = max(again, trouble.about(r.log, "stopping the VM failed; trying again", err))
			}
			r.mu.Lock()
			r.stopBy = time.Now().Add(again)
			r.mu.Unlock()
		}
	})
}
