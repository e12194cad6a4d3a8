// Command bootcheck is an /init for tests: it loads the image's modules in the
// order of the list, sets the runtime disk up under dm-verity, and runs the
// Python of that disk. It says on the console how each step went and powers the
// machine off.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
)

var started = time.Now()

func main() {
	if err := run(); err != nil {
		say("failed: %v", err)
	} else {
		say("ok")
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func say(format string, args ...any) {
	fmt.Printf("bootcheck: %.2f: %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
}

func run() error {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	say("command line: %s", strings.TrimSpace(string(cmdline)))
	if _, err := os.Stat("/dev/vda"); err != nil {
		return nil // booted without the disk
	}
	for f := range strings.FieldsSeq(string(cmdline)) {
		if v, ok := strings.CutPrefix(f, hal.RuntimeParameter+"="); ok {
			return runtimeDisk(v)
		}
	}
	return errors.New("no runtime disk on the command line")
}

func loadModules() error {
	list, err := os.ReadFile(hal.ModulesList)
	if err != nil {
		return err
	}
	for path := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		switch {
		case err == nil:
			say("module %s: loaded", path)
		case errors.Is(err, unix.ENODEV):
			say("module %s: not for this machine", path)
		default:
			return fmt.Errorf("module %s: %w", path, err)
		}
	}
	return nil
}

func runtimeDisk(text string) error {
	p, err := verity.Parse(text)
	if err != nil {
		return err
	}
	if err := mapVerity(p); err != nil {
		return err
	}
	if err := unix.Mount("/dev/dm-0", "/runtime", "squashfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mounting the runtime disk: %w", err)
	}
	say("runtime disk mounted")
	for _, m := range []string{"proc", "tmpfs", "sysfs"} {
		at := map[string]string{"proc": "/runtime/proc", "tmpfs": "/runtime/tmp", "sysfs": "/runtime/sys"}[m]
		if err := unix.Mount(m, at, m, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", at, err)
		}
	}
	cmd := exec.Command("/usr/bin/python3", "-c", script)
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: "/runtime", Credential: &syscall.Credential{Uid: 10001, Gid: 10001}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	say("python: %s", strings.TrimSpace(string(out)))
	if err != nil {
		return fmt.Errorf("running Python: %w", err)
	}
	return nil
}

const script = `
import time; t = time.time()
import sklearn, pandas, joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
print("imported in %.1f s" % (time.time() - t))
x, y = load_iris(return_X_y=True)
print("score %.2f" % LogisticRegression(max_iter=500).fit(x, y).score(x, y))
`

// The device-mapper ioctls (linux/dm-ioctl.h).
const (
	dmIoctlSize = 312
	dmCreate    = 3
	dmSuspend   = 6
	dmTableLoad = 9
	dmReadonly  = 1 << 0
)

func mapVerity(p verity.Params) error {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	if err := dm(control, dmCreate, 0, nil); err != nil {
		return err
	}
	spec := make([]byte, 40)
	binary.LittleEndian.PutUint64(spec[8:], p.Sectors())
	copy(spec[24:], "verity")
	table := append([]byte(p.Target("/dev/vda")), 0)
	if err := dm(control, dmTableLoad, dmReadonly, append(spec, table...)); err != nil {
		return err
	}
	return dm(control, dmSuspend, 0, nil) // without the flag: resume
}

func dm(control *os.File, cmd uintptr, flags uint32, data []byte) error {
	b := make([]byte, dmIoctlSize+len(data)+8)
	le := binary.LittleEndian
	le.PutUint32(b[0:], 4)
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], dmIoctlSize)
	if data != nil {
		le.PutUint32(b[20:], 1)
	}
	le.PutUint32(b[28:], flags)
	copy(b[48:], "runtime")
	copy(b[dmIoctlSize:], data)
	request := uintptr(3)<<30 | dmIoctlSize<<16 | 0xfd<<8 | cmd
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("device-mapper ioctl %d: %w", cmd, e)
	}
	return nil
}
