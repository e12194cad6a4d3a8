package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/qemu"
	"github.com/ultravioletrs/cocos/internal/version"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/internal/vsock"
)

// configure turns settings into a Manager's configuration. It looks at the host
// and refuses, before anything is started, what could not run a VM.
func configure(ctx context.Context, s settings, log *slog.Logger) (manager.Config, error) {
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	stateDir, imageDir, err := folders(s)
	note(err)
	joined := s.useEnrolled(stateDir)
	machine := s.machine
	machine.Limits = vm.Limits{Ready: wholeSeconds(s.bootTimeout), Stop: wholeSeconds(s.stopGrace)}
	machine.Net.ROMFile = absolute(machine.Net.ROMFile)
	qemuVersion, err := findQEMU(ctx, &machine, s, log)
	note(err)
	if machine.Accel == vm.AccelTCG {
		for _, set := range s.emulate {
			set(&s)
		}
		machine.CPU, machine.VCPUs, machine.Memory.MiB = s.machine.CPU, s.machine.VCPUs, s.machine.Memory.MiB
	}
	errs = append(errs, s.sized()...)
	s.teeDefaults(&machine)
	img, err := findImage(&machine, s, imageDir)
	note(err)
	if s.tee.bios == "" {
		note(findFirmware(&machine, s, ovmf))
	}
	if err == nil {
		note(findTEE(&machine, s, stateDir, img, qemuVersion, log))
	}
	machine.Vsock, err = chooseVsock(s, log)
	note(err)
	limits := s.limits
	if s.autoMemory {
		limits.MaxMemoryMiB, err = hostMemory()
		note(err)
	}
	if s.autoScratch {
		limits.MaxScratch, err = halfOfDisk(stateDir)
		note(err)
	}
	server := manager.Server{Address: s.serverAddress, Timeout: s.serverTimeout, TLS: func() (*tls.Config, error) { return tlsConfig(s) }, Enrolled: joined}
	_, err = server.TLS()
	note(err)
	instance, err := instanceID(s)
	note(err)
	exe, err := os.Executable()
	note(err)
	if err := errors.Join(errs...); err != nil {
		return manager.Config{}, err
	}
	host := manager.Host{
		Machine: machine, HostData: s.tee.hostData, Limits: limits, Forward: s.forward, GuestPort: s.guestPort,
		GuestAddress: qemu.DefaultAddress, GuestGateway: qemu.DefaultGateway,
	}
	if s.egress {
		host.Egress = &vm.Egress{Allow: s.egressAllow}
	}
	if err := errors.Join(append(machineFaults(host, stateDir), ownAddress(s.forward.Addr))...); err != nil {
		return manager.Config{}, err
	}
	control := absolute(s.controlSocket)
	if control == "" {
		control = filepath.Join(stateDir, vm.ControlSocket)
	}
	digests, err := digestsOf(machine)
	if err != nil {
		return manager.Config{}, err
	}
	return manager.Config{
		InstanceID:    instance,
		Version:       version.String(),
		EOSVersion:    s.eosVersion,
		OVMFVersion:   s.ovmfVersion,
		StateDir:      stateDir,
		Server:        server,
		Host:          host,
		Shim:          []string{exe, "shim"},
		ControlSocket: control,
		ControlGroup:  s.controlGroup,
		HTTPAddr:      s.httpAddr,
		QEMUVersion:   qemuVersion.String(),
		Digests:       digests,
		Clock:         manager.SystemClock{},
		Log:           log,
	}, nil
}

// instanceID is the Manager's name for its server.
func instanceID(s settings) (string, error) {
	if s.instanceID != "" {
		return s.instanceID, nil
	}
	return os.Hostname()
}

func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// hostReserve is what the host keeps of its memory for itself, in MiB.
const hostReserve = 512

// hostMemory is what VMs may have together where nothing is set, in MiB.
func hostMemory() (int, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("asking for the host's memory: %w", err)
	}
	mib := int(info.Totalram * uint64(info.Unit) >> 20)
	return max(mib-hostReserve, 1), nil
}

