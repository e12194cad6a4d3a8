package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

var errInterrupted = errors.New("interrupted")

// process is a child that lives through several stages.
type process struct {
	name  string
	out   string // file with its standard output
	log   string // file with the rest
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	err   error         // valid then
	grace time.Duration // what it may take to end by itself
}

// command prints a command as a user would type it and makes it.
func (d *demo) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	fmt.Printf("    $ %s\n", strings.Join(append(append([]string(nil), env...), quoted(args)...), " "))
	return silent(ctx, env, args...)
}

// quoted has words with blanks in quotes, as a shell wants them.
func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		if out[i] = w; w == "" || strings.ContainsAny(w, " ,;'\"") {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return out
}

// silent makes a command that is not shown.
func silent(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	// A group of its own: Ctrl-C reaches the demo alone, which ends each child
	// and the child's children. `go run` cleans up after SIGINT only.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// do runs a command to its end and shows its output.
func (d *demo) do(env []string, args ...string) error {
	cmd := d.command(d.ctx, env, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// start runs a command until stopAll; its output goes to files.
func (d *demo) start(name string, grace time.Duration, env []string, args ...string) (*process, error) {
	out, err := os.Create(d.path(name + ".out"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	log, err := os.Create(d.path(name + ".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not bound to d.ctx: an interrupted demo stops it in good order too.
	cmd := d.command(context.WithoutCancel(d.ctx), env, args...)
	cmd.Stdout, cmd.Stderr = out, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", name, err)
	}
	p := &process{name: name, out: out.Name(), log: log.Name(), cmd: cmd, done: make(chan struct{}), grace: grace}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	d.started = append(d.started, p)
	return p, nil
}

// running tells whether p was started and has not ended.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks p to end and insists after its grace period.
func (p *process) stop() error {
	if !p.running() {
		return nil
	}
	if err := syscall.Kill(p.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping the %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("stopping the %s: %w; the end of its log:\n%s", p.name, p.err, tail(p.log))
		}
		return nil
	case <-time.After(p.grace):
		err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		return errors.Join(fmt.Errorf("the %s did not end within %s and was killed", p.name, p.grace), err)
	}
}

// stopAll stops what was started: first the VMs, through the Manager, and then the
// newest process first. It may be called again.
func (d *demo) stopAll() error {
	var errs []error
	if d.vms && d.manager.running() {
		d.vms = false
		errs = append(errs, d.stopVMs())
	}
	for i := len(d.started) - 1; i >= 0; i-- {
		errs = append(errs, d.started[i].stop())
	}
	d.started = nil
	return errors.Join(errs...)
}

// until asks again and again, as long as p lives.
func (d *demo) until(p *process, limit time.Duration, what string, done func() (bool, error)) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-p.done:
			// What it said last may be what is waited for.
			if ok, err := done(); ok || err != nil {
				return err
			}
			return fmt.Errorf("the %s ended while the demo waited for %s: %v; the end of its log:\n%s", p.name, what, p.err, tail(p.log))
		case <-deadline.C:
			return fmt.Errorf("waited %s for %s; see the logs", limit, what)
		case <-d.ctx.Done():
			return errInterrupted
		}
	}
}
