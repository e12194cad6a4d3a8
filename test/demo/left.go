package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// leftGrace is what a process that should be gone already may take to end, by
// itself and then once more when it is asked to.
const leftGrace = 5 * time.Second

// endLeft ends the processes that still work in the demo's folder: a VM and its
// shim outlive the Manager, and go on when the Manager or the server failed.
func (d *demo) endLeft(grace time.Duration) error {
	left, err := d.await(grace)
	if err != nil || len(left) == 0 {
		return err
	}
	signal := func(pids []int, s syscall.Signal) error {
		for _, pid := range pids {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("ending process %d, which works in %s: %w", pid, d.dir, err)
			}
		}
		return nil
	}
	if err := signal(left, syscall.SIGTERM); err != nil {
		return err
	}
	deaf, err := d.await(grace)
	if err := errors.Join(err, signal(deaf, syscall.SIGKILL)); err != nil {
		return err
	}
	return fmt.Errorf("the VM was not ended by its server and Manager; its processes %v are ended now", left)
}

// await waits until nobody works in the demo's folder, and returns who still
// does after grace.
func (d *demo) await(grace time.Duration) ([]int, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(grace); ; <-tick.C {
		left, err := workingIn("/proc", d.dir)
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
	}
}

// workingIn lists the processes, other than this one, with dir or a path below
// it on their command line.
func workingIn(proc, dir string) ([]int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that has just ended has no command line.
		line, err := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline"))
		if err == nil && (bytes.Contains(line, []byte(dir+"/")) || bytes.Contains(line, []byte(dir+"\x00"))) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// tailBytes is how much of a log an error shows.
const tailBytes = 1500

// tail returns the last lines of a log, or why it can't be read.
func tail(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(st.Size()-tailBytes, 0)
	b, err := io.ReadAll(io.NewSectionReader(f, from, st.Size()-from))
	if err != nil {
		return err.Error()
	}
	text := string(b)
	if _, whole, ok := strings.Cut(text, "\n"); ok && from > 0 {
		text = whole
	}
	return strings.TrimRight(text, "\n")
}
