// Probe is an algorithm that does one thing, for the tests of how algorithms
// are run.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what string, args []string) error {
	switch what {
	case "attempts":
		attempts()
	case "everything": // compute for a while, and leave something
		attempts()
		if err := os.WriteFile("results/kept", nil, 0o600); err != nil {
			return err
		}
		for until := processorTime() + 2*time.Second; processorTime() < until; {
		}
		return landlocked()
	case "landlocked":
		return landlocked()
	case "odd":
		return oddResults(args[0], args[1])
	case "exhaust-descriptors":
		return descriptors()
	case "bomb":
		return bomb()
	case "trace-me": // and stand still
		if _, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, syscall.PTRACE_TRACEME, 0, 0, 0, 0, 0); errno != 0 {
			return errno
		}
		return syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	case "exit":
		os.Exit(number(args[0]))
	case "kill-self":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		time.Sleep(time.Hour)
	case "args":
		fmt.Printf("%q\n", os.Args)
	case "env":
		fmt.Printf("%q\n", os.Environ())
	case "cwd":
		dir, err := os.Getwd()
		fmt.Println(dir)
		return err
	case "ids":
		groups, err := os.Getgroups()
		fmt.Println(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid(), len(groups))
		return err
	case "status": // fields of /proc/self/status
		b, err := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(b)) {
			for _, field := range args {
				if strings.HasPrefix(line, field+":") {
					fmt.Print(line)
				}
			}
		}
		return err
	case "print": // count bytes to stdout
		_, err := io.CopyN(os.Stdout, zeros{}, int64(number(args[0])))
		return err
	case "print-both":
		fmt.Fprint(os.Stdout, args[0])
		fmt.Fprint(os.Stderr, args[1])
	case "write": // count bytes to a file
		f, err := os.Create(args[0])
		if err != nil {
			return err
		}
		if _, err := io.CopyN(f, zeros{}, int64(number(args[1]))); err != nil {
			return err
		}
		return f.Close()
	case "truncate":
		if err := os.WriteFile(args[0], nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(args[0], int64(number(args[1])))
	case "copy":
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(args[1]), 0o700); err != nil {
			return err
		}
		return os.WriteFile(args[1], b, 0o750)
	case "read":
		b, err := os.ReadFile(args[0])
		os.Stdout.Write(b)
		return err
	case "list":
		entries, err := os.ReadDir(args[0])
		for _, e := range entries {
			fmt.Println(e.Name())
		}
		return err
	case "symlink":
		return os.Symlink(args[0], args[1])
	case "fifo":
		return syscall.Mkfifo(args[0], 0o600)
	case "deep":
		return os.MkdirAll(filepath.Join(args[0], strings.Repeat("d/", number(args[1]))), 0o700)
	case "socket": // of a family
		fd, err := syscall.Socket(number(args[0]), syscall.SOCK_STREAM, 0)
		if err == nil {
			syscall.Close(fd)
		}
		return err
	case "call": // a system call with zeros
		if _, _, errno := syscall.Syscall6(uintptr(number(args[0])), 0, 0, 0, 0, 0, 0); errno != 0 {
			return errno
		}
	case "dial":
		_, err := net.DialTimeout("tcp", args[0], 5*time.Second)
		return err
	case "loopback":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	case "interfaces":
		// Not net.Interfaces: that takes a netlink socket.
		b, err := os.ReadFile("/proc/self/net/dev")
		for line := range strings.Lines(string(b)) {
			if name, _, ok := strings.Cut(line, ":"); ok {
				fmt.Println(strings.TrimSpace(name))
			}
		}
		return err
	case "processes":
		entries, err := os.ReadDir("/proc")
		n := 0
		for _, e := range entries {
			if _, err := strconv.Atoi(e.Name()); err == nil {
				n++
			}
		}
		fmt.Println(n)
		return err
	case "descriptors":
		entries, err := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			target, _ := os.Readlink("/proc/self/fd/" + e.Name())
			fmt.Println(e.Name(), target)
		}
		return err
	case "kill-first":
		for sig := syscall.Signal(1); sig < 32; sig++ {
			if err := syscall.Kill(1, sig); err != nil {
				return err
			}
		}
	case "trace-first":
		if _, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, 1, 0, 0, 0, 0); errno != 0 {
			return errno
		}
	case "exec": // another program
		return syscall.Exec(args[0], args, os.Environ())
	case "setuid":
		return syscall.Setuid(number(args[0]))
	case "userns":
		cmd := exec.Command("/proc/self/exe", "exit", "0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
		return cmd.Run()
	case "hostname":
		name, err := os.Hostname()
		fmt.Println(name)
		return err
	case "limit": // soft and hard
		var r syscall.Rlimit
		err := syscall.Getrlimit(number(args[0]), &r)
		fmt.Println(r.Cur, r.Max)
		return err
	case "sleep":
		fmt.Println("started")
		for {
			time.Sleep(time.Hour)
		}
	case "outlive": // leaves a process behind that holds stdout
		cmd := exec.Command("/proc/self/exe", "sleep")
		cmd.Stdout = os.Stdout
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		fmt.Println("left", cmd.Process.Pid)
	case "allocate": // bytes, touched
		b, err := syscall.Mmap(-1, 0, number(args[0]), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		fmt.Println(len(b), b[0], unsafe.Sizeof(b))
	case "fork": // processes at once
		for i := range number(args[0]) {
			if err := exec.Command("/proc/self/exe", "sleep").Start(); err != nil {
				return fmt.Errorf("process %d: %w", i, err)
			}
		}
	default:
		return fmt.Errorf("unknown: %s", what)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
