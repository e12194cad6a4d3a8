// Package wasm shows that a WebAssembly module, built from the aggregate
// example, gets its datasets in a VM, and its owner what may be told of them.
package wasm

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestWebAssemblyToResult(t *testing.T) {
	module := filepath.Join(t.TempDir(), "aggregate.wasm")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", module, "./examples/aggregate-wasm")
	build.Dir, build.Env = harness.Root(), append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, out)
	}
	data := filepath.Join(harness.Root(), "examples", "aggregate-wasm", "data")

	h := harness.Start(t)
	r := h.Submit(server.Computation{
		Algorithm: module,
		Args:      []string{"-group-by=ward", "-min-group=10"},
		Data:      []string{filepath.Join(data, "north.csv"), filepath.Join(data, "south.csv")},
	}, func(m *manifest.Manifest) {
		if m.Algorithm.Type != manifest.Wasm {
			t.Errorf("the module is taken for %q", m.Algorithm.Type)
		}
	})
	r.Ready()
	r.Upload()
	r.State("ResultReady")
	dir := r.Result()

	type set struct {
		Rows    int
		Columns map[string]struct{ Count int }
	}
	var told struct {
		All      set
		Groups   map[string]set
		Withheld int `json:"withheld_groups"`
	}
	text := h.Read(dir, "results", "aggregate.json")
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		t.Fatal(err)
	}
	// Five patients have a rare disease, and the next smaller ward would give
	// them away beside the total.
	if groups := slices.Sorted(maps.Keys(told.Groups)); told.All.Rows != 89 || told.All.Columns["cost"].Count != 89 ||
		!slices.Equal(groups, []string{"cardiology", "orthopaedics"}) || told.Withheld != 2 {
		t.Errorf("the result tells %s", text)
	}
	if strings.Contains(text, "rare-diseases") {
		t.Errorf("the result names a group that is withheld:\n%s", text)
	}
	if out := h.Read(dir, "stdout.txt"); out != "89 rows of 2 files, 2 groups told of, 2 withheld\n" {
		t.Errorf("standard output %q", out)
	}
}
