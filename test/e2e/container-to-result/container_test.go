// Package container shows that a container image, built by the example, gets its
// dataset in a VM, with its own user, folder and command, and its owner the result.
package container

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestContainerToResult(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "container-stats.tar")
	cmd := exec.Command("go", "run", "./examples/container-stats/archive", archive)
	cmd.Dir = harness.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, out)
	}
	h := harness.Start(t)
	for _, scratch := range []bool{false, true} {
		t.Logf("inputs on the scratch disk: %t", scratch)
		compute(t, h, archive, scratch)
	}
}

// compute runs the example, with its inputs in memory or on the scratch disk.
func compute(t *testing.T, h *harness.Host, archive string, scratch bool) {
	t.Helper()
	r := h.Submit(server.Computation{
		Algorithm: archive,
		Data:      []string{filepath.Join(harness.Root(), "examples", "container-stats", "data", "visits.csv")},
	}, func(m *manifest.Manifest) {
		if m.Algorithm.Type != manifest.Container {
			t.Errorf("the archive is taken for %q", m.Algorithm.Type)
		}
		if scratch {
			m.ScratchBytes = m.ScratchNeed() + 1<<20
		}
	})
	r.Ready()
	r.Upload()
	r.State("ResultReady")
	dir := r.Result()

	var told map[string]struct {
		Rows    int
		Columns map[string]struct{ Present, Missing, Implausible int }
	}
	text := h.Read(dir, "results", "quality.json")
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		t.Fatal(err)
	}
	visits := told["visits.csv"]
	if c := visits.Columns; visits.Rows != 48 || c["temperature"].Missing != 2 || c["temperature"].Implausible != 1 || c["age"].Implausible != 1 {
		t.Errorf("the result tells %s", text)
	}
	if out := h.Read(dir, "stdout.txt"); out != "visits.csv: 48 rows, 4 columns\n" {
		t.Errorf("standard output %q", out)
	}
	r.Stop()
}
