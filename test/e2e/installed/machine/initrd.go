package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/test/parts"
)

// modules are loaded besides the guest image's own, in this order: the root's
// file system, and the devices that VMs use.
var modules = []string{"overlay", "vhost_iotlb", "vhost", "vhost_vsock", "irqbypass", "kvm", "kvm-amd"}

// builtIn may be in the kernel instead.
var builtIn = []string{"irqbypass"}

// Initrd writes the initial RAM disk to name. source is the root of the source
// tree, whose guest image must have been built.
func Initrd(ctx context.Context, source, name string, log *progress.Log) error {
	base, err := os.ReadFile(filepath.Join(source, "cmd/manager/img/rootfs.cpio.gz"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the guest image is missing: %w; run: make hal", err)
	}
	if err != nil {
		return err
	}
	init := name + ".init"
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./test/e2e/installed/machine/init")
	cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the VM's init: %w\n%s", err, out)
	}
	defer os.Remove(init)
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	found, err := readModules(ctx, source, log)
	if err != nil {
		return fmt.Errorf("reading the kernel's modules: %w", err)
	}
	entries := []cpio.Entry{
		{Name: "machine-init", Mode: 0o755, Data: program},
		{Name: "extra", Mode: fs.ModeDir | 0o755},
	}
	var list strings.Builder
	for _, m := range modules {
		data, ok := found[m]
		if !ok {
			continue // readModules has checked that it may be missing
		}
		entries = append(entries, cpio.Entry{Name: "extra/" + m + ".ko", Mode: 0o644, Data: data})
		fmt.Fprintf(&list, "/extra/%s.ko\n", m)
	}
	entries = append(entries, cpio.Entry{Name: "extra/list", Mode: 0o644, Data: []byte(list.String())})
	// An archive that is not compressed begins at a multiple of four bytes.
	out := bytes.NewBuffer(append(base, make([]byte, -len(base)&3)...))
	if err := cpio.Write(out, entries); err != nil {
		return err
	}
	return os.WriteFile(name, out.Bytes(), 0o600)
}

// readModules takes the modules out of the package of the image's kernel.
func readModules(ctx context.Context, source string, log *progress.Log) (map[string][]byte, error) {
	cache, kernels, err := parts.Packages(ctx, source, "kernel", log)
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	err = debian.Walk(ctx, cache.Path(kernels[0]), func(name string, _ *tar.Header, r io.Reader) error {
		m, ok := strings.CutSuffix(path.Base(name), ".ko.xz")
		if !ok || !slices.Contains(modules, m) {
			return nil
		}
		x, err := xz.NewReader(r)
		if err != nil {
			return err
		}
		found[m], err = io.ReadAll(x)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		if found[m] == nil && !slices.Contains(builtIn, m) {
			return nil, fmt.Errorf("%s has no module %s", kernels[0], m)
		}
	}
	return found, nil
}
