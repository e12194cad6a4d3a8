package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// device is a PCI device as sysfs shows it.
type device struct {
	vendor, device string // "0x1af4"
	class          string // base class and subclass, "0x0200"
}

// guestDevices are those that an attested guest may have, each once but for disks:
// QEMU's q35 machine, and what a VM of Cocos is given. The drivers of others are
// code that a host could reach.
var guestDevices = map[device]string{
	{"0x8086", "0x29c0", "0x0600"}: "q35 host bridge",
	{"0x8086", "0x2918", "0x0601"}: "ICH9 LPC bridge",
	{"0x8086", "0x2922", "0x0106"}: "ICH9 SATA controller",
	{"0x8086", "0x2930", "0x0c05"}: "ICH9 SMBus controller",
	{"0x1af4", "0x1041", "0x0200"}: "virtio network",
	virtioDisk:                     "virtio disk",
	{"0x1af4", "0x1053", "0x0780"}: "virtio vsock",
}

var virtioDisk = device{"0x1af4", "0x1042", "0x0100"}

// maxDisks are the runtime disk and the scratch disk. Which is which shows when
// their driver has them (findDisks).
const maxDisks = 2

const (
	pciDevices    = "bus/pci/devices"
	virtioDevices = "bus/virtio/devices"
)

// driverLocks take a 0, after which a driver that is loaded gets no device, and a
// new virtio device no driver. The kernel's PCI core does not ask the first of
// them when a device is plugged in, so that the command line turns hot plug off,
// too: ACPI's, for other ways need a bridge, which guestDevices has not.
var driverLocks = []string{"bus/pci/drivers_autoprobe", "bus/virtio/drivers_autoprobe"}

// devices ends the boot of an attested guest that has others than these. In a
// plain guest, whose memory the host reads, they change nothing.
func (m *Machine) devices(context.Context) error {
	if !m.CommandLine.Attested {
		return nil
	}
	return checkDevices("/sys")
}

// lockDevices is for when all drivers are loaded: loading one gives it its
// devices before it returns, and nothing later in the boot needs another.
func (m *Machine) lockDevices(context.Context) error {
	if !m.CommandLine.Attested {
		return nil
	}
	return lockDevices("/sys")
}

// lockDevices keeps drivers and devices apart from now on, and looks again for
// what was plugged in since the first look.
func lockDevices(sys string) error {
	for _, lock := range driverLocks {
		f, err := os.OpenFile(filepath.Join(sys, lock), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("0\n")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fmt.Errorf("keeping drivers from devices that are plugged in later: %w", err)
		}
	}
	return checkDevices(sys)
}

func checkDevices(sys string) error {
	dir := filepath.Join(sys, pciDevices)
	names, err := list(dir)
	if err != nil {
		return fmt.Errorf("looking for devices: %w", err)
	}
	seen, virtioDisks := map[device]string{}, 0
	for _, name := range names {
		d, err := readDevice(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("PCI device %s: %w", name, err)
		}
		what, ok := guestDevices[d]
		if !ok {
			return fmt.Errorf("PCI device %s is %s:%s of class %s, which an attested guest must not have", name, d.vendor, d.device, d.class)
		}
		if d == virtioDisk {
			if virtioDisks++; virtioDisks > maxDisks {
				return fmt.Errorf("PCI device %s is one %s more than the %d that an attested guest has", name, what, maxDisks)
			}
			continue
		}
		if first, twice := seen[d]; twice {
			return fmt.Errorf("PCI device %s is a second %s beside %s: an attested guest has one", name, what, first)
		}
		seen[d] = name
	}
	// Virtio devices elsewhere than on the PCI bus come from ACPI tables, which
	// are the host's.
	virtio, err := list(filepath.Join(sys, virtioDevices))
	if err != nil {
		return fmt.Errorf("looking for virtio devices: %w", err)
	}
	for _, name := range virtio {
		target, err := os.Readlink(filepath.Join(sys, virtioDevices, name))
		if err != nil {
			return fmt.Errorf("virtio device %s: %w", name, err)
		}
		if parent := filepath.Base(filepath.Dir(target)); !slices.Contains(names, parent) {
			return fmt.Errorf("virtio device %s is not on the PCI bus, which an attested guest must not have", name)
		}
	}
	return nil
}

// list names what is in a folder; one that is missing has nothing.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func readDevice(dir string) (d device, err error) {
	for _, f := range []struct {
		name string
		to   *string
	}{{"vendor", &d.vendor}, {"device", &d.device}, {"class", &d.class}} {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return d, err
		}
		*f.to = strings.TrimSpace(string(b))
	}
	// The last byte is the programming interface.
	d.class = d.class[:min(len(d.class), len("0x0000"))]
	return d, nil
}
