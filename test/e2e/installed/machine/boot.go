package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// VM is a machine to boot. Every field is required.
type VM struct {
	QEMU  string
	Accel string // kvm or tcg
	// Kernel, Initrd, Root and Payload are files; Payload is the image that is
	// mounted on /payload, whose program run is started.
	Kernel, Initrd, Root, Payload string
	// Console is a file that gets what kernel and systemd say.
	Console string
	// Report gets what is written to the second serial port.
	Report io.Writer
}

// memory and processors of the VM: room for an overlay in memory and a VM in
// it.
const (
	memory     = "3072M"
	processors = "2"
)

// Run boots the VM and waits until it has switched itself off. Nothing of the
// host is in its reach but two serial ports and two read-only disks.
func (v VM) Run(ctx context.Context) error {
	cpu := "max"
	args := []string{"-accel", v.Accel, "-machine", "q35", "-cpu", cpu, "-smp", processors, "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "file,id=console,path=" + escape(v.Console), "-serial", "chardev:console",
		"-chardev", "stdio,id=report,signal=off", "-serial", "chardev:report",
		"-kernel", v.Kernel, "-initrd", v.Initrd,
		"-append", "console=ttyS0 quiet no_timer_check panic=-1 rdinit=/machine-init systemd.show_status=1"}
	for _, disk := range []string{v.Root, v.Payload} {
		args = append(args, "-drive", "if=virtio,format=raw,readonly=on,file.locking=off,file="+escape(disk))
	}
	cmd := exec.CommandContext(ctx, v.QEMU, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout = v.Report
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("the VM: %w: %s", err, said.String())
	}
	return nil
}

// escape makes a value fit QEMU's comma-separated options.
func escape(v string) string { return strings.ReplaceAll(v, ",", ",,") }
