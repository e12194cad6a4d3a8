package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestVariables(t *testing.T) {
	runCases(t, variables, map[string]probeCase{
		"none": {nil, []want{{OK, "well formed", "", ""}}},
		"two": {func(_ *testing.T, _ *host, c *Config) {
			c.Faults = []error{errors.New(`MANAGER_X="1" is unknown`), errors.New("MANAGER_Y is empty")}
		}, []want{{Fail, `MANAGER_X="1"`, "", "/etc/cocos/cocos-manager.env"}, {Fail, "MANAGER_Y", "", "cocos-manager.env"}}},
	})
}

func TestUser(t *testing.T) {
	unit := func(name string) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) {
			h.uid, h.user = 0, "root"
			h.output = func(context.Context, ...string) (string, error) { return "LoadState=loaded\nUser=" + name + "\n", nil }
		}
	}
	runCases(t, user, map[string]probeCase{
		"ordinary":                     {nil, []want{{Info, "cocos (user id 998)", "", ""}}},
		"root, the service is cocos's": {unit("cocos"), []want{{Warn, "root", "user cocos", "runuser -u cocos"}}},
		"root, and so the service":     {unit(""), []want{{Info, "root", "", ""}}},
	})
}

func TestKVM(t *testing.T) {
	device := func(err error) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, _ *Config) {
			h.open = func(name string, flag int) error {
				if name != h.path("dev/kvm") || flag != os.O_RDWR {
					t.Errorf("opens %s, %d", name, flag)
				}
				return err
			}
		}
	}
	must := func(change func(*testing.T, *host, *Config)) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) { change(t, h, c); c.KVM = "true" }
	}
	noFlag := func(t *testing.T, h *host, _ *Config) { h.put(t, "proc/cpuinfo", "flags\t\t: fpu svme vmxx\n") }
	noGuest := func(_ *testing.T, h *host, _ *Config) {
		h.guest = func(context.Context, string) (bool, string) { return false, "a test guest did not run: hangs" }
	}
	runCases(t, kvm, map[string]probeCase{
		"works":        {nil, []want{{OK, "a test guest ran", "", ""}}},
		"switched off": {func(_ *testing.T, h *host, c *Config) { c.KVM = "false"; h.open = nil }, []want{{Info, "MANAGER_QEMU_ENABLE_KVM=false", "", ""}}},
		"no flag":      {noFlag, []want{{Warn, "neither svm nor vmx: VMs are emulated", "", "nested virtualisation"}}},
		"no flag, and asked for": {must(noFlag), []want{{Fail, "neither svm nor vmx", "/proc/cpuinfo",
			"MANAGER_QEMU_ENABLE_KVM=auto"}}},
		"no cpuinfo": {func(t *testing.T, h *host, _ *Config) {
			if err := os.Remove(h.path("proc/cpuinfo")); err != nil {
				t.Fatal(err)
			}
		}, []want{{Warn, "neither", "", ""}}},
		"no device":                 {device(fs.ErrNotExist), []want{{Warn, "no /dev/kvm", "", "modprobe kvm_amd && echo kvm_amd > /etc/modules-load.d/kvm_amd.conf"}}},
		"no driver":                 {must(device(unix.ENODEV)), []want{{Fail, "no /dev/kvm", "", "modprobe kvm_amd"}}},
		"no permission":             {device(unix.EACCES), []want{{Warn, "user cocos may not open /dev/kvm", "", "chgrp kvm /dev/kvm && chmod 0660 /dev/kvm && usermod -aG kvm cocos"}}},
		"no permission, asked for":  {must(device(unix.EACCES)), []want{{Fail, "may not open", "", "usermod -aG kvm cocos"}}},
		"another error":             {device(unix.EIO), []want{{Warn, "input/output error", "", "dmesg"}}},
		"the guest does not answer": {noGuest, []want{{Warn, "a test guest did not run", "", "dmesg"}}},
		"nor when asked for":        {must(noGuest), []want{{Fail, "a test guest did not run", "", "auto"}}},
		"Intel's module": {func(t *testing.T, h *host, c *Config) {
			h.put(t, "proc/cpuinfo", "vendor_id : GenuineIntel\nflags : vmx\n")
			h.put(t, "lib/modules/6.12.1-amd64/modules.builtin", "kernel/arch/x86/kvm/kvm-intel.ko\n")
			device(fs.ErrNotExist)(t, h, c)
		}, []want{{Warn, "no /dev/kvm", "", "boot a kernel that has the module kvm_intel"}}},
	})
}

