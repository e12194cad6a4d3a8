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
	probe := build(t, "probe", "CGO_ENABLED=0")
	module := build(t, "module", "GOOS=wasip1", "GOARCH=wasm")
	for _, tt := range []struct {
		name       string
		algorithm  string
		args       []string
		limits     manifest.Limits
		file, want string
	}{
		{"memory", probe, []string{"allocate", strconv.Itoa(400 << 20)}, manifest.Limits{MemoryBytes: 256 << 20},
			"failure.txt", "memory_bytes"},
		// What lies in memory file systems counts.
		{"memory of files", probe, []string{"write", "/dev/shm/x", strconv.Itoa(160 << 20)}, manifest.Limits{MemoryBytes: 96 << 20},
			"failure.txt", "memory_bytes"},
		{"memory of a module", module, []string{"allocate " + strconv.Itoa(400<<20)}, manifest.Limits{MemoryBytes: 256 << 20},
			"failure.txt", "memory_bytes"},
		{"processes", probe, []string{"fork", "500"}, manifest.Limits{Processes: 32},
			"stderr.txt", "resource temporarily unavailable"},
		{"vsock", probe, []string{"socket", strconv.Itoa(unix.AF_VSOCK)}, manifest.Limits{},
			"stderr.txt", "address family not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := harness.Start(t)
			r := h.Submit(server.Computation{Algorithm: tt.algorithm, Args: tt.args},
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

// build builds one of the algorithms that the runtime's own tests have.
func build(t *testing.T, name string, env ...string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", program, "internal/runtime/testdata/"+name+"/main.go")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return program
}
