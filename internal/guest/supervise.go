package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AgentName is the argv[0] of the agent that Supervise starts.
const AgentName = "cocos-guest-agent"

// endDeadline bounds how long killed processes may take to be gone.
const endDeadline = 10 * time.Second

// Supervise is the first process: it runs self with AgentName as its name until
// that has ended, reaps every orphan meanwhile, and powers the machine off. It
// never returns.
func Supervise(self string, console *os.File) {
	err := superviseAgent(self, console)
	if err != nil {
		Say(console, "%v; powering off", err)
	}
	powerOff(console)
}

func superviseAgent(self string, console *os.File) error {
	if err := moveRoot(); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	// Without this the host's Ctrl-Alt-Del restarts the machine at once.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("turning Ctrl-Alt-Del off: %w", err)
	}
	// The first process must not end by a signal.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)

	fd := console.Fd()
	pid, err := syscall.ForkExec(self, []string{AgentName}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{}, // what the kernel passes on is the command line's
		Files: []uintptr{fd, fd, fd},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- reap(pid) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-signals:
			// ESRCH: it has ended, which the other case is about to say.
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
}

// reap waits for whatever ends until the child pid has, and tells how.
func reap(pid int) error {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for the agent: %w", err)
		case got == pid && status.Signaled():
			return fmt.Errorf("the agent was killed: %v", status.Signal())
		case got == pid && status.ExitStatus() != 0:
			return fmt.Errorf("the agent ended with status %d", status.ExitStatus())
		case got == pid:
			return nil
		}
	}
}

// powerOff is the only place where the machine is turned off.
func powerOff(console *os.File) {
	within(endDeadline, func() {
		// Everything but this process; ESRCH: there is nothing.
		_ = unix.Kill(-1, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
				return
			}
		}
	})
	// Nothing is unmounted: what is mounted is read-only or in memory, and giving
	// the memory back page by page would take seconds.
	unix.Sync()
	within(2*time.Second, func() { drain(console) })
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	Say(console, "powering off: %v; restarting instead", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // the end of the first process would be a kernel panic
}

// drain waits until the last line has left the serial port.
func drain(console *os.File) {
	// A console that is no terminal has nothing to wait for.
	_ = unix.IoctlSetInt(int(console.Fd()), unix.TCSBRK, 1)
}

// within waits for f, up to a deadline; f may go on until the machine is off.
func within(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}
