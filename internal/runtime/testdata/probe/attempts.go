package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one way out, or deeper into the kernel, with arguments that would
// do if nothing stood in the way.
type attempt struct {
	name string
	do   func() error
}

// call makes an attempt of a system call.
func call(name string, nr uintptr, args ...uintptr) attempt {
	return attempt{name, func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}}
}

func socket(name string, family, kind, protocol int) attempt {
	return attempt{name, func() error {
		fd, err := unix.Socket(family, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}}
}

func open(name, path string, flags int) attempt {
	return attempt{name, func() error {
		fd, err := unix.Open(path, flags, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}}
}

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

var kept []*byte // what system calls point to

// attempts are printed one a line, "name: error".
func attempts() {
	ts := unix.Timespec{Sec: 1}
	tv := unix.Timeval{Sec: 1}
	attr := [128]byte{8: 1}
	for _, a := range []attempt{
		call("unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		call("unshare mount", unix.SYS_UNSHARE, unix.CLONE_NEWNS),
		call("clone user", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(syscall.SIGCHLD)),
		call("clone network", unix.SYS_CLONE, unix.CLONE_NEWNET|uintptr(syscall.SIGCHLD)),
		call("clone3", unix.SYS_CLONE3, uintptr(unsafe.Pointer(&attr)), 88),
		{"setns", func() error {
			fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			return unix.Setns(fd, unix.CLONE_NEWNET)
		}},
		call("mount", unix.SYS_MOUNT, text("none"), text("/tmp"), text("tmpfs"), 0, 0),
		call("remount", unix.SYS_MOUNT, text(""), text("/"), 0, unix.MS_REMOUNT|unix.MS_BIND, 0),
		call("umount", unix.SYS_UMOUNT2, text("/proc"), unix.MNT_DETACH),
		call("pivot_root", unix.SYS_PIVOT_ROOT, text("/tmp"), text("/tmp")),
		call("chroot", unix.SYS_CHROOT, text("/tmp")),
		call("open_tree", unix.SYS_OPEN_TREE, ^uintptr(99), text("/"), unix.OPEN_TREE_CLONE),
		call("fsopen", unix.SYS_FSOPEN, text("tmpfs"), 0),
		call("mount_setattr", unix.SYS_MOUNT_SETATTR, ^uintptr(99), text("/"), 0, uintptr(unsafe.Pointer(&attr)), 32),
		call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0),
		call("bpf", unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), 48),
		call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr)), 0, ^uintptr(0), ^uintptr(0), 0),
		call("userfaultfd", unix.SYS_USERFAULTFD, 1),
		call("fanotify_init", unix.SYS_FANOTIFY_INIT, 0x200, 0),
		call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&attr))),
		call("keyctl", unix.SYS_KEYCTL, 0, ^uintptr(2), 1),
		call("add_key", unix.SYS_ADD_KEY, text("user"), text("x"), text("y"), 1, ^uintptr(2)),
		call("request_key", unix.SYS_REQUEST_KEY, text("user"), text("x"), 0, 0),
		call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		call("kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, 0, ^uintptr(0), 0, 0, 8),
		call("init_module", unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&attr)), 16, text("")),
		call("finit_module", unix.SYS_FINIT_MODULE, 0, text(""), 0),
		call("delete_module", unix.SYS_DELETE_MODULE, text("vsock"), 0),
		call("reboot", unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_POWER_OFF),
		call("settimeofday", unix.SYS_SETTIMEOFDAY, uintptr(unsafe.Pointer(&tv)), 0),
		call("clock_settime", unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&ts))),
		call("adjtimex", unix.SYS_ADJTIMEX, uintptr(unsafe.Pointer(&[256]byte{})), 0),
		call("swapon", unix.SYS_SWAPON, text("/tmp/x"), 0),
		call("acct", unix.SYS_ACCT, text("/tmp/x")),
		call("syslog", unix.SYS_SYSLOG, 3, uintptr(unsafe.Pointer(&attr)), 16),
		call("sethostname", unix.SYS_SETHOSTNAME, text("x"), 1),
		call("iopl", unix.SYS_IOPL, 3),
		call("ioperm", unix.SYS_IOPERM, 0x70, 1, 1),
		call("modify_ldt", unix.SYS_MODIFY_LDT, 0, uintptr(unsafe.Pointer(&attr)), 16),
		call("process_vm_readv", unix.SYS_PROCESS_VM_READV, 1, 0, 0, 0, 0, 0),
		call("process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, 1, 0, 0, 0, 0, 0),
		call("pidfd_getfd", unix.SYS_PIDFD_GETFD, 0, 0, 0),
		call("kcmp", unix.SYS_KCMP, 1, 1, 0, 0, 0),
		call("ptrace attach", unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1),
		call("ptrace seize", unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1),
		call("a call of a newer kernel", 467),
		call("a call that no kernel has", 100_000),
		call("x32", 0x4000_0000|unix.SYS_GETPID),
		socket("vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		socket("netlink", unix.AF_NETLINK, unix.SOCK_RAW, 0),
		socket("packet", unix.AF_PACKET, unix.SOCK_RAW, 0),
		socket("alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		socket("raw IPv4", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		socket("raw IPv6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
		call("setuid", unix.SYS_SETUID, 0),
		call("setgid", unix.SYS_SETGID, 0),
		call("setgroups", unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&[1]uint32{}))),
		call("setpriority", unix.SYS_SETPRIORITY, 0, 0, ^uintptr(19)),
		call("sched_setscheduler", unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&[1]int32{50}))),
		{"more descriptors", func() error {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
		}},
		{"chown", func() error {
			if err := os.WriteFile("/tmp/chown", nil, 0o600); err != nil {
				return err
			}
			return unix.Chown("/tmp/chown", 0, 0)
		}},
		{"block device", func() error { return unix.Mknod("/tmp/disk", unix.S_IFBLK|0o666, 8<<8) }},
		{"character device", func() error { return unix.Mknod("results/mem", unix.S_IFCHR|0o666, 1<<8|1) }},
		open("memory of the first process", "/proc/1/mem", unix.O_RDONLY),
		open("environment of the first process", "/proc/1/environ", unix.O_RDONLY),
		open("root of the first process", "/proc/1/root/", unix.O_RDONLY|unix.O_DIRECTORY),
		open("kernel memory", "/proc/kcore", unix.O_RDONLY),
		open("kernel log", "/proc/kmsg", unix.O_RDONLY),
		open("physical memory", "/dev/mem", unix.O_RDWR),
		open("sysrq", "/proc/sysrq-trigger", unix.O_WRONLY),
		open("core pattern", "/proc/sys/kernel/core_pattern", unix.O_WRONLY),
		open("modprobe path", "/proc/sys/kernel/modprobe", unix.O_WRONLY),
		open("sysfs", "/sys/kernel/uevent_helper", unix.O_WRONLY),
		open("control groups", "/sys/fs/cgroup/cgroup.procs", unix.O_WRONLY),
		open("attestation device", "/dev/sev-guest", unix.O_RDWR),
		open("reports", "/sys/kernel/config/tsm/report", unix.O_RDONLY|unix.O_DIRECTORY),
		open("own program", "/proc/self/exe", unix.O_WRONLY),
		open("a file in the root", "/x", unix.O_WRONLY|unix.O_CREAT),
		open("a file beside the datasets", "/work/datasets/x", unix.O_WRONLY|unix.O_CREAT),
		open("beyond the root", "../../../../../../etc/shadow", unix.O_RDONLY),
	} {
		said := "succeeded"
		if err := a.do(); err != nil {
			said = err.Error()
		}
		fmt.Printf("%s: %s\n", a.name, said)
	}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// landlocked says whether what Landlock alone forbids fails, as far as the
