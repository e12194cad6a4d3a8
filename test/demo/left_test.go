package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWorkingIn(t *testing.T) {
	proc := t.TempDir()
	for pid, line := range map[string]string{
		"10":                    "shim\x00--dir\x00/tmp/cocos-demo-1/state/vms/a\x00",
		"11":                    "qemu\x00-chardev\x00socket,path=/tmp/cocos-demo-1/q.sock\x00",
		"12":                    "tool\x00/tmp/cocos-demo-1\x00",
		"13":                    "shim\x00--dir\x00/tmp/cocos-demo-12/state\x00", // another demo's
		"14":                    "",                                              // a kernel thread, or one that ended
		"self":                  "tool\x00/tmp/cocos-demo-1\x00",
		fmt.Sprint(os.Getpid()): "demo\x00/tmp/cocos-demo-1\x00",
	} {
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cmdline"), []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := workingIn(proc, "/tmp/cocos-demo-1")
	if slices.Sort(got); err != nil || !slices.Equal(got, []int{10, 11, 12}) {
		t.Errorf("%v, %v", got, err)
	}
}

// A process that nobody waits for any more, as a VM after its Manager's end.
func TestEndLeft(t *testing.T) {
	d := &demo{dir: t.TempDir()}
	if err := d.endLeft(0); err != nil {
		t.Fatalf("nothing was left: %v", err)
	}
	cmd := exec.Command("sh", "-c", "read line", d.path("state"))
	in, err := cmd.StdinPipe() // open, so that it reads on
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err = d.endLeft(time.Second)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("%v; expected process %d in it", err, cmd.Process.Pid)
	}
	if err := <-ended; err == nil {
		t.Error("it ended by itself")
	}
}

func TestTail(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if got := tail(name); !strings.Contains(got, "no such file") {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{
		"": "", "one\ntwo\n": "one\ntwo",
		strings.Repeat("x", tailBytes) + "\nlast\n": "last",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := tail(name); got != want {
			t.Errorf("%q; expected %q", got, want)
		}
	}
}
