// Package boot shows that the start to a ready agent does not depend on the
// size of the runtime disk: no more of a disk four times as large is read.
package boot

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/verity"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestBootReadsLittleOfTheDisk(t *testing.T) {
	small := bytesRead(t, filepath.Dir(harness.Image(t, hal.ManifestFile)))
	large := bytesRead(t, fourfold(t))
	t.Logf("QEMU read %d bytes with the disk as built, %d with one of four times its size", small, large)
	// A few more blocks of the hash tree, and noise: far from the disk's size.
	if large > small+4<<20 {
		t.Errorf("with the larger disk %d bytes more were read until the agent was ready", large-small)
	}
}

// bytesRead boots the image and tells how much QEMU has read when the agent is
// ready (proc_pid_io(5), rchar: page cache or not).
func bytesRead(t *testing.T, image string) int64 {
	t.Helper()
	h := harness.Start(t, harness.Env("MANAGER_IMAGE_DIR="+image))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	r.Ready()
	pid := r.Event(vm.EventBooting, harness.EndLimit).GetAttributes()["qemu_pid"]
	b, err := os.ReadFile("/proc/" + pid + "/io")
	if err != nil {
		t.Fatal(err)
	}
	var rchar int64
	if _, err := fmt.Fscanf(bytes.NewReader(b), "rchar: %d", &rchar); err != nil {
		t.Fatalf("reading %q: %v", b, err)
	}
	r.Stop()
	return rchar
}

// fourfold is the image with a runtime disk of four times the size: a file
// system may be smaller than what it lies on.
func fourfold(t *testing.T) string {
	t.Helper()
	from := filepath.Dir(harness.Image(t, hal.ManifestFile))
	img, err := hal.Load(from)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{hal.KernelFile, hal.InitrdFile} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.Open(filepath.Join(from, hal.PythonFile))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, hal.PythonFile))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// Not zeros: nothing may be spared because it is empty.
	data := io.NewSectionReader(in, 0, img.Python.Verity.HashOffset)
	for range 4 {
		if _, err := data.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, data); err != nil {
			t.Fatal(err)
		}
	}
	size := 4 * img.Python.Verity.HashOffset
	params, tree, err := verity.Build(io.NewSectionReader(out, 0, size), size, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write(tree); err != nil {
		t.Fatal(err)
	}
	if img.Python.File, err = hal.Digest(dir, hal.PythonFile); err != nil {
		t.Fatal(err)
	}
	img.Python.Verity = hal.NewVerity(params)
	img.CommandLine = hal.CommandLines{Plain: hal.CommandLine(img, false), Attested: hal.CommandLine(img, true)}
	b, err := img.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, hal.ManifestFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
