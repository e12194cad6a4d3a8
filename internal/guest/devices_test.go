package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sysfs makes a tree of PCI devices, "vendor device class" by address, and of
// virtio devices by what lies above them.
func sysfs(t *testing.T, pci, virtio map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for address, ids := range pci {
		dir := filepath.Join(sys, pciDevices, address)
		must(os.MkdirAll(dir, 0o755))
		for i, name := range []string{"vendor", "device", "class"} {
			must(os.WriteFile(filepath.Join(dir, name), []byte(strings.Fields(ids)[i]+"\n"), 0o644))
		}
	}
	must(os.MkdirAll(filepath.Join(sys, virtioDevices), 0o755))
	for name, parent := range virtio {
		must(os.Symlink("../../../devices/"+parent+"/"+name, filepath.Join(sys, virtioDevices, name)))
	}
	return sys
}

func TestCheckDevices(t *testing.T) {
	pci := func(more ...string) map[string]string {
		m := map[string]string{
			"0000:00:00.0": "0x8086 0x29c0 0x060000",
			"0000:00:01.0": "0x1af4 0x1041 0x020000",
			"0000:00:02.0": "0x1af4 0x1053 0x078000",
			"0000:00:03.0": "0x1af4 0x1042 0x010000",
			"0000:00:1f.0": "0x8086 0x2918 0x060100",
			"0000:00:1f.2": "0x8086 0x2922 0x010601",
			"0000:00:1f.3": "0x8086 0x2930 0x0c0500",
		}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	virtio := func(more ...string) map[string]string {
		m := map[string]string{"virtio0": "pci0000:00/0000:00:01.0", "virtio1": "pci0000:00/0000:00:02.0"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	for name, tt := range map[string]struct {
		pci, virtio map[string]string
		want        string
	}{
		"what Cocos gives":         {pci(), virtio(), ""},
		"nothing":                  {nil, nil, ""},
		"a screen":                 {pci("0000:00:04.0", "0x1234 0x1111 0x030000"), virtio(), "PCI device 0000:00:04.0 is 0x1234:0x1111"},
		"a file system":            {pci("0000:00:04.0", "0x1af4 0x105a 0x018000"), virtio(), "0x1af4:0x105a"},
		"an old virtio network":    {pci("0000:00:01.0", "0x1af4 0x1000 0x020000"), virtio(), "0x1af4:0x1000"},
		"a known one, other class": {pci("0000:00:01.0", "0x1af4 0x1041 0x030000"), virtio(), "of class 0x0300"},
		"a second network":         {pci("0000:00:04.0", "0x1af4 0x1041 0x020000"), virtio(), "second virtio network"},
		"a second disk":            {pci("0000:00:04.0", "0x1af4 0x1042 0x010000"), virtio(), ""},
		"a third disk": {
			pci("0000:00:04.0", "0x1af4 0x1042 0x010000", "0000:00:05.0", "0x1af4 0x1042 0x010000"), virtio(),
			"one virtio disk more than the 2",
		},
		"no class":              {pci("0000:00:04.0", "0x1af4 0x1041 0x"), virtio(), "of class 0x,"},
		"virtio by ACPI":        {pci(), virtio("virtio2", "LNRO0005:00"), "virtio device virtio2 is not on the PCI bus"},
		"virtio on another bus": {pci(), virtio("virtio2", "pci0000:00/0000:00:09.0"), "virtio2"},
	} {
		t.Run(name, func(t *testing.T) {
			sys := sysfs(t, tt.pci, tt.virtio)
			err := checkDevices(sys)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v; want %q in it", err, tt.want)
			}
		})
	}
	if err := checkDevices(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("a machine without these buses: %v", err)
	}
}

// After the lock no bus gives a driver to what comes, and what came since the
// first look ends the boot.
func TestLockDevices(t *testing.T) {
	cocos := map[string]string{"0000:00:01.0": "0x1af4 0x1041 0x020000"}
	on := []string{"1\n", "1\n"}
	for name, tt := range map[string]struct {
		pci   map[string]string
		locks []string // of PCI and of virtio; empty: there is none
		want  string
	}{
		"what Cocos gives":    {cocos, on, ""},
		"no lock of PCI":      {cocos, []string{"", "1\n"}, "pci/drivers_autoprobe: no such file"},
		"no lock of virtio":   {cocos, []string{"1\n", ""}, "virtio/drivers_autoprobe: no such file"},
		"a device since then": {map[string]string{"0000:00:04.0": "0x1234 0x1111 0x030000"}, on, "PCI device 0000:00:04.0"},
	} {
		t.Run(name, func(t *testing.T) {
			sys := sysfs(t, tt.pci, nil)
			for i, b := range tt.locks {
				file := filepath.Join(sys, driverLocks[i])
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if b == "" {
					continue
				}
				if err := os.WriteFile(file, []byte(b), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := lockDevices(sys)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v; want %q in it", err, tt.want)
			}
			if tt.want != "" {
				return
			}
			for _, lock := range driverLocks {
				if b, err := os.ReadFile(filepath.Join(sys, lock)); err != nil || string(b) != "0\n" {
					t.Errorf("%s has %q, %v", lock, b, err)
				}
			}
		})
	}
	// A kernel that does not take it. Root may write to any file, not to a folder.
	sys := sysfs(t, cocos, nil)
	if err := os.MkdirAll(filepath.Join(sys, driverLocks[0]), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := lockDevices(sys); err == nil || !strings.Contains(err.Error(), driverLocks[0]) {
		t.Errorf("a lock that can't be written: %v", err)
	}
}

// The lock would keep the wanted drivers out, too, if they came after it; and
// what needs a device must not come before the lock.
func TestDevicesAreLockedAmongThePhases(t *testing.T) {
	at := func(name string) int {
		return slices.IndexFunc(new(Machine).Phases(), func(p Phase) bool { return p.Name == name })
	}
	lock := at("lock devices")
	for name, right := range map[string]bool{
		"devices": at("devices") < at("modules"), "modules": at("modules") < lock, "lock modules": at("lock modules") < lock,
		"runtime disk": lock < at("runtime disk"),
	} {
		if at(name) < 0 || lock < 0 || !right {
			t.Errorf("%q is phase %d, and the lock is %d", name, at(name), lock)
		}
	}
	// A plain guest is not asked to have such files.
	if err := new(Machine).lockDevices(t.Context()); err != nil {
		t.Errorf("in a plain guest: %v", err)
	}
}
