// Command init is the first process of the VM that boots systemd: it loads
// what the root file system needs, puts a writable overlay in memory over it,
// mounts the payload, and becomes systemd.
//
// It is in the initial RAM disk behind the guest image's own, whose modules it
// loads first, and is named by rdinit=.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("machine init: FAILED:", run())
	unix.Sync()
	fmt.Println("powering off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	select {}
}

type mount struct {
	what, fs, where, options string
	flags                    uintptr
}

func run() error {
	if err := mountAll([]mount{{"proc", "proc", "/proc", "", 0}, {"dev", "devtmpfs", "/dev", "", 0}}); err != nil {
		return err
	}
	base, err := os.ReadFile("/lib/modules/cocos.list")
	if err != nil {
		return err
	}
	extra, err := os.ReadFile("/extra/list")
	if err != nil {
		return err
	}
	for _, path := range slices.Concat(strings.Fields(string(base)), strings.Fields(string(extra))) {
		if err := load(path); err != nil {
			return fmt.Errorf("loading %s: %w", path, err)
		}
	}
	err = mountAll([]mount{
		{"/dev/vda", "squashfs", "/lower", "", unix.MS_RDONLY},
		{"scratch", "tmpfs", "/scratch", "size=75%,mode=0755", 0},
	})
	if err != nil {
		return err
	}
	for _, d := range []string{"/scratch/upper", "/scratch/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	err = mountAll([]mount{
		{"root", "overlay", "/newroot", "lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work", 0},
		{"/dev/vdb", "squashfs", "/newroot/payload", "", unix.MS_RDONLY},
		{"/dev", "", "/newroot/dev", "", unix.MS_MOVE},
		{"/proc", "", "/newroot/proc", "", unix.MS_MOVE},
	})
	if err != nil {
		return err
	}
	// What switch_root(8) does.
	if err := os.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Never the machine's own entropy and time: nobody relies on them here.
	return unix.Exec("/usr/lib/systemd/systemd", []string{"/sbin/init"}, []string{"PATH=/usr/sbin:/usr/bin", "TERM=dumb", "container="})
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.what, m.where, m.fs, m.flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s on %s: %w", m.what, m.where, err)
		}
	}
	return nil
}

// load loads a module. One whose hardware is not there is left out.
func load(path string) error {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
