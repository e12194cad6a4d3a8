package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// findImage checks the guest image's files against image.json. A kernel or
// initial RAM disk of one's own is only looked for.
func findImage(m *vm.Machine, s settings, dir string) (hal.Image, error) {
	img, err := hal.Load(dir)
	if err != nil {
		return img, fmt.Errorf("%w, or set MANAGER_IMAGE_DIR to a folder that has one", err)
	}
	var errs []error
	pick := func(name, own string, f hal.File) string {
		if own == "" {
			errs = append(errs, f.Check(dir))
			return filepath.Join(dir, f.Name)
		}
		abs, err := filepath.Abs(own)
		if err == nil {
			err = readable(abs)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s=%q: %w; correct it, or unset it to use the image's", name, own, err))
		}
		return abs
	}
	m.Runtime = pick("", "", img.Python.File)
	if s.disk.Image != "" {
		return img, errors.Join(append(errs, findDisk(m, s, img))...)
	}
	m.Boot.Kernel = pick("MANAGER_QEMU_DISK_IMG_KERNEL_FILE", s.kernel, img.Kernel)
	m.Boot.Initrd = pick("MANAGER_QEMU_DISK_IMG_ROOTFS_FILE", s.rootfs, img.Initrd)
	m.Boot.CommandLine = hal.CommandLine(img, false)
	return img, errors.Join(errs...)
}

// digestsOf are the SHA-256 of what a machine boots, in hexadecimal, by path.
func digestsOf(m vm.Machine) (map[string]string, error) {
	files := []string{m.Boot.Kernel, m.Boot.Initrd, m.Runtime, m.Boot.BIOS}
	if f := m.Boot.Firmware; f != nil {
		files = append(files, f.Code.File, f.Vars.File)
	}
	if d := m.Boot.Disk; d != nil {
		files = append(files, d.Image)
	}
	digests := map[string]string{}
	for _, name := range files {
		if name == "" {
			continue
		}
		f, err := hal.Digest(filepath.Split(name))
		if err != nil {
			return nil, err
		}
		digests[name] = f.SHA256
	}
	return digests, nil
}

func readable(name string) error {
	f, err := openFile(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Size() == 0 {
		err = errors.New("the file is empty")
	}
	return err
}

// openFile opens a file that holds what it holds; it never waits for the other
// end of a pipe.
func openFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func findDisk(m *vm.Machine, s settings, img hal.Image) error {
	disk := s.disk
	var err error
	if disk.Image, err = filepath.Abs(disk.Image); err == nil {
		if _, err = qcow2.VirtualSize(disk.Image, disk.Format); err == nil {
			_, err = hal.CheckBootDisk(disk.Image, img)
		}
	}
	if err != nil {
		return fmt.Errorf("MANAGER_QEMU_DISK_IMG_FILE=%q: %w; make hal-disk builds one, or unset it to boot kernel and initial RAM disk", s.disk.Image, err)
	}
	m.Boot.Disk = &disk
	return nil
}

// ovmf is where Debian installs the firmware, and firmwares are its names
// there: the first one that is there is taken.
const ovmf = "/usr/share/OVMF"

var firmwares = []string{"OVMF_CODE.fd", "OVMF_CODE_4M.fd"}

// firmwareFiles resolves auto and none: empty is none.
func firmwareFiles(s settings, dir string) (code, vars string) {
	code, vars = s.code.File, s.vars.File
	switch code {
	case "none":
		code = ""
	case "auto":
		code = ""
		for _, name := range firmwares {
			if name = filepath.Join(dir, name); readable(name) == nil {
				code = name
				break
			}
		}
	}
	switch {
	case code == "" || vars == "none":
		vars = ""
	case vars == "auto":
		folder, name := filepath.Split(code)
		vars = filepath.Join(folder, strings.Replace(name, "CODE", "VARS", 1))
	}
	return code, vars
}

// findFirmware finds the files of the firmware, if there is to be one.
func findFirmware(m *vm.Machine, s settings, dir string) error {
	code, vars := firmwareFiles(s, dir)
	if code == "" {
		if s.disk.Image != "" {
			return fmt.Errorf("MANAGER_QEMU_DISK_IMG_FILE=%q needs firmware to boot: install it (apt install ovmf) or set MANAGER_QEMU_OVMF_CODE_FILE and MANAGER_QEMU_OVMF_VARS_FILE to its files", s.disk.Image)
		}
		return nil
	}
	if code == vars {
		return fmt.Errorf("MANAGER_QEMU_OVMF_VARS_FILE=%q: the firmware's file %s does not say CODE in its name, so that nothing is named like it; set the variable to the template of the firmware's variables, or to none", s.vars.File, code)
	}
	f := vm.Firmware{Code: s.code}
	var err1, err2 error
	f.Code.File, err1 = existing("MANAGER_QEMU_OVMF_CODE_FILE", code)
	if vars != "" {
		f.Vars = s.vars
		f.Vars.File, err2 = existing("MANAGER_QEMU_OVMF_VARS_FILE", vars)
	}
	m.Boot.Firmware = &f
	return errors.Join(err1, err2)
}

// existing is the absolute path of a file that can be read.
func existing(variable, file string) (string, error) {
	abs, err := filepath.Abs(file)
	if err == nil {
		err = readable(abs)
	}
	if err != nil {
		return abs, fmt.Errorf("%s=%q: %w; correct it, or install the firmware (apt install ovmf)", variable, file, err)
	}
	return abs, nil
}
