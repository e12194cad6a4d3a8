// Command outer is the first process of the outer VM of test/vsock-kernel: it
// makes the kernel's vsock device, runs the test binary of internal/vsock over
// it, and powers off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	start := time.Now()
	if err := run(); err != nil {
		fmt.Println("vsock-kernel outer: FAILED:", err)
	} else {
		fmt.Println("vsock-kernel outer: PASSED")
	}
	fmt.Printf("vsock-kernel outer: ran for %v\n", time.Since(start).Round(time.Second))
	unix.Sync()
	fmt.Println("powering off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	select {}
}

func run() error {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	list, err := os.ReadFile("/lib/modules/cocos.list")
	if err != nil {
		return err
	}
	vhost, err := os.ReadFile("/vhost/list")
	if err != nil {
		return err
	}
	paths := strings.Fields(string(list))
	for _, name := range strings.Fields(string(vhost)) {
		paths = append(paths, "/vhost/"+name+".ko")
	}
	for _, path := range paths {
		if err := load(path); err != nil {
			return fmt.Errorf("loading %s: %w", path, err)
		}
	}
	tests, err := os.ReadFile("/tests")
	if err != nil {
		return err
	}
	cmd := exec.Command("/vsock", "-test.run="+string(tests), "-test.v", "-test.timeout=50m")
	cmd.Dir = "/tmp"
	cmd.Env = []string{
		"PATH=/usr/bin", "TMPDIR=/tmp", "LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu",
		"MANAGER_QEMU_BIN_PATH=/usr/bin/qemu-system-x86_64", "COCOS_TEST_IMAGE=/inner", "COCOS_TEST_GUEST=/inner/guest.cpio",
		"COCOS_TEST_VSOCK_KERNEL=1",
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	// ENODEV: a driver of hardware that this machine has not.
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
