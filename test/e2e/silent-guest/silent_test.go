// Package silent shows what happens to a guest that never dials: it is
// reported and ended after its deadline.
package silent

import (
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ultravioletrs/cocos/hal/cpio"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestSilentGuest(t *testing.T) {
	h := harness.Start(t,
		harness.Env("MANAGER_QEMU_DISK_IMG_ROOTFS_FILE="+sleeper(t)),
		harness.Env("MANAGER_BOOT_TIMEOUT=20s"))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}}, nil)
	r.Event(vm.EventSilent, harness.BootLimit)
	r.Event(vm.EventExited, harness.EndLimit)
	r.Gone()
}

// sleeper is a root file system whose first process does nothing, for ever.
func sleeper(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nimport \"time\"\n\nfunc main() {\n\tfor {\n\t\ttime.Sleep(time.Hour)\n\t}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	init := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-o", init, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the sleeping init: %v\n%s", err, out)
	}
	program, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "rootfs.cpio.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	z := gzip.NewWriter(out)
	if err := cpio.Write(z, []cpio.Entry{{Name: "init", Mode: 0o755, Data: program}}); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}
