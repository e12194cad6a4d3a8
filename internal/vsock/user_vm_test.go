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
			device := vsocktest.UserDevice(socket)
			device[len(device)-1] += m.device
			s.VM, err = vsocktest.Start(files, vsocktest.Machine{
				Kernel: m.kernel, Device: device,
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

// The benchmark's helper gives figures; how high they are is not tested.
func TestMeasureUserWithVM(t *testing.T) {
	figures, err := vsocktest.MeasureUser(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	f := figures[0]
	for name, r := range map[string]vsocktest.Rates{"vsock": f.Vsock, "a pair of unix sockets": f.Reference} {
		t.Logf("%s: %.1f MiB/s to the guest, %.1f MiB/s from it, %v round trip", name, r.ToGuest/(1<<20), r.FromGuest/(1<<20), r.RoundTrip)
		if r.ToGuest <= 0 || r.FromGuest <= 0 || r.RoundTrip <= 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
