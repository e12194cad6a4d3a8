package hostcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

// host is the machine as the probes see it.
type host struct {
	// root is the folder that dev, proc, sys, etc, lib and run are looked for
	// in. Paths that the configuration names are taken as they are.
	root string
	uid  int
	user string // the name, or else the number
	gids []int
	cpus int

	now         func() time.Time
	groupID     func(name string) (int, error)
	groupName   func(gid int) string
	open        func(name string, flag int) error // and close
	access      func(name string, mode uint32) error
	output      func(ctx context.Context, argv ...string) (string, error)
	kernelVsock func() error
	guest       func(ctx context.Context, qemu string) (bool, string)
	statfs      func(name string) (unix.Statfs_t, error)
	nofile      func() (uint64, error)
	synced      func() (bool, error)
	dial        func(ctx context.Context, network, addr string) (net.Conn, error)
	bind        func(addr string) error
	cpuTEE      func() cpuTEE
	vmTypes     func() (uint64, error)
	snpStatus   func() (snpState, error)
	// product is AMD's product line, where the CPU is of one.
	product func() string
}

// thisHost is the one that the program runs on.
func thisHost() *host {
	h := &host{
		root: "/", uid: os.Geteuid(), user: strconv.Itoa(os.Geteuid()), cpus: runtime.NumCPU(),
		now:       time.Now,
		groupID:   groupID,
		groupName: groupName,
		open:      openOnce,
		access: func(name string, mode uint32) error {
			return unix.Faccessat(unix.AT_FDCWD, name, mode, unix.AT_EACCESS)
		},
		output:      output,
		kernelVsock: vsock.KernelAvailable,
		guest:       qemu.KVMUsable,
		statfs: func(name string) (s unix.Statfs_t, err error) {
			err = unix.Statfs(name, &s)
			return s, err
		},
		nofile: func() (uint64, error) {
			var l unix.Rlimit
			err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
			return l.Max, err
		},
		synced: func() (bool, error) {
			var t unix.Timex // no field set: nothing is changed
			_, err := unix.Adjtimex(&t)
			return t.Status&unix.STA_UNSYNC == 0, err
		},
		dial: (&net.Dialer{}).DialContext,
		bind: bind, vmTypes: vmTypes, snpStatus: snpStatus, product: amdProduct,
	}
	h.cpuTEE = h.processorTEE
	if u, err := osuser.LookupId(h.user); err == nil {
		h.user = u.Username
	}
	gids, err := os.Getgroups()
	if err == nil {
		h.gids = append(gids, os.Getegid())
	}
	return h
}

func groupID(name string) (int, error) {
	g, err := osuser.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

func groupName(gid int) string {
	g, err := osuser.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		return strconv.Itoa(gid)
	}
	return g.Name
}

func openOnce(name string, flag int) error {
	f, err := os.OpenFile(name, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// bind takes an IPv4 address for a moment, as holding a port for a VM does, and
// never listens.
func bind(addr string) error {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	return unix.Bind(fd, sa)
}

// maxOutput bounds what is kept of a program's output, in bytes.
const maxOutput = 1 << 20

// output runs a program and returns both of its outputs.
func output(ctx context.Context, argv ...string) (string, error) {
	var b bounded
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = errors.New("no answer in time")
	}
	return string(b.kept), err
}

// bounded keeps the first maxOutput bytes.
type bounded struct{ kept []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), maxOutput-len(b.kept))]...)
	return len(p), nil
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

// maxFile bounds the files that are read whole, in bytes.
const maxFile = 4 << 20

// readFile reads a regular file; it never waits for the other end of a pipe.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %s", name, bytesText(maxFile))
	}
	return b, err
}

// kernel is what one line of /proc says.
func (h *host) kernel(name string) string {
	b, err := readFile(h.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// loadModule is the command that loads a kernel module now and at each start,
// or what to do where this kernel has none.
func (h *host) loadModule(name string) string {
	release := h.kernel("proc/sys/kernel/osrelease")
	dir := h.path("lib/modules/" + release)
	has := false
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		if b, err := readFile(filepath.Join(dir, list)); err == nil && bytes.Contains(b, []byte("/"+name+".ko")) {
			has = true
		}
	}
	// Some lists spell the file's name with dashes.
	if !has && strings.Contains(name, "_") {
		if b, err := readFile(filepath.Join(dir, "modules.dep")); err == nil {
			has = bytes.Contains(b, []byte("/"+strings.ReplaceAll(name, "_", "-")+".ko"))
		}
	}
	if !has {
		return fmt.Sprintf("boot a kernel that has the module %s: this one, %s, shows none in /lib/modules (in a container it is the host's: modprobe %s there)", name, release, name)
	}
	return fmt.Sprintf("modprobe %s && echo %s > /etc/modules-load.d/%s.conf", name, name, name)
}

// mayOpen is the command that lets the user open a device: a member of its
// group, or a group that may.
func (h *host) mayOpen(device string) string {
	again := "; then restart the Manager (and log in anew)"
	var st unix.Stat_t
	if err := unix.Stat(h.path(device), &st); err == nil && st.Gid != 0 && st.Mode&0o060 == 0o060 {
		return fmt.Sprintf("usermod -aG %s %s", h.groupName(int(st.Gid)), h.user) + again
	}
	return fmt.Sprintf("chgrp kvm %s && chmod 0660 %s && usermod -aG kvm %s", "/"+device, "/"+device, h.user) + again
}

// member tells whether the user is in the group.
func (h *host) member(gid int) bool { return h.uid == 0 || slices.Contains(h.gids, gid) }

// there is the nearest folder above name, or name itself, that exists.
func there(name string) string {
	for ; ; name = filepath.Dir(name) {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) || name == filepath.Dir(name) {
			return name
		}
	}
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	const unit = "KMGT"
	f, u := float64(n)/1024, 0
	for f >= 1024 && u < len(unit)-1 {
		f, u = f/1024, u+1
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%d %ciB", int64(f), unit[u])
	}
	return fmt.Sprintf("%.1f %ciB", f, unit[u])
}
