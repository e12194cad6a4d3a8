// Package confined shows in a VM what a development machine may lack: limits on
// the memory, processes and processors of an algorithm as a whole, Landlock, and
// that an algorithm that tries to break out reaches neither the kernel nor, over
// vsock, the host.
package confined

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestConfinedAlgorithm(t *testing.T) {
	probe := build(t, "probe", "CGO_ENABLED=0")
	module := build(t, "module", "GOOS=wasip1", "GOARCH=wasm")
	t.Run("breakout", func(t *testing.T) { breakout(t, probe) })
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
		{"fork bomb", probe, []string{"bomb"}, manifest.Limits{Processes: 32},
			"failure.txt", "/algorithm/limits/processes"},
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
			if story := h.Read(dir, "run.json"); tt.name == "fork bomb" && (strings.Contains(story, `"processes_refused": 0`) || !strings.Contains(story, "processes_refused")) {
				t.Errorf("run.json says %s", story)
			}
		})
	}
}

// build builds one of the algorithms that the runtime's own tests have.
func build(t *testing.T, name string, env ...string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", program, "./internal/runtime/testdata/"+name)
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return program
}

// landlockABI is that of the image's kernel.
const landlockABI = 6

// breakout has the algorithm try every way out, and compute on half a processor.
func breakout(t *testing.T, probe string) {
	h := harness.Start(t)
	r := h.Submit(server.Computation{Algorithm: probe, Args: []string{"everything"}},
		func(m *manifest.Manifest) {
			m.Algorithm.Limits.CPUMilli = 500
			// What it leaves is nobody's, what it prints is; the archive tells no size.
			m.Outputs = manifest.Outputs{
				Pad: true, ResultMax: 1 << 20,
				Release: []manifest.Release{{Consumer: m.Consumers[0], Files: []string{"released"}, Output: true}},
			}
		})
	r.Ready()
	r.Upload()
	r.State("ResultReady")
	dir := r.Result()
	if _, err := os.Stat(filepath.Join(dir, "results")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("results that are not released: %v", err)
	}
	if out := r.MustCLI("state", "--role", "consumer", "--json"); !strings.Contains(out, `"result":{"size":1048576,`) {
		t.Errorf("the result's size is told as it is: %s", out)
	}
	said := map[string]string{}
	for line := range strings.Lines(h.Read(dir, "stdout.txt")) {
		name, what, _ := strings.Cut(strings.TrimSpace(line), ": ")
		said[name] = what
	}
	// What it may do, so that one sees that it was not just broken.
	may := []string{"writing to results", "moving between folders", "truncating", "writing to /dev/null"}
	for name, what := range said {
		if (what == "succeeded") != slices.Contains(may, name) {
			t.Errorf("%s: %s", name, what)
		}
	}
	for name, want := range map[string]string{
		"vsock": "address family not supported by protocol", "finit_module": "function not implemented",
		"clone user": "operation not permitted", "memory of the first process": "no such file or directory",
		"ioctl on a device": "permission denied", "writing to /proc": "open /proc/self/comm: permission denied",
	} {
		if said[name] != want {
			t.Errorf("%s: %q; want %q", name, said[name], want)
		}
	}
	if len(said) < 80 {
		t.Errorf("only %d attempts were made", len(said))
	}
	var story struct {
		Landlock int `json:"landlock_abi"`
		Usage    struct {
			Wall int64 `json:"wall_ms"`
			CPU  int64 `json:"cpu_ms"`
		}
	}
	if err := json.Unmarshal([]byte(h.Read(dir, "run.json")), &story); err != nil {
		t.Fatal(err)
	}
	t.Logf("Landlock ABI %d; %d ms of processor time in %d ms", story.Landlock, story.Usage.CPU, story.Usage.Wall)
	if story.Landlock != landlockABI {
		t.Errorf("Landlock ABI %d; want %d", story.Landlock, landlockABI)
	}
	// Half a processor takes at least twice the time, less a period.
	if story.Usage.CPU < 1500 || story.Usage.Wall < 2*story.Usage.CPU-1000 {
		t.Errorf("%d ms of processor time in %d ms; want half a processor", story.Usage.CPU, story.Usage.Wall)
	}
}
