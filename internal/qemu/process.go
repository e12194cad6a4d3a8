package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is how a QEMU is started.
type Command struct {
	Path string
	Args []string
	// Dir is its working directory.
	Dir string
	// Files are inherited from descriptor 3 on.
	Files []*os.File
	// Output gets what the process itself says, on standard output and standard
	// error, until it has ended, by one goroutine.
	Output io.Writer
}

// Process is a running QEMU, or the sudo that waits for it, the leader of a
// session of its own without a terminal. It dies with the process that started
// it, however that ends; what sudo started does not.
type Process struct {
	pid  int
	done chan struct{}
	code int

	killing sync.Mutex
	ended   bool // its number may be another one's
}

// outputDelay bounds how long a process that has ended may leave its output
// open through a child of its own.
const outputDelay = 2 * time.Second

// Start starts it. Its owner must wait for Done.
func Start(c Command) (*Process, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.ExtraFiles = c.Dir, c.Files
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.Env = environment()
	cmd.WaitDelay = outputDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child
		// ends: it must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err != nil {
			started <- fmt.Errorf("starting QEMU: %w", err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		awaitEnd(p.pid)
		// Whatever it may have started in its group goes with it, while the number
		// is still its own.
		p.killing.Lock()
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		p.ended = true
		p.killing.Unlock()
		_ = cmd.Wait()
		p.code = exitStatus(cmd.ProcessState)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// environment keeps the Manager's settings and secrets out of QEMU.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// PID is the process's and its group's.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and its output was written.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitStatus is the exit status, or 128 plus the signal that ended it. Valid
// once Done is closed.
func (p *Process) ExitStatus() int { return p.code }

// Wait waits for Done or the context.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill ends the whole group. The error is syscall.EPERM where all of it is
// root's, through sudo, and this user is not.
func (p *Process) Kill() error {
	p.killing.Lock()
	defer p.killing.Unlock()
	if p.ended {
		return nil
	}
	if err := syscall.Kill(-p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing QEMU (pid %d): %w", p.pid, err)
	}
	return nil
}

// awaitEnd waits for the end of a child and leaves it to be waited for.
func awaitEnd(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func exitStatus(s *os.ProcessState) int {
	if s == nil {
		return -1
	}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}
