package shim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// maxBIOS bounds a firmware, in bytes: what fits below 4 GiB.
const maxBIOS = 16 << 20

// sameBIOS refuses a firmware that became another one since the Manager judged
// it, which was at the Manager's start. It is asked right before QEMU is started,
// which opens the file anew; what a participant believes is measured in any case.
func sameBIOS(b vm.Boot) error {
	if b.BIOS == "" {
		return nil
	}
	got, err := fileDigest(b.BIOS)
	if err != nil {
		return fmt.Errorf("comparing the firmware with the one that was judged (machine.boot.bios): %w", err)
	}
	if got != b.BIOSDigest {
		return fmt.Errorf("machine.boot.bios: %s has the SHA-256 %s, and the one that the Manager judged at its start had %s: it was replaced while the Manager ran, "+
			"and may be one that does not check what it boots; restart the Manager, which judges it again, or put the former file back", b.BIOS, got, b.BIOSDigest)
	}
	return nil
}

func fileDigest(name string) (d manifest.Digest, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return d, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return d, err
	case !info.Mode().IsRegular():
		return d, fmt.Errorf("%s is not a file", name)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxBIOS+1))
	if err == nil && n > maxBIOS {
		err = errors.New("it has more than 16 MiB")
	}
	return manifest.Digest(h.Sum(nil)), err
}
