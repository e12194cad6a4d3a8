package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
)

func asError(err error, target **QMPError) bool { return errors.As(err, target) }

// program writes a script that stands in for QEMU.
func program(t *testing.T, script string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   Version
		err    string
	}{
		"Debian 13":     {`echo "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"; echo Copyright`, Version{10, 0, 2}, ""},
		"the oldest":    {`echo "QEMU emulator version 7.2.0"`, Version{7, 2, 0}, ""},
		"no micro":      {`echo "QEMU emulator version 11.1"`, Version{11, 1, 0}, ""},
		"too old":       {`echo "QEMU emulator version 7.1.9"`, Version{7, 1, 9}, "7.1.9, which is too old"},
		"much too old":  {`echo "QEMU emulator version 2.5.1"`, Version{2, 5, 1}, "too old"},
		"not QEMU":      {`echo "GNU bash, version 5.2"`, Version{}, "is not QEMU"},
		"says nothing":  {``, Version{}, "is not QEMU"},
		"large numbers": {`echo "QEMU emulator version 99999999999.1"`, Version{}, "is not QEMU"},
		"fails":         {`echo "no library" >&2; exit 127`, Version{}, "no library"},
	} {
		t.Run(name, func(t *testing.T) {
			bin := program(t, c.script)
			v, err := Probe(t.Context(), bin)
			if v != c.want {
				t.Errorf("version %v", v)
			}
			if (err == nil) != (c.err == "") {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				for _, part := range []string{c.err, Variable, bin, "7.2 or later"} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q is not in %v", part, err)
					}
				}
			}
		})
	}
	for _, missing := range []string{"/nowhere/qemu", "no-such-qemu-on-path", ""} {
		if _, err := Probe(t.Context(), missing); err == nil || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), Variable) {
			t.Errorf("%q: got %v", missing, err)
		}
	}
	if v, err := Probe(t.Context(), realQEMU(t)); err != nil || !v.AtLeast(7, 2) {
		t.Errorf("the real one: %v, %v", v, err)
	}
}

func TestWarning(t *testing.T) {
	for _, c := range []struct {
		v     Version
		accel string
		warns bool
	}{
		{Version{7, 2, 9}, vm.AccelTCG, true},
		{Version{9, 2, 0}, vm.AccelTCG, true},
		{Version{10, 0, 0}, vm.AccelTCG, false},
		{Version{11, 1, 0}, vm.AccelTCG, false},
		{Version{7, 2, 9}, vm.AccelKVM, false},
	} {
		if w := c.v.Warning(c.accel); (w != "") != c.warns || c.warns && !strings.Contains(w, Variable) {
			t.Errorf("%v with %s: %q", c.v, c.accel, w)
		}
	}
}

func TestProcess(t *testing.T) {
	t.Setenv("MANAGER_SECRET", "in the environment")
	var out bytes.Buffer
	p, err := Start(Command{
		Path: program(t, `echo "started with $1"; echo "an error" >&2; env; pwd; exit 42`), Args: []string{"arg"}, Dir: "/",
		Output: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.ExitStatus() != 42 || !strings.HasPrefix(out.String(), "started with arg\nan error\n") {
		t.Errorf("status %d, %q", p.ExitStatus(), &out)
	}
	if strings.Contains(out.String(), "in the environment") || !strings.Contains(out.String(), "PATH=") || !strings.HasSuffix(out.String(), "\n/\n") {
		t.Errorf("the environment is %q", &out)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing what has ended: %v", err)
	}
	if _, err := Start(Command{Path: "/nowhere/qemu"}); err == nil || !strings.Contains(err.Error(), "/nowhere/qemu") {
		t.Errorf("got %v", err)
	}
}

func TestProcessInheritsFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := Start(Command{Path: program(t, `echo through >&3`), Files: []*os.File{w}})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	<-p.Done()
	b := make([]byte, 100)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "through\n" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

func TestKillTakesTheGroup(t *testing.T) {
	for name, end := range map[string]func(*Process) error{
		"killed":        (*Process).Kill,
		"by itself, so": func(p *Process) error { return syscall.Kill(p.PID(), syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			pidFile := filepath.Join(t.TempDir(), "pid")
			p, err := Start(Command{Path: program(t, `sleep 1000 & echo $! >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`; wait`)})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var child int
			for child == 0 && ctx.Err() == nil {
				if b, err := os.ReadFile(pidFile); err == nil {
					child, _ = strconv.Atoi(strings.TrimSpace(string(b)))
				}
			}
			if p.Wait(timeout(time.Millisecond)) == nil {
				t.Error("it has ended by itself")
			}
			if err := end(p); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(ctx); err != nil || p.ExitStatus() <= 128 {
				t.Errorf("status %d, %v", p.ExitStatus(), err)
			}
			for running(child) {
				if ctx.Err() != nil {
					t.Fatal("a child of QEMU's is left")
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

func timeout(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	_ = cancel // ends by itself
	return ctx
}

// running tells whether a process runs; a zombie does not.
func running(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}
