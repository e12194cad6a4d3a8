package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Command is how a QEMU is started.
type Command struct {
	Path string
	Args []string
	// Dir is its working directory.
	Dir string
	// Files are inherited from descriptor 3 on.
	Files []*os.File
	// Console gets the guest's serial console, Errors what QEMU says itself.
	// Both are written until the process has ended, by one goroutine each.
	Console, Errors io.Writer
}

// Process is a running QEMU, the leader of its own process group. It dies with
// the process that started it, however that ends.
type Process struct {
	pid  int
	done chan struct{}
	err  error
	code int
}

// outputDelay bounds how long a process that has ended may leave its output
// open through a child of its own.
const outputDelay = 2 * time.Second

// Start starts it. Its owner must wait for Done.
func Start(c Command) (*Process, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.ExtraFiles = c.Dir, c.Files
	cmd.Stdout, cmd.Stderr = c.Console, c.Errors
	cmd.Env = environment()
	cmd.WaitDelay = outputDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
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
		p.err = cmd.Wait()
		// Whatever it may have started in its group goes with it.
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
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

// Kill ends the whole group.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := syscall.Kill(-p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing QEMU (pid %d): %w", p.pid, err)
	}
	return nil
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
