// Package build makes the guest image: kernel, initial RAM disk, Python disk
// and the description of all three (hal.Image); and, of that image, a bootable
// disk (hal.BootDisk).
//
// The inputs are the lock file, whose packages come verified from one Debian
// release, and the agent's source. Everything else is kept out: tools run from
// the lock's own packages through their own dynamic linker, the Go toolchain is
// the one go.mod names, owners, times, orders and names are fixed. So the same
// inputs give the same bytes on every machine, for every user, in any folder.
//
// An artefact is made beside its final place and renamed when it is complete;
// image.json comes last. What is up to date is left alone: a stamp keeps a
// digest of each artefact's inputs, the builder's own program among them, and
// the files are hashed again before the stamp is believed.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/progress"
)

// Release is the Debian release that the image is made of.
const Release = "trixie"

// What a package in the lock is used for.
const (
	useKernel = "kernel"
	usePython = "python"
	useTools  = "tools"
	useDisk   = "disk" // the bootable disk; an image is built without it
)

// stampFile remembers the inputs of what lies beside it.
const stampFile = ".stamp.json"

// partSuffix is in the names of files that are being written.
const partSuffix = ".part-"

// Config says what to build, where and from what.
type Config struct {
	Source      string // root of the source tree
	InitPackage string // Go package that becomes /init
	Lock        string // lock file
	Out         string // folder for the image
	CacheDir    string // the one folder for downloads
	EtcApt      string // where the machine's package sources are: /etc/apt
	Keyring     string // Debian's archive keyring; empty: debian.Keyring
	Getenv      func(string) string
	Log         *progress.Log
	Processors  int // for compression; 0: all
}

type builder struct {
	Config
	cache *debian.Cache
}

func newBuilder(cfg Config) *builder {
	if cfg.Processors == 0 {
		cfg.Processors = runtime.NumCPU()
	}
	if cfg.Keyring == "" {
		cfg.Keyring = debian.Keyring
	}
	return &builder{Config: cfg, cache: debian.NewCache(filepath.Join(cfg.CacheDir, "packages"), cfg.Log)}
}

func (b *builder) apt() (*debian.Apt, error) {
	m, err := debian.FindMirror(b.Getenv, b.EtcApt)
	if err != nil {
		return nil, err
	}
	a := debian.NewApt(filepath.Join(b.CacheDir, "apt", Release), Release, debian.Suites(Release), m, b.Log)
	a.Keyring = b.Keyring
	return a, nil
}

// stamp holds the digests of each artefact's inputs.
type stamp struct {
	Base   string `json:"base"` // kernel and initial RAM disk
	Python string `json:"python"`
}

// Build brings the image in cfg.Out up to date and returns its description.
func Build(ctx context.Context, cfg Config) (hal.Image, error) {
	b := newBuilder(cfg)
	unlock, err := debian.LockFolder(b.CacheDir)
	if err != nil {
		return hal.Image{}, err
	}
	defer unlock()
	lock, err := debian.ReadLock(b.Lock)
	if errors.Is(err, fs.ErrNotExist) {
		lock, err = b.update(ctx)
	}
	if err != nil {
		return hal.Image{}, err
	}
	if lock.Release != Release {
		return hal.Image{}, fmt.Errorf("lock file %s: release %q: this image is made of Debian %s: run `make hal-update`", b.Lock, lock.Release, Release)
	}
	for _, use := range []string{useKernel, usePython, useTools} {
		if len(lock.Using(use)) == 0 {
			return hal.Image{}, fmt.Errorf("lock file %s: no package is for use as %q: run `make hal-update`", b.Lock, use)
		}
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return hal.Image{}, fmt.Errorf("making the image's folder: %w", err)
	}
	if err := removeAll(filepath.Join(b.Out, ".*"+partSuffix+"*")); err != nil {
		return hal.Image{}, err
	}
	work, err := b.workFolder()
	if err != nil {
		return hal.Image{}, err
	}
	defer os.RemoveAll(work)
	img, err := b.build(ctx, lock, work)
	if err != nil {
		return hal.Image{}, fmt.Errorf("building the guest image: %w", err)
	}
	return img, nil
}

// workFolder makes an empty folder. The cache's lock is held, so what is there
// already belongs to nobody.
func (b *builder) workFolder() (string, error) {
	if err := removeAll(filepath.Join(b.CacheDir, "build-*")); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(b.CacheDir, "build-*")
	if err != nil {
		return "", fmt.Errorf("making a work folder: %w", err)
	}
	return work, nil
}

// removeAll removes what a killed run left under pattern.
func removeAll(pattern string) error {
	old, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("removing what an earlier run left: %w", err)
		}
	}
	return nil
}

