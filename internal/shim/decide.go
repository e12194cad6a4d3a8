package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	// commandTimeout bounds one command to QEMU's monitor, and one attempt to
	// kill it.
	commandTimeout = 3 * time.Second
	// endDelay is how long QEMU may outlive its monitor.
	endDelay = 5 * time.Second
	// drainDelay is how long a session may go on after QEMU has ended.
	drainDelay = 2 * time.Second
)

// watch decides over the VM, which has begun then, until QEMU has ended.
func (s *shim) watch(ctx context.Context, m *machine, begun time.Time) error {
	silent := time.NewTimer(s.ReadyTimeout)
	defer silent.Stop()
	var expired <-chan time.Time
	life := time.Duration(s.spec.Machine.Limits.Life) * time.Second
	if life > 0 {
		t := time.NewTimer(life - time.Since(begun))
		defer t.Stop()
		expired = t.C
	}
	var p plan
	ready, cancelled, monitor := s.ready, ctx.Done(), m.monitor.Done()
	var deaf, broken <-chan time.Time
	var whyDeaf error
	stop := func(grace time.Duration, message string) error {
		if !p.stopping() {
			if err := s.setState(vm.Stopping, message, nil); err != nil {
				return err
			}
		}
		p.replace(stopSteps(grace, s.dialled(), monitor != nil), time.Now())
		return nil
	}
	for {
		var err error
		select {
		case <-m.process.Done():
			return nil
		case <-ready:
			ready = nil
			if !p.stopping() {
				err = s.setState(vm.Running, "", nil)
			}
		case <-silent.C:
			if s.dialled() || p.stopping() {
				continue
			}
			s.emit(vm.EventSilent, fmt.Sprintf("the agent did not dial within %s", s.ReadyTimeout), silence(s.spec.Machine))
			err = stop(0, "the agent is silent")
		case <-expired:
			expired = nil
			if !p.stopping() {
				s.emit(vm.EventExpired, fmt.Sprintf("the VM has lived for %s, as long as it may", life), nil)
			}
			err = stop(s.StopGrace, "the VM has lived as long as it may")
		case grace := <-s.stops:
			err = stop(grace, "")
		case whyDeaf = <-s.deaf:
			deaf = time.After(drainDelay)
		case <-deaf:
			err = stop(0, telemetry.Clean("the guest can't be reached: "+whyDeaf.Error(), maxMessage))
		case <-monitor:
			monitor = nil
			broken = time.After(endDelay) // QEMU hangs up first when it ends
		case <-broken:
			s.Log.Error("QEMU's monitor is lost", "error", m.monitor.Err())
			err = stop(s.StopGrace, telemetry.Clean(fmt.Sprintf("QEMU can't be controlled any more: its monitor ended with %v", m.monitor.Err()), maxMessage))
		case <-cancelled:
			cancelled = nil
			err = stop(s.StopGrace, "the shim was told to end")
		case <-p.due():
			s.take(p.next(time.Now()), m)
		}
		if err != nil {
			return err
		}
	}
}

// dialled tells whether there has been a session.
func (s *shim) dialled() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// silence says what it may mean that a VM's agent never dialled; nil where there
// is a console to look at.
func silence(m vm.Machine) map[string]string {
	switch {
	case m.Boot.BIOS != "":
		return map[string]string{"reason": "measured boot refused, or the guest hung: the firmware starts no kernel, initial RAM disk or command line that differs from the hashes that the VM was launched with; " +
			"compare the files with those of the image, and restart the Manager if they were replaced while it ran"}
	case m.TEE != nil:
		return map[string]string{"reason": "the guest hung, or its vsock does not work: an attested guest has no console to say why; try the image with the TEE turned off"}
	}
	return nil
}

// take takes one step on the way to the VM's end.
func (s *shim) take(a action, m *machine) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var err error
	switch a {
	case askGuest:
		s.stopSession()
	case pressButton:
		err = m.monitor.PowerDown(ctx)
	case quit:
		err = m.monitor.Quit(ctx)
	case kill:
		err = s.kill(ctx, m)
	}
	if err != nil {
		s.Log.Warn("ending the VM", "step", a, "error", err)
	}
}

// qemuPID is QEMU's process where it can be told from that of sudo, or of a
// script, which waits for it.
func (s *shim) qemuPID(m *machine) int {
	if pid := qemu.Below(m.process.PID(), s.spec.RunID, s.spec.Machine.QEMU); pid != 0 {
		return pid
	}
	return m.process.PID()
}

// kill kills QEMU. Under sudo that goes to QEMU itself: sudo, killed, would
// leave it behind, and ends by itself when QEMU has.
func (s *shim) kill(ctx context.Context, m *machine) error {
	if s.spec.Machine.Sudo {
		if pid := qemu.Below(m.process.PID(), s.spec.RunID, s.spec.Machine.QEMU); pid != 0 {
			return s.killThroughSudo(ctx, pid)
		}
	}
	return m.process.Kill()
}

func (s *shim) killThroughSudo(ctx context.Context, pid int) error {
	err := qemu.EndLeftover(ctx, pid, s.spec.RunID, s.spec.Machine.QEMU, true)
	if err != nil {
		return fmt.Errorf("%w; this user needs in /etc/sudoers.d/cocos-manager: %s", err, qemu.SudoersLine(s.spec.Machine.QEMU))
	}
	return nil
}

// endQEMU returns when QEMU has ended, at whatever price. As long as it can't be
// ended the VM counts as running.
func (s *shim) endQEMU(m *machine) {
	for wait := newDelay(); ; wait.longer() {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		err := s.endOnce(ctx, m)
		cancel()
		if err == nil {
			return
		}
		s.Log.Error("QEMU does not end", "error", err)
		select {
		case <-m.process.Done():
		case <-wait.over():
		}
	}
}

// endOnce ends what is started, and what a sudo that was killed has left.
func (s *shim) endOnce(ctx context.Context, m *machine) error {
	if err := s.kill(ctx, m); err != nil {
		return err
	}
	if err := m.process.Wait(ctx); err != nil {
		return fmt.Errorf("waiting for QEMU (pid %d): %w", m.process.PID(), err)
	}
	if !s.spec.Machine.Sudo {
		return nil
	}
	left, err := qemu.Leftovers(s.spec.RunID, s.spec.Machine.QEMU)
	for _, pid := range left {
		err = errors.Join(err, s.killThroughSudo(ctx, pid))
	}
	return err
}
