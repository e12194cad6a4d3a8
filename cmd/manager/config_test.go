package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/vm"
)

var discard = slog.New(slog.DiscardHandler)

// testImage makes a folder with a small image that is right.
func testImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	params := verity.Params{RootHash: [32]byte{1}, Salt: [32]byte{2}, DataBlocks: 1}
	put(t, dir, hal.KernelFile, "kernel")
	put(t, dir, hal.InitrdFile, "initrd")
	put(t, dir, hal.PythonFile, strings.Repeat("p", int(params.Size())))
	img := hal.Image{Version: hal.ImageVersion, KernelVersion: "6.12.1"}
	for name, f := range map[string]*hal.File{hal.KernelFile: &img.Kernel, hal.InitrdFile: &img.Initrd, hal.PythonFile: &img.Python.File} {
		var err error
		if *f, err = hal.Digest(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	img.Python.Verity = hal.NewVerity(params)
	img.CommandLine = hal.CommandLines{Plain: hal.CommandLine(img, false), Attested: hal.CommandLine(img, true)}
	b, err := img.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, hal.ManifestFile, string(b))
	return dir
}

func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFindImage(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(t *testing.T, dir string, s *settings)
		says string // "" is success
	}{
		"good":           {func(*testing.T, string, *settings) {}, ""},
		"own kernel":     {func(t *testing.T, dir string, s *settings) { s.kernel = put(t, t.TempDir(), "k", "mine") }, ""},
		"no image":       {func(t *testing.T, dir string, s *settings) { remove(t, dir, hal.ManifestFile) }, "MANAGER_IMAGE_DIR"},
		"no kernel":      {func(t *testing.T, dir string, s *settings) { remove(t, dir, hal.KernelFile) }, "make hal"},
		"no rootfs":      {func(t *testing.T, dir string, s *settings) { remove(t, dir, hal.InitrdFile) }, "make hal"},
		"no runtime":     {func(t *testing.T, dir string, s *settings) { remove(t, dir, hal.PythonFile) }, "make hal"},
		"kernel shorter": {func(t *testing.T, dir string, s *settings) { put(t, dir, hal.KernelFile, "kerne") }, "make hal"},
		"rootfs changed": {func(t *testing.T, dir string, s *settings) { put(t, dir, hal.InitrdFile, "initrD") }, "make hal"},
		"own kernel missing": {func(t *testing.T, dir string, s *settings) { s.kernel = filepath.Join(dir, "none") },
			"MANAGER_QEMU_DISK_IMG_KERNEL_FILE"},
		"own rootfs is a folder": {func(t *testing.T, dir string, s *settings) { s.rootfs = dir }, `MANAGER_QEMU_DISK_IMG_ROOTFS_FILE`},
		"own kernel is a pipe": {func(t *testing.T, dir string, s *settings) {
			s.kernel = filepath.Join(dir, "pipe")
			if err := unix.Mkfifo(s.kernel, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a file"},
		"own rootfs empty": {func(t *testing.T, dir string, s *settings) { s.rootfs = put(t, dir, "r", "") }, "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testImage(t)
			var (
				s settings
				m vm.Machine
			)
			c.edit(t, dir, &s)
			_, err := findImage(&m, s, dir)
			if c.says == "" {
				if err != nil || !strings.Contains(m.Boot.CommandLine, "cocos.runtime=") || !filepath.IsAbs(m.Boot.Kernel) || m.Runtime != filepath.Join(dir, hal.PythonFile) {
					t.Errorf("%v, %+v", err, m)
				}
				if s.kernel != "" && m.Boot.Kernel != s.kernel {
					t.Errorf("kernel %s", m.Boot.Kernel)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// fakeQEMU answers --version.
func fakeQEMU(t *testing.T, version string) string {
	return put(t, t.TempDir(), "qemu-system-x86_64", "#!/bin/sh\necho 'QEMU emulator version "+version+"'\n")
}

func TestFindQEMU(t *testing.T) {
	for name, c := range map[string]struct {
		s    settings
		says string
		logs string
	}{
		"good":    {settings{qemu: fakeQEMU(t, "10.0.2"), kvm: "false"}, "", "accelerator=tcg"},
		"warned":  {settings{qemu: fakeQEMU(t, "7.2.13"), kvm: "false"}, "", "QEMU 10 or later"},
		"missing": {settings{qemu: "/no/such/qemu", kvm: "false"}, "MANAGER_QEMU_BIN_PATH", ""},
		"too old": {settings{qemu: fakeQEMU(t, "6.2.0"), kvm: "false"}, "too old", ""},
		"no QEMU": {settings{qemu: put(t, t.TempDir(), "q", "#!/bin/sh\necho hello\n"), kvm: "false"}, "is not QEMU", ""},
		// This one is QEMU by its version alone: no guest answers in it.
		"KVM that does not work": {settings{qemu: fakeQEMU(t, "10.0.2"), kvm: "true"}, "MANAGER_QEMU_ENABLE_KVM", ""},
		"KVM if it works":        {settings{qemu: fakeQEMU(t, "10.0.2"), kvm: "auto"}, "", "VMs are emulated"},
	} {
		t.Run(name, func(t *testing.T) {
			var (
				m   vm.Machine
				log bytes.Buffer
			)
			version, err := findQEMU(t.Context(), &m, c.s, slog.New(slog.NewTextHandler(&log, nil)))
			if c.says == "" {
				if err != nil || m.Accel != vm.AccelTCG || m.QEMU != c.s.qemu || !strings.Contains("10.0.2 7.2.13", version.String()) || !strings.Contains(log.String(), c.logs) {
					t.Errorf("%v, %+v, %s", err, m, &log)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
		})
	}
}

func TestTLSConfig(t *testing.T) {
	dir := t.TempDir()
	cert, key := pairOf(t, dir, "good", time.Now().Add(time.Hour))
	newCert, newKey := pairOf(t, dir, "new", time.Now().Add(3*time.Hour))
	oldCert, oldKey := pairOf(t, dir, "old", time.Now().Add(-time.Minute))
	empty, text := put(t, dir, "empty", ""), put(t, dir, "text", "certificate")
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		s    settings
		says string
	}{
		"CA is a pipe":      {settings{serverCAs: pipe}, "is not a file"},
		"CA without end":    {settings{serverCAs: "/dev/zero"}, "is not a file"},
		"CA is a folder":    {settings{serverCAs: dir}, "is not a file"},
		"CA is huge":        {settings{serverCAs: put(t, dir, "huge", strings.Repeat("x", maxPEM+1))}, "more than"},
		"cert is a pipe":    {settings{clientCert: pipe, clientKey: key}, "is not a file"},
		"key is a pipe":     {settings{clientCert: cert, clientKey: pipe}, "is not a file"},
		"system":            {settings{}, ""},
		"all":               {settings{serverCAs: cert, clientCert: cert, clientKey: key}, ""},
		"CA missing":        {settings{serverCAs: filepath.Join(dir, "none")}, "MANAGER_GRPC_SERVER_CA_CERTS"},
		"CA empty":          {settings{serverCAs: empty}, "no certificate"},
		"CA is text":        {settings{serverCAs: text}, "no certificate"},
		"CA is a key":       {settings{serverCAs: key}, "is not a certificate"},
		"cert missing":      {settings{clientCert: filepath.Join(dir, "none"), clientKey: key}, "MANAGER_GRPC_CLIENT_CERT"},
		"key of another":    {settings{clientCert: cert, clientKey: oldKey}, "MANAGER_GRPC_CLIENT_KEY"},
		"cert is text":      {settings{clientCert: text, clientKey: key}, "PEM"},
		"cert of tomorrow":  {settings{clientCert: newCert, clientKey: newKey}, "not valid before"},
		"cert that expired": {settings{clientCert: oldCert, clientKey: oldKey}, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := tlsConfig(c.s)
			if c.says == "" {
				if err != nil || cfg.MinVersion < 0x0304 || cfg.InsecureSkipVerify || (c.s.serverCAs != "") != (cfg.RootCAs != nil) {
					t.Errorf("%v, %+v", err, cfg)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v\nexpected %q in it", err, c.says)
			}
		})
	}
}

func pairOf(t *testing.T, dir, name string, until time.Time) (certFile, keyFile string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-2 * time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		put(t, dir, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

func TestFolders(t *testing.T) {
	root := sourceTree()
	if root == "" {
		t.Fatal("the source tree is not recognised from inside")
	}
	state, image, err := folders(settings{})
	if err != nil || state != filepath.Join(root, "cmd/manager/tmp") || image != filepath.Join(root, "cmd/manager/img") {
		t.Errorf("in the source tree: %s, %s, %v", state, image, err)
	}
	t.Chdir(t.TempDir())
	if state, image, err = folders(settings{}); err != nil || state != "/var/lib/cocos" || image != "/var/lib/cocos/img" {
		t.Errorf("installed: %s, %s, %v", state, image, err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if state, image, err = folders(settings{stateDir: "s", imageDir: "/i"}); err != nil || state != filepath.Join(here, "s") || image != "/i" {
		t.Errorf("set: %s, %s, %v", state, image, err)
	}
}

// TestConfigureReportsAll: one start, every fault.
func TestConfigureReportsAll(t *testing.T) {
	s, err := parse([]string{"MANAGER_QEMU_BIN_PATH=/no/such/qemu", "MANAGER_IMAGE_DIR=/no/such/image", "MANAGER_GRPC_SERVER_CA_CERTS=/no/such/ca"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = configure(t.Context(), s, discard)
	for _, want := range []string{"/no/such/qemu", "/no/such/image", "/no/such/ca"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args  []string
		out   string
		usage bool
		says  string
	}{
		{args: []string{"version"}, out: "\n"},
		{args: []string{"help"}, out: "usage:"},
		{args: []string{"version", "now"}, usage: true, says: "no arguments"},
		{args: []string{"shim"}, usage: true, says: "one folder"},
		{args: []string{"shim", "a", "b"}, usage: true, says: "one folder"},
		{args: []string{"env"}, out: "#MANAGER_GRPC_URL=localhost:7001\n"},
		{args: []string{"check", "please"}, usage: true, says: "--json"},
		{args: []string{"qemu-args", "now"}, usage: true, says: "no arguments"},
		{args: []string{"run"}, usage: true, says: `"run"`},
		{args: []string{"shim", "/no/such/folder"}, says: "/no/such/folder"},
	} {
		var out, errOut bytes.Buffer
		err := run(context.Background(), c.args, nil, &out, &errOut)
		if c.out != "" && (err != nil || !strings.Contains(out.String(), c.out)) {
			t.Errorf("%v: %q, %v", c.args, &out, err)
		}
		if c.out == "" && (err == nil || errors.Is(err, errUsage) != c.usage || !strings.Contains(fmt.Sprint(err), c.says)) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}

// TestQemuArgs: the command of the VM that a run would get, and nothing is
// started or made.
func TestQemuArgs(t *testing.T) {
	state := filepath.Join(t.TempDir(), "s")
	environ := []string{"MANAGER_QEMU_BIN_PATH=" + fakeQEMU(t, "10.0.2"), "MANAGER_QEMU_ENABLE_KVM=false", "MANAGER_QEMU_VSOCK=user",
		"MANAGER_IMAGE_DIR=" + testImage(t), "MANAGER_STATE_DIR=" + state, "MANAGER_QEMU_CPU=EPYC", "MANAGER_QEMU_SMP_COUNT=4", "MANAGER_QEMU_MEMORY_SIZE=4096M"}
	var out, errOut bytes.Buffer
	if err := run(t.Context(), []string{"qemu-args"}, environ, &out, &errOut); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-machine q35 -cpu EPYC -smp 4,maxcpus=64 -m 4096M,slots=5,maxmem=30G", "hostfwd=tcp::7020-:7002", "-nographic -monitor pty\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nlacks %q", &out, want)
		}
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state directory: %v", err)
	}
	if err := run(t.Context(), []string{"qemu-args"}, append(environ, "MANAGER_QEMU_SMP_MAXCPUS=2"), &out, &errOut); err == nil || !strings.Contains(err.Error(), "MANAGER_QEMU_SMP_MAXCPUS") {
		t.Errorf("%v", err)
	}
}

// TestCheckCommand: on a host that lacks QEMU everything else is told, too.
func TestCheckCommand(t *testing.T) {
	environ := []string{"MANAGER_QEMU_BIN_PATH=/no/such/qemu", "MANAGER_IMAGE_DIR=" + testImage(t), "MANAGER_STATE_DIR=" + t.TempDir(),
		"MANAGER_GRPC_URL=127.0.0.1:1", "MANAGER_QEMU_SMP_COUNT=many"}
	var out, errOut bytes.Buffer
	if err := run(t.Context(), []string{"check", "--json"}, environ, &out, &errOut); !errors.Is(err, errCheck) {
		t.Fatalf("%v: %s", err, &out)
	}
	var got struct {
		Verdict  string
		Findings []struct{ Name, Verdict, Found string }
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Verdict != "fail" {
		t.Fatalf("%v: %s", err, &out)
	}
	verdicts := map[string]string{}
	for _, f := range got.Findings {
		verdicts[f.Name] = f.Verdict
	}
	for name, want := range map[string]string{"variables": "fail", "qemu": "fail", "server": "fail", "image bzImage": "ok", "disk": "ok"} {
		if verdicts[name] != want {
			t.Errorf("%s is %q, not %q", name, verdicts[name], want)
		}
	}
}
