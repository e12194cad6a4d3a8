package hal

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sampleBootDisk() BootDisk {
	img, sum := sampleImage(), strings.Repeat("2e", 32)
	return BootDisk{
		Version: BootDiskVersion, Format: "qcow2", Disk: File{BootDiskFile, 3000, sum}, VirtualSize: 1 << 20,
		Unified: File{UnifiedFile, 2000, sum}, Stub: Stub{"systemd-boot-efi 257", sum},
		KernelVersion: img.KernelVersion, Kernel: img.Kernel, Initrd: img.Initrd, CommandLine: CommandLine(img, false),
	}
}

func TestBootDiskRoundTrip(t *testing.T) {
	d := sampleBootDisk()
	b, err := d.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseBootDisk(b); err != nil || got != d {
		t.Errorf("got %+v, %v; want %+v", got, err, d)
	}
}

// Every field of a good description is broken in turn; the error names it.
func TestParseBootDiskRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(m map[string]any)
		want   string
	}{
		"version":        {func(m map[string]any) { m["version"] = 2 }, "version: 2"},
		"format":         {func(m map[string]any) { m["format"] = "raw" }, "format"},
		"disk.name":      {func(m map[string]any) { sub(m, "disk")["name"] = "/etc/passwd" }, "disk.name"},
		"disk.size":      {func(m map[string]any) { sub(m, "disk")["size"] = 0 }, "disk.size"},
		"disk.sha256":    {func(m map[string]any) { sub(m, "disk")["sha256"] = "" }, "disk.sha256"},
		"virtual size":   {func(m map[string]any) { m["virtual_size"] = 1000 }, "virtual_size"},
		"half a sector":  {func(m map[string]any) { m["virtual_size"] = 1<<20 + 1 }, "virtual_size"},
		"unified":        {func(m map[string]any) { delete(m, "unified_kernel_image") }, "unified_kernel_image.sha256"},
		"stub.package":   {func(m map[string]any) { sub(m, "stub")["package"] = "" }, "stub.package"},
		"stub.sha256":    {func(m map[string]any) { sub(m, "stub")["sha256"] = "xy" }, "stub.sha256"},
		"kernel_version": {func(m map[string]any) { m["kernel_version"] = "new" }, "kernel_version"},
		"kernel":         {func(m map[string]any) { delete(m, "kernel") }, "kernel.sha256"},
		"initrd":         {func(m map[string]any) { delete(m, "initrd") }, "initrd.sha256"},
		"command_line":   {func(m map[string]any) { m["command_line"] = "" }, "command_line"},
		"unknown":        {func(m map[string]any) { m["extra"] = 1 }, "extra"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := sampleBootDisk().Bytes()
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			tc.change(m)
			if b, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			if _, err := ParseBootDisk(b); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	b, _ := sampleBootDisk().Bytes()
	if _, err := ParseBootDisk(append(b, "{}"...)); err == nil {
		t.Error("text after the end passes")
	}
}

func TestBootDiskCheck(t *testing.T) {
	dir, d := t.TempDir(), sampleBootDisk()
	if _, err := LoadBootDisk(dir); err == nil || !strings.Contains(err.Error(), "make hal-disk") {
		t.Errorf("no disk: got %v, want what to do next", err)
	}
	disk := filepath.Join(dir, BootDiskFile)
	if err := os.WriteFile(disk, []byte("a disk"), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.Disk, err = Digest(dir, BootDiskFile); err != nil {
		t.Fatal(err)
	}
	b, err := d.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, BootDiskManifestFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := LoadBootDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(dir); err != nil {
		t.Errorf("a good disk: %v", err)
	}
	if described, err := CheckBootDisk(disk, sampleImage()); err != nil || !described {
		t.Errorf("by its name: described %v, %v", described, err)
	}
	other := sampleImage()
	other.KernelVersion = "6.13.0"
	if _, err := CheckBootDisk(disk, other); err == nil || !strings.Contains(err.Error(), "kernel_version") {
		t.Errorf("of another image: got %v", err)
	}
	own := filepath.Join(dir, "own.qcow2")
	if err := os.WriteFile(own, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{own, filepath.Join(t.TempDir(), BootDiskFile)} {
		if described, err := CheckBootDisk(name, sampleImage()); err != nil || described {
			t.Errorf("%s, which nothing describes: described %v, %v", name, described, err)
		}
	}
	if err := os.WriteFile(disk, []byte("a disc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := got.Check(dir); err == nil || !strings.Contains(err.Error(), disk) {
		t.Errorf("another disk: got %v, want an error that names it", err)
	}
	if _, err := CheckBootDisk(disk, sampleImage()); err == nil || !strings.Contains(err.Error(), disk) {
		t.Errorf("another disk, by its name: got %v", err)
	}
	if err := os.Remove(disk); err != nil {
		t.Fatal(err)
	}
	if err := got.Check(dir); err == nil || !strings.Contains(err.Error(), "make hal-disk") {
		t.Errorf("no disk: got %v, want what to do next", err)
	}
	if err := os.WriteFile(filepath.Join(dir, BootDiskManifestFile), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if described, err := CheckBootDisk(disk, sampleImage()); err == nil || !described {
		t.Errorf("a description that says nothing: described %v, %v", described, err)
	}
}

func TestBootDiskMadeOf(t *testing.T) {
	d := sampleBootDisk()
	if err := d.MadeOf(sampleImage()); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Image){
		"kernel_version: ": func(img *Image) { img.KernelVersion = "6.13.0" },
		"kernel.sha256: ":  func(img *Image) { img.Kernel.SHA256 = strings.Repeat("3d", 32) },
		"initrd.sha256: ":  func(img *Image) { img.Initrd.SHA256 = strings.Repeat("3d", 32) },
		"command_line: ":   func(img *Image) { img.Python.Verity.Salt = strings.Repeat("3d", 32) },
	} {
		img := sampleImage()
		change(&img)
		if err := d.MadeOf(img); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "make hal-disk") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