func (b *builder) build(ctx context.Context, lock debian.Lock, work string) (hal.Image, error) {
	done := b.Log.Stage("compiling %s for the guest", b.InitPackage)
	initFile := filepath.Join(work, "init")
	if err := buildInit(ctx, b.Source, b.InitPackage, initFile); err != nil {
		return hal.Image{}, err
	}
	init, err := os.ReadFile(initFile)
	if err != nil {
		return hal.Image{}, err
	}
	done()
	self, err := ownDigest()
	if err != nil {
		return hal.Image{}, err
	}
	initSum := sha256.Sum256(init)
	want := stamp{
		Base:   inputs(self, hex.EncodeToString(initSum[:]), lock.Using(useKernel)),
		Python: inputs(self, "", lock.Using(usePython, useTools)),
	}
	old, have := b.current()
	img := hal.Image{Version: hal.ImageVersion, KernelVersion: old.KernelVersion, Kernel: old.Kernel, Initrd: old.Initrd, Python: old.Python}
	freshBase := have.Base == want.Base && old.Kernel.Check(b.Out) == nil && old.Initrd.Check(b.Out) == nil
	freshPython := have.Python == want.Python && old.Python.Check(b.Out) == nil
	if freshBase && freshPython {
		b.Log.Printf("the guest image is up to date")
		return old, nil
	}
	var uses []string
	if !freshBase {
		uses = append(uses, useKernel)
	}
	if !freshPython {
		uses = append(uses, usePython, useTools)
	}
	if err := b.cache.Ensure(ctx, b.apt, lock.Using(uses...)); err != nil {
		return hal.Image{}, err
	}
	if !freshBase {
		if err := b.base(ctx, lock, init, work, &img); err != nil {
			return hal.Image{}, err
		}
	}
	if !freshPython {
		tmp := filepath.Join(work, hal.PythonFile)
		p, err := b.python(ctx, lock, work, tmp)
		if err != nil {
			return hal.Image{}, err
		}
		img.Python.Verity = hal.NewVerity(p)
		if img.Python.File, err = install(tmp, b.Out, hal.PythonFile); err != nil {
			return hal.Image{}, err
		}
	}
	img.CommandLine = hal.CommandLines{Plain: hal.CommandLine(img, false), Attested: hal.CommandLine(img, true)}
	return img, b.describe(work, img, want)
}

func (b *builder) base(ctx context.Context, lock debian.Lock, init []byte, work string, img *hal.Image) error {
	done := b.Log.Stage("packing kernel, modules and agent")
	pkgs := lock.Using(useKernel)
	if len(pkgs) != 1 {
		return fmt.Errorf("lock file %s: %d packages are for use as %q, want 1: run `make hal-update`", b.Lock, len(pkgs), useKernel)
	}
	k, err := readKernel(ctx, b.cache.Path(pkgs[0]))
	if err != nil {
		return err
	}
	initrd, err := rootfs(init, k.modules)
	if err != nil {
		return err
	}
	img.KernelVersion = k.version
	for _, f := range []struct {
		name string
		data []byte
		into *hal.File
	}{{hal.KernelFile, k.image, &img.Kernel}, {hal.InitrdFile, initrd, &img.Initrd}} {
		tmp := filepath.Join(work, f.name)
		if err := os.WriteFile(tmp, f.data, 0o644); err != nil {
			return err
		}
		if *f.into, err = install(tmp, b.Out, f.name); err != nil {
			return err
		}
	}
	done()
	return nil
}

// describe writes image.json, and last the stamp that vouches for it.
func (b *builder) describe(work string, img hal.Image, s stamp) error {
	text, err := img.Bytes()
	if err != nil {
		return err
	}
	stampText, err := json.Marshal(s)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{hal.ManifestFile, text}, {stampFile, stampText}} {
		tmp := filepath.Join(work, f.name)
		if err := os.WriteFile(tmp, f.text, 0o644); err != nil {
			return err
		}
		if _, err := install(tmp, b.Out, f.name); err != nil {
			return err
		}
	}
	return nil
}

// current returns what an earlier run left; anything unreadable counts as
// nothing.
func (b *builder) current() (hal.Image, stamp) {
	img, err := hal.Load(b.Out)
	if err != nil {
		return hal.Image{}, stamp{}
	}
	text, err := os.ReadFile(filepath.Join(b.Out, stampFile))
	var s stamp
	if err != nil || json.Unmarshal(text, &s) != nil {
		return hal.Image{}, stamp{}
	}
	return img, s
}

// inputs digests what an artefact is made of.
func inputs(self, extra string, pkgs []debian.Package) string {
	h := sha256.New()
	fmt.Fprintln(h, self, extra)
	for _, p := range pkgs {
		fmt.Fprintln(h, p.Name, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ownDigest digests the running program: another builder builds anew.
func ownDigest() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("reading the builder's own program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading the builder's own program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// install moves a complete file into dir, whatever file systems both are on,
// and returns its digest.
func install(tmp, dir, name string) (hal.File, error) {
	in, err := os.Open(tmp)
	if err != nil {
		return hal.File{}, err
	}
	defer in.Close()
	out, err := os.CreateTemp(dir, "."+name+partSuffix+"*")
	if err != nil {
		return hal.File{}, fmt.Errorf("writing %s: %w", filepath.Join(dir, name), err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), in)
	for _, step := range []func() error{
		func() error { return out.Chmod(0o644) },
		out.Sync,
		func() error { return os.Rename(out.Name(), filepath.Join(dir, name)) },
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		return hal.File{}, fmt.Errorf("writing %s: %w", filepath.Join(dir, name), err)
	}
	return hal.File{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
