package parts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/progress"
)

func TestSquash(t *testing.T) {
	source, log := filepath.Join("..", ".."), progress.New(os.Stderr, false, time.Now)
	dir := t.TempDir()
	folder, image, out := filepath.Join(dir, "folder"), filepath.Join(dir, "image"), filepath.Join(dir, "out")
	if err := os.MkdirAll(filepath.Join(folder, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "sub", "file"), []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Squash(t.Context(), source, folder, image, log, "made f 600 0 0 echo made"); err != nil {
		t.Fatal(err)
	}
	if err := unsquash(t.Context(), source, image, out, log); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"sub/file": "content", "made": "made\n"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
		}
	}
	if err := unsquash(t.Context(), source, filepath.Join(folder, "sub", "file"), filepath.Join(dir, "other"), log); err == nil || !strings.Contains(err.Error(), "unsquashfs") {
		t.Errorf("of what is no image: %v", err)
	}
	if err := UnpackPython(t.Context(), dir, filepath.Join(dir, "python"), log); err == nil || !strings.Contains(err.Error(), "run: make hal") {
		t.Errorf("without an image: %v", err)
	}
}
