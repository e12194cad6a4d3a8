package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// newMeasuredVM is a simulated one that starts in a firmware.
func newMeasuredVM(t *testing.T) (dir vm.Dir, spec vm.Spec, bios string) {
	t.Helper()
	dir, spec = newSimulatedVM(t)
	bios = filepath.Join(filepath.Dir(string(dir)), "OVMF.fd")
	if err := os.WriteFile(bios, []byte("judged"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &spec.Machine.Boot
	b.BIOS, b.BIOSDigest = bios, manifest.Sum([]byte("judged"))
	b.HashTable = &vm.HashTable{Address: 0x810c00, Content: []byte("hashes")}
	writeSpec(t, dir, spec)
	return dir, spec, bios
}

// The firmware that QEMU is given is the one that was judged, or there is no
// QEMU.
func TestFirmwareIsTheOneThatWasJudged(t *testing.T) {
	t.Run("the same", func(t *testing.T) {
		dir, _, _ := newMeasuredVM(t)
		startShim(t, dir, nil).follow().until(vm.EventBooting)
	})
	for name, tt := range map[string]struct {
		change func(t *testing.T, bios string, b *vm.Boot)
		want   string
	}{
		"replaced": {func(t *testing.T, bios string, _ *vm.Boot) {
			if err := os.WriteFile(bios, []byte("another"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "restart the Manager"},
		"gone": {func(t *testing.T, bios string, _ *vm.Boot) {
			if err := os.Remove(bios); err != nil {
				t.Fatal(err)
			}
		}, "machine.boot.bios"},
		"a folder": {func(t *testing.T, bios string, _ *vm.Boot) {
			if err := os.Remove(bios); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(bios, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "machine.boot.bios"},
		"too large": {func(t *testing.T, bios string, _ *vm.Boot) {
			if err := os.Truncate(bios, maxBIOS+1); err != nil {
				t.Fatal(err)
			}
		}, "more than 16 MiB"},
		"never judged": {func(_ *testing.T, _ string, b *vm.Boot) { b.BIOSDigest = manifest.Digest{} }, "restart the Manager"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, spec, bios := newMeasuredVM(t)
			tt.change(t, bios, &spec.Machine.Boot)
			writeSpec(t, dir, spec)
			f := startShim(t, dir, nil).follow()
			e := f.until(vm.EventExited)
			if !strings.Contains(e.GetMessage(), tt.want) || e.GetAttributes()["exit_status"] != "127" {
				t.Errorf("got %q, %v", e.GetMessage(), e.GetAttributes())
			}
		})
	}
	// A plain VM has none.
	if err := sameBIOS(vm.Boot{}); err != nil {
		t.Error(err)
	}
}
