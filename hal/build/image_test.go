package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/hal/emulator"
	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/qcow2"
)

func mkfifo(name string) error { return syscall.Mkfifo(name, 0o600) }

// realLibrary returns a library of this machine that needs another one.
func realLibrary(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"} {
		if _, err := os.Stat(pattern); err == nil {
			return pattern
		}
	}
	t.Fatal("no libm.so.6 on this machine")
	return ""
}

const bootcheck = "./hal/build/testdata/bootcheck"

func config(t *testing.T, cacheDir, out string) Config {
	t.Helper()
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Source: source, InitPackage: bootcheck, Lock: filepath.Join(source, "cmd/manager/img", hal.LockFile),
		Out: out, CacheDir: cacheDir, EtcApt: "/etc/apt", Getenv: os.Getenv,
		Log: progress.New(testWriter{t}, false, time.Now),
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

var artefacts = []string{hal.KernelFile, hal.InitrdFile, hal.PythonFile, hal.ManifestFile, hal.BootDiskFile, hal.BootDiskManifestFile}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestImage builds the image of the lock file and a bootable disk of it twice,
// in different folders, with different masks, caches and numbers of processors,
// compares every byte, and boots both. The Python disk, which takes minutes, is
// built once and compared with the one that `make hal` built.
func TestImage(t *testing.T) {
	cacheDir, err := debian.CacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	one := config(t, filepath.Join(t.TempDir(), "cache"), filepath.Join(t.TempDir(), "one"))
	two := config(t, filepath.Join(t.TempDir(), "another", "cache"), filepath.Join(t.TempDir(), "a longer path", "two"))
	one.Processors, two.Processors = runtime.NumCPU()+1, 1
	// Both share the downloads of every other run, and nothing else.
	for _, c := range []Config{one, two} {
		if err := os.MkdirAll(filepath.Join(cacheDir, "packages"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(c.CacheDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(cacheDir, "packages"), filepath.Join(c.CacheDir, "packages")); err != nil {
			t.Fatal(err)
		}
	}
	adoptPython(t, one)
	img, err := Build(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Disk(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	_, err = Disk(t.Context(), two) // and with it the image
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range artefacts {
		if a, b := read(t, one.Out, name), read(t, two.Out, name); !bytes.Equal(a, b) {
			t.Errorf("%s: %d and %d bytes, which differ", name, len(a), len(b))
		}
	}
	if t.Failed() {
		t.Logf("if it is %s alone, and the builder or the lock file has changed since: run make hal", hal.PythonFile)
		return
	}
	if loaded, err := hal.Load(one.Out); err != nil || loaded != img {
		t.Errorf("image.json says %+v, %v; Build returned %+v", loaded, err, img)
	}
	if err := img.Check(one.Out); err != nil {
		t.Error(err)
	}
	if loaded, err := hal.LoadBootDisk(one.Out); err != nil || loaded != d {
		t.Errorf("disk.json says %+v, %v; Disk returned %+v", loaded, err, d)
	}
	if err := errors.Join(d.Check(one.Out), d.MadeOf(img)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(one.CacheDir); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "build-") }) {
		t.Errorf("left in the cache folder: %v, %v", left, err)
	}
	t.Run("initrd", func(t *testing.T) { checkInitrd(t, read(t, one.Out, hal.InitrdFile)) })
	t.Run("again", func(t *testing.T) { checkAgain(t, two) })
	t.Run("boot", func(t *testing.T) { checkBoot(t, img, one.Out) })
	t.Run("boot the disk", func(t *testing.T) { checkBootDisk(t, img, one.Out) })
	t.Run("flipped byte", func(t *testing.T) { checkFlipped(t, img, one.Out) })
}

// adoptPython gives cfg the Python disk of the source tree, which another process
// built with all processors, and a stamp that calls it up to date.
func adoptPython(t *testing.T, cfg Config) {
	t.Helper()
	tree := filepath.Join(cfg.Source, "cmd/manager/img")
	if _, err := hal.Load(tree); err != nil {
		t.Fatalf("%v; run: make hal", err)
	}
	self, err := ownDigest()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(stamp{Python: inputs(self, "", realLock(t).Using(usePython, useTools))})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		hal.PythonFile: read(t, tree, hal.PythonFile), hal.ManifestFile: read(t, tree, hal.ManifestFile), stampFile: text,
	} {
		if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cfg.Out, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// checkInitrd lists the archive by its own headers: an init, modules, and no
// other program.
func checkInitrd(t *testing.T, packed []byte) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip header has a time %v or a name %q", z.ModTime, z.Name)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for len(b) > 110 && string(b[:6]) == "070701" {
		hex := func(at int) (n int) {
			for _, c := range b[at : at+8] {
				n = n<<4 | strings.IndexByte("0123456789abcdef", c)
			}
			return n
		}
		size, nameSize, mode := hex(54), hex(94), hex(14)
		name := string(b[110 : 110+nameSize-1])
		if mode&0o170000 == 0o100000 && mode&0o111 != 0 {
			files = append(files, name)
		}
		if mode&0o170000 == 0o100000 && mode&0o111 == 0 && !strings.HasPrefix(name, "lib/modules/") {
			t.Errorf("%s: not expected", name)
		}
		at := (110+nameSize+3)/4*4 + (size+3)/4*4
		b = b[at:]
	}
	if !slices.Equal(files, []string{"init"}) {
		t.Errorf("programs in the initial RAM disk: %v", files)
	}
}

// checkAgain shows that what is up to date is left alone, and that only what is
// not is built anew.
func checkAgain(t *testing.T, cfg Config) {
	times := func() map[string]time.Time {
		m := map[string]time.Time{}
		for _, name := range artefacts {
			st, err := os.Stat(filepath.Join(cfg.Out, name))
			if err != nil {
				t.Fatal(err)
			}
			m[name] = st.ModTime()
		}
		return m
	}
	before := times()
	d, err := Disk(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range times() {
		if at != before[name] {
			t.Errorf("%s was written again", name)
		}
	}
	// A damaged initial RAM disk is made again, the Python disk is not.
	good := read(t, cfg.Out, hal.InitrdFile)
	if err := os.WriteFile(filepath.Join(cfg.Out, hal.InitrdFile), good[:len(good)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, cfg.Out, hal.InitrdFile), good) {
		t.Error("the damaged file was not restored")
	}
	if times()[hal.PythonFile] != before[hal.PythonFile] {
		t.Error("the Python disk was written again")
	}
	// Another agent changes the initial RAM disk and nothing else.
	cfg.InitPackage = "./test/e2e/algorithms/probe"
	if _, err := Build(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, cfg.Out, hal.InitrdFile), good) || times()[hal.PythonFile] != before[hal.PythonFile] {
		t.Error("another agent: want another initial RAM disk and the same Python disk")
	}
	// The bootable disk is now of another image, until it is made anew.
	img, err := hal.Load(cfg.Out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Check(cfg.Out), d.MadeOf(img)); err == nil || !strings.Contains(err.Error(), "initrd.sha256") {
		t.Errorf("the old bootable disk: got %v, want that its initial RAM disk is another one", err)
	}
	if again, err := Disk(t.Context(), cfg); err != nil || again.MadeOf(img) != nil || again.Check(cfg.Out) != nil || again.Disk == d.Disk {
		t.Errorf("the bootable disk was not made anew: %+v, %v", again, err)
	}
	// An agent that does not compile changes nothing.
	last := read(t, cfg.Out, hal.InitrdFile)
	cfg.InitPackage = "./nonexistent"
	if _, err := Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "nonexistent") {
		t.Errorf("no agent: got %v, want an error that names it", err)
	}
	if !bytes.Equal(read(t, cfg.Out, hal.InitrdFile), last) {
		t.Error("a build that failed changed the image")
	}
}

// boot runs the image with what firmware needs to start it, and returns what
// its console showed.
func boot(t *testing.T, python string, start ...string) string {
	t.Helper()
	qemu, err := finder(t).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, append([]string{"-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "1024",
		"-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
		"-drive", "if=none,id=python,format=raw,readonly=on,file=" + python, "-device", "virtio-blk-pci,drive=python"}, start...)...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		t.Fatalf("running the guest: %v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

func finder(t *testing.T) *emulator.Finder {
	t.Helper()
	f, err := emulator.New(os.Getenv, progress.New(testWriter{t}, false, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func direct(img hal.Image, dir string) []string {
	return []string{"-kernel", filepath.Join(dir, hal.KernelFile), "-initrd", filepath.Join(dir, hal.InitrdFile), "-append", hal.CommandLine(img, false)}
}

func checkBoot(t *testing.T, img hal.Image, dir string) {
	checkWorks(t, img, boot(t, filepath.Join(dir, hal.PythonFile), direct(img, dir)...))
}

// checkBootDisk lets UEFI firmware start the bootable disk, through the devices
// and the overlay that a VM has. Beside it is a network interface, which
// firmware could want to boot from as well.
func checkBootDisk(t *testing.T, img hal.Image, dir string) {
	firmware, err := finder(t).Firmware(t.Context(), emulator.FirmwareRelease)
	if err != nil {
		t.Fatal(err)
	}
	vars, overlay := filepath.Join(t.TempDir(), "vars.fd"), filepath.Join(t.TempDir(), "overlay.qcow2")
	if err := os.WriteFile(vars, read(t, firmware, "OVMF_VARS_4M.fd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := qcow2.CreateOverlay(overlay, filepath.Join(dir, hal.BootDiskFile), qcow2.FormatQcow2); err != nil {
		t.Fatal(err)
	}
	console := boot(t, filepath.Join(dir, hal.PythonFile),
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+filepath.Join(firmware, "OVMF_CODE_4M.fd"),
		"-drive", "if=pflash,format=raw,unit=1,file="+vars,
		"-netdev", "user,id=vmnic,restrict=on", "-device", "virtio-net-pci,disable-legacy=on,iommu_platform=true,netdev=vmnic,romfile=",
		"-device", "virtio-scsi-pci,id=scsi,disable-legacy=on,iommu_platform=true",
		"-drive", "file="+overlay+",if=none,id=disk0,format=qcow2", "-device", "scsi-hd,drive=disk0")
	checkWorks(t, img, console)
	if strings.Contains(console, "PXE") {
		t.Errorf("the firmware tried the network first:\n%s", console)
	}
	d, err := hal.LoadBootDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(dir); err != nil {
		t.Errorf("after a boot: %v", err)
	}
}

func checkWorks(t *testing.T, img hal.Image, console string) {
	t.Helper()
	for _, want := range []string{"squashfs.ko: loaded", "dm-verity.ko: loaded", "vmw_vsock_virtio_transport.ko: loaded",
		"command line: " + img.CommandLine.Plain + "\n", "score 0.97", ": ok\n"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(console)
	}
}

// checkFlipped flips one bit in the first file of the disk that has blocks of
// its own, which is Python's program.
func checkFlipped(t *testing.T, img hal.Image, dir string) {
	bad := read(t, dir, hal.PythonFile)
	bad[100_000] ^= 1
	disk := filepath.Join(t.TempDir(), "flipped.img")
	if err := os.WriteFile(disk, bad, 0o644); err != nil {
		t.Fatal(err)
	}
	console := boot(t, disk, direct(img, dir)...)
	for _, want := range []string{"runtime disk mounted", "verity: 254:0: data block 24 is corrupted", ": failed: running Python"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(console)
	}
}
