package guest

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/dm"
)

// runtimeDisk mounts the disk that the command line names, through dm-verity: a
// block is checked when it is read, and one that was changed can't be read.
// Which device carries it does not matter, so there must be just one beside the
// scratch disk.
func (m *Machine) runtimeDisk(context.Context) error {
	p := m.CommandLine.Runtime
	if p == nil {
		return nil
	}
	disks, err := findDisks("/sys/block")
	if err != nil {
		return fmt.Errorf("looking for the runtime disk: %w", err)
	}
	disk, err := disks.runtimeOf(p.Size())
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
