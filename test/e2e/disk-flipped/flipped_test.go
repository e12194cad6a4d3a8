// Package flipped shows that a byte changed on the runtime disk makes the read
// of the file that it belongs to fail, and no other.
package flipped

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestFlippedByte(t *testing.T) {
	for _, tt := range []struct {
		name string
		flip bool
	}{{"untouched", false}, {"flipped", true}} {
		t.Run(tt.name, func(t *testing.T) {
			dir := imageCopy(t)
			h := harness.Start(t, harness.Env("MANAGER_IMAGE_DIR="+dir))
			if tt.flip {
				// The Manager compares the image with its digests when it starts;
				// this host changes it afterwards.
				h.ManagerReady()
				flip(t, dir)
			}
			r := h.Submit(server.Computation{
				Algorithm: filepath.Join(harness.Root(), "test", "e2e", "algorithms", "read_everything.py"),
				// The libraries make most of the disk.
				Args: []string{"/usr/lib"},
			}, nil)
			r.Ready()
			r.Upload()
			r.State("ResultReady")
			var got struct {
				Read   int
				Failed map[string]syscall.Errno
			}
			if err := json.Unmarshal([]byte(h.Read(r.Result(), "results", "read.json")), &got); err != nil {
				t.Fatal(err)
			}
			t.Logf("read %d files, failed: %v", got.Read, got.Failed)
			if got.Read < 1000 {
				t.Errorf("only %d files could be read", got.Read)
			}
			if tt.flip == (len(got.Failed) == 0) {
				t.Errorf("flipped: %t; failed reads: %v", tt.flip, got.Failed)
			}
			for file, errno := range got.Failed {
				if errno != syscall.EIO {
					t.Errorf("%s: errno %d, want EIO", file, errno)
				}
			}
		})
	}
}

// imageCopy is the image in a folder of its own.
func imageCopy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{hal.ManifestFile, hal.KernelFile, hal.InitrdFile, hal.PythonFile} {
		copyFile(t, harness.Image(t, name), filepath.Join(dir, name))
	}
	return dir
}

// flip changes one bit in the middle of the Python disk's data.
func flip(t *testing.T, dir string) {
	t.Helper()
	img, err := hal.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, img.Python.Name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	at := img.Python.Verity.HashOffset / 2
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}