// halfOfDisk is what scratch disks may have together where nothing is set, in
// bytes: a run claims its disk for as long as it lives, and one of them should not
// keep all others, and the host's own files, from the file system that dir lies in,
// or will lie in.
func halfOfDisk(dir string) (int64, error) {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			return int64(fs.Blocks) * fs.Bsize / 2 >> 20 << 20, nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			return 0, fmt.Errorf("asking for the size of the file system of MANAGER_STATE_DIR: %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// installed is where an installation keeps its files.
const installed = "/var/lib/cocos"

// folders returns the state and image folders: those that are set, those of
// the source tree that the working directory lies in, those of an installation.
func folders(s settings) (state, image string, err error) {
	state, image = installed, filepath.Join(installed, "img")
	if root := sourceTree(); root != "" {
		state, image = filepath.Join(root, "cmd/manager/tmp"), filepath.Join(root, "cmd/manager/img")
	}
	if s.stateDir != "" {
		state = s.stateDir
	}
	if s.imageDir != "" {
		image = s.imageDir
	}
	// Shims run elsewhere: nothing may depend on the working directory.
	state, err1 := filepath.Abs(state)
	image, err2 := filepath.Abs(image)
	return state, image, errors.Join(err1, err2)
}

// sourceTree finds the root of this module's sources above the working
// directory; empty if it does not lie in them.
func sourceTree() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; ; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			first, _, _ := strings.Cut(string(b), "\n")
			if strings.TrimSpace(first) == "module github.com/ultravioletrs/cocos" {
				return dir
			}
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// findQEMU finds the program, its version, and the accelerator that really works.
func findQEMU(ctx context.Context, m *vm.Machine, s settings, log *slog.Logger) (qemu.Version, error) {
	version, err := qemu.Probe(ctx, s.qemu)
	if err != nil {
		return qemu.Version{}, err
	}
	bin, err := exec.LookPath(s.qemu)
	if err != nil {
		return version, fmt.Errorf("MANAGER_QEMU_BIN_PATH=%q: %w", s.qemu, err)
	}
	if m.QEMU, err = filepath.Abs(bin); err != nil {
		return version, fmt.Errorf("MANAGER_QEMU_BIN_PATH=%q: %w", s.qemu, err)
	}
	m.Accel = vm.AccelTCG
	if s.kvm != "false" {
		usable, reason := qemu.KVMUsable(ctx, m.QEMU)
		needed := s.tee.kind() != "" && s.tee.kind() != vm.Simulated
		switch {
		case usable:
			m.Accel = vm.AccelKVM
		case needed && s.printing:
			m.Accel = vm.AccelKVM
			log.Warn("this host could not run the VM: KVM can't be used", "reason", reason)
		case needed:
			return version, fmt.Errorf(`%s needs KVM, which can't be used: %s; mend that, or unset it`, s.tee.on()[0], reason)
		case s.kvm == "true":
			return version, fmt.Errorf(`MANAGER_QEMU_ENABLE_KVM="true", but KVM can't be used: %s; mend that, or set it to auto to emulate instead`, reason)
		default:
			log.Warn("KVM can't be used: VMs are emulated, which is slow", "reason", reason)
		}
	}
	if w := version.Warning(m.Accel); w != "" {
		log.Warn(w)
	}
	log.Info("QEMU found", "path", m.QEMU, "version", version.String(), "accelerator", m.Accel)
	return version, nil
}

// chooseVsock picks the host's side of the VMs' vsock.
func chooseVsock(s settings, log *slog.Logger) (vm.Vsock, error) {
	out := s.machine.Vsock
	out.Way = vm.VsockWay(s.vsock)
	if out.Way == vm.VsockUser {
		return out, nil
	}
	err := vsock.KernelAvailable()
	switch {
	case err == nil:
		out.Way = vm.VsockKernel
	case out.Way == vm.VsockKernel:
		return out, fmt.Errorf(`MANAGER_QEMU_VSOCK="kernel": %w`, err)
	default:
		out.Way = vm.VsockUser
		log.Debug("using the shim's own vsock device", "reason", err)
	}
	return out, nil
}
