// Package refused shows that a guest which does not find what it expects says
// so in one line on its console and powers itself off: whatever the host left
// out, added or exchanged.
package refused

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

// machine is what a boot is given.
type machine struct {
	cpu, initrd, commandLine string
	disks                    []string
}

func TestBootIsRefused(t *testing.T) {
	image, err := hal.Load(filepath.Dir(harness.Image(t, hal.ManifestFile)))
	if err != nil {
		t.Fatal(err)
	}
	good := machine{
		cpu:         "max",
		initrd:      harness.Image(t, hal.InitrdFile),
		commandLine: hal.CommandLine(image, false),
		disks:       []string{harness.Image(t, hal.PythonFile)},
	}
	empty := filepath.Join(t.TempDir(), "empty.img")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(empty, image.Python.Size); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *machine)
		want   string
	}{
		{"unknown parameter", func(_ *testing.T, m *machine) { m.commandLine += " cocos.debug=1" },
			`phase "command line": kernel command line: cocos.debug is not a parameter`},
		{"second runtime disk named", func(_ *testing.T, m *machine) { m.commandLine += " " + hal.RuntimeParameter + "=x" },
			`phase "command line": kernel command line: cocos.runtime is given twice`},
		{"no disk", func(_ *testing.T, m *machine) { m.disks = nil },
			`phase "runtime disk": the kernel command line names a runtime disk, and the VM has none`},
		{"two disks", func(_ *testing.T, m *machine) { m.disks = append(m.disks, empty) },
			`phase "runtime disk": looking for the runtime disk: the disks vda and vdb both have the serial number ""`},
		{"another disk", func(_ *testing.T, m *machine) { m.disks = []string{empty} },
			`it is not the disk that the kernel command line names`},
		{"no RDRAND", func(_ *testing.T, m *machine) { m.cpu += ",-rdrand" },
			`phase "entropy": CPU 0 has no RDRAND`},
		{"missing module", func(t *testing.T, m *machine) { m.initrd = withModule(t, m.initrd, nil) },
			`phase "modules": loading a module: open /lib/modules/other.ko: no such file or directory`},
		{"forged module", func(t *testing.T, m *machine) { m.initrd = withModule(t, m.initrd, []byte("\x7fELF")) },
			`phase "modules": loading module /lib/modules/other.ko: `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := good
			tt.change(t, &m)
			console := boot(t, m)
			if !strings.Contains(console, tt.want) {
				t.Errorf("the console lacks %q:\n%s", tt.want, console)
			}
			for _, want := range []string{"cocos: the agent ended with status 1; powering off", "reboot: Power down"} {
				if !strings.Contains(console, want) {
					t.Errorf("the console lacks %q:\n%s", want, console)
				}
			}
		})
	}
}

// withModule is initrd with a list that has one more module; nil: the file
// itself is missing.
func withModule(t *testing.T, initrd string, module []byte) string {
	t.Helper()
	base, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	const name = "lib/modules/other.ko"
	entries := []cpio.Entry{
		{Name: "lib", Mode: os.ModeDir | 0o755},
		{Name: "lib/modules", Mode: os.ModeDir | 0o755},
		{Name: strings.TrimPrefix(hal.ModulesList, "/"), Mode: 0o644, Data: []byte("/" + name + "\n")},
	}
	if module != nil {
		entries = append(entries, cpio.Entry{Name: name, Mode: 0o644, Data: module})
	}
	// The kernel unpacks archives one after the other; the later file wins. An
	// archive that is not compressed must begin at a multiple of four.
	out := bytes.NewBuffer(append(base, make([]byte, -len(base)&3)...))
	if err := cpio.Write(out, entries); err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(changed, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return changed
}

// boot runs the machine until it powers itself off, and returns its console.
func boot(t *testing.T, m machine) string {
	t.Helper()
	qemu := os.Getenv("MANAGER_QEMU_BIN_PATH")
	if qemu == "" {
		qemu = "qemu-system-x86_64"
	}
	args := []string{
		"-accel", "tcg", "-machine", "q35", "-cpu", m.cpu, "-smp", "1", "-m", "512",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", harness.Image(t, hal.KernelFile), "-initrd", m.initrd, "-append", m.commandLine,
	}
	for _, d := range m.disks {
		args = append(args, "-drive", "if=virtio,format=raw,readonly=on,file="+d)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), harness.BootLimit, errors.New("the guest does not power off"))
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, args...)
	out, err := cmd.CombinedOutput()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		t.Fatalf("%s: %v (MANAGER_QEMU_BIN_PATH; run: scripts/qemu)\n%s", qemu, err, out)
	}
	return string(out)
}
