package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/spool"
	"github.com/ultravioletrs/cocos/internal/spool/events"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// takeFolder locks the VM's folder, as shims do before anything else. It is
// false while a shim has it.
func (r *run) takeFolder() (bool, error) {
	if r.owner != nil {
		return true, nil
	}
	f, err := os.Open(string(r.dir))
	if err != nil {
		return false, fmt.Errorf("locking the VM's folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("locking %s: %w", r.dir, err)
	}
	r.owner = f
	return true, nil
}

// drain tells what a shim that is gone has left in its spool; then, unless the
// VM's end was seen, that it is lost.
func (r *run) drain(ctx context.Context) (done bool, err error) {
	if owned, err := r.takeFolder(); err != nil || !owned {
		r.pause(ctx, startPause) // it is on its way out, or in
		return false, err
	}
	if err := r.endLeftovers(ctx); err != nil {
		return false, err
	}
	if _, err := os.Lstat(r.dir.Spool()); err == nil {
		sp, err := spool.Open(r.dir.Spool())
		if errors.Is(err, spool.ErrLocked) {
			r.pause(ctx, startPause) // its files are being closed
			return false, nil
		}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			// The host's trouble, which may pass, not damage: nothing is given up.
			return false, fmt.Errorf("reading what the shim left: %w", err)
		}
		if err != nil {
			r.log.Error("events of the shim can't be read and are lost; the VM's folder was damaged", "error", err)
			return true, r.tellLost(fmt.Sprintf("the VM's shim is gone and its events can't be read: %v", err))
		}
		complete, err := r.drainSpool(ctx, sp)
		if err = errors.Join(err, sp.Close()); err != nil || !complete {
			return false, err
		}
	}
	how := r.reap(ctx)
	if r.exited() {
		return true, nil
	}
	if how == "" {
		how = "is gone"
	}
	return true, r.tellLost("the VM's shim " + how + ", and its VM with it")
}

// endLeftovers ends a QEMU that has outlived its shim, as one of sudo's does: the
// VM is not lost before it has ended.
func (r *run) endLeftovers(ctx context.Context) error {
	if r.program == "" {
		return nil
	}
	pids, err := qemu.Leftovers(r.id, r.program)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.m.cfg.call)
	defer cancel()
	for _, pid := range pids {
		r.log.Warn("QEMU has outlived its shim and is ended", "pid", pid)
		if err := qemu.EndLeftover(ctx, pid, r.id, r.program, r.sudo); err != nil {
			return fmt.Errorf("the VM of a shim that is gone goes on: %w", err)
		}
	}
	return nil
}

// reap takes note of the end of a shim that this Manager started. It does not
// have the folder any more, so that it is about to end; if not, it is made to.
func (r *run) reap(ctx context.Context) string {
	c, begin := r.child.Load(), time.Now()
	for c != nil && ctx.Err() == nil {
		if ended, how := c.ended(); ended {
			return how
		}
		if time.Since(begin) > r.m.cfg.call {
			r.log.Error("the shim does not end; it is killed", "pid", c.pid)
			_ = unix.Kill(c.pid, unix.SIGKILL) // a child that was not waited for: the id is its own
			begin = time.Now()
		}
		r.pause(ctx, startPause)
	}
	return ""
}

func (r *run) drainSpool(ctx context.Context, sp *spool.Spool) (complete bool, err error) {
	if err := r.lookForEnd(sp); err != nil {
		return false, err
	}
	if !r.exited() {
		r.setState(vm.Lost)
	}
	// What the shim told counts for nothing beside its spool.
	r.theirs.forget()
	for ctx.Err() == nil {
		if sp.Unacknowledged() == 0 {
			return true, nil
		}
		s, changed := r.m.hub.wait(ctx)
		if s == nil {
			continue
		}
		err := r.pump(ctx, s, openSpoolFeed(r.id, sp, func() bool { return true }), r.theirs, r.observe)
		if err != nil && ctx.Err() == nil && s.ctx.Err() == nil {
			return false, err
		}
		if err != nil {
			waitFor(ctx, s.ctx, changed)
		}
	}
	return false, nil
}

// lookForEnd reads a spool through for the event that says how the VM ended.
func (r *run) lookForEnd(sp *spool.Spool) error {
	for reader := sp.NewReader(); ; {
		record, ok, err := reader.TryNext()
		if err != nil || !ok {
			return err
		}
		e, err := events.Decode(record)
		if err != nil {
			return err
		}
		if err := r.observe(toProto(r.id, e)); err != nil {
			return err
		}
	}
}

// tellLost says, once, that the VM is lost.
func (r *run) tellLost(why string) error {
	r.setState(vm.Lost)
	if r.own.Last(events.Manager) > 1 {
		return nil
	}
	r.log.Error("the VM is lost", "why", why)
	return r.tell(2, vm.EventLost, why)
}
