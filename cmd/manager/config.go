package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/internal/manager"
	"github.com/ultravioletrs/cocos/internal/qemu"
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
	machine := vm.Machine{CPU: s.cpu, VCPUs: s.vcpus, MemoryMiB: s.memoryMiB, ReadySeconds: int((s.bootTimeout + time.Second - 1) / time.Second)}
	note(findImage(&machine, s, imageDir))
	note(findQEMU(ctx, &machine, s, log))
	machine.Vsock, err = chooseVsock(s, log)
	note(err)
	server := manager.Server{Address: s.serverAddress, Timeout: s.serverTimeout, TLS: func() (*tls.Config, error) { return tlsConfig(s) }}
	_, err = server.TLS()
	note(err)
	instance := s.instanceID
	if instance == "" {
		instance, err = os.Hostname()
		note(err)
	}
	exe, err := os.Executable()
	note(err)
	if err := errors.Join(errs...); err != nil {
		return manager.Config{}, err
	}
	return manager.Config{
		InstanceID: instance,
		Version:    version(),
		StateDir:   stateDir,
		Server:     server,
		Host: manager.Host{
			Machine: machine, Forward: s.forward, GuestPort: s.guestPort,
			GuestAddress: qemu.DefaultAddress, GuestGateway: qemu.DefaultGateway,
		},
		Shim:  []string{exe, "shim"},
		Clock: manager.SystemClock{},
		Log:   log,
	}, nil
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

// findImage checks the guest image's files against image.json. A kernel or
// initial RAM disk of one's own is only looked for.
func findImage(m *vm.Machine, s settings, dir string) error {
	img, err := hal.Load(dir)
	if err != nil {
		return fmt.Errorf("%w, or set MANAGER_IMAGE_DIR to a folder that has one", err)
	}
	var errs []error
	pick := func(name, own string, f hal.File) string {
		if own == "" {
			errs = append(errs, f.Check(dir))
			return filepath.Join(dir, f.Name)
		}
		abs, err := filepath.Abs(own)
		if err == nil {
			err = readable(abs)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s=%q: %w; correct it, or unset it to use the image's", name, own, err))
		}
		return abs
	}
	m.Kernel = pick("MANAGER_QEMU_DISK_IMG_KERNEL_FILE", s.kernel, img.Kernel)
	m.Initrd = pick("MANAGER_QEMU_DISK_IMG_ROOTFS_FILE", s.rootfs, img.Initrd)
	m.Runtime = pick("", "", img.Python.File)
	m.CommandLine = hal.CommandLine(img, false)
	return errors.Join(errs...)
}

func readable(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a file")
	case info.Size() == 0:
		return errors.New("the file is empty")
	}
	return nil
}

// findQEMU finds the program and the accelerator that really works.
func findQEMU(ctx context.Context, m *vm.Machine, s settings, log *slog.Logger) error {
	version, err := qemu.Probe(ctx, s.qemu)
	if err != nil {
		return err
	}
	bin, err := exec.LookPath(s.qemu)
	if err != nil {
		return fmt.Errorf("MANAGER_QEMU_BIN_PATH=%q: %w", s.qemu, err)
	}
	if m.QEMU, err = filepath.Abs(bin); err != nil {
		return fmt.Errorf("MANAGER_QEMU_BIN_PATH=%q: %w", s.qemu, err)
	}
	m.Accel = vm.AccelTCG
	if s.kvm != "false" {
		usable, reason := qemu.KVMUsable(ctx, m.QEMU)
		switch {
		case usable:
			m.Accel = vm.AccelKVM
		case s.kvm == "true":
			return fmt.Errorf(`MANAGER_QEMU_ENABLE_KVM="true", but KVM can't be used: %s; mend that, or set it to auto to emulate instead`, reason)
		default:
			log.Warn("KVM can't be used: VMs are emulated, which is slow", "reason", reason)
		}
	}
	if w := version.Warning(m.Accel); w != "" {
		log.Warn(w)
	}
	log.Info("QEMU found", "path", m.QEMU, "version", version.String(), "accelerator", m.Accel)
	return nil
}

// chooseVsock picks the host's side of the VMs' vsock.
func chooseVsock(s settings, log *slog.Logger) (vm.Vsock, error) {
	out := vm.Vsock{Way: vm.VsockWay(s.vsock), GuestCID: s.guestCID}
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

// tlsConfig reads the certificates anew, so that renewed ones are used from the
// next connection on.
func tlsConfig(s settings) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if s.serverCAs != "" {
		pool, err := readCAs(s.serverCAs)
		if err != nil {
			return nil, fmt.Errorf("MANAGER_GRPC_SERVER_CA_CERTS=%q: %w", s.serverCAs, err)
		}
		cfg.RootCAs = pool
	}
	if s.clientCert != "" {
		pair, err := tls.LoadX509KeyPair(s.clientCert, s.clientKey)
		if err != nil {
			return nil, fmt.Errorf("MANAGER_GRPC_CLIENT_CERT=%q with MANAGER_GRPC_CLIENT_KEY=%q: %w; expected a PEM certificate and its PEM private key", s.clientCert, s.clientKey, err)
		}
		if now := time.Now(); now.After(pair.Leaf.NotAfter) {
			return nil, fmt.Errorf("MANAGER_GRPC_CLIENT_CERT=%q expired on %s; renew it", s.clientCert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func readCAs(name string) (*x509.CertPool, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the file does not exist")
	} else if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	n := 0
	for rest := b; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, fmt.Errorf("PEM block %d, %q, is not a certificate; expected only certificates", n+1, block.Type)
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return nil, errors.New("holds no certificate; expected PEM certificates")
	}
	return pool, nil
}
