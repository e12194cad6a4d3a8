// Package confined shows in a VM what a development machine may lack: limits on
// the memory and processes of an algorithm as a whole, and that it can't reach
// the host over vsock.
package confined

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestConfinedAlgorithm(t *testing.T) {
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "internal/runtime/testdata/probe/main.go")
	build.Dir, build.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	for _, tt := range []struct {
		name       string
		args       []string
		limits     manifest.Limits
		file, want string
	}{
		{"memory", []string{"allocate", strconv.Itoa(400 << 20)}, manifest.Limits{MemoryBytes: 256 << 20},
			"failure.txt", "memory_bytes"},
		// What lies in memory file systems counts.
		{"memory of files", []string{"write", "/dev/shm/x", strconv.Itoa(160 << 20)}, manifest.Limits{MemoryBytes: 96 << 20},
			"failure.txt", "memory_bytes"},
		{"processes", []string{"fork", "500"}, manifest.Limits{Processes: 32},
			"stderr.txt", "resource temporarily unavailable"},
		{"vsock", []string{"socket", strconv.Itoa(unix.AF_VSOCK)}, manifest.Limits{},
			"stderr.txt", "address family not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := harness.Start(t)
			r := h.Submit(server.Computation{Algorithm: probe, Args: tt.args},
				func(m *manifest.Manifest) { m.Algorithm.Limits = tt.limits })
			r.Ready()
			r.Upload()
			r.State("Failed")
			dir := filepath.Join(t.TempDir(), "result")
			// It exits with 1: the computation failed, as it should.
			if _, stderr, err := r.CLI("result", "--out", dir); err == nil {
				t.Errorf("cocos-cli result succeeded: %s", stderr)
			}
			if got := h.Read(dir, tt.file); !strings.Contains(got, tt.want) {
				t.Errorf("%s says %q; expected it to name %q", tt.file, got, tt.want)
			}
		})
	}
}
