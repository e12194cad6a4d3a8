// Package disk shows that a computation runs to its result in a VM that boots
// the disk image through UEFI firmware: from the disk alone, on an overlay of
// the VM's own, while the image, which VMs share, stays as it is.
package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestDisk(t *testing.T) {
	image, check := bootDisk(t)
	h := harness.Start(t, firmware(t), harness.Env("MANAGER_QEMU_DISK_IMG_FILE="+image))
	one, c := submit(t, h, "one")
	two, _ := submit(t, h, "two")
	for _, r := range []*harness.Run{one, two} {
		r.Ready()
		startedFromDisk(t, r, image)
	}
	harness.Differ(t, one.Dir().Overlay(), two.Dir().Overlay())
	two.Stop()

	// The other one's end took nothing from this one.
	one.Upload()
	one.State("ResultReady")
	want := fmt.Sprintf("%x  datasets/one.txt\n", sha256.Sum256([]byte("one")))
	if got := h.Read(one.Result(), "results", "sums.txt"); got != want {
		t.Errorf("the algorithm saw\n%s\nuploaded was %s\n%s", got, c.Data[0], want)
	}
	one.Stop()
	// Both folders are gone (Stop has waited for that), and with them the
	// overlays; what they lay on is what it was.
	check()
}

// Somebody's own image, right in all but one field, would have QEMU open a file
// of the host's, and the guest read it.
func TestDiskThatNamesAnotherFile(t *testing.T) {
	image, check := bootDisk(t)
	own := filepath.Join(t.TempDir(), "own.qcow2")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	const at, secret = 512, "/etc/passwd"
	copy(b[at:], secret)
	b[15], b[14], b[19] = at&0xff, at>>8, byte(len(secret)) // backing_file_offset and _size
	if err := os.WriteFile(own, b, 0o644); err != nil {
		t.Fatal(err)
	}
	h := harness.Start(t, firmware(t), harness.Env("MANAGER_QEMU_DISK_IMG_FILE="+own))
	h.ManagerEnds()
	for _, want := range []string{"MANAGER_QEMU_DISK_IMG_FILE", own, "backing file"} {
		if !strings.Contains(h.ManagerLog(), want) {
			t.Errorf("the Manager's log lacks %q:\n%s", want, h.ManagerLog())
		}
	}
	check()
}

// bootDisk is the disk image beside the guest image, which must be of that very
// image, and a check that it is still the same.
func bootDisk(t *testing.T) (image string, check func()) {
	t.Helper()
	dir := filepath.Dir(harness.Image(t, hal.ManifestFile))
	d, err := hal.LoadBootDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	img, err := hal.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.MadeOf(img), d.Check(dir)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, hal.BootDiskFile), func() {
		t.Helper()
		if err := d.Check(dir); err != nil {
			t.Errorf("the disk image was changed: %v", err)
		}
	}
}

func firmware(t *testing.T) harness.Option {
	t.Helper()
	find, err := emulator.New(os.Getenv, progress.New(t.Output(), false, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := find.Firmware(t.Context(), emulator.FirmwareRelease)
	if err != nil {
		t.Fatal(err)
	}
	return func(h *harness.Host) {
		harness.Env("MANAGER_QEMU_OVMF_CODE_FILE=" + filepath.Join(dir, "OVMF_CODE_4M.fd"))(h)
		harness.Env("MANAGER_QEMU_OVMF_VARS_FILE=" + filepath.Join(dir, "OVMF_VARS_4M.fd"))(h)
	}
}

func submit(t *testing.T, h *harness.Host, content string) (*harness.Run, server.Computation) {
	t.Helper()
	data := filepath.Join(t.TempDir(), content+".txt")
	if err := os.WriteFile(data, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	c := server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}, Data: []string{data}}
	return h.Submit(c, nil), c
}

// startedFromDisk looks at a VM that runs: its emulator was given no kernel, and
// only the overlay, which lies on image; and its firmware started what is on the
// disk.
func startedFromDisk(t *testing.T, r *harness.Run, image string) {
	t.Helper()
	args := commandLine(t, r.Dir())
	for _, option := range []string{"-kernel", "-initrd", "-append"} {
		if slices.Contains(args, option) {
			t.Errorf("the emulator was given %s: %q", option, args)
		}
	}
	overlay := r.Dir().Overlay()
	for _, want := range []string{"file=" + overlay + ",if=none,id=disk0,format=qcow2", "scsi-hd,drive=disk0"} {
		if !slices.Contains(args, want) {
			t.Errorf("the emulator runs without %s: %q", want, args)
		}
	}
	for _, a := range args {
		if strings.Contains(a, image) {
			t.Errorf("the emulator was given the image itself: %s", a)
		}
	}
	b, err := os.ReadFile(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b[:min(4096, len(b))], []byte(image)) {
		t.Errorf("%s does not lie on %s", overlay, image)
	}
	console, err := os.ReadFile(r.Dir().Console())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(console, []byte("BdsDxe: starting Boot")) || !bytes.Contains(console, []byte("Scsi(0x0,0x0)")) {
		t.Errorf("the console does not show firmware that starts the disk:\n%s", console)
	}
}

// commandLine is that of the process that has the VM's monitor.
func commandLine(t *testing.T, dir vm.Dir) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		// Most have ended meanwhile, or are another's.
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(dir.QMPSocket())) {
			return strings.Split(string(b), "\x00")
		}
	}
	t.Fatalf("no process runs the VM in %s", dir)
	return nil
}
