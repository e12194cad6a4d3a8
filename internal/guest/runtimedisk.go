package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/dm"
)

// runtimeDisk mounts the disk that the command line names, through dm-verity: a
// block is checked when it is read, and one that was changed can't be read.
// Which device carries it does not matter, so there must be just one.
func (m *Machine) runtimeDisk(context.Context) error {
	p := m.CommandLine.Runtime
	if p == nil {
		return nil
	}
	disk, err := findDisk("/sys/block", p.Size())
	if err != nil {
		return err
	}
	dev, err := dm.Create("runtime", dm.Target{Type: "verity", Sectors: p.Sectors(), Params: []byte(p.Target("/dev/" + disk))})
	if err != nil {
		return fmt.Errorf("setting up dm-verity on /dev/%s: %w", disk, err)
	}
	if err := os.MkdirAll(RuntimeRoot, 0o755); err != nil {
		return fmt.Errorf("making mount point %s: %w", RuntimeRoot, err)
	}
	if err := unix.Mount(dev, RuntimeRoot, "squashfs", safe|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting the runtime disk /dev/%s: %w; it is not the disk that the kernel command line names", disk, err)
	}
	m.Runtime = RuntimeRoot
	return nil
}

// findDisk returns the name of the one virtio disk under sysBlock, which has at
// least size bytes.
func findDisk(sysBlock string, size int64) (string, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return "", fmt.Errorf("looking for the runtime disk: %w", err)
	}
	var disks []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "vd") {
			disks = append(disks, e.Name())
		}
	}
	slices.Sort(disks)
	switch len(disks) {
	case 0:
		return "", fmt.Errorf("the kernel command line names a runtime disk, and the VM has none")
	case 1:
	default:
		return "", fmt.Errorf("the VM has %d disks (%s); expected the runtime disk alone", len(disks), strings.Join(disks, " "))
	}
	b, err := os.ReadFile(filepath.Join(sysBlock, disks[0], "size"))
	if err != nil {
		return "", fmt.Errorf("reading the runtime disk's size: %w", err)
	}
	var sectors int64
	if _, err := fmt.Sscanf(string(b), "%d\n", &sectors); err != nil {
		return "", fmt.Errorf("reading the runtime disk's size: %w", err)
	}
	if sectors < size/512 {
		return "", fmt.Errorf("disk %s has %d bytes, and the kernel command line names a runtime disk of %d", disks[0], sectors*512, size)
	}
	return disks[0], nil
}
