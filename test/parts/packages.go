// Package parts takes apart what the guest image is made of, for tests: the
// packages of its lock file, fetched and verified, and the Python disk. Programs
// come out of those packages, too, whatever the host has.
package parts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/hal/build"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
)

// Packages returns those of the lock file that are for one use ("kernel",
// "tools", …), at least one, and the cache that has them. source is the root of
// the source tree.
func Packages(ctx context.Context, source, use string, log *progress.Log) (*debian.Cache, []debian.Package, error) {
	lock, err := debian.ReadLock(filepath.Join(source, "cmd/manager/img/hal.lock.json"))
	if err != nil {
		return nil, nil, err
	}
	cacheDir, err := debian.CacheDir(os.Getenv)
	if err != nil {
		return nil, nil, err
	}
	pkgs := lock.Using(use)
	if len(pkgs) == 0 {
		return nil, nil, fmt.Errorf("the image's lock file names no package for use as %q", use)
	}
	state := filepath.Join(cacheDir, "apt", "tests")
	unlock, err := debian.LockFolder(state) // tests of other packages run beside this one
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	cache := debian.NewCache(filepath.Join(cacheDir, "packages"), log)
	return cache, pkgs, cache.Ensure(ctx, func() (*debian.Apt, error) {
		mirror, err := debian.FindMirror(os.Getenv, "/etc/apt")
		if err != nil {
			return nil, err
		}
		return debian.NewApt(state, build.Release, debian.Suites(build.Release), mirror, log), nil
	}, pkgs)
}
