package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

const (
	// guestShutdown is QEMU's word for a guest that powered itself off.
	guestShutdown = "guest-shutdown"
	// guestGaveUp is what that means where nobody can read the guest's console.
	guestGaveUp = "the guest refused to go on before its agent dialled, and an attested guest has no console to say why: " +
		"look for a kernel command line that is not the image's, a device that the guest does not expect, or a CPU model without RDRAND"
)

const (
	// monitorTimeout is how long QEMU may take from its start to its greeting.
	monitorTimeout = time.Minute
	// notStarted is the exit status of a QEMU that never ran, as in a shell.
	notStarted = 127
)

// machine is a running VM.
type machine struct {
	process *qemu.Process
	monitor *qemu.QMP // nil until QEMU has greeted
	console *tail
	said    *lineLog
	reason  atomic.Pointer[string] // QEMU's word for why the guest ended
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
		if e := m.said.tail.lastLines(errorLines); e != "" && (code != 0 || failure != nil) {
			attributes["qemu_error"] = e
		}
	}
	if failure != nil {
		s.Log.Error("the VM failed", "error", failure)
		if message != "" {
			message = ": " + message
		}
		message = telemetry.Clean(strings.ReplaceAll(failure.Error(), "\n", "; "), maxMessage) + message
	}
	s.mu.Lock()
	s.exit, s.pid = code, 0
	s.mu.Unlock()
	if reason := m.reason.Load(); reason != nil && *reason != "" {
		attributes["reason"] = telemetry.Clean(*reason, 64)
		if failure == nil && *reason == guestShutdown && s.spec.Machine.TEE != nil && !s.dialled() {
			message += ": " + guestGaveUp
		}
	}
	attributes["exit_status"] = strconv.Itoa(code)
	return s.setState(vm.Exited, message, attributes)
}

// bootAndWatch starts what the VM needs, and QEMU, waits for QEMU's end and
// takes everything down again.
func (s *shim) bootAndWatch(ctx context.Context, m *machine) error {
	begun := time.Now()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not started: %w", context.Cause(ctx))
	}
	if err := validate(s.spec); err != nil {
		return fmt.Errorf("%s: %w", s.Dir.Spec(), err)
	}
	removeDisks, err := makeDisks(s.spec.Machine, s.Dir)
	if err != nil {
		return err
	}
	defer removeDisks()
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
	stopReports, err := s.simulate(host)
	if err != nil {
		return err
	}
	defer stopReports()
	stopEgress, err := s.letOut(host)
	if err != nil {
		return err
	}
	defer stopEgress()

	monitor, err := listen(s.Dir.QMPSocket())
	if err != nil {
		return err
	}
	defer os.Remove(s.Dir.QMPSocket())
	defer monitor.Close()
	serial, err := listen(s.Dir.ConsoleSocket())
	if err != nil {
		return err
	}
	defer os.Remove(s.Dir.ConsoleSocket())
	console, err := newConsole(s.Dir.Console())
	if err != nil {
		_ = serial.Close()
		return err
	}
	defer console.Close()
	defer console.serve(serial)()
	m.console, m.said = &console.tail, &lineLog{tail: &tail{}, log: s.quiet, tell: s.tellQEMU}
	if err := s.start(m, host, files); err != nil {
		return err
	}
	// Whatever happens from here on, QEMU has ended when this returns.
	defer func() {
		s.endQEMU(m)
		m.said.flush()
		if m.monitor != nil {
			_ = m.monitor.Close()
		}
	}()
	if err := s.openMonitor(ctx, m, monitor); err != nil {
		return err
	}
	pid := s.qemuPID(m)
	s.mu.Lock()
	s.pid = pid
	s.mu.Unlock()
	if err := s.setState(vm.Booting, "QEMU runs; waiting for the agent", map[string]string{"qemu_pid": strconv.Itoa(pid)}); err != nil {
		return err
	}
	err = s.watch(ctx, m, begun)
	s.drainSession()
	return err
}

// start starts QEMU, with what it inherits, and tells how.
func (s *shim) start(m *machine, host Host, files []*os.File) error {
	if err := sameBIOS(s.spec.Machine.Boot); err != nil {
		return err
	}
	sudo := s.spec.Machine.Sudo
	if sudo {
		// No descriptor gets through sudo: QEMU opens the device itself, and there
		// it takes the CID that is given up here.
		files = nil
		if h, ok := host.(interface{ ReleaseCID() error }); ok {
			if err := h.ReleaseCID(); err != nil {
				return fmt.Errorf("giving the guest's CID to QEMU: %w", err)
			}
		}
	}
	note := ""
	if len(files) > 0 {
		note = " (QEMU inherits the open /dev/vhost-vsock; this command opens it itself)"
	}
	command := qemu.Shell(qemu.Pasteable(s.spec, s.Dir))
	s.quiet.Info("starting QEMU"+note, "command", command)
	s.logs.add(shimLog(s.spec.RunID, eventv1.Level_LEVEL_INFO, "starting QEMU"+note+": "+command))

	argv := qemu.CommandLine(s.spec, s.Dir)
	var err error
	m.process, err = qemu.Start(qemu.Command{Path: argv[0], Args: argv[1:], Dir: string(s.Dir), Files: files, Output: m.said})
	if sudo && errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w; install sudo, or set MANAGER_QEMU_USE_SUDO=false", err)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.pid = m.process.PID()
	s.mu.Unlock()
	return nil
}

// tellQEMU passes a line of QEMU's on to the Manager.
func (s *shim) tellQEMU(level slog.Level, line string) {
	s.tell(level, "QEMU: "+line)
}

// openMonitor waits for QEMU to connect to the monitor's socket.
func (s *shim) openMonitor(parent context.Context, m *machine, l net.Listener) error {
	var (
		errEnded   = errors.New("QEMU ended while it started")
		errStopped = errors.New("a stop was asked for while QEMU started")
		errTold    = errors.New("the shim was told to end while QEMU started")
		errLate    = fmt.Errorf("QEMU's monitor did not answer within %s", monitorTimeout)
	)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		late := time.NewTimer(monitorTimeout)
		defer late.Stop()
		select {
		case <-m.process.Done():
			cancel(errEnded)
		case <-s.stops:
			cancel(errStopped)
		case <-parent.Done():
			cancel(errTold)
		case <-late.C:
			cancel(errLate)
		case <-ctx.Done(): // it has greeted
		}
		_ = l.Close()
	}()
	conn, err := l.Accept()
	if err == nil {
		m.monitor, err = qemu.NewQMP(ctx, conn, m.onQEMUEvent)
	}
	if err != nil {
		select {
		case <-m.process.Done(): // which a broken monitor often comes from
			cancel(errEnded)
		case <-time.After(endDelay):
		case <-ctx.Done():
		}
	}
	cancel(nil)
	<-watched
	cause := context.Cause(ctx) // a stop counts also when QEMU has just greeted
	if err == nil && errors.Is(cause, context.Canceled) {
		return nil
	}
	switch {
	case errors.Is(cause, errEnded):
		m.said.flush()
		if s.spec.Machine.Sudo {
			if refusal := qemu.SudoRefusal(m.said.tail.lastLines(errorLines), s.spec.Machine.QEMU); refusal != nil {
				return refusal
			}
		}
		return cause
	case errors.Is(cause, context.Canceled):
		return fmt.Errorf("QEMU's monitor does not speak as one: %w", err)
	}
	return cause
}

func (m *machine) onQEMUEvent(e qemu.Event) {
	if e.Name != "SHUTDOWN" {
		return
	}
	reason := shutdownReason(e.Data)
	m.reason.Store(&reason)
}
