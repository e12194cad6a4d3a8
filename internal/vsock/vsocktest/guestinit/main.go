// Command guestinit is the first process of a VM in which vsock is tested: it
// loads the modules of the guest image and runs the guest's part of the suite.
// Whatever fails, it says so on the console and powers off.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest"
)

// modulesList is the image's list of modules, in the order to load them.
const modulesList = "/lib/modules/cocos.list"

func main() {
	action, err := run()
	if err != nil {
		fmt.Println("guestinit:", err)
	}
	// Not power off before the console has it.
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if action == "reboot" {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	err = unix.Reboot(how)
	fmt.Println("guestinit: powering off:", err)
	select {}
}

func run() (string, error) {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"debugfs", "/sys/kernel/debug"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil && m.fs != "debugfs" {
			return "", err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) && m.fs != "debugfs" {
			return "", fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	if err := loadModules(); err != nil {
		return "", err
	}
	cid, err := vsock.ContextID()
	if err != nil {
		return "", fmt.Errorf("reading the CID: %w", err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	kernel, _, _ := bytes.Cut(uts.Release[:], []byte{0})
	return vsocktest.Guest(context.Background(), facts(), string(kernel), cid)
}

func loadModules() error {
	list, err := os.ReadFile(modulesList)
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		// ENODEV: a driver of hardware that this machine has not.
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("loading %s: %w", path, err)
		}
	}
	return nil
}

// facts tells which features the devices have negotiated, and whether bounce
// buffers are in use.
func facts() []string {
	var fs []string
	features, _ := filepath.Glob("/sys/bus/virtio/devices/*/features")
	for _, name := range features {
		b, err := os.ReadFile(name)
		driver, derr := os.Readlink(filepath.Join(filepath.Dir(name), "driver"))
		if err != nil || derr != nil || filepath.Base(driver) != "vmw_vsock_virtio_transport" {
			continue
		}
		for bit, c := range strings.TrimSpace(string(b)) {
			if c == '1' {
				fs = append(fs, fmt.Sprintf("vsock feature %d", bit))
			}
		}
	}
	if b, err := os.ReadFile("/sys/kernel/debug/swiotlb/io_tlb_used"); err == nil && strings.TrimSpace(string(b)) != "0" {
		fs = append(fs, "swiotlb in use")
	}
	return fs
}
