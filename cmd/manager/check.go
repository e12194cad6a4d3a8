package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/hostcheck"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/vm"
)

var errCheck = errors.New("this host can't run VMs as it is; see what failed above")

// probeLimit bounds the look at QEMU before the probes begin.
const probeLimit = 15 * time.Second

// check tells what this host can do with the configuration that is set. Its
// error is errCheck where something fails.
func check(ctx context.Context, environ []string, asJSON bool, stdout io.Writer) error {
	s, err := parse(environ)
	cfg := checkConfig(ctx, s, err)
	found := hostcheck.Run(ctx, cfg)
	if asJSON {
		err = hostcheck.WriteJSON(stdout, found, hostcheck.Describe(cfg))
	} else {
		err = hostcheck.Write(stdout, found, isTerminal(stdout))
	}
	if err != nil {
		return fmt.Errorf("writing the findings: %w", err)
	}
	if hostcheck.Failed(found) {
		return errCheck
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("NO_COLOR") == ""
}

// checkConfig says what the probes look at. faults are those of parse.
func checkConfig(ctx context.Context, s settings, faults error) hostcheck.Config {
	if dir, _, err := folders(s); err == nil {
		s.useEnrolled(dir)
	}
	c := hostcheck.Config{
		QEMU: s.qemu, KVM: s.kvm, Vsock: s.vsock, Sudo: s.machine.Sudo,
		Server:       hostcheck.Server{Address: s.serverAddress, ClientCert: s.clientCert, ClientKey: s.clientKey, CACerts: s.serverCAs},
		ControlGroup: s.controlGroup, HTTPAddr: s.httpAddr,
		Forward: hostcheck.Forward{Addr: s.forward.Addr, Preferred: s.forward.Preferred, First: s.forward.First, Last: s.forward.Last},
	}
	if joined, ok := faults.(interface{ Unwrap() []error }); ok {
		c.Faults = joined.Unwrap()
	}
	// The probes say themselves what is wrong with QEMU; here it only decides
	// which defaults hold.
	var m vm.Machine
	probing, done := context.WithTimeout(ctx, probeLimit)
	defer done()
	if _, err := findQEMU(probing, &m, s, slog.New(slog.DiscardHandler)); err != nil || m.Accel == vm.AccelTCG {
		for _, set := range s.emulate {
			set(&s)
		}
	}
	c.Faults = append(c.Faults, s.sized()...)
	m.VCPUs, m.CPU = s.machine.VCPUs, s.machine.CPU
	s.teeDefaults(&m)
	c.MachineType, c.CPU = s.machine.Type, m.CPU
	c.VCPUs, c.MemoryMiB = s.machine.VCPUs, s.machine.Memory.MiB
	var err error
	c.StateDir, c.Image.Dir, err = folders(s)
	c.TEE = checkTEE(s)
	if err != nil {
		c.Faults = append(c.Faults, err)
	}
	c.ControlSocket = absolute(s.controlSocket)
	if c.ControlSocket == "" {
		c.ControlSocket = filepath.Join(c.StateDir, vm.ControlSocket)
	}
	c.Image.Kernel, c.Image.Initrd = absolute(s.kernel), absolute(s.rootfs)
	c.Image.Disk, c.Image.DiskFormat = absolute(s.disk.Image), s.disk.Format
	code, vars := firmwareFiles(s, ovmf)
	var firmware *vm.Firmware
	if code != "" {
		firmware = &vm.Firmware{Code: s.code}
		if vars != "" {
			firmware.Vars = s.vars
			firmware.Vars.File = vars
		}
	}
	if faults == nil {
		c.Faults = append(c.Faults, settingFaults(s, firmware)...)
	}
	c.Firmware = hostcheck.Firmware{Code: absolute(code), CodeFormat: s.code.Format, Vars: absolute(vars), VarsFormat: s.vars.Format}
	limits := s.limits
	if s.autoMemory {
		if limits.MaxMemoryMiB, err = hostMemory(); err != nil {
			c.Faults = append(c.Faults, err)
		}
	}
	c.Limits = hostcheck.Limits{
		MaxVMs: limits.MaxVMs, MaxMemoryMiB: limits.MaxMemoryMiB, MaxVCPUs: limits.MaxVCPUs, MinFreeDisk: limits.MinFreeDisk,
	}
	m.Boot = vm.Boot{Firmware: &vm.Firmware{Vars: vm.Flash{File: vars}}}
	if s.disk.Image != "" {
		m.Boot.Disk = &vm.Disk{Image: s.disk.Image, Format: s.disk.Format}
	}
	c.Limits.DiskPerVM, _ = manager.DiskPerVM(m) // a file that can't be read is another probe's finding
	return c
}

// checkTEE says which TEE the probes look at.
func checkTEE(s settings) hostcheck.TEE {
	t := s.machineTEE("/")
	if t == nil || len(s.tee.on()) > 1 { // two are a fault of the variables
		return hostcheck.TEE{}
	}
	return hostcheck.TEE{Kind: t.Kind, Switch: s.tee.on()[0], BIOS: absolute(s.tee.bios), CBitPos: t.CBitPos, QuoteService: t.QuoteService, EPCMiB: t.EPCMiB}
}

func absolute(name string) string {
	if name == "" {
		return ""
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	return abs
}
