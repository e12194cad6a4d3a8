package shim

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

func TestNewHost(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	t.Run("user", func(t *testing.T) {
		dir, spec := newVM(t, "")
		spec.Machine.Vsock.GuestCID = 77
		h, files, err := NewHost(spec, dir, log)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if h.GuestCID() != 77 || len(files) != 0 {
			t.Errorf("CID %d, files %v", h.GuestCID(), files)
		}
		if l, err := h.Listen(vm.SessionPort); err != nil {
			t.Error(err)
		} else {
			_ = l.Close()
		}
		c, err := net.Dial("unix", dir.VhostSocket())
		if err != nil {
			t.Fatalf("QEMU can't connect: %v", err)
		}
		_ = c.Close()
	})
	t.Run("kernel", func(t *testing.T) {
		dir, spec := newVM(t, "")
		spec.Machine.Vsock = vm.Vsock{Way: vm.VsockKernel}
		h, files, err := NewHost(spec, dir, log)
		if (vsock.KernelAvailable() == nil) != (err == nil) {
			t.Fatalf("got %v", err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), "MANAGER_QEMU_VSOCK") {
				t.Errorf("no way on in %v", err)
			}
			return
		}
		defer h.Close()
		if h.GuestCID() < 3 || len(files) != 1 || files[0] == nil {
			t.Errorf("CID %d, files %v", h.GuestCID(), files)
		}
	})
}

// A vsock device that ends while QEMU lives ends the VM: nobody could reach it.
func TestVMThatNobodyReaches(t *testing.T) {
	dir, _ := newVM(t, "")
	var port net.Listener
	f := startShim(t, dir, func(c *Config) {
		c.NewHost = func(spec vm.Spec, dir vm.Dir, log *slog.Logger) (Host, []*os.File, error) {
			return &deafHost{socketHost{dir}, &port}, nil, nil
		}
	}).follow()
	f.until(vm.EventBooting)
	_ = port.Close()
	if e := f.until(vm.EventStopping); !strings.Contains(e.GetMessage(), "can't be reached") {
		t.Errorf("got %v", e)
	}
	f.until(vm.EventExited)
}

type deafHost struct {
	socketHost
	l *net.Listener
}

func (h *deafHost) Listen(port uint32) (net.Listener, error) {
	l, err := h.socketHost.Listen(port)
	*h.l = l
	return l, err
}

func TestLaunchOfAVMWithoutNetwork(t *testing.T) {
	l := launchOf(vm.Spec{RunID: testRun})
	if l.GetNetwork().GetAddress() != "" || l.GetNetwork().GetGateway() != "" {
		t.Errorf("the network is %v", l.GetNetwork())
	}
	l = launchOf(vm.Spec{Agent: vm.AgentConfig{Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2")}})
	if l.GetNetwork().GetAddress() != "10.0.2.15/24" || l.GetNetwork().GetGateway() != "10.0.2.2" {
		t.Errorf("the network is %v", l.GetNetwork())
	}
}
