package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	// monitorTimeout is how long QEMU may take from its start to its greeting.
	monitorTimeout = time.Minute
	// commandTimeout bounds one command to QEMU's monitor.
	commandTimeout = 3 * time.Second
	// quitDelay is what QEMU has to end itself before it is killed.
	quitDelay = 5 * time.Second
	// drainDelay is how long a session may go on after QEMU has ended.
	drainDelay = 2 * time.Second
	// notStarted is the exit status of a QEMU that never ran, as in a shell.
	notStarted = 127
)

// machine is a running VM.
type machine struct {
	process *qemu.Process
	monitor *qemu.QMP // nil until QEMU has greeted
	console *tail
	errors  *tail
}

// runVM runs the VM from its start to its last event. What goes wrong with the
// VM is told by that event; an error is a fault of the shim's own.
func (s *shim) runVM(ctx context.Context) error {
	m := &machine{}
	failure := s.bootAndWatch(ctx, m)
	code, attributes := notStarted, map[string]string{}
	message := ""
	if m.process != nil {
		code = m.process.ExitStatus()
		message = fmt.Sprintf("QEMU ended with exit status %d", code)
		attributes["console"] = m.console.lastLines(consoleLines)
		if e := m.errors.lastLines(errorLines); e != "" && (code != 0 || failure != nil) {
			attributes["qemu_error"] = e
		}
	}
	if failure != nil {
		s.Log.Error("the VM failed", "error", failure)
		if message != "" {
			message = ": " + message
		}
		message = clean(strings.ReplaceAll(failure.Error(), "\n", "; "), maxMessage) + message
	}
	s.mu.Lock()
	s.exit, s.pid = code, 0
	if s.reason != "" {
		attributes["reason"] = clean(s.reason, 64)
	}
	s.mu.Unlock()
	attributes["exit_status"] = strconv.Itoa(code)
	return s.setState(vm.Exited, message, attributes)
}

// bootAndWatch starts what the VM needs, and QEMU, waits for QEMU's end and
// takes everything down again.
func (s *shim) bootAndWatch(ctx context.Context, m *machine) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not started: %w", context.Cause(ctx))
	}
	if err := validate(s.spec); err != nil {
		return fmt.Errorf("%s: %w", s.Dir.Spec(), err)
	}
	host, files, err := s.NewHost(s.spec, s.Dir, s.Log)
	if err != nil {
		return fmt.Errorf("preparing vsock: %w", err)
	}
	defer host.Close()
	s.spec.Machine.Vsock.GuestCID = host.GuestCID()
	port, err := host.Listen(vm.SessionPort)
	if err != nil {
		return fmt.Errorf("preparing vsock: %w", err)
	}
	defer s.serveGuest(port)()

	monitor, err := listen(s.Dir.QMPSocket())
	if err != nil {
		return err
	}
	defer os.Remove(s.Dir.QMPSocket())
	defer monitor.Close()
	console, err := newConsole(s.Dir.Console())
	if err != nil {
		return err
	}
	defer console.Close()
	m.console, m.errors = &console.tail, &tail{}
	m.process, err = qemu.Start(qemu.Command{
		Path: s.spec.Machine.QEMU, Args: qemu.Args(s.spec, s.Dir), Dir: string(s.Dir),
		Files: files, Console: console, Errors: &lineLog{tail: m.errors, log: s.Log, tell: func(line string) {
			s.logs.limited(shimLog(s.spec.RunID, eventv1.Level_LEVEL_WARN, "QEMU: "+line), time.Now())
		}},
	})
	if err != nil {
		return err
	}
	// Whatever happens from here on, QEMU has ended when this returns.
	defer func() {
		_ = m.process.Kill()
		<-m.process.Done()
		if m.monitor != nil {
			_ = m.monitor.Close()
		}
	}()
	s.mu.Lock()
	s.pid = m.process.PID()
	s.mu.Unlock()
	if err := s.openMonitor(ctx, m, monitor); err != nil {
		return err
	}
	if err := s.setState(vm.Booting, "QEMU runs; waiting for the agent", map[string]string{"qemu_pid": strconv.Itoa(m.process.PID())}); err != nil {
		return err
	}
	err = s.watch(ctx, m)
	s.drainSession()
	return err
}

// openMonitor waits for QEMU to connect to the monitor's socket.
func (s *shim) openMonitor(parent context.Context, m *machine, l net.Listener) error {
	ctx, cancel := context.WithTimeout(parent, monitorTimeout)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		select {
		case <-m.process.Done():
			cancel()
		case <-ctx.Done():
		}
		_ = l.Close()
		close(ended)
	}()
	conn, err := l.Accept()
	if err == nil {
		m.monitor, err = qemu.NewQMP(ctx, conn, s.onQEMUEvent)
	}
	cancel()
	<-ended
	if err == nil {
		return nil
	}
	select {
	case <-m.process.Done():
		return errors.New("QEMU ended while it started")
	default:
		if parent.Err() != nil {
			return errors.New("the shim was told to end while QEMU started")
		}
		return fmt.Errorf("QEMU's monitor did not answer within %s: %w", monitorTimeout, err)
	}
}

// watch decides over the VM until QEMU has ended.
func (s *shim) watch(ctx context.Context, m *machine) error {
	silent := time.NewTimer(s.readyTimeout())
	defer silent.Stop()
	var p plan
	ready, cancelled := s.ready, ctx.Done()
	var deaf <-chan time.Time
	var whyDeaf error
	stop := func(grace time.Duration, message string) error {
		if !p.stopping() {
			if err := s.setState(vm.Stopping, message, nil); err != nil {
				return err
			}
		}
		dialled := ready == nil
		select {
		case <-ready: // a moment ago
			dialled = true
		default:
		}
		p.replace(stopSteps(grace, dialled), time.Now())
		return nil
	}
	for {
		select {
		case <-m.process.Done():
			return nil
		case <-ready:
			ready = nil
			if !p.stopping() {
				if err := s.setState(vm.Running, "", nil); err != nil {
					return err
				}
			}
		case <-silent.C:
			if ready == nil || p.stopping() {
				continue
			}
			s.emit(vm.EventSilent, fmt.Sprintf("the agent did not dial within %s", s.readyTimeout()), nil)
			if err := stop(0, "the agent is silent"); err != nil {
				return err
			}
		case grace := <-s.stops:
			if err := stop(grace, ""); err != nil {
				return err
			}
		case whyDeaf = <-s.deaf:
			deaf = time.After(drainDelay)
		case <-deaf:
			if err := stop(0, clean("the guest can't be reached: "+whyDeaf.Error(), maxMessage)); err != nil {
				return err
			}
		case <-cancelled:
			cancelled = nil
			if err := stop(s.StopGrace, "the shim was told to end"); err != nil {
				return err
			}
		case <-p.due():
			s.take(p.next(time.Now()), m)
		}
	}
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
		err = m.process.Kill()
	}
	if err != nil {
		s.Log.Warn("ending the VM", "step", a, "error", err)
	}
}

func (s *shim) onQEMUEvent(e qemu.Event) {
	if e.Name != "SHUTDOWN" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = shutdownReason(e.Data)
}
