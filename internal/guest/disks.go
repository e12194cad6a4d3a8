package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/scratch"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// disk is a virtio disk.
type disk struct {
	name  string // such as "vda"
	bytes int64
}

// disks are the virtio disks of a VM by what they are for, which the host says: the
// scratch disk has its serial number, the runtime disk none. Neither is believed
// more than that, for what is read of them is checked. A nil disk is not there.
type disks struct{ runtime, scratch *disk }

// findDisks looks at the virtio disks under sysBlock, of which each may be there
// once, and no other.
func findDisks(sysBlock string) (d disks, err error) {
	names, err := list(sysBlock)
	if err != nil {
		return d, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "vd") {
			continue
		}
		found, serial, err := readDisk(sysBlock, name)
		if err != nil {
			return d, err
		}
		var place **disk
		switch serial {
		case "":
			place = &d.runtime
		case vm.ScratchSerial:
			place = &d.scratch
		default:
			return d, fmt.Errorf("disk %s has the serial number %q; expected none (the runtime disk) or %q (the scratch disk)", name, serial, vm.ScratchSerial)
		}
		if *place != nil {
			return d, fmt.Errorf("the disks %s and %s both have the serial number %q; a VM has one of each", (*place).name, name, serial)
		}
		*place = found
	}
	return d, nil
}

func readDisk(sysBlock, name string) (*disk, string, error) {
	b, err := os.ReadFile(filepath.Join(sysBlock, name, "size"))
	if err != nil {
		return nil, "", fmt.Errorf("reading the size of disk %s: %w", name, err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSuffix(string(b), "\n"), 10, 64)
	if err != nil || sectors < 0 || sectors > 1<<50 {
		return nil, "", fmt.Errorf("reading the size of disk %s: it is %q", name, b)
	}
	serial, err := os.ReadFile(filepath.Join(sysBlock, name, "serial"))
	if err != nil {
		return nil, "", fmt.Errorf("reading the serial number of disk %s: %w", name, err)
	}
	return &disk{name, sectors * 512}, strings.TrimSuffix(string(serial), "\n"), nil
}

// runtimeOf returns the name of the runtime disk, which has at least size bytes.
func (d disks) runtimeOf(size int64) (string, error) {
	switch {
	case d.runtime == nil:
		return "", errors.New("the kernel command line names a runtime disk, and the VM has none")
	case d.runtime.bytes < size:
		return "", fmt.Errorf("disk %s has %d bytes, and the kernel command line names a runtime disk of %d", d.runtime.name, d.runtime.bytes, size)
	}
	return d.runtime.name, nil
}

// FindScratch opens the scratch disk that a manifest asks for, with as many bytes as
// it asks for; nil: it asks for none. Then an attested guest must not have one, nor
// another disk than those that it uses.
func (m *Machine) FindScratch(_ context.Context, f *manifest.Manifest) (*scratch.Disk, error) {
	d, err := findDisks("/sys/block")
	if err != nil {
		return nil, vm.Refuse(vm.RefusedScratch, "looking for the scratch disk: %w", err)
	}
	if err := d.check(f.ScratchBytes, m.CommandLine.Attested, m.CommandLine.Runtime != nil); err != nil {
		return nil, vm.Refuse(vm.RefusedScratch, "%w", err)
	}
	if f.ScratchBytes == 0 {
		return nil, nil
	}
	return scratch.Open("/dev/"+d.scratch.name, f.ScratchBytes), nil
}

// check compares the disks that are there with those that should be.
func (d disks) check(scratchBytes int64, attested, runtime bool) error {
	switch {
	case scratchBytes > 0 && d.scratch == nil:
		return fmt.Errorf("manifest field /scratch_bytes asks for a scratch disk, and the VM has no disk with the serial number %q", vm.ScratchSerial)
	case scratchBytes > 0 && d.scratch.bytes < scratchBytes:
		return fmt.Errorf("manifest field /scratch_bytes is %d, and the scratch disk %s has %d bytes", scratchBytes, d.scratch.name, d.scratch.bytes)
	case attested && scratchBytes == 0 && d.scratch != nil:
		return fmt.Errorf("the VM has a scratch disk, %s, and the manifest asks for none", d.scratch.name)
	case attested && !runtime && d.runtime != nil:
		return fmt.Errorf("the VM has a disk, %s, that neither the manifest nor the kernel command line asks for", d.runtime.name)
	}
	return nil
}
