package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is something that was started and must be stopped.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // valid once done is closed
}

// start runs args in the background; what it prints goes to a file.
func (l *lab) start(name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, log: l.path(name + ".log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer out.Close()
	p.cmd = exec.Command(args[0], args[1:]...)
	// A Manager refuses variables that it does not know, and is given its own.
	p.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MANAGER_") }), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A Ctrl-C is for this program, which then stops what it started.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w%s", name, err, buildHint(err))
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks p to end, and insists after a while.
func (p *process) stop() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		err := syscall.Kill(-p.pid(), syscall.SIGKILL)
		<-p.done
		return errors.Join(fmt.Errorf("%s did not end when asked and was killed", p.name), err)
	}
}

// lastWords is the end of what p printed, for an error's text.
func (p *process) lastWords() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// timed runs args to their end and says how long it took, from before the
// process existed to after it was gone.
func timed(ctx context.Context, args ...string) (stdout string, took time.Duration, err error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	began := time.Now()
	err = cmd.Run()
	took = time.Since(began)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()), buildHint(err))
	}
	return out.String(), took, nil
}

// buildHint is what to do about a program that is not there.
func buildHint(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "; run `make build`"
	}
	return ""
}
