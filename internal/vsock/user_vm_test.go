package vsock_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock"
	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest"
)

// bootPatience is how long an emulated guest may take to come up.
const bootPatience = 3 * time.Minute

// shortDir is a folder whose sockets have short paths.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestUserHostWithVM(t *testing.T) {
	dir := shortDir(t)
	files, err := vsocktest.FindFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		name, kernel, device string
		facts                []string
		all                  bool
	}{
		{name: "plain", all: true, facts: []string{"vsock feature 28", "vsock feature 32"}},
		{
			name: "as confidential guests are", device: ",iommu_platform=on,disable-legacy=on",
			kernel: "swiotlb=force", facts: []string{"vsock feature 33", "swiotlb in use"},
		},
	} {
		t.Run(m.name, func(t *testing.T) {
			dir := shortDir(t)
			socket := filepath.Join(dir, "vhost.sock")
			host, err := vsock.NewUserHost(vsock.UserConfig{QEMUSocket: socket, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
			if err != nil {
				t.Fatal(err)
			}
			s := &vsocktest.Suite{Host: host, Size: vsocktest.Full, Patience: bootPatience, Facts: m.facts}
			s.Listen(t)
			s.VM, err = vsocktest.Start(files, vsocktest.Machine{
				Kernel: m.kernel,
				Device: []string{"-chardev", "socket,id=vs,path=" + socket, "-device", "vhost-user-vsock-pci,chardev=vs" + m.device},
			}, dir)
			if err != nil {
				t.Fatal(err)
			}
			defer s.VM.Kill()
			if m.all {
				s.Run(t)
			} else {
				s.RunCases(t)
			}
			select {
			case <-host.Done():
				if err := host.Err(); err != nil {
					t.Errorf("the device ended with %v after QEMU had", err)
				}
			case <-time.After(bootPatience):
				t.Error("QEMU has ended, the device has not")
			}
		})
	}
}
