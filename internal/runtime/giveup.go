package runtime

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// giveUp takes from this thread, which must be locked, and so from every
// process that it starts: groups, capabilities in every set, the user, the way
// back to privileges, and system calls that lead out of the namespaces. The
// calls are raw because Go's own would do it to all threads.
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
	return installFilter(filter())
}

func raw(name string, call, a, b, c uintptr) error {
	if _, _, errno := syscall.RawSyscall(call, a, b, c); errno != 0 {
		return fmt.Errorf("%s: %w", name, errno)
	}
	return nil
}

// Of struct seccomp_data (linux/seccomp.h).
const (
	offsetCall = 0
	offsetArch = 4
	offsetArg0 = 16
)

// x32Bit marks calls of the x32 ABI, which would be a second name for each.
const x32Bit = 0x40000000

// families are the kinds of sockets that the network namespace divides. vsock is
// not one of them: it would reach the host.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

// absent calls answer as if the kernel did not have them: io_uring makes
// sockets past the filter, and keyrings are not divided by namespaces.
var absent = []uint32{
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
}

// filter is the program for seccomp(2) as classic BPF.
func filter() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	refuse := func(e syscall.Errno) unix.SockFilter { return answer(unix.SECCOMP_RET_ERRNO | uint32(e)) }

	f := []unix.SockFilter{
		load(offsetArch),
		jump(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, 1, 0),
		answer(unix.SECCOMP_RET_KILL_PROCESS),
		load(offsetCall),
		jump(unix.BPF_JGE, x32Bit, 0, 1),
		refuse(unix.ENOSYS),
	}
	for _, call := range absent {
		f = append(f, jump(unix.BPF_JEQ, call, 0, 1), refuse(unix.ENOSYS))
	}
	for _, call := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
		body := []unix.SockFilter{load(offsetArg0)}
		for _, family := range families {
			body = append(body, jump(unix.BPF_JEQ, family, 0, 1), answer(unix.SECCOMP_RET_ALLOW))
		}
		body = append(body, refuse(unix.EAFNOSUPPORT))
		f = append(f, jump(unix.BPF_JEQ, call, 0, uint8(len(body))))
		f = append(f, body...)
	}
	return append(f, answer(unix.SECCOMP_RET_ALLOW))
}

func installFilter(f []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	err := raw("seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	return nil
}
