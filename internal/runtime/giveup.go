package runtime

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// giveUp takes from this thread, which must be locked, and so from every
// process that it starts: groups, capabilities in every set, the user, the way
// back to privileges, files that it has no business with, and system calls that
// lead out of the namespaces. The calls are raw because Go's own would do it to
// all threads.
func giveUp(s setup) error {
	// An ordinary user's child has the algorithm's own user: what it is not
	// allowed to look into is not this one's to trace either.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protecting the first process: %w", err)
	}
	unix.Umask(0o022)
	if s.DropGroups {
		if err := raw("setgroups", unix.SYS_SETGROUPS, 0, 0, 0); err != nil {
			return err
		}
	}
	for c := range uintptr(64) {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
	if err := raw("setresgid", unix.SYS_SETRESGID, uintptr(s.GID), uintptr(s.GID), uintptr(s.GID)); err != nil {
		return err
	}
	if err := raw("setresuid", unix.SYS_SETRESUID, uintptr(s.UID), uintptr(s.UID), uintptr(s.UID)); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	none := [2]unix.CapUserData{}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	if err := landlock(LandlockABI()); err != nil {
		return err
	}
	return installFilter(filter(s.limitsData()))
}

func raw(name string, call, a, b, c uintptr) error {
	if _, _, errno := syscall.RawSyscall(call, a, b, c); errno != 0 {
		return fmt.Errorf("%s: %w", name, errno)
	}
	return nil
}
