package hostcheck

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const answers = `#!/bin/sh
case "$1" in
--version) echo "QEMU emulator version 10.0.2";;
-accel) echo tcg; echo kvm;;
-device) printf 'name "%s", bus PCI\n' virtio-net-pci virtio-blk-pci vhost-user-vsock-pci vhost-vsock-pci virtio-scsi-pci scsi-hd;;
-object) echo "  memory-backend-memfd";;
-machine) echo "q35     Standard PC (alias of pc-q35-10.0)";;
-cpu) echo "  EPYC      (alias of EPYC-v1)"; echo "  max   Enables all";;
*) exit 1;;
esac
`

// program sets a stand-in for QEMU, the good one with old replaced.
func program(old, new string) func(*testing.T, *host, *Config) {
	return func(t *testing.T, h *host, c *Config) {
		if !strings.Contains(answers, old) {
			t.Fatalf("nothing says %q", old)
		}
		c.QEMU = write(t, filepath.Join(t.TempDir(), "qemu"), strings.Replace(answers, old, new, 1))
		if err := os.Chmod(c.QEMU, 0o700); err != nil {
			t.Fatal(err)
		}
		h.output = output
	}
}

func TestQEMU(t *testing.T) {
	with := func(old, new string, change func(h *host, c *Config)) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) { program(old, new)(t, h, c); change(h, c) }
	}
	kernel := func(_ *host, c *Config) { c.Vsock = "kernel" }
	disk := func(_ *host, c *Config) { c.Image.Disk = "/d" }
	runCases(t, qemuProgram, map[string]probeCase{
		"good":           {program("", ""), []want{{OK, "is QEMU 10.0.2", "", ""}}},
		"missing":        {func(_ *testing.T, _ *host, c *Config) { c.QEMU = "/nowhere/qemu" }, []want{{Fail, "missing", "7.2 or later", "apt install qemu-system-x86"}}},
		"too old":        {program("10.0.2", "7.1.0"), []want{{Fail, "too old", "7.2", "MANAGER_QEMU_BIN_PATH"}}},
		"not QEMU":       {program("QEMU emulator", "GNU bash"), []want{{Fail, "is not QEMU", "", ""}}},
		"old, emulating": {with("10.0.2", "7.2.9", func(_ *host, c *Config) { c.KVM = "false" }), []want{{Warn, "QEMU 7.2.9, which crashes", "QEMU 10", "bookworm-backports"}}},
		"old, no device": {with("10.0.2", "7.2.9", func(h *host, _ *Config) { h.open = func(string, int) error { return fs.ErrNotExist } }), []want{{Warn, "crashes", "", ""}}},
		"old, with KVM":  {program("10.0.2", "7.2.9"), []want{{OK, "QEMU 7.2.9", "", ""}}},
		"no KVM in it":   {program("echo kvm", "true"), []want{{Fail, `no accel "kvm"`, "to run VMs", "apt install"}}},
		"no TCG in it":   {with("echo tcg; ", "", func(_ *host, c *Config) { c.KVM = "false" }), []want{{Fail, `no accel "tcg"`, "", ""}}},
		"no vhost-user":  {program("vhost-user-vsock-pci", ""), []want{{Fail, `no device "vhost-user-vsock-pci"`, "built-in vsock", "apt install"}}},
		"not needed":     {with("vhost-user-vsock-pci", "", kernel), []want{{OK, "", "", ""}}},
		"no vhost-vsock": {with("vhost-vsock-pci ", "", kernel), []want{{Fail, `no device "vhost-vsock-pci"`, "kernel's vsock", ""}}},
		"no memfd":       {program("memory-backend-memfd", ""), []want{{Fail, `no object "memory-backend-memfd"`, "", ""}}},
		"two lacking":    {program("virtio-net-pci virtio-blk-pci", ""), []want{{Fail, "virtio-net-pci", "", ""}, {Fail, "virtio-blk-pci", "", ""}}},
		"no SCSI":        {with("scsi-hd", "", disk), []want{{Fail, `no device "scsi-hd"`, "disk image", ""}}},
		"with SCSI":      {with("", "", disk), []want{{OK, "", "", ""}}},
		"no such CPU":    {with("", "", func(_ *host, c *Config) { c.CPU = "EPYC-v99,+avx" }), []want{{Fail, `no cpu "EPYC-v99"`, "", "MANAGER_QEMU_CPU"}}},
		"part of a name": {with("", "", func(_ *host, c *Config) { c.CPU = "EPY" }), []want{{Fail, `no cpu "EPY"`, "", ""}}},
		"CPU's features": {with("", "", func(_ *host, c *Config) { c.CPU = "max,+avx" }), []want{{OK, "", "", ""}}},
		"no such type":   {with("", "", func(_ *host, c *Config) { c.MachineType = "q36" }), []want{{Fail, `no machine "q36"`, "", "MANAGER_QEMU_MACHINE"}}},
		"it fails":       {program("-cpu) ", "-cpu) exit 3;"), []want{{Fail, "exit status 3", "", "reinstall"}}},
	})
}

