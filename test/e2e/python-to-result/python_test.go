// Package python shows that an unmodified Python script gets its dataset,
// and its owner the model.
package python

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestPythonToResult(t *testing.T) {
	iris := filepath.Join(t.TempDir(), "iris.csv")
	extract := exec.Command("go", "run", "./cmd/hal", "extract",
		"usr/lib/python3/dist-packages/sklearn/datasets/data/iris.csv", iris)
	extract.Dir = harness.Root()
	if out, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("taking the iris data out of its package: %v\n%s", err, out)
	}

	h := harness.Start(t)
	r := h.Submit(server.Computation{
		Algorithm: filepath.Join(harness.Root(), "examples", "iris", "logistic_regression.py"),
		Data:      []string{iris},
	}, nil)
	r.Ready()

	// Nothing but what the manifest names is taken.
	if _, stderr, err := r.CLI("data", "--name", "iris.csv", os.Args[0]); err == nil {
		t.Fatal("the agent took another file than the manifest names")
	} else if !strings.Contains(stderr, "iris.csv") {
		t.Errorf("the refusal does not name the dataset: %s", stderr)
	}

	r.Upload()
	r.State("ResultReady")
	dir := r.Result()
	r.State("Released")

	var metrics struct{ Accuracy float64 }
	if err := json.Unmarshal([]byte(h.Read(dir, "results", "metrics.json")), &metrics); err != nil {
		t.Fatal(err)
	}
	if metrics.Accuracy < 0.9 || metrics.Accuracy > 1 {
		t.Errorf("accuracy %v; a logistic regression on iris reaches 0.9 and more", metrics.Accuracy)
	}
	if info, err := os.Stat(filepath.Join(dir, "results", "model.joblib")); err != nil || info.Size() == 0 {
		t.Errorf("no model came back: %v", err)
	}
	if out := h.Read(dir, "stdout.txt"); !strings.HasPrefix(out, "accuracy 0.9") {
		t.Errorf("standard output came back as %q", out)
	}

	// What the algorithm printed is the consumer's alone.
	if history := r.History(); strings.Contains(history, "accuracy") {
		t.Errorf("the algorithm's output reached the server:\n%s", history)
	}

	r.Stop()
	checkSequences(t, h, r)
}

// checkSequences: every source counts from 1 without a gap.
func checkSequences(t *testing.T, h *harness.Host, r *harness.Run) {
	t.Helper()
	next := map[string]uint64{}
	for _, e := range h.Server.Events(r.ID) {
		s := e.GetSource().String()
		next[s]++
		if e.GetSequence() != next[s] {
			t.Errorf("event %d of %s came as number %d", e.GetSequence(), s, next[s])
		}
	}
	for _, kind := range []string{vm.EventAccepted, vm.EventStarting, vm.EventReady, vm.EventInput, vm.EventState, vm.EventReleased, vm.EventExited, vm.EventRemoved} {
		if !strings.Contains(r.History(), kind) {
			t.Errorf("no event %s came", kind)
		}
	}
}
