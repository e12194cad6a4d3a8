package harness

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// stat is a process's line in /proc behind its name, which may hold anything:
// the state comes first (proc_pid_stat(5)).
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return nil, fmt.Errorf("/proc/%d/stat is %q", pid, b)
	}
	return fields, nil
}

// Alive tells whether a process runs. One that has ended and that nobody has
// waited for, as in a container whose first process reaps none, does not. Its
// first thread alone says little: the others may still be giving back memory,
// and until the last of them has done so the process's ports are taken.
func Alive(pid int) bool {
	fields, err := stat(pid)
	if err != nil {
		return false
	}
	if fields[0] != "Z" && fields[0] != "X" {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

// Parent is a process's parent.
func Parent(t testing.TB, pid int) int {
	t.Helper()
	fields, err := stat(pid)
	if err != nil {
		t.Fatal(err)
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

// Differ fails the test if two names are of one file.
func Differ(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(x, y) {
		t.Errorf("%s and %s are one file", a, b)
	}
}
