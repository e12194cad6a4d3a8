package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Leftovers returns the processes of this host that are the QEMU of a run:
// their command lines name program, by its base name, and then the run. Only a
// QEMU that was started through sudo outlives its owner.
func Leftovers(runID, program string) ([]int, error) {
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("looking for QEMU of run %s: %w", runID, err)
	}
	var found []int
	for _, pid := range all {
		if isQEMU(pid, runID, program) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// Below returns the QEMU of a run among the process pid and those below it, or
// 0 if there is none: sudo, and scripts, come between.
func Below(pid int, runID, program string) int {
	all, err := processes()
	if err != nil {
		return 0
	}
	children := map[int][]int{}
	for _, p := range all {
		if parent := parentOf(p); parent > 0 {
			children[parent] = append(children[parent], p)
		}
	}
	for look, seen := []int{pid}, map[int]bool{}; len(look) > 0; look = look[1:] {
		p := look[0]
		if seen[p] {
			continue // its number was given away while we looked
		}
		seen[p] = true
		if isQEMU(p, runID, program) {
			return p
		}
		look = append(look, children[p]...)
	}
	return 0
}

// EndLeftover kills the process pid if it is, still, the QEMU of a run, and
// waits for its end until ctx ends. With sudo it is root's, and killed through
// sudo unless this process may do it itself.
func EndLeftover(ctx context.Context, pid int, runID, program string, sudo bool) error {
	// From here on the number is this process's: another one's end is not taken
	// for its end, nor does another one get the signal.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ending QEMU (pid %d): %w", pid, err)
	}
	defer unix.Close(fd)
	if !isQEMU(pid, runID, program) {
		return nil
	}
	err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.EPERM) && sudo {
		// Between the look above and this kill the number could only pass on if
		// QEMU ended and all others were used up in that moment.
		err = sudoKill(ctx, pid)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending QEMU (pid %d): %w", pid, err)
	}
	if err := waitFor(ctx, fd); err != nil {
		return fmt.Errorf("waiting for the end of QEMU (pid %d): %w", pid, err)
	}
	return nil
}

// waitFor waits until the process of a pidfd has ended.
func waitFor(ctx context.Context, fd int) error {
	const look = 100 * time.Millisecond // at ctx, in between
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(look.Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// processes lists what runs on this host.
func processes() ([]int, error) {
	f, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			all = append(all, pid)
		}
	}
	slices.Sort(all)
	return all, nil
}

// parentOf reads the parent from proc(5)'s stat, 0 if the process has ended.
func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything, parentheses included.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// isQEMU looks at the command line of a process; one that has ended has none.
func isQEMU(pid int, runID, program string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && isCommandLine(strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), runID, program)
}

// isCommandLine tells whether argv is that of a run's QEMU. What comes before
// the program are interpreters and loaders; sudo only waits for its QEMU.
func isCommandLine(argv []string, runID, program string) bool {
	at := slices.Index(argv, "-name")
	if at < 0 || at+1 == len(argv) || argv[at+1] != nameOf(runID) {
		return false
	}
	found := false
	for _, a := range argv[:at] {
		switch filepath.Base(a) {
		case sudoProgram:
			return false
		case filepath.Base(program):
			found = true
		}
	}
	return found
}
