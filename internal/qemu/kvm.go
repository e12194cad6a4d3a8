package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ultravioletrs/cocos/internal/vm"
)

// kvmTimeout bounds the tiny guest under KVM; it needs a fraction of a second.
const kvmTimeout = 20 * time.Second

// KVMUsable tells whether guests really run under KVM here, or why not. An open
// /dev/kvm proves nothing: the CPU must say svm or vmx, and a tiny guest must
// have answered.
func KVMUsable(ctx context.Context, bin string) (usable bool, reason string) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false, err.Error()
	}
	if !virtualises(info) {
		return false, "the CPU offers neither svm nor vmx (/proc/cpuinfo)"
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return false, fmt.Sprintf("%v; add this user to the group kvm", err)
		}
		return false, fmt.Sprintf("%v; load the module kvm_amd or kvm_intel", err)
	}
	_ = f.Close()
	ctx, cancel := context.WithTimeout(ctx, kvmTimeout)
	defer cancel()
	if err := tinyGuest(ctx, bin, vm.AccelKVM); err != nil {
		return false, fmt.Sprintf("/dev/kvm opens, but a test guest did not run: %v", err)
	}
	return true, ""
}

// virtualises looks for the flags in the text of /proc/cpuinfo.
func virtualises(info []byte) bool {
	for line := range bytes.Lines(info) {
		name, flags, ok := strings.Cut(string(line), ":")
		if !ok || strings.TrimSpace(name) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(flags) {
			if flag == "svm" || flag == "vmx" {
				return true
			}
		}
	}
	return false
}

// answer is what the tiny guest writes to port 0xf4; isa-debug-exit makes it
// QEMU's exit status, shifted left with the lowest bit set.
const answer = 0x2a

// bootSector is a guest: 16-bit code that the firmware loads from the first
// 512 bytes of a disk and jumps to.
func bootSector() [512]byte {
	s := [512]byte{
		0xba, 0xf4, 0x00, // mov dx, 0xf4
		0xb0, answer, // mov al, answer
		0xee,       // out dx, al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp to the hlt
	}
	s[510], s[511] = 0x55, 0xaa // what makes it bootable
	return s
}

// tinyGuest runs the boot sector and is nil if it answered.
func tinyGuest(ctx context.Context, bin, accel string) error {
	dir, err := os.MkdirTemp("", "cocos-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sector := bootSector()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, sector[:], 0o600); err != nil {
		return err
	}
	// The firmware reads no disk without a whole cylinder.
	if err := os.Truncate(disk, 1<<20); err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, bin,
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", accel, "-cpu", "max", "-m", "32M",
		"-blockdev", "driver=raw,node-name=disk,read-only=on,file.driver=file,file.read-only=on,file.filename="+escape(disk),
		"-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=1", 0xf4))
	cmd.Stderr = &stderr
	cmd.Env = environment()
	cmd.WaitDelay = outputDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it did not answer in time: %w", context.Cause(ctx))
	case errors.As(err, &exit) && exit.ExitCode() == answer<<1|1:
		return nil
	case err == nil:
		return errors.New("it ended without an answer")
	}
	return fmt.Errorf("%w:%s", err, quoted(stderr.Bytes()))
}
