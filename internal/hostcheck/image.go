package hostcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/qcow2"
)

// installedDir is where an installation keeps its files.
const installedDir = "/var/lib/cocos"

// rebuild is the command that brings the image's files back.
func (c Config) rebuild() string {
	if strings.HasPrefix(c.Image.Dir, installedDir+"/") {
		return "apt install --reinstall cocos-manager"
	}
	return "make hal"
}

// image hashes each file that VMs are made of.
func image(ctx context.Context, _ *host, c Config) []Finding {
	img, err := hal.Load(c.Image.Dir)
	if err != nil {
		return fail(err.Error(), "the guest image", c.rebuild()+"; or set MANAGER_IMAGE_DIR to a folder that has one")
	}
	var out []Finding
	own := func(name, file string) {
		sum, size, err := digest(ctx, file)
		if err == nil && size == 0 {
			err = errors.New("is empty")
		}
		if err != nil {
			out = append(out, fail(fmt.Sprintf("%s=%s: %v", name, file, err), "a file", "correct it, or unset it to use the image's")...)
			return
		}
		out = append(out, named("image "+filepath.Base(file), info(fmt.Sprintf("sha256 %s, %s, %s; your own, compared with nothing", sum, bytesText(size), file)))...)
	}
	listed := func(f hal.File) {
		name := filepath.Join(c.Image.Dir, f.Name)
		sum, size, err := digest(ctx, name)
		var fs []Finding
		switch {
		case err != nil:
			fs = fail(err.Error(), "sha256 "+f.SHA256, c.rebuild())
		case sum != f.SHA256 || size != f.Size:
			fs = fail(fmt.Sprintf("%s has sha256 %s and %d bytes", name, sum, size), fmt.Sprintf("sha256 %s and %d bytes, as image.json says", f.SHA256, f.Size), c.rebuild())
		default:
			fs = ok(fmt.Sprintf("sha256 %s, %s", sum, bytesText(size)))
		}
		out = append(out, named("image "+f.Name, fs)...)
	}
	switch {
	case c.Image.Disk != "":
		out = append(out, bootDisk(ctx, c, img)...)
	default:
		if c.Image.Kernel != "" {
			own("MANAGER_QEMU_DISK_IMG_KERNEL_FILE", c.Image.Kernel)
		} else {
			listed(img.Kernel)
		}
		if c.Image.Initrd != "" {
			own("MANAGER_QEMU_DISK_IMG_ROOTFS_FILE", c.Image.Initrd)
		} else {
			listed(img.Initrd)
		}
	}
	listed(img.Python.File)
	return out
}

// bootDisk judges a disk image as a VM's start would.
func bootDisk(ctx context.Context, c Config, img hal.Image) []Finding {
	const name = "MANAGER_QEMU_DISK_IMG_FILE"
	size, err := qcow2.VirtualSize(c.Image.Disk, c.Image.DiskFormat)
	if err != nil {
		return fail(fmt.Sprintf("%s: %v", name, err), "a disk image in the format "+c.Image.DiskFormat, "make hal-disk; or correct "+name+" or MANAGER_QEMU_DISK_IMG_FORMAT")
	}
	sum, _, err := digest(ctx, c.Image.Disk)
	if err != nil {
		return fail(fmt.Sprintf("%s=%s: %v", name, c.Image.Disk, err), "a disk image", "make hal-disk; or correct "+name)
	}
	described, err := hal.CheckBootDisk(c.Image.Disk, img)
	if err != nil {
		return fail(fmt.Sprintf("%s=%s: %v", name, c.Image.Disk, err), "the disk that "+hal.BootDiskManifestFile+" describes, made of the image in "+c.Image.Dir, "make hal-disk; or correct "+name)
	}
	if !described {
		return named("image "+filepath.Base(c.Image.Disk), info(fmt.Sprintf("sha256 %s, a disk of %s, %s; your own, compared with nothing", sum, bytesText(size), c.Image.Disk)))
	}
	return named("image "+filepath.Base(c.Image.Disk), ok(fmt.Sprintf("sha256 %s, a disk of %s, %s", sum, bytesText(size), c.Image.Disk)))
}

// digest is a regular file's SHA-256, in hex, and its size in bytes. It stops
// when the context ends.
func digest(ctx context.Context, name string) (string, int64, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return "", 0, err
	} else if !st.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s is not a regular file", name)
	}
	h := sha256.New()
	n, err := io.Copy(h, readerOf(ctx, f))
	if err != nil {
		return "", 0, fmt.Errorf("reading %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

func readerOf(ctx context.Context, r io.Reader) io.Reader {
	return reader(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("not finished in time: %w", err)
		}
		return r.Read(p)
	})
}
