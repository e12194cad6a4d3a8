package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ultravioletrs/cocos/manifest"
)

// ownThreads is room for the child's threads beside the algorithm's processes;
// see keepThreads.
const ownThreads = 16

// cpuPeriod is the time of which a share is given, in microseconds.
const cpuPeriod = 100_000

// cgroup bounds one run (Documentation/admin-guide/cgroup-v2.rst). A nil one
// bounds nothing.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group under parent; an empty parent gives nil.
func newCgroup(parent string, l manifest.Limits) (*cgroup, error) {
	if parent == "" {
		return nil, nil
	}
	divide := "+memory +pids"
	if l.CPUMilli > 0 {
		divide += " +cpu"
	}
	if err := write(filepath.Join(parent, "cgroup.subtree_control"), divide); err != nil {
		return nil, fmt.Errorf("dividing control group: %w", err)
	}
	path, err := os.MkdirTemp(parent, "algorithm-")
	if err != nil {
		return nil, fmt.Errorf("making a control group: %w", err)
	}
	g := &cgroup{path: path}
	memory := "max"
	if l.MemoryBytes > 0 {
		memory = strconv.FormatInt(l.MemoryBytes, 10)
	}
	values := []struct{ file, value string }{
		{"memory.max", memory},
		{"memory.oom.group", "1"},
		{"pids.max", strconv.FormatInt(l.Processes+ownThreads, 10)},
	}
	if l.CPUMilli > 0 {
		values = append(values, struct{ file, value string }{"cpu.max", fmt.Sprintf("%d %d", l.CPUMilli*cpuPeriod/1000, cpuPeriod)})
	}
	for _, v := range values {
		if err := write(filepath.Join(path, v.file), v.value); err != nil {
			g.remove()
			return nil, fmt.Errorf("limiting the control group: %w", err)
		}
	}
	// A kernel without swap has no such file, and nothing to forbid.
	if err := write(filepath.Join(path, "memory.swap.max"), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.remove()
		return nil, fmt.Errorf("limiting the control group: %w", err)
	}
	if g.dir, err = os.Open(path); err != nil {
		g.remove()
		return nil, fmt.Errorf("opening the control group: %w", err)
	}
	return g, nil
}

// write writes to a file that the kernel made.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// use makes a process start in the group.
func (g *cgroup) use(a *syscall.SysProcAttr) {
	if g == nil {
		return
	}
	a.UseCgroupFD, a.CgroupFD = true, int(g.dir.Fd())
}

// outOfMemory tells whether the kernel killed the group for want of memory.
func (g *cgroup) outOfMemory() bool { return g.count("memory.events", "oom_kill") > 0 }

// refusedProcesses is how many the kernel did not start for there were too many.
func (g *cgroup) refusedProcesses() int64 { return g.count("pids.events", "max") }

// count reads one of the kernel's counters; 0 where it has none.
func (g *cgroup) count(file, name string) int64 {
	if g == nil {
		return 0
	}
	b, err := os.ReadFile(filepath.Join(g.path, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

// remove is called when no process is left in the group.
func (g *cgroup) remove() {
	if g == nil {
		return
	}
	if g.dir != nil {
		_ = g.dir.Close()
	}
	_ = os.Remove(g.path)
}
