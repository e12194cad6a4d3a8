package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strings"
)

const sudoProgram = "sudo"

// sudoArgv has sudo run argv, and never ask for a password.
func sudoArgv(argv ...string) []string {
	return append([]string{sudoProgram, "--non-interactive", "--"}, argv...)
}

// SudoersLine is what lets this user start program through sudo, and kill it,
// for a file in /etc/sudoers.d.
func SudoersLine(program string) string {
	name := "cocos"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if path, err := exec.LookPath(program); err == nil {
		program = path
	}
	return fmt.Sprintf("%s ALL=(root) NOPASSWD: %s, /usr/bin/kill -KILL *", name, program)
}

// SudoRefusal reads what was said by a QEMU that was started through sudo and
// ended at once: it is an error that says what to do if sudo was in the way.
func SudoRefusal(said, program string) error {
	last := ""
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "This incident ") {
			last = line
		}
	}
	if !strings.HasPrefix(last, "sudo: ") && !strings.HasPrefix(last, "Sorry, user ") && !strings.Contains(last, " is not in the sudoers file") {
		return nil // what sudo said before, it went on after
	}
	return fmt.Errorf("sudo did not start QEMU (%s); put this line into /etc/sudoers.d/cocos-manager, or set MANAGER_QEMU_USE_SUDO=false: %s", last, SudoersLine(program))
}

// sudoKill kills a process of root's.
func sudoKill(ctx context.Context, pid int) error {
	argv := sudoArgv("kill", "-KILL", fmt.Sprint(pid))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment()
	cmd.WaitDelay = outputDelay
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if bytes.Contains(out, []byte("No such process")) {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w; install sudo", err)
	}
	return fmt.Errorf("%s: %w:%s", strings.Join(argv, " "), err, quoted(out))
}
