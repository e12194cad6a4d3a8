package vsock_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest"
)

// neededVariable says that the kernel's way must be there: set where a machine
// was made for it.
const neededVariable = "COCOS_TEST_VSOCK_KERNEL"

// Where the host has the device, the suite runs over it. Where it has not, the
// error must say what is missing; `make test-vsock-kernel` brings a machine
// that has it.
func TestKernelHostWithVM(t *testing.T) {
	unavailable := vsock.KernelAvailable()
	if unavailable != nil {
		if os.Getenv(neededVariable) != "" {
			t.Fatal(unavailable)
		}
		if _, err := vsock.NewKernelHost(0); err == nil || !strings.Contains(unavailable.Error(), "MANAGER_QEMU_VSOCK=user") {
			t.Errorf("available: %v; a host: %v", unavailable, err)
		}
		if _, err := os.Stat("/dev/vhost-vsock"); errors.Is(err, fs.ErrNotExist) && !strings.Contains(unavailable.Error(), "modprobe vhost_vsock") {
			t.Errorf("there is no device, but the error says %v", unavailable)
		}
		return
	}
	dir := shortDir(t)
	files, err := vsocktest.FindFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	host, err := vsock.NewKernelHost(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a CID is one VM's", func(t *testing.T) {
		other, err := vsock.NewKernelHost(host.GuestCID())
		if err == nil {
			other.Close()
			t.Fatal("the same CID twice")
		}
		if !strings.Contains(err.Error(), "used by another VM") {
			t.Error(err)
		}
	})
	s := &vsocktest.Suite{Host: host, Size: vsocktest.Full, Patience: bootPatience, QuietReset: true}
	if os.Getenv(neededVariable) != "" { // in a VM itself
		s.Size, s.Patience = vsocktest.Small, 10*bootPatience
	}
	s.Listen(t)
	// Another VM's shim listens on the same port.
	second, err := vsock.NewKernelHost(0)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if l, err := second.Listen(vsocktest.ServerPort); err != nil {
		t.Errorf("the port for a second VM: %v", err)
	} else {
		l.Close()
	}
	s.VM, err = vsocktest.Start(files, vsocktest.Machine{
		Files:  []*os.File{host.Device()},
		Device: []string{"-device", fmt.Sprintf("vhost-vsock-pci,guest-cid=%d,vhostfd=3", host.GuestCID())},
	}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.VM.Kill()
	s.Run(t)
}
