package runtime

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of struct seccomp_data (linux/seccomp.h).
const (
	offsetCall = 0
	offsetArch = 4
	offsetArg0 = 16
)

// lastCall is the last one that this list was made for: Linux 6.12's. What came
// later, and the x32 ABI, whose numbers are a second name for each call, answer
// as on a kernel that does not have them.
const lastCall = unix.SYS_MSEAL

// families are the kinds of sockets that the network namespace divides. vsock is
// not one of them: it would reach the host.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

// absent calls answer as if the kernel did not have them. Most need a capability
// that the algorithm has not: they are here so that a fault in the kernel's code
// behind them is out of reach. A list of what is allowed would be stricter, and
// would break programs that nobody has tried: what computes takes its calls from
// a C library, a language's runtime and a hundred packages.
var absent = []uint32{
	// Makes sockets, opens and writes past this filter.
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// Keyrings are not divided by namespaces.
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	// Namespaces and mounts. The flags of clone3 lie in memory, where a filter
	// can't look; libraries then take clone, whose flags are below.
	unix.SYS_CLONE3, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	// Programs, probes and page faults inside the kernel.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
	// Another kernel, or more of this one.
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_CREATE_MODULE, unix.SYS_QUERY_MODULE, unix.SYS_GET_KERNEL_SYMS, unix.SYS_USELIB,
	// The machine: power, clock, swap, quotas, accounts, ports, segments.
	unix.SYS_REBOOT, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_ACCT, unix.SYS_SYSLOG,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT,
	unix.SYS_NFSSERVCTL, unix.SYS_LOOKUP_DCOOKIE, unix.SYS__SYSCTL, unix.SYS_SYSFS, unix.SYS_USTAT,
	// Other processes' memory and descriptors.
	unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
}

// newNamespaces are the flags of clone that make one.
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// filter is the program for seccomp(2) as classic BPF. With stops, the first
// process can have the algorithm stand still before its first instruction.
func filter(stops bool) []unix.SockFilter {
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
		jump(unix.BPF_JGT, lastCall, 0, 1),
		refuse(unix.ENOSYS),
	}
	for _, call := range absent {
		f = append(f, jump(unix.BPF_JEQ, call, 0, 1), refuse(unix.ENOSYS))
	}
	// judged adds the calls whose first argument decides.
	judged := func(call uint32, body ...unix.SockFilter) {
		f = append(f, jump(unix.BPF_JEQ, call, 0, uint8(len(body)+1)), load(offsetArg0))
		f = append(f, body...)
	}
	oneOf := func(otherwise syscall.Errno, values ...uint32) (body []unix.SockFilter) {
		for _, v := range values {
			body = append(body, jump(unix.BPF_JEQ, v, 0, 1), answer(unix.SECCOMP_RET_ALLOW))
		}
		return append(body, refuse(otherwise))
	}
	judged(unix.SYS_SOCKET, oneOf(unix.EAFNOSUPPORT, families...)...)
	judged(unix.SYS_SOCKETPAIR, oneOf(unix.EAFNOSUPPORT, families...)...)
	judged(unix.SYS_CLONE, jump(unix.BPF_JSET, newNamespaces, 0, 1), refuse(unix.EPERM), answer(unix.SECCOMP_RET_ALLOW))
	var traces []uint32
	if stops {
		traces = []uint32{unix.PTRACE_TRACEME, unix.PTRACE_DETACH}
	}
	judged(unix.SYS_PTRACE, oneOf(unix.ENOSYS, traces...)...)
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
