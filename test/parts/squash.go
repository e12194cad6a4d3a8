package parts

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
)

// Squash packs a folder into a squashfs image in which everything belongs to
// root, but for what the definitions say (mksquashfs(1), pseudo files).
func Squash(ctx context.Context, source, folder, image string, log *progress.Log, definitions ...string) error {
	args := []string{folder, image,
		"-all-root", "-noappend", "-no-xattrs", "-no-progress", "-quiet", "-processors", "2", "-comp", "zstd", "-Xcompression-level", "3"}
	for _, d := range definitions {
		args = append(args, "-p", d)
	}
	return tool(ctx, source, log, "mksquashfs", args...)
}

// UnpackPython unpacks the Python disk that `make hal` built, some 250 MB, into a
// folder that is not there yet: it is then what a runtime.Runner takes for Root.
func UnpackPython(ctx context.Context, source, folder string, log *progress.Log) error {
	disk := filepath.Join(source, "cmd/manager/img", hal.PythonFile)
	if _, err := os.Stat(disk); err != nil {
		return fmt.Errorf("the guest image is missing: %w; run: make hal", err)
	}
	return unsquash(ctx, source, disk, folder, log)
}

func unsquash(ctx context.Context, source, image, folder string, log *progress.Log) error {
	return tool(ctx, source, log, "unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-processors", "2", "-dest", folder, image)
}

// tool runs a program of squashfs-tools.
func tool(ctx context.Context, source string, log *progress.Log, program string, args ...string) error {
	cache, pkgs, err := Packages(ctx, source, "tools", log)
	if err != nil {
		return fmt.Errorf("fetching squashfs-tools: %w", err)
	}
	tools, err := os.MkdirTemp("", "cocos-tools-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tools)
	for _, p := range pkgs {
		if err := debian.Unpack(ctx, cache.Path(p), tools, func(name string, _ *tar.Header) string { return name }); err != nil {
			return err
		}
	}
	libraries := filepath.Join(tools, "usr/lib/x86_64-linux-gnu")
	args = append([]string{"--library-path", libraries, filepath.Join(tools, "usr/bin", program)}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(libraries, "ld-linux-x86-64.so.2"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}