// The real one has everything.
func TestRealQEMU(t *testing.T) {
	bin := os.Getenv("MANAGER_QEMU_BIN_PATH")
	if bin == "" {
		bin = "qemu-system-x86_64"
	}
	h, c := goodHost(t), goodConfig(t)
	h.output, c.QEMU, c.KVM, c.Image.Disk = output, bin, "false", "/d"
	for _, way := range []string{"kernel", "user"} {
		c.Vsock = way
		got := qemuProgram(t.Context(), h, c)
		if len(got) != 1 || got[0].Verdict == Fail {
			t.Errorf("%s: %+v; set MANAGER_QEMU_BIN_PATH to the path that scripts/qemu prints", way, got)
		}
	}
}

func TestSudo(t *testing.T) {
	// fake puts a program of this name and text before all others.
	fake := func(name, text string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) {
			program("", "")(t, h, c)
			c.Sudo = true
			dir := t.TempDir()
			if err := os.Chmod(write(t, filepath.Join(dir, name), "#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":/bin:/usr/bin")
		}
	}
	runCases(t, sudo, map[string]probeCase{
		"not asked for":          {func(_ *testing.T, h *host, _ *Config) { h.output = nil }, []want{{OK, "not asked for", "", ""}}},
		"works, but not to kill": {fake("sudo", `[ "$1" = --non-interactive ] && [ "$2" = -- ] && shift 2 && exec "$@"`), []want{{Fail, "does not kill it", "without a password", "/usr/bin/kill -KILL *"}}},
		"works, also to kill": {fake("sudo", `[ "$*" = "--non-interactive --list kill -KILL 1" ] && exit; [ "$2" = -- ] && shift 2 && exec "$@"`),
			[]want{{OK, "without a password", "", ""}}},
		"password": {fake("sudo", "echo sudo: a password is required >&2; exit 1"),
			[]want{{Fail, "user cocos: exit status 1: sudo: a password is required", "", "echo 'cocos ALL=(root) NOPASSWD: /"}}},
		"in a unit":  {fake("sudo", "echo 'sudo: The \"no new privileges\" flag is set' >&2; exit 1"), []want{{Fail, "no new privileges", "", "drop-in"}}},
		"no QEMU":    {func(t *testing.T, h *host, c *Config) { fake("sudo", "")(t, h, c); c.QEMU = "/nowhere/q" }, []want{{Fail, "/nowhere/q", "", "qemu-system-x86"}}},
		"no sudo":    {func(t *testing.T, h *host, c *Config) { fake("x", "")(t, h, c); t.Setenv("PATH", "/nowhere") }, []want{{Fail, "no sudo", "", "apt install sudo"}}},
		"goes wrong": {fake("sudo", "exit 1"), []want{{Fail, "exit status 1", "", "/etc/sudoers.d/"}}},
	})
}

// What a program says is bounded, in size and in time.
func TestOutput(t *testing.T) {
	text, err := output(t.Context(), "sh", "-c", "head -c 3000000 /dev/zero; echo >&2")
	if err != nil || len(text) != maxOutput {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := output(ctx, "sleep", "1000"); err == nil {
		t.Error("a program that ends never has ended")
	}
}
