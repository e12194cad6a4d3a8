package build

import (
	"bytes"
	"compress/gzip"
	"context"
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

var artefacts = []string{hal.KernelFile, hal.InitrdFile, hal.PythonFile, hal.ManifestFile}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestImage builds the image of the lock file twice, in different folders, with
// different masks, caches and numbers of processors, compares every byte, and
// boots it.
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
	img, err := Build(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	_, err = Build(t.Context(), two)
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
		return
	}
	if loaded, err := hal.Load(one.Out); err != nil || loaded != img {
		t.Errorf("image.json says %+v, %v; Build returned %+v", loaded, err, img)
	}
	if err := img.Check(one.Out); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(one.CacheDir); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "build-") }) {
		t.Errorf("left in the cache folder: %v, %v", left, err)
	}
	t.Run("initrd", func(t *testing.T) { checkInitrd(t, read(t, one.Out, hal.InitrdFile)) })
	t.Run("again", func(t *testing.T) { checkAgain(t, two) })
	t.Run("boot", func(t *testing.T) { checkBoot(t, img, one.Out) })
	t.Run("flipped byte", func(t *testing.T) { checkFlipped(t, img, one.Out) })
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
	if _, err := Build(t.Context(), cfg); err != nil {
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
	cfg.InitPackage = "./cmd/hal"
	if _, err := Build(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, cfg.Out, hal.InitrdFile), good) || times()[hal.PythonFile] != before[hal.PythonFile] {
		t.Error("another agent: want another initial RAM disk and the same Python disk")
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

// boot runs the image and returns what its console showed.
func boot(t *testing.T, img hal.Image, kernel, initrd, disk string) string {
	t.Helper()
	cacheDir, err := debian.CacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	finder := &emulator.Finder{
		Getenv: os.Getenv, CPUInfo: "/proc/cpuinfo", OSRelease: "/etc/os-release", EtcApt: "/etc/apt",
		CacheDir: cacheDir, Log: progress.New(testWriter{t}, false, time.Now),
	}
	qemu, err := finder.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "1024",
		"-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", hal.CommandLine(img, false),
		"-drive", "if=none,id=python,format=raw,readonly=on,file="+disk, "-device", "virtio-blk-pci,drive=python")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		t.Fatalf("running the guest: %v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

func checkBoot(t *testing.T, img hal.Image, dir string) {
	console := boot(t, img, filepath.Join(dir, hal.KernelFile), filepath.Join(dir, hal.InitrdFile), filepath.Join(dir, hal.PythonFile))
	for _, want := range []string{"squashfs.ko: loaded", "dm-verity.ko: loaded", "vmw_vsock_virtio_transport.ko: loaded",
		"command line: " + img.CommandLine.Plain, "score 0.97", ": ok\n"} {
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
	console := boot(t, img, filepath.Join(dir, hal.KernelFile), filepath.Join(dir, hal.InitrdFile), disk)
	for _, want := range []string{"runtime disk mounted", "verity: 254:0: data block 24 is corrupted", ": failed: running Python"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(console)
	}
}