// The device's own group is named where it would do.
func TestDeviceGroup(t *testing.T) {
	h := goodHost(t)
	h.put(t, kvmDevice, "")
	gid := 106
	if os.Getuid() != 0 {
		gid = os.Getgid() // an ordinary user can give a file only to its own
	}
	if err := errors.Join(os.Chown(h.path(kvmDevice), -1, gid), os.Chmod(h.path(kvmDevice), 0o660)); err != nil {
		t.Fatal(err)
	}
	h.groupName = func(g int) string { return fmt.Sprintf("group%d", g) }
	if got, want := h.mayOpen(kvmDevice), fmt.Sprintf("usermod -aG group%d cocos;", gid); !strings.HasPrefix(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := os.Chmod(h.path(kvmDevice), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := h.mayOpen(kvmDevice); !strings.HasPrefix(got, "chgrp kvm /dev/kvm && chmod 0660 /dev/kvm") {
		t.Errorf("the group may not, and yet: %q", got)
	}
}

func TestVsock(t *testing.T) {
	kernel := func(way string, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, c *Config) {
			c.Vsock = way
			h.kernelVsock = func() error { return fmt.Errorf("opening: %w", err) }
		}
	}
	runCases(t, vsockWay, map[string]probeCase{
		"kernel's":              {nil, []want{{OK, "/dev/vhost-vsock opens", "", ""}}},
		"built in":              {kernel("user", fs.ErrNotExist), []want{{OK, "MANAGER_QEMU_VSOCK=user", "", ""}}},
		"auto without device":   {kernel("auto", fs.ErrNotExist), []want{{OK, "built into the shim is used, as there is no /dev/vhost-vsock", "", ""}}},
		"auto without rights":   {kernel("auto", unix.EACCES), []want{{OK, "user cocos may not open", "", ""}}},
		"kernel without it":     {kernel("kernel", unix.ENODEV), []want{{Fail, "no /dev/vhost-vsock", "MANAGER_QEMU_VSOCK=kernel", "modprobe vhost_vsock"}}},
		"kernel, no rights":     {kernel("kernel", unix.EACCES), []want{{Fail, "may not open", "", "usermod -aG kvm cocos"}}},
		"kernel, no sockets":    {kernel("kernel", unix.EAFNOSUPPORT), []want{{Fail, "no vsock sockets", "", "module vsock"}}},
		"kernel, another error": {kernel("kernel", unix.EIO), []want{{Fail, "input/output error", "", "dmesg"}}},
	})
}

func TestMemory(t *testing.T) {
	runCases(t, memory, map[string]probeCase{
		"enough":      {nil, []want{{OK, "58593 MiB available of 64000 MiB", "", ""}}},
		"not for one": {func(_ *testing.T, _ *host, c *Config) { c.MemoryMiB = 64001 }, []want{{Fail, "64001 MiB for each VM", "one VM", "MANAGER_QEMU_MEMORY_SIZE"}}},
		"more than all may have": {func(_ *testing.T, _ *host, c *Config) { c.Limits.MaxMemoryMiB = 4095 },
			[]want{{Fail, "4095 MiB for all", "one VM", "MANAGER_MAX_VM_MEMORY"}}},
		"in use now":  {func(_ *testing.T, _ *host, c *Config) { c.MemoryMiB = 60000 }, []want{{Warn, "60000 MiB", "kernel will end processes", "ps aux"}}},
		"not for all": {func(_ *testing.T, _ *host, c *Config) { c.Limits.MaxVMs = 16 }, []want{{Warn, "4096 MiB", "65536 MiB for the 16 VMs", "MANAGER_MAX_VMS"}}},
		"not for all, but limited": {func(_ *testing.T, _ *host, c *Config) { c.Limits.MaxVMs, c.Limits.MaxMemoryMiB = 16, 60000 },
			[]want{{OK, "4096 MiB", "", ""}}},
		"no proc": {func(t *testing.T, h *host, _ *Config) { h.put(t, "proc/meminfo", "") }, []want{{Warn, "meminfo", "", "mount"}}},
	})
}

func TestCPUs(t *testing.T) {
	runCases(t, cpus, map[string]probeCase{
		"enough":    {func(_ *testing.T, _ *host, c *Config) { c.VCPUs = 8 }, []want{{OK, "8, and 8 virtual", "", ""}}},
		"too few":   {func(_ *testing.T, _ *host, c *Config) { c.VCPUs = 9 }, []want{{Warn, "9 virtual", "", "MANAGER_QEMU_SMP_COUNT=8"}}},
		"forbidden": {func(_ *testing.T, _ *host, c *Config) { c.Limits.MaxVCPUs = 3 }, []want{{Fail, "3 for all", "", "MANAGER_MAX_VCPUS"}}},
	})
}

func TestProcessLimits(t *testing.T) {
	files := func(n uint64, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) { h.nofile = func() (uint64, error) { return n, err } }
	}
	runCases(t, processLimits, map[string]probeCase{
		"just enough": {files(baseFiles+10*filesPerVM, nil), []want{{OK, "208 open files", "", ""}}},
		"one too few": {files(baseFiles+10*filesPerVM-1, nil), []want{{Fail, "207 open files", "208 for 10 VMs", "LimitNOFILE=208"}}},
	})
	h, c := goodHost(t), goodConfig(t)
	h.nofile = func() (uint64, error) { return 0, unix.EPERM }
	if fs := processLimits(t.Context(), h, c); fs[0].Verdict != Warn || !strings.Contains(fs[0].Found, "not permitted") {
		t.Errorf("%+v", fs)
	}
}

