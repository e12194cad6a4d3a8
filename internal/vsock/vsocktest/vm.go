package vsocktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/hal/cpio"
)

// Environment variables that say where things are, for a test that runs
// outside the source tree (in an outer VM, for one).
const (
	QEMUVariable  = "MANAGER_QEMU_BIN_PATH" // the emulator; else qemu-system-x86_64 on PATH
	ImageVariable = "COCOS_TEST_IMAGE"      // folder of bzImage and rootfs.cpio.gz; else cmd/manager/img
	GuestVariable = "COCOS_TEST_GUEST"      // archive of PackGuest; else it is built
)

// initPath is the guest's part in the initial RAM disk.
const initPath = "guestinit"

// Machine is what a test's VM differs in.
type Machine struct {
	Device    []string   // QEMU arguments of the vsock device
	Files     []*os.File // that QEMU inherits, from descriptor 3 on
	Kernel    string     // further kernel parameters
	MemoryMiB int        // 0: 512
}

// VM is a running QEMU under emulation.
type VM struct {
	cmd     *exec.Cmd
	console *tail
	qmp     *qmp
	exited  chan struct{}
	err     error // valid after exited
}

// PackGuest builds the guest's part and packs it as an archive that goes
// behind the image's own.
func PackGuest(dir string) (string, error) {
	bin := filepath.Join(dir, initPath)
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "github.com/ultravioletrs/cocos/internal/vsock/vsocktest/guestinit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the guest's part: %w\n%s", err, out)
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		return "", err
	}
	path := bin + ".cpio"
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	err = cpio.Write(f, []cpio.Entry{{Name: initPath, Mode: 0o755, Data: data}})
	return path, errors.Join(err, f.Close())
}

// Files are what a VM is started from.
type Files struct{ QEMU, Kernel, Initrd string }

// FindFiles finds QEMU and the guest image, and makes the initial RAM disk in
// dir: the image's with the guest's part behind it.
func FindFiles(dir string) (Files, error) {
	f := Files{QEMU: os.Getenv(QEMUVariable), Initrd: filepath.Join(dir, "initrd")}
	if f.QEMU == "" {
		var err error
		if f.QEMU, err = exec.LookPath("qemu-system-x86_64"); err != nil {
			return f, fmt.Errorf("no QEMU: %w: run `make test`, or set %s (scripts/qemu prints a path)", err, QEMUVariable)
		}
	}
	image := os.Getenv(ImageVariable)
	if image == "" {
		tree, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			return f, fmt.Errorf("finding the source tree: %w: run this in it", err)
		}
		image = filepath.Join(strings.TrimSpace(string(tree)), "cmd/manager/img")
	}
	f.Kernel = filepath.Join(image, "bzImage")
	if _, err := os.Stat(f.Kernel); err != nil {
		return f, fmt.Errorf("no guest image: %w: run `make hal`", err)
	}
	guest := os.Getenv(GuestVariable)
	if guest == "" {
		var err error
		if guest, err = PackGuest(dir); err != nil {
			return f, err
		}
	}
	base, err := os.ReadFile(filepath.Join(image, "rootfs.cpio.gz"))
	if err != nil {
		return f, fmt.Errorf("no guest image: %w: run `make hal`", err)
	}
	ours, err := os.ReadFile(guest)
	if err != nil {
		return f, err
	}
	// An archive that is not compressed begins at a multiple of four bytes.
	base = append(base, make([]byte, -len(base)&3)...)
	return f, os.WriteFile(f.Initrd, append(base, ours...), 0o600)
}

// Start boots a VM. Its sockets go to dir.
func Start(f Files, m Machine, dir string) (*VM, error) {
	mib := m.MemoryMiB
	if mib == 0 {
		mib = 512
	}
	monitor := filepath.Join(dir, "qmp")
	args := []string{
		"-accel", "tcg", "-machine", "q35,memory-backend=ram", "-cpu", "max", "-smp", "1", "-m", fmt.Sprintf("%dM", mib),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", mib),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-qmp", "unix:" + monitor + ",server=on,wait=off",
		"-kernel", f.Kernel, "-initrd", f.Initrd,
		"-append", strings.TrimSpace("console=ttyS0 quiet no_timer_check panic=-1 reboot=t rdinit=/" + initPath + " " + m.Kernel),
	}
	vm := &VM{cmd: exec.Command(f.QEMU, append(args, m.Device...)...), console: &tail{}, exited: make(chan struct{})}
	vm.cmd.ExtraFiles = m.Files
	vm.cmd.Stdout, vm.cmd.Stderr = vm.console, vm.console
	if err := vm.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	go func() {
		vm.err = vm.cmd.Wait()
		close(vm.exited)
	}()
	var err error
	if vm.qmp, err = dialQMP(monitor, vm.exited); err != nil {
		vm.Kill()
		return nil, fmt.Errorf("reaching QEMU's monitor: %w\n%s", err, vm.console)
	}
	return vm, nil
}

// Console is the end of what the VM, and QEMU, have said.
func (vm *VM) Console() string { return vm.console.String() }

// Pause stops the VM's processors; Resume lets them go on; Reset is its reset
// button.
func (vm *VM) Pause() error  { return vm.qmp.run("stop") }
func (vm *VM) Resume() error { return vm.qmp.run("cont") }
func (vm *VM) Reset() error  { return vm.qmp.run("system_reset") }

// Wait waits until QEMU has ended by itself.
func (vm *VM) Wait(patience time.Duration) error {
	select {
	case <-vm.exited:
		return vm.err
	case <-time.After(patience):
		return errors.New("QEMU goes on")
	}
}

// Kill ends QEMU.
func (vm *VM) Kill() {
	vm.cmd.Process.Kill()
	<-vm.exited
	if vm.qmp != nil {
		vm.qmp.conn.Close()
	}
}

// qmp is QEMU's monitor.
type qmp struct {
	conn net.Conn
	dec  *json.Decoder
}

func dialQMP(path string, exited <-chan struct{}) (*qmp, error) {
	deadline := time.Now().Add(time.Minute)
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			q := &qmp{c, json.NewDecoder(c)}
			return q, q.run("qmp_capabilities")
		}
		select {
		case <-exited:
			return nil, errors.New("QEMU has ended")
		case <-time.After(20 * time.Millisecond): // QEMU says by nothing else that it listens
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

func (q *qmp) run(name string) error {
	if _, err := fmt.Fprintf(q.conn, "{\"execute\":%q}\n", name); err != nil {
		return fmt.Errorf("telling QEMU %s: %w", name, err)
	}
	for {
		var m struct {
			Return *json.RawMessage
			Error  *json.RawMessage
		}
		if err := q.dec.Decode(&m); err != nil {
			return fmt.Errorf("QEMU's answer to %s: %w", name, err)
		}
		switch {
		case m.Error != nil:
			return fmt.Errorf("QEMU's answer to %s: %s", name, *m.Error)
		case m.Return != nil:
			return nil
		} // else the greeting, or an event
	}
}

// tail keeps the end of a stream.
type tail struct {
	mu sync.Mutex
	b  []byte
}

var _ io.Writer = (*tail)(nil)

const tailSize = 16 << 10 // bytes

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b); n > tailSize {
		t.b = append(t.b[:0], t.b[n-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ReplaceAll(t.b, []byte("\r"), nil))
}
