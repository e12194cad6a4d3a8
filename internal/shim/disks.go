package shim

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ultravioletrs/cocos/internal/qcow2"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// maxVars bounds the firmware's variables, in bytes: q35 has 8 MiB of flash.
const maxVars = 8 << 20

// makeDisks makes what the VM writes to: its own copy of the firmware's
// variables, the overlay on its disk, and its scratch disk. What it was made from
// stays as it is. The returned function removes them; after an error there is
// nothing.
func makeDisks(m vm.Machine, dir vm.Dir) (remove func(), err error) {
	var made []string
	remove = func() {
		for _, name := range made {
			_ = os.Remove(name) // or else with the folder
		}
	}
	b := m.Boot
	if b.Firmware != nil && b.Firmware.Vars.File != "" {
		if err := copyVars(dir.Vars(), b.Firmware.Vars.File); err != nil {
			return nil, fmt.Errorf("copying the firmware's variables (machine.boot.firmware.vars.file): %w", err)
		}
		made = append(made, dir.Vars())
	}
	if d := b.Disk; d != nil {
		if err := qcow2.CreateOverlay(dir.Overlay(), d.Image, d.Format); err != nil {
			remove()
			return nil, fmt.Errorf("preparing the disk (machine.boot.disk.image): %w", err)
		}
		made = append(made, dir.Overlay())
	}
	if m.ScratchBytes > 0 {
		if err := makeScratch(dir.Scratch(), m.ScratchBytes); err != nil {
			remove()
			return nil, fmt.Errorf("making the scratch disk (machine.scratch_bytes): %w", err)
		}
		made = append(made, dir.Scratch())
	}
	return remove, nil
}

// makeScratch makes the new file name of size bytes, which takes no room until it
// is written to.
func makeScratch(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// copyVars copies from to the new file to, whole or not at all.
func copyVars(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxVars+1))
	switch {
	case err != nil:
	case n == 0:
		err = fmt.Errorf("%s is empty", from)
	case n > maxVars:
		err = fmt.Errorf("%s has more than %d bytes", from, maxVars)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}
