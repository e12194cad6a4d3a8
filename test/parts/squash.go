package machine

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
)

// Squash packs a folder into a squashfs image in which everything belongs to
// root, but for what the definitions say (mksquashfs(1), pseudo files). The
// program is that of the guest image's lock, whatever the host has.
func Squash(ctx context.Context, source, folder, image string, log *progress.Log, definitions ...string) error {
	cache, pkgs, err := locked(ctx, source, "tools", log)
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
	args := []string{"--library-path", libraries, filepath.Join(tools, "usr/bin/mksquashfs"), folder, image,
		"-all-root", "-noappend", "-no-xattrs", "-no-progress", "-quiet", "-processors", "2", "-comp", "zstd", "-Xcompression-level", "3"}
	for _, d := range definitions {
		args = append(args, "-p", d)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(libraries, "ld-linux-x86-64.so.2"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mksquashfs: %w: %s", err, out)
	}
	return nil
}
