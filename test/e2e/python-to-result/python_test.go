// Package python shows that an unmodified Python script gets its dataset,
// and its owner the model; that it finds the files and packages that came with it,
// and is not started where a package is missing.
package python

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
	"github.com/ultravioletrs/cocos/test/parts"
)

// extract takes a file out of the Python disk's packages.
func extract(t *testing.T, name string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), filepath.Base(name))
	cmd := exec.Command("go", "run", "./cmd/hal", "extract", name, path)
	cmd.Dir = harness.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("taking %s out of its package: %v\n%s", name, err, out)
	}
	return path
}

// extension is a compiled module of Python's own; in a wheel it is a stranger's.
const extension = "usr/lib/python3.13/lib-dynload/_queue.cpython-313-x86_64-linux-gnu.so"

// packaged is a computation with a script, its requirements, and two wheels: one of
// pure Python that needs the other, which is compiled.
func packaged(t *testing.T, script, requirements string, files ...string) server.Computation {
	t.Helper()
	dir := t.TempDir()
	wheels, algorithm, wanted := filepath.Join(dir, "wheels"), filepath.Join(dir, "main.py"), filepath.Join(dir, "requirements.txt")
	library, err := os.ReadFile(extract(t, extension))
	if err == nil {
		err = os.Mkdir(wheels, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []parts.Wheel{
		{Name: "swift", Version: "2.0", Tag: "cp313-cp313-manylinux_2_17_x86_64", Files: map[string][]byte{
			"swift/__init__.py": []byte("from swift._queue import SimpleQueue\n"), "swift/" + filepath.Base(extension): library,
		}},
		{Name: "tidy", Version: "1.5", Tag: "py3-none-any", Requires: []string{"swift>=2", "numpy"}, Files: map[string][]byte{"tidy.py": []byte("import swift\nqueue = swift.SimpleQueue()\n")}},
	} {
		if err := w.Write(wheels); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{algorithm: script, wanted: requirements} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return server.Computation{
		Algorithm: algorithm, Files: append([]string{wanted, wheels}, files...),
		Python: manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"},
	}
}

// usesPackages takes a value through both packages, and then runs the script beside it.
const usesPackages = `
import os, runpy
import swift._queue, tidy
tidy.queue.put("packages work")
word = tidy.queue.get()
for module in tidy, swift._queue:
    assert module.__file__.startswith("/tmp/packages/"), module.__file__
runpy.run_path(os.path.join(os.environ["COCOS_FILES"], "logistic_regression.py"), run_name="__main__")
print(word)
`

func TestPythonToResult(t *testing.T) {
	iris := extract(t, "usr/lib/python3/dist-packages/sklearn/datasets/data/iris.csv")
	c := packaged(t, usesPackages, "tidy==1.5\n", filepath.Join(harness.Root(), "examples", "iris", "logistic_regression.py"))
	c.Data = []string{iris}

	h := harness.Start(t)
	// Data and packages on the scratch disk, beside the one that has Python.
	r := h.Submit(c, func(m *manifest.Manifest) { m.ScratchBytes = 64 << 20 })
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
	if out := h.Read(dir, "stdout.txt"); !strings.HasPrefix(out, "accuracy 0.9") || !strings.HasSuffix(out, "\npackages work\n") {
		t.Errorf("standard output came back as %q", out)
	}

	// What the algorithm printed is the consumer's alone.
	if history := r.History(); strings.Contains(history, "accuracy") {
		t.Errorf("the algorithm's output reached the server:\n%s", history)
	}

	r.Stop()
	checkSequences(t, h, r)
}

// TestPackageMissing: the script is not started, and consumers alone learn why.
func TestPackageMissing(t *testing.T) {
	h := harness.Start(t)
	r := h.Submit(packaged(t, "print('it ran')\n", "--index-url http://192.0.2.1/simple\ntidy==1.5\nabsent-package>=3\n"), nil)
	r.Ready()

	// A file that is not the manifest's is refused, and nothing else is brought.
	if _, stderr, err := r.CLI("algo", os.Args[0]); err == nil || !strings.Contains(stderr, "the algorithm") {
		t.Errorf("another algorithm: %v, %s", err, stderr)
	}
	r.Upload()
	if e := r.State("Failed"); e.GetAttributes()["reason"] != "algorithm-failed" {
		t.Errorf("the run ended with %v", e)
	}
	dir := r.Failure()
	if why := h.Read(dir, "failure.txt"); !strings.Contains(why, "packages of /algorithm/python could not be installed") {
		t.Errorf("failure.txt: %s", why)
	}
	if said := h.Read(dir, "stderr.txt"); !strings.Contains(said, "No matching distribution found for absent-package>=3") {
		t.Errorf("stderr.txt: %s", said)
	}
	if out := h.Read(dir, "stdout.txt"); out != "" {
		t.Errorf("standard output came back as %q", out)
	}
	if history := r.History(); strings.Contains(history, "absent-package") {
		t.Errorf("what is missing reached the server:\n%s", history)
	}
	r.Stop()
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