func TestClock(t *testing.T) {
	is := func(ok bool, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) { h.synced = func() (bool, error) { return ok, err } }
	}
	runCases(t, clock, map[string]probeCase{
		"synchronised": {nil, []want{{OK, "2026-11-24 12:00:00 UTC, synchronised", "", ""}}},
		"not":          {is(false, nil), []want{{Info, "does not know", "", "timedatectl set-ntp true"}}},
		"not known":    {is(false, unix.ENOSYS), []want{{Info, "not known", "", ""}}},
	})
}

func TestService(t *testing.T) {
	unit := func(text string, err error) func(*testing.T, *host, *Config) {
		return func(_ *testing.T, h *host, _ *Config) {
			h.output = func(_ context.Context, argv ...string) (string, error) {
				if argv[0] != "systemctl" || argv[1] != "show" {
					t.Errorf("runs %q", argv)
				}
				return text, err
			}
		}
	}
	runCases(t, service, map[string]probeCase{
		"runs":          {unit("LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nKillMode=process\n", nil), []want{{Info, "active (running), enabled", "", ""}}},
		"ends its VMs":  {unit("LoadState=loaded\nActiveState=active\nKillMode=control-group\n", nil), []want{{Warn, "a restart ends its VMs", "KillMode=process", "systemctl edit"}}},
		"has failed":    {unit("LoadState=loaded\nActiveState=failed\nKillMode=process\n", nil), []want{{Warn, "failed", "", "journalctl -u cocos-manager"}}},
		"not installed": {unit("LoadState=not-found\n", nil), []want{{Info, "not-found", "", "make install"}}},
		"no answer":     {unit("no bus", errors.New("exit status 1")), []want{{Info, "no bus", "", ""}}},
		"no systemd": {func(t *testing.T, h *host, _ *Config) {
			if err := os.RemoveAll(h.path("run")); err != nil {
				t.Fatal(err)
			}
		}, []want{{Info, "systemd does not run here", "", ""}}},
	})
}
