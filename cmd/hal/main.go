// Command hal builds the guest image and brings what it needs.
//
//	hal build               builds the image from the lock file
//	hal disk                builds the image and a bootable disk of it
//	hal update              resolves the lock file anew
//	hal extract NAME FILE   takes one file out of the locked Python packages
//	hal qemu                prints the path of a usable QEMU, fetching one when needed
//	hal qemu VERSION        prints the path of a QEMU of that version, such as 10.0 or 11
//	hal firmware [RELEASE]  prints a folder with UEFI firmware of a Debian release
//	hal firmware amdsev|tdx prints the firmware that a TEE measures
//
// It only wires: the work is in hal/build, hal/debian and hal/emulator.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/build"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted; what is downloaded is kept for the next run")
	}
	stop()
	if err = advise(err); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "hal:", err)
		os.Exit(1)
	}
}

// advise adds what to do where the disk is full, which any step may find out;
// the tools that pack the disks say it in words only.
func advise(err error) error {
	if err != nil && (errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "No space left on device")) {
		return fmt.Errorf("%w; free about 1 GB there, or set COCOS_CACHE to a folder on another disk", err)
	}
	return err
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say what to do: build, disk, update, extract, qemu or firmware")
	}
	// What is built must not depend on the user's file mode mask.
	syscall.Umask(0o022)
	cacheDir, err := debian.CacheDir(os.Getenv)
	if err != nil {
		return err
	}
	_, errTerm := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	log := progress.New(os.Stderr, errTerm == nil, time.Now)
	switch args[0] {
	case "qemu", "firmware":
		f, err := emulator.New(os.Getenv, log)
		if err != nil {
			return err
		}
		if args[0] == "firmware" {
			return firmware(ctx, f, args[1:])
		}
		return qemu(ctx, f, args[1:])
	case "extract":
		if len(args) != 3 {
			return errors.New("extract: say which file of a package, and where to put it: hal extract NAME FILE")
		}
		cfg, err := config(nil, cacheDir, log)
		if err != nil {
			return err
		}
		return extract(ctx, cfg, args[1], args[2])
	case "build", "disk", "update":
		cfg, err := config(args[1:], cacheDir, log)
		if err != nil {
			return err
		}
		if args[0] == "update" {
			return build.Update(ctx, cfg)
		}
		what, work := "guest image", func() error { _, err := build.Build(ctx, cfg); return err }
		if args[0] == "disk" {
			what, work = "bootable disk", func() error { _, err := build.Disk(ctx, cfg); return err }
		}
		done := log.Stage("%s in %s", what, cfg.Out)
		if err := work(); err != nil {
			return err
		}
		done()
		return nil
	}
	return fmt.Errorf("%q: not a command; use build, disk, update, extract, qemu or firmware", args[0])
}

func qemu(ctx context.Context, f *emulator.Finder, args []string) error {
	find := f.Find
	switch len(args) {
	case 0:
	case 1:
		find = func(ctx context.Context) (string, error) { return f.Version(ctx, args[0]) }
	default:
		return fmt.Errorf("qemu: %q: not expected; at most one version: hal qemu [VERSION]", args[1])
	}
	path, err := find(ctx)
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

func firmware(ctx context.Context, f *emulator.Finder, args []string) error {
	release := emulator.FirmwareRelease
	switch len(args) {
	case 0:
	case 1:
		release = args[0]
	default:
		return fmt.Errorf("firmware: %q: not expected; at most one release or TEE: hal firmware [RELEASE|amdsev|tdx]", args[1])
	}
	find := f.Firmware
	if release == emulator.AmdSev || release == emulator.TDX {
		find = f.Measuring
	}
	path, err := find(ctx, release)
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

// extract leaves no file behind that is not whole.
func extract(ctx context.Context, cfg build.Config, name, to string) error {
	var b bytes.Buffer
	if err := build.Extract(ctx, cfg, name, &b); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

func config(args []string, cacheDir string, log *progress.Log) (build.Config, error) {
	source, err := os.Getwd()
	if err != nil {
		return build.Config{}, err
	}
	f := flag.NewFlagSet("hal", flag.ContinueOnError)
	out := f.String("out", "cmd/manager/img", "folder for the image")
	lock := f.String("lock", "cmd/manager/img/"+hal.LockFile, "lock file")
	pkg := f.String("init-package", "./cmd/agent", "Go package that becomes the guest's /init")
	if err := f.Parse(args); err != nil {
		return build.Config{}, err
	}
	if f.NArg() > 0 {
		return build.Config{}, fmt.Errorf("%q: not expected", f.Arg(0))
	}
	return build.Config{
		Source: source, InitPackage: *pkg, Lock: *lock, Out: *out,
		CacheDir: cacheDir, EtcApt: "/etc/apt", Getenv: os.Getenv, Log: log,
	}, nil
}
