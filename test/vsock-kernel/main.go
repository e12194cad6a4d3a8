// Command vsock-kernel runs the vsock tests over the kernel's /dev/vhost-vsock
// on a machine that need not have it: in an outer virtual machine, whose
// kernel has the module, the suite starts an inner one. Both are emulated, so
// it takes minutes; `make test-vsock-kernel` runs it.
//
// The outer VM has the guest image's kernel and modules, the vhost modules
// from the same kernel package, QEMU with its libraries, and the test binary of
// internal/vsock, which does the rest. What it says is shown as it comes, with
// the time; the last line is the verdict. The exit status is 0 only if every
// test that had to run did so and passed: a test that is missing or skipped
// counts as failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

const (
	memory   = "2560M"
	allTests = "^TestKernel"
)

func main() {
	image := flag.String("image", "cmd/manager/img", "`folder` of the guest image")
	tests := flag.String("run", allTests, "run only the tests that match the `pattern`; what else is missing is then not judged")
	timeout := flag.Duration("timeout", time.Hour, "give up after this time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	passed, err := run(ctx, *image, *tests, *timeout)
	took := time.Since(start).Round(time.Second)
	if err != nil {
		fmt.Fprintf(os.Stderr, "vsock-kernel: FAILED after %v: %v\n", took, err)
		os.Exit(1)
	}
	fmt.Printf("vsock-kernel: PASSED after %v: %d tests and cases over the kernel's vsock\n", took, passed)
}

// run returns how many tests and cases have passed.
func run(ctx context.Context, image, tests string, timeout time.Duration) (int, error) {
	if _, err := regexp.Compile(tests); err != nil {
		return 0, fmt.Errorf("-run: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "vsock-kernel")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"bzImage", "rootfs.cpio.gz", "hal.lock.json"} {
		if _, err := os.Stat(filepath.Join(image, name)); err != nil {
			return 0, fmt.Errorf("no guest image: %w: run `make hal`, and this from the top of the source tree", err)
		}
	}
	qemu := os.Getenv("MANAGER_QEMU_BIN_PATH")
	if qemu == "" {
		if qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
			return 0, fmt.Errorf("no QEMU: %w: run `make test-vsock-kernel`, or set MANAGER_QEMU_BIN_PATH", err)
		}
	}
	r := newReport(os.Stdout)
	r.note("packing the outer VM")
	initrd := filepath.Join(dir, "initrd")
	if err := pack(ctx, image, qemu, tests, dir, initrd); err != nil {
		return 0, fmt.Errorf("packing the outer VM: %w", err)
	}
	r.note("starting the outer VM; its guest takes minutes to boot, each of three times")
	// Nothing of the host is in reach of the outer VM but its serial port.
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(image, "bzImage"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet no_timer_check panic=-1 rdinit=/outer")
	cmd.Stdout, cmd.Stderr = r, r
	err = cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return 0, fmt.Errorf("not done within %v; the last line was: %s", timeout, r.last)
	case ctx.Err() != nil:
		return 0, errors.New("interrupted")
	case err != nil:
		return 0, fmt.Errorf("the outer VM: %w", err)
	}
	var want []string
	if tests == allTests {
		want = required()
	}
	return r.judge(want)
}
