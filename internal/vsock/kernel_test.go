package vsock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenKernelDevice(t *testing.T) {
	dir := t.TempDir()
	denied := filepath.Join(dir, "denied")
	if err := os.WriteFile(denied, nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, says string }{
		{"no module", filepath.Join(dir, "nothing"), "modprobe vhost_vsock"},
		{"not a device that opens for writing", dir, "dmesg"},
		{"no permission", denied, "group kvm"},
	} {
		f, err := openKernelDevice(c.path)
		if err == nil {
			f.Close()
			if c.path == denied && os.Geteuid() == 0 {
				continue // root may; TestKernelDeviceHints has the words
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), "MANAGER_QEMU_VSOCK=user") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestKernelDeviceHints(t *testing.T) {
	for err, says := range map[error]string{
		unix.ENOENT: "modprobe vhost_vsock",
		unix.ENODEV: "modprobe vhost_vsock",
		unix.ENXIO:  "modprobe vhost_vsock",
		unix.EACCES: "group kvm",
		unix.EPERM:  "group kvm",
		unix.EMFILE: "dmesg",
	} {
		got := kernelDeviceError(&os.PathError{Op: "open", Path: kernelDevice, Err: err})
		if !errors.Is(got, err) || !strings.Contains(got.Error(), says) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestReserve(t *testing.T) {
	t.Run("the one asked for", func(t *testing.T) {
		cid, err := reserve(42, func(uint32) error { return nil })
		if cid != 42 || err != nil {
			t.Errorf("%d, %v", cid, err)
		}
		if _, err := reserve(42, func(uint32) error { return unix.EADDRINUSE }); err == nil || !strings.Contains(err.Error(), "guest CID 42 is used by another VM") {
			t.Errorf("in use: %v", err)
		}
	})
	t.Run("a free one", func(t *testing.T) {
		for range 100 {
			tried := map[uint32]bool{}
			cid, err := reserve(0, func(cid uint32) error {
				if cid < firstCID || cid > lastCID || tried[cid] {
					return fmt.Errorf("CID %d", cid)
				}
				tried[cid] = true
				if len(tried) < 500 {
					return unix.EADDRINUSE
				}
				return nil
			})
			if err != nil || !tried[cid] {
				t.Fatalf("%d, %v", cid, err)
			}
		}
	})
	t.Run("none is free", func(t *testing.T) {
		n := 0
		_, err := reserve(0, func(uint32) error { n++; return unix.EADDRINUSE })
		if err == nil || n != cidTries {
			t.Errorf("after %d tries: %v", n, err)
		}
	})
	t.Run("another error ends it", func(t *testing.T) {
		n := 0
		_, err := reserve(0, func(uint32) error { n++; return unix.EFAULT })
		if !errors.Is(err, unix.EFAULT) || n != 1 {
			t.Errorf("after %d tries: %v", n, err)
		}
	})
	for _, cid := range []uint32{1, 2, lastCID + 1, 1<<32 - 1} {
		if h, err := NewKernelHost(cid); err == nil || !strings.Contains(err.Error(), "guest CID") {
			if err == nil {
				h.Close()
			}
			t.Errorf("CID %d: %v", cid, err)
		}
	}
}

func TestPortFor(t *testing.T) {
	for _, c := range []struct{ cid, port, want uint32 }{
		{3, 9000, 3<<16 | 9000},
		{42, 1, 42<<16 | 1},
		{lastCID, 0xffff, lastCID<<16 | 0xffff},
		{3, 0x10000, 0x10000}, // stays as it is
	} {
		if got := PortFor(c.cid, c.port); got != c.want || got == anyCID {
			t.Errorf("PortFor(%d, %d) = %d, not %d", c.cid, c.port, got, c.want)
		}
	}
}
