package hostcheck

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/qcow2"
)

// goodImage writes a guest image and sets it.
func goodImage(t *testing.T, _ *host, c *Config) {
	t.Helper()
	dir := t.TempDir()
	p := verity.Params{DataBlocks: 1}
	p.RootHash[0], p.Salt[0] = 1, 1
	img := hal.Image{Version: hal.ImageVersion, KernelVersion: "6.12.1", Python: hal.Disk{Verity: hal.NewVerity(p)}}
	for name, f := range map[string]*hal.File{hal.KernelFile: &img.Kernel, hal.InitrdFile: &img.Initrd, hal.PythonFile: &img.Python.File} {
		write(t, filepath.Join(dir, name), strings.Repeat("x", int(p.Size())))
		var err error
		if *f, err = hal.Digest(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	img.CommandLine = hal.CommandLines{Plain: hal.CommandLine(img, false), Attested: hal.CommandLine(img, true)}
	b, err := img.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, hal.ManifestFile), string(b))
	c.Image.Dir = dir
}

func TestImage(t *testing.T) {
	with := func(change func(t *testing.T, c *Config)) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) { goodImage(t, h, c); change(t, c) }
	}
	good := want{OK, "sha256 ", "", ""}
	own := func(t *testing.T, text string) string { return write(t, filepath.Join(t.TempDir(), "own"), text) }
	disk := func(t *testing.T, c *Config) {
		var b bytes.Buffer
		if err := qcow2.Write(&b, bytes.NewReader(make([]byte, 1<<20)), 1<<20); err != nil {
			t.Fatal(err)
		}
		c.Image.Disk, c.Image.DiskFormat = own(t, b.String()), "qcow2"
	}
	// describe puts the disk beside the image, with a description.
	describe := func(t *testing.T, c *Config) {
		t.Helper()
		text, err := os.ReadFile(c.Image.Disk)
		if err != nil {
			t.Fatal(err)
		}
		c.Image.Disk = write(t, filepath.Join(c.Image.Dir, hal.BootDiskFile), string(text))
		img, err := hal.Load(c.Image.Dir)
		if err != nil {
			t.Fatal(err)
		}
		sum := img.Kernel.SHA256
		d := hal.BootDisk{
			Version: hal.BootDiskVersion, Format: "qcow2", VirtualSize: 1 << 20,
			Unified: hal.File{Name: hal.UnifiedFile, Size: 1, SHA256: sum}, Stub: hal.Stub{Package: "stub 1", SHA256: sum},
			KernelVersion: img.KernelVersion, Kernel: img.Kernel, Initrd: img.Initrd, CommandLine: hal.CommandLine(img, false),
		}
		if d.Disk, err = hal.Digest(c.Image.Dir, hal.BootDiskFile); err != nil {
			t.Fatal(err)
		}
		b, err := d.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(c.Image.Dir, hal.BootDiskManifestFile), string(b))
	}
	runCases(t, image, map[string]probeCase{
		"good":    {goodImage, []want{good, good, good}},
		"missing": {func(t *testing.T, _ *host, c *Config) { c.Image.Dir = t.TempDir() }, []want{{Fail, "image.json", "", "make hal; or set MANAGER_IMAGE_DIR"}}},
		"missing, installed": {func(_ *testing.T, _ *host, c *Config) { c.Image.Dir = "/var/lib/cocos/no-such-image" },
			[]want{{Fail, "image.json", "", "apt install --reinstall cocos-manager"}}},
		"damaged description": {with(func(t *testing.T, c *Config) { write(t, c.Image.Dir+"/image.json", "{}") }), []want{{Fail, "image.json", "", "make hal"}}},
		"changed kernel": {with(func(t *testing.T, c *Config) { write(t, c.Image.Dir+"/bzImage", strings.Repeat("y", 4096)) }),
			[]want{{Fail, "bzImage has sha256 ", "4096 bytes, as image.json says", "make hal"}, good, good}},
		"longer disk": {with(func(t *testing.T, c *Config) { write(t, c.Image.Dir+"/python.img", strings.Repeat("x", 4097)) }),
			[]want{good, good, {Fail, "4097 bytes", "4096 bytes", "make hal"}}},
		"no rootfs": {with(func(t *testing.T, c *Config) {
			if err := os.Remove(c.Image.Dir + "/rootfs.cpio.gz"); err != nil {
				t.Fatal(err)
			}
		}), []want{good, {Fail, "no such file", "sha256 ", "make hal"}, good}},
		"own kernel": {with(func(t *testing.T, c *Config) { c.Image.Kernel = own(t, "abc") }),
			[]want{{Info, "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "", ""}, good, good}},
		"own kernel, empty": {with(func(t *testing.T, c *Config) { c.Image.Kernel = own(t, "") }),
			[]want{{Fail, "is empty", "", "unset it"}, good, good}},
		"own rootfs, missing": {with(func(_ *testing.T, c *Config) { c.Image.Initrd = "/nowhere/rootfs" }),
			[]want{good, {Fail, "MANAGER_QEMU_DISK_IMG_ROOTFS_FILE=/nowhere/rootfs", "", "unset it"}, good}},
		"boot disk": {with(func(t *testing.T, c *Config) { disk(t, c); describe(t, c) }), []want{{OK, "a disk of 1 MiB", "", ""}, good}},
		"boot disk, changed": {with(func(t *testing.T, c *Config) {
			disk(t, c)
			describe(t, c)
			b, err := os.ReadFile(c.Image.Disk)
			if err != nil {
				t.Fatal(err)
			}
			write(t, c.Image.Disk, string(b)+"x")
		}), []want{{Fail, "disk.json says", "made of the image in", "make hal-disk"}, good}},
		"boot disk of another image": {func(t *testing.T, h *host, c *Config) {
			goodImage(t, h, c)
			disk(t, c)
			describe(t, c)
			file := c.Image.Dir + "/rootfs.cpio.gz"
			write(t, file, "another")
			img, err := hal.Load(c.Image.Dir)
			if err == nil {
				img.Initrd, err = hal.Digest(c.Image.Dir, hal.InitrdFile)
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := img.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(c.Image.Dir, hal.ManifestFile), string(b))
		}, []want{{Fail, "initrd.sha256", "", "make hal-disk"}, good}},
		"own boot disk": {with(disk), []want{{Info, "a disk of 1 MiB", "", ""}, good}},
		"boot disk, missing": {with(func(_ *testing.T, c *Config) { c.Image.Disk, c.Image.DiskFormat = "/nowhere/disk", "raw" }),
			[]want{{Fail, "MANAGER_QEMU_DISK_IMG_FILE", "format raw", "make hal-disk"}, good}},
		"boot disk, no qcow2": {with(func(t *testing.T, c *Config) { disk(t, c); write(t, c.Image.Disk, strings.Repeat("x", 512)) }),
			[]want{{Fail, "MANAGER_QEMU_DISK_IMG_FILE", "format qcow2", "MANAGER_QEMU_DISK_IMG_FORMAT"}, good}},
	})
}
