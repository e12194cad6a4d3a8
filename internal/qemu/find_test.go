package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// testRun is one that nothing else on this machine has.
var testRun = uuid.NewString()

// started runs argv until the test's end, or until it is killed.
func started(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // all that were started read it
		_ = cmd.Wait()
	})
	return cmd
}

// waits is a script that lasts until its input ends and has no process below it.
const waits = `read x`

func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come to that", what)
		}
	}
}

// fakeSudo puts a sudo on PATH that waits for what it runs, as the real one does.
func fakeSudo(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sudo"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// passes is a sudo that asks for nothing.
const passes = `[ "$1" = --non-interactive ] && [ "$2" = -- ] || exit 9
shift 2
"$@" <&0`

func TestLeftovers(t *testing.T) {
	fakeSudo(t, passes)
	qemu := program(t, waits)
	ours := started(t, sudoArgv(qemu, "-name", nameOf(testRun), "-S")...)
	other := started(t, qemu, "-name", nameOf("another-run"))
	longer := started(t, qemu, "-name", nameOf(testRun)+"0")
	editor := started(t, program(t, waits)+"", "-S", "-name", nameOf("x"), nameOf(testRun))
	var found []int
	soon(t, "starting", func() bool {
		var err error
		if found, err = Leftovers(testRun, qemu); err != nil {
			t.Fatal(err)
		}
		return len(found) > 0
	})
	if len(found) != 1 || slices.Contains(found, ours.Process.Pid) {
		t.Fatalf("found %d, sudo is %d", found, ours.Process.Pid)
	}
	if pid := Below(ours.Process.Pid, testRun, qemu); pid != found[0] {
		t.Errorf("below sudo is %d, want %d", pid, found[0])
	}
	for name, c := range map[string]struct {
		pid          int
		run, program string
	}{
		"another run's":          {other.Process.Pid, testRun, qemu},
		"a run with more":        {longer.Process.Pid, testRun, qemu},
		"its name elsewhere":     {editor.Process.Pid, testRun, qemu},
		"of another program":     {found[0], testRun, "/usr/bin/qemu-system-x86_64"},
		"for another run":        {found[0], "another", qemu},
		"sudo, not what it runs": {ours.Process.Pid, testRun, qemu},
		"this test":              {os.Getpid(), testRun, qemu},
	} {
		if c.pid != ours.Process.Pid && c.pid != os.Getpid() && Below(c.pid, c.run, c.program) != 0 {
			t.Errorf("%s: is taken for the run's QEMU", name)
		}
		if err := EndLeftover(t.Context(), c.pid, c.run, c.program, true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !running(c.pid) {
			t.Fatalf("%s: was killed", name)
		}
	}
	if err := EndLeftover(t.Context(), found[0], testRun, qemu, true); err != nil {
		t.Fatal(err)
	}
	if running(found[0]) {
		t.Error("QEMU lives on")
	}
	if left, err := Leftovers(testRun, qemu); err != nil || len(left) != 0 {
		t.Errorf("left: %d, %v", left, err)
	}
	if err := EndLeftover(t.Context(), found[0], testRun, qemu, true); err != nil {
		t.Errorf("ending what has ended: %v", err)
	}
}

func TestIsCommandLine(t *testing.T) {
	for line, want := range map[string]bool{
		"/usr/bin/qemu-system-x86_64 -name guest=R -S":                                 true,
		"/bin/sh /opt/bin/qemu-system-x86_64 -name guest=R":                            true,
		"/lib/ld.so --argv0 qemu /opt/qemu-system-x86_64 -L /share -name guest=R":      true,
		"sudo --non-interactive -- /usr/bin/qemu-system-x86_64 -name guest=R":          false,
		"/bin/sh /tmp/sudo --non-interactive -- /bin/qemu-system-x86_64 -name guest=R": false,
		"/usr/bin/qemu-system-x86_64 -name guest=R2":                                   false,
		"/usr/bin/qemu-system-x86_64 -name":                                            false,
		"/usr/bin/qemu-system-x86_64 guest=R":                                          false,
		"vi -name guest=R qemu-system-x86_64":                                          false,
		"":                                                                             false,
	} {
		if got := isCommandLine(strings.Split(line, " "), "R", "/usr/bin/qemu-system-x86_64"); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// A kill(2) that this user may not do goes through sudo, and a sudo that refuses
// is an error that says so.
func TestSudoKill(t *testing.T) {
	cmd := started(t, program(t, waits))
	fakeSudo(t, passes)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := sudoKill(ctx, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := sudoKill(ctx, cmd.Process.Pid); err != nil {
		t.Errorf("killing what has ended: %v", err)
	}
	fakeSudo(t, `echo "sudo: a password is required" >&2; exit 1`)
	if err := sudoKill(ctx, os.Getpid()); err == nil || !strings.Contains(err.Error(), "a password is required") || !strings.Contains(err.Error(), "kill -KILL") {
		t.Errorf("got %v", err)
	}
	t.Setenv("PATH", "/nowhere")
	if err := sudoKill(ctx, os.Getpid()); err == nil || !strings.Contains(err.Error(), "install sudo") {
		t.Errorf("got %v", err)
	}
}

func TestSudoRefusal(t *testing.T) {
	for said, want := range map[string]string{
		"sudo: a password is required\n": "a password is required",
		"Sorry, user cocos is not allowed to execute '/usr/bin/qemu -S' as root on host.\n": "not allowed to execute",
		"cocos is not in the sudoers file.\nThis incident has been reported.\n":             "not in the sudoers",
		"sudo: unable to resolve host x: No such host\nsudo: a password is required\n":      "a password is required",
		"sudo: unable to resolve host x: No such host\nqemu-system-x86_64: no kernel\n":     "",
		"qemu-system-x86_64: could not load kernel 'sudo: no'\n":                            "",
		"": "",
	} {
		err := SudoRefusal(said, "/usr/bin/qemu-system-x86_64")
		if (err == nil) != (want == "") {
			t.Errorf("%q: %v", said, err)
		}
		if err == nil {
			continue
		}
		for _, part := range []string{want, "/etc/sudoers.d/cocos-manager", " ALL=(root) NOPASSWD: /usr/bin/qemu-system-x86_64, /usr/bin/kill -KILL *", "MANAGER_QEMU_USE_SUDO"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in %v", part, err)
			}
		}
	}
}
