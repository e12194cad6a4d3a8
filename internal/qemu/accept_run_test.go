package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

// qemuVersions are those whose word counts: of Debian 12, of Debian 13, and the
// one of its backports, which moves on.
var qemuVersions = []string{"7.2", "10.0", "11"}

// answerLimit bounds everything that one QEMU is asked.
const answerLimit = 2 * time.Minute

func finder(t *testing.T) *emulator.Finder {
	t.Helper()
	f, err := emulator.New(os.Getenv, progress.New(t.Output(), false, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// emulatorOf is the real QEMU of a version, fetched the first time.
func emulatorOf(t *testing.T, want string) string {
	t.Helper()
	bin, err := finder(t).Version(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Probe(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("QEMU %s is %s", want, v)
	return bin
}

// host is a folder in which a command line finds all that it names.
type host struct {
	dir    vm.Dir
	folder string
}

// newHost makes one; there is a comma in every path.
func newHost(t *testing.T) *host {
	t.Helper()
	folder, err := os.MkdirTemp("", "q,args")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return &host{dir: vm.Dir(folder), folder: folder}
}

// args is the command line of a variant, with its files here and without KVM,
// which is not everywhere.
func (h *host) args(t *testing.T, change func(*vm.Spec)) []string {
	t.Helper()
	spec := testSpec()
	change(&spec)
	// The address stays: one variant's is every address, for the moment in which a
	// VM whose CPUs stand still is there.
	spec.Machine.Net.Forward = netip.AddrPortFrom(spec.Machine.Net.Forward.Addr(), freePort(t))
	b := &spec.Machine.Boot
	if b.Kernel != "" {
		b.Kernel = kernelFile(t, h.folder)
	}
	h.file(t, &b.Initrd, "rootfs", 1<<20)
	h.file(t, &spec.Machine.Runtime, "python.img", 1<<20)
	if n := spec.Machine.ScratchBytes; n > 0 {
		if err := errors.Join(os.WriteFile(h.dir.Scratch(), nil, 0o600), os.Truncate(h.dir.Scratch(), n)); err != nil {
			t.Fatal(err)
		}
	}
	h.file(t, &spec.Machine.Net.ROMFile, "rom", 64<<10)
	h.file(t, &b.BIOS, "bios.fd", 2<<20)
	if b.HashTable != nil {
		if err := os.WriteFile(h.dir.Hashes(), b.HashTable.Content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.firmware(t, b)
	h.disk(t, b)
	if err := Validate(spec); err != nil {
		t.Fatal(err)
	}
	args := Args(spec, h.dir)
	i := slices.Index(args, "-enable-kvm")
	if kvm := spec.Machine.Accel == vm.AccelKVM; kvm != (i >= 0) {
		t.Fatalf("with %s the command line is %q", spec.Machine.Accel, args)
	}
	if i >= 0 {
		args = slices.Replace(args, i, i+1, "-accel", vm.AccelTCG)
	}
	return args
}

// file points name, unless empty, to a file of its own.
func (h *host) file(t *testing.T, name *string, base string, size int) {
	t.Helper()
	if *name == "" {
		return
	}
	*name = filepath.Join(h.folder, base)
	if err := os.WriteFile(*name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// firmware brings OVMF of the kind that the variant names, as the VM has it: the
// code to share, the variables to own.
func (h *host) firmware(t *testing.T, b *vm.Boot) {
	t.Helper()
	if b.Firmware == nil {
		return
	}
	release := "trixie"
	if !strings.Contains(b.Firmware.Code.File, "4M") {
		release = "bookworm" // the last with builds of 2 MiB
	}
	from, err := finder(t).Firmware(t.Context(), release)
	if err != nil {
		t.Fatal(err)
	}
	firmware := *b.Firmware
	b.Firmware = &firmware
	for _, f := range []struct {
		flash *vm.Flash
		to    string
	}{{&firmware.Code, filepath.Join(h.folder, "code.fd")}, {&firmware.Vars, h.dir.Vars()}} {
		if f.flash.File == "" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(from, filepath.Base(f.flash.File)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.to, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f.flash.File = f.to
	}
}

// disk makes an image and the VM's overlay on it.
func (h *host) disk(t *testing.T, b *vm.Boot) {
	t.Helper()
	if b.Disk == nil {
		return
	}
	disk := *b.Disk
	b.Disk = &disk
	disk.Format = vm.DiskRaw
	h.file(t, &disk.Image, "disk.raw", 1<<20)
	if err := qcow2.CreateOverlay(h.dir.Overlay(), disk.Image, disk.Format); err != nil {
		t.Fatal(err)
	}
}

// try starts QEMU with args, at the other end of its monitor, its console and
// its vsock device, lets ask, if any, talk to it, and tells it to quit. An error
// has what QEMU said.
func (h *host) try(ctx context.Context, bin string, args []string, ask func(context.Context, *QMP) error) error {
	err := h.tryOnce(ctx, bin, args, ask)
	if errors.Is(err, errCrashed) {
		// Seldom, and on a busy machine: that is QEMU's fault, and not its line's.
		err = h.tryOnce(ctx, bin, args, ask)
	}
	return err
}

// errCrashed: a signal that nobody here sent ended QEMU.
var errCrashed = errors.New("QEMU has crashed")

func (h *host) tryOnce(ctx context.Context, bin string, args []string, ask func(context.Context, *QMP) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var said bytes.Buffer
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w; QEMU said: %s", err, bytes.TrimSpace(said.Bytes()))
			return
		}
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "deprecated") {
				err = errors.Join(err, fmt.Errorf("QEMU said: %s", line))
			}
		}
	}()
	monitor, err := net.Listen("unix", h.dir.QMPSocket())
	if err != nil {
		return err
	}
	defer monitor.Close()
	console, err := net.Listen("unix", h.dir.ConsoleSocket())
	if err != nil {
		return err
	}
	defer console.Close()
	device, err := vsock.NewUserHost(vsock.UserConfig{QEMUSocket: h.dir.VhostSocket(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer device.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := Start(Command{Path: bin, Args: args, Dir: h.folder, Files: []*os.File{null}, Output: &said})
	if err != nil {
		return err
	}
	defer func() { // before said is read
		if err != nil { // that it ends is seen first at its sockets
			select {
			case <-p.Done():
				if s := p.ExitStatus(); s > 128 {
					err = fmt.Errorf("%w (signal %d): %w", errCrashed, s-128, err)
				}
			case <-time.After(time.Second):
			}
		}
		_ = p.Kill()
		<-p.Done()
	}()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.Done():
		case <-ctx.Done():
		case <-stop:
		}
		_ = monitor.Close()
	}()
	conn, err := monitor.Accept()
	if err != nil {
		return errors.New("the command line is refused")
	}
	q, err := NewQMP(ctx, conn, func(Event) {})
	if err != nil {
		return err
	}
	defer q.Close()
	if ask != nil {
		if err := ask(ctx, q); err != nil {
			return err
		}
	}
	if err := q.Quit(ctx); err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	if s := p.ExitStatus(); s != 0 {
		return fmt.Errorf("QEMU ends with %d", s)
	}
	return nil
}

// prelaunch wants CPUs that stand still, and a monitor that refuses nonsense.
func prelaunch(ctx context.Context, q *QMP) error {
	if s, err := q.Status(ctx); err != nil || s != "prelaunch" {
		return fmt.Errorf("the guest is %q, %w", s, err)
	}
	var refused *QMPError
	if err := q.Execute(ctx, "no-such-command", nil, nil); !asError(err, &refused) {
		return fmt.Errorf("a command that does not exist gives %w", err)
	}
	return nil
}

// kernelFile has what QEMU looks for in a kernel: the header of the Linux x86
// boot protocol 2.12, and sectors to load.
func kernelFile(t *testing.T, folder string) string {
	t.Helper()
	b := make([]byte, 64<<10)
	b[0x1f1] = 1 // setup sectors
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	b[0x206], b[0x207] = 0x0c, 0x02
	b[0x211] = 1                        // loaded high
	copy(b[0x22c:], "\xff\xff\xff\x7f") // the highest address of an initrd
	copy(b[0x238:], "\xff\x07")         // the command line's size
	name := filepath.Join(folder, "bzImage")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// values are those of one option.
func values(args []string, option string) []string {
	var out []string
	for i, a := range args[:len(args)-1] {
		if a == option {
			out = append(out, args[i+1])
		}
	}
	return out
}
