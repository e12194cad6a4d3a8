package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ultravioletrs/cocos/hal/debian"
)

// errFound ends a walk through a package early.
var errFound = errors.New("found")

// Extract writes one file of the locked Python packages to w, whether or not
// the Python disk carries it: examples and tests take their data from there.
// name is the file's path in its package, without a leading slash.
func Extract(ctx context.Context, cfg Config, name string, w io.Writer) error {
	b := newBuilder(cfg)
	unlock, err := debian.LockFolder(b.CacheDir)
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := debian.ReadLock(b.Lock)
	if err != nil {
		return err
	}
	pkgs := lock.Using(usePython)
	if err := b.cache.Ensure(ctx, b.apt, pkgs); err != nil {
		return err
	}
	for _, p := range pkgs {
		err := debian.Walk(ctx, b.cache.Path(p), func(entry string, h *tar.Header, r io.Reader) error {
			if entry != name || h.Typeflag != tar.TypeReg {
				return nil
			}
			if _, err := io.Copy(w, r); err != nil {
				return err
			}
			return errFound
		})
		if errors.Is(err, errFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("no locked Python package has the file %s", name)
}
