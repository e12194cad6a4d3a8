package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const safe = unix.MS_NOSUID | unix.MS_NODEV

// mountPoint is one line of the mount tables.
type mountPoint struct {
	target, fstype string
	flags          uintptr
	data           string
}

// Sizes of memory file systems are caps, not reservations. A program is run
// from DataDir, so that one is not noexec.
var mountTable = []mountPoint{
	{"/proc", "proc", safe | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", safe | unix.MS_NOEXEC, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	{"/run", "tmpfs", safe | unix.MS_NOEXEC, "mode=0755,size=16m,nr_inodes=4k"},
	{"/tmp", "tmpfs", safe | unix.MS_NOEXEC, "mode=1777,size=16m,nr_inodes=4k"},
	{DataDir, "tmpfs", safe, "mode=0700,size=80%"},
	{CgroupRoot, "cgroup2", safe | unix.MS_NOEXEC, ""},
}

func (m *Machine) mounts(context.Context) error {
	for _, p := range mountTable {
		if err := p.mount(); err != nil {
			return err
		}
	}
	return nil
}

// configfs carries the interface to the TEE's reports, where the kernel has it.
const configfs = "/sys/kernel/config"

// lateMounts needs modules.
func lateMounts(context.Context) error {
	if _, err := os.Stat(configfs); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return mountPoint{configfs, "configfs", safe | unix.MS_NOEXEC, ""}.mount()
}

func (p mountPoint) mount() error {
	if err := os.MkdirAll(p.target, 0o755); err != nil {
		return fmt.Errorf("making mount point %s: %w", p.target, err)
	}
	if err := unix.Mount(p.fstype, p.target, p.fstype, p.flags, p.data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", p.fstype, p.target, err)
	}
	return nil
}

// moveRoot puts a second mount of the kernel's initial root over it and makes
// it this process's root. From the initial root itself pivot_root(2) is refused,
// and an algorithm's namespace could not be rid of the agent's mounts.
func moveRoot() error {
	const second = "/newroot"
	if err := os.MkdirAll(second, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", second, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding / on %s: %w", second, err)
	}
	if err := unix.Chdir(second); err != nil {
		return fmt.Errorf("changing to %s: %w", second, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving %s over /: %w", second, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return unix.Chdir("/")
}
