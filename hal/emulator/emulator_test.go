package emulator

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/progress"
)

// machine is a made-up host: a Finder whose files all lie in one folder.
type machine struct {
	*Finder
	env map[string]string
	dir string
}

func newMachine(t *testing.T, osRelease, flags string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{dir: dir, env: map[string]string{"PATH": filepath.Join(dir, "bin")}}
	m.Finder = &Finder{
		Getenv:    func(k string) string { return m.env[k] },
		CPUInfo:   m.write(t, "cpuinfo", "processor\t: 0\nflags\t\t: fpu vme "+flags+" sse\n"),
		OSRelease: m.write(t, "os-release", osRelease),
		EtcApt:    filepath.Join(dir, "apt"),
		CacheDir:  filepath.Join(dir, "cache"),
		Log:       progress.New(io.Discard, false, time.Now),
	}
	return m
}

func (m *machine) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

const devices = `name \"vhost-user-vsock-pci\", bus PCI\nname \"virtio-net-pci\", bus PCI\nname \"virtio-blk-pci\", bus PCI`

// qemu writes a program that answers as QEMU does.
func (m *machine) qemu(t *testing.T, path, version, devices string) string {
	return m.write(t, path, fmt.Sprintf(`#!/bin/sh
case $1 in
--version) echo "QEMU emulator version %s (made up)" ;;
-accel) echo "tcg" ;;
-device) printf '%s\n' ;;
-object) echo "  memory-backend-memfd" ;;
esac
`, version, strings.ReplaceAll(devices, `\"`, `"`)))
}

const (
	debian12 = "ID=debian\nVERSION_CODENAME=bookworm\n"
	debian11 = "ID=debian\nVERSION_CODENAME=bullseye\n"
	fedora   = "ID=fedora\n"
)

func TestFindOnPath(t *testing.T) {
	for name, tc := range map[string]struct{ version, flags string }{
		"10 emulates":        {"10.0.2", ""},
		"11":                 {"11.1.0", ""},
		"7.2 with AMD-V":     {"7.2.1", "svm"},
		"8.0 with VT-x":      {"8.0.0", "vmx"},
		"100 is above 10":    {"100.1", ""},
		"10.0 with VT-x too": {"10.0.0", "vmx"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, fedora, tc.flags)
			want := m.qemu(t, "bin/"+Program, tc.version, devices)
			if got, err := m.Find(t.Context()); err != nil || got != want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestFindRefusesElsewhere(t *testing.T) {
	for name, tc := range map[string]struct {
		osRelease, version, devices, flags string
		want                               []string
	}{
		"no QEMU":             {fedora, "", "", "", []string{"not on PATH", "install QEMU 10", Variable}},
		"old Debian":          {debian11, "", "", "", []string{"install QEMU 10", "Debian 12 or 13"}},
		"old to emulate":      {fedora, "9.2.0", devices, "", []string{"9.2", "older than 10.0", "install QEMU 10"}},
		"too old for any":     {fedora, "7.1.0", devices, "svm", []string{"7.1", "older than 7.2"}},
		"svm in another word": {fedora, "7.2.0", devices, "svmx", []string{"older than 10.0"}},
		"without vsock":       {fedora, "10.0.0", `name \"virtio-net-pci\"`, "", []string{"vhost-user-vsock-pci"}},
		"not QEMU":            {fedora, "x", devices, "", []string{"not QEMU"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, tc.osRelease, tc.flags)
			if tc.version != "" {
				m.qemu(t, "bin/"+Program, tc.version, tc.devices)
			}
			got, err := m.Find(t.Context())
			if err == nil {
				t.Fatalf("found %q", got)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
}

func TestFindNamedByVariable(t *testing.T) {
	m := newMachine(t, debian12, "")
	m.qemu(t, "bin/"+Program, "10.0.0", devices)
	want := m.qemu(t, "elsewhere/qemu", "11.0.0", devices)
	m.env[Variable] = want
	if got, err := m.Find(t.Context()); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	for name, path := range map[string]string{
		"missing": filepath.Join(m.dir, "none"),
		"old":     m.qemu(t, "old", "7.2.0", devices),
	} {
		m.env[Variable] = path
		if _, err := m.Find(t.Context()); err == nil || !strings.Contains(err.Error(), Variable) {
			t.Errorf("%s: got %v, want an error that names the variable", name, err)
		}
	}
}

// What was fetched before is used at once; what does not run is fetched anew,
// which on this machine without package sources ends in an error.
func TestFindInCache(t *testing.T) {
	m := newMachine(t, debian12, "")
	m.qemu(t, "bin/"+Program, "7.2.0", devices)
	_, err := m.Find(t.Context())
	if err == nil || !strings.Contains(err.Error(), "COCOS_DEBIAN_MIRROR") {
		t.Errorf("nothing cached: got %v, want what to do", err)
	}
	want := m.qemu(t, "cache/qemu/bookworm-10.0.2/bin/"+Program, "10.0.2", devices)
	if got, err := m.Find(t.Context()); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	m.qemu(t, "cache/qemu/bookworm-10.0.2/bin/"+Program, "10.0.2", "nothing")
	if got, err := m.Find(t.Context()); err == nil {
		t.Errorf("a broken one is used: %q", got)
	}
}