// kernel's version of it goes.
func landlocked() error {
	abi, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("this kernel has no Landlock: %w", errno)
	}
	fmt.Printf("abi %d\n", abi)
	// An own thread's name is the algorithm's to write by user and mode.
	say := func(name string, err error) {
		if err == nil {
			fmt.Printf("%s: succeeded\n", name)
		} else {
			fmt.Printf("%s: %v\n", name, err)
		}
	}
	say("writing to /proc", os.WriteFile("/proc/self/comm", []byte("x"), 0))
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	_, err = unix.IoctlGetTermios(int(null.Fd()), unix.TCGETS)
	say("ioctl on a device", err)
	say("signal to the first process", unix.Kill(1, 0))
	say("writing to results", os.WriteFile("/work/results/x", []byte("x"), 0o600))
	say("moving between folders", func() error {
		if err := os.MkdirAll("/tmp/a/b", 0o700); err != nil {
			return err
		}
		if err := os.WriteFile("/tmp/a/x", nil, 0o600); err != nil {
			return err
		}
		return os.Rename("/tmp/a/x", "/tmp/a/b/x")
	}())
	say("truncating", os.Truncate("/work/results/x", 0))
	say("writing to /dev/null", os.WriteFile("/dev/null", []byte("x"), 0))
	return os.Remove("/work/results/x")
}

// oddResults leaves in a folder what a result should not have.
func oddResults(what, dir string) error {
	switch what {
	case "files": // as many as there is room for
		for i := 0; ; i++ {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
				return fmt.Errorf("file %d: %w", i, err)
			}
		}
	case "deep": // deeper than a path can say
		if err := os.Chdir(dir); err != nil {
			return err
		}
		for range 10_000 {
			if err := os.Mkdir("d", 0o700); err != nil {
				return err
			}
			if err := os.Chdir("d"); err != nil {
				return err
			}
		}
		return nil
	case "links": // to one file, by which it counts often
		first := filepath.Join(dir, "first")
		if err := os.WriteFile(first, make([]byte, 64<<10), 0o600); err != nil {
			return err
		}
		for i := range 64 {
			if err := os.Link(first, filepath.Join(dir, fmt.Sprint(i))); err != nil {
				return err
			}
		}
		return nil
	case "socket":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")})
	case "names":
		for _, name := range []string{"line\nend", "\x1b[2Jescape", strings.Repeat("n", 255), "no UTF-8 \xff"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown: %s", what)
}

// descriptors opens files until there are no more.
func descriptors() error {
	for i := 0; ; i++ {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
			return fmt.Errorf("descriptor %d: %w", i, err)
		}
	}
}

// bomb starts copies of itself that do the same, until nothing more starts, and
// fails.
func bomb() error {
	for {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"main", "bomb"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		if err != nil {
			return fmt.Errorf("starting one more: %w", err)
		}
		_ = pid
	}
}
