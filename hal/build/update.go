package build

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/ultravioletrs/cocos/hal/debian"
)

// kernelPackage is the meta package that depends on the current kernel.
const kernelPackage = "linux-image-cloud-amd64"

// Update resolves every package anew against Debian's signed indexes and
// writes the lock file.
func Update(ctx context.Context, cfg Config) error {
	b := newBuilder(cfg)
	unlock, err := debian.LockFolder(b.CacheDir)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = b.update(ctx)
	return err
}

func (b *builder) update(ctx context.Context) (debian.Lock, error) {
	a, err := b.apt()
	if err != nil {
		return debian.Lock{}, err
	}
	done := b.Log.Stage("resolving the image's packages in Debian %s", Release)
	if err := a.Update(ctx); err != nil {
		return debian.Lock{}, err
	}
	lock, err := resolve(ctx, a)
	if err != nil {
		return debian.Lock{}, fmt.Errorf("resolving the image's packages: %w", err)
	}
	text, err := lock.Bytes()
	if err != nil {
		return debian.Lock{}, err
	}
	// What is written must be readable again.
	if _, err := debian.ParseLock(text); err != nil {
		return debian.Lock{}, fmt.Errorf("resolving the image's packages: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(b.Lock), 0o755); err != nil {
		return debian.Lock{}, fmt.Errorf("writing the lock file: %w", err)
	}
	tmp := b.Lock + ".new"
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return debian.Lock{}, fmt.Errorf("writing the lock file: %w", err)
	}
	if err := os.Rename(tmp, b.Lock); err != nil {
		return debian.Lock{}, fmt.Errorf("writing the lock file: %w", err)
	}
	done()
	b.Log.Printf("%s names %d packages", b.Lock, len(lock.Packages))
	return lock, nil
}

func resolve(ctx context.Context, a *debian.Apt) (debian.Lock, error) {
	byName := map[string]debian.Package{}
	add := func(use string, pkgs ...debian.Package) {
		for _, p := range pkgs {
			if old, ok := byName[p.Name]; ok {
				p = old
			}
			p.Use = append(p.Use, use)
			byName[p.Name] = p
		}
	}
	kernel, err := a.DependsOn(ctx, kernelPackage)
	if err != nil {
		return debian.Lock{}, err
	}
	add(useKernel, kernel)
	python, err := a.Resolve(ctx, "", pythonPackages...)
	if err != nil {
		return debian.Lock{}, err
	}
	add(usePython, slices.DeleteFunc(python, func(p debian.Package) bool { return slices.Contains(notOnDisk, p.Name) })...)
	tools, err := a.Resolve(ctx, "", "squashfs-tools")
	if err != nil {
		return debian.Lock{}, err
	}
	add(useTools, slices.DeleteFunc(tools, func(p debian.Package) bool { return p.Name == "gcc-14-base" })...)
	// Of the stub's package one file is read: what it depends on is not needed.
	stub, err := a.Resolve(ctx, "", stubPackage)
	if err != nil {
		return debian.Lock{}, err
	}
	add(useDisk, slices.DeleteFunc(stub, func(p debian.Package) bool { return p.Name != stubPackage })...)
	indexes, err := a.Indexes()
	if err != nil {
		return debian.Lock{}, err
	}
	lock := debian.Lock{Version: debian.LockVersion, Release: a.Release, Indexes: indexes}
	for _, p := range byName {
		lock.Packages = append(lock.Packages, p)
	}
	slices.SortFunc(lock.Packages, func(x, y debian.Package) int { return cmp.Compare(x.Name, y.Name) })
	return lock, nil
}
