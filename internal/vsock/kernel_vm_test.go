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

// kernelHost is a host over the kernel's device. Where there is none it is nil,
// and the test of that is the error, which must say what is missing; `make
// test-vsock-kernel` brings a machine that has it.
func kernelHost(t *testing.T) *vsock.KernelHost {
	t.Helper()
	if err := vsock.KernelAvailable(); err != nil {
		if os.Getenv(neededVariable) != "" {
			t.Fatal(err)
		}
		if _, herr := vsock.NewKernelHost(0); herr == nil || !strings.Contains(err.Error(), "MANAGER_QEMU_VSOCK=user") {
			t.Errorf("available: %v; a host: %v", err, herr)
		}
		if _, serr := os.Stat("/dev/vhost-vsock"); errors.Is(serr, fs.ErrNotExist) && !strings.Contains(err.Error(), "modprobe vhost_vsock") {
			t.Errorf("there is no device, but the error says %v", err)
		}
		t.Logf("only the error was tested: %v", err)
		return nil
	}
	host, err := vsock.NewKernelHost(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host
}

// Where the host has the device, the suite runs over it.
func TestKernelHostWithVM(t *testing.T) {
	host := kernelHost(t)
	if host == nil {
		return
	}
	dir := shortDir(t)
	files, err := vsocktest.FindFiles(dir)
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
	t.Log("starting the guest")
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
