// Command vsock-kernel runs the vsock suite over the kernel's /dev/vhost-vsock
// on a machine that need not have it: in an outer virtual machine, whose
// kernel has the module, the suite starts an inner one. Both are emulated, so
// it takes minutes; `make test-vsock-kernel` runs it.
//
// The outer VM has the guest image's kernel and modules, the vhost modules
// from the same kernel package, QEMU with its libraries, and the test binary of
// internal/vsock, which does the rest.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	memory  = "2560M"
	timeout = 45 * time.Minute

	// What test/vsock-kernel/outer says at its end.
	passed = "vsock-kernel: PASSED"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vsock-kernel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	start := time.Now()
	dir, err := os.MkdirTemp("", "vsock-kernel")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image, err := imageFolder()
	if err != nil {
		return err
	}
	qemu := os.Getenv("MANAGER_QEMU_BIN_PATH")
	if qemu == "" {
		if qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
			return fmt.Errorf("no QEMU: %w: run `make test-vsock-kernel`, or set MANAGER_QEMU_BIN_PATH", err)
		}
	}
	initrd := filepath.Join(dir, "initrd")
	if err := pack(ctx, image, qemu, dir, initrd); err != nil {
		return fmt.Errorf("packing the outer VM: %w", err)
	}
	fmt.Printf("vsock-kernel: packed after %v, starting the outer VM\n", time.Since(start).Round(time.Second))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Nothing of the host is in reach of the outer VM but its serial port.
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(image, "bzImage"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 rdinit=/outer")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &said), os.Stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("the outer VM was stopped: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("the outer VM: %w", err)
	}
	if !bytes.Contains(said.Bytes(), []byte(passed)) {
		return errors.New("the suite did not pass in the outer VM: its console is above")
	}
	fmt.Printf("vsock-kernel: all passed after %v\n", time.Since(start).Round(time.Second))
	return nil
}

// imageFolder is the guest image's, from the root of the source tree.
func imageFolder() (string, error) {
	image, err := filepath.Abs("cmd/manager/img")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"bzImage", "rootfs.cpio.gz"} {
		if _, err := os.Stat(filepath.Join(image, name)); err != nil {
			return "", fmt.Errorf("no guest image: %w: run `make hal`, and this from the top of the source tree", err)
		}
	}
	return image, nil
}
