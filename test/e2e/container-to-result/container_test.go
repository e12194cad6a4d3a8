// Package container shows that a container image gets its dataset in a VM, with
// its own user, folder and command, and its owner the result; and that an archive
// with another image than the manifest pins is refused.
package container

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/internal/oci/build"
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
	r := h.Submit(server.Computation{
		Algorithm: archive,
		Data:      []string{filepath.Join(harness.Root(), "examples", "container-stats", "data", "visits.csv")},
	}, func(m *manifest.Manifest) {
		if m.Algorithm.Type != manifest.Container {
			t.Errorf("the archive is taken for %q", m.Algorithm.Type)
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
}

// The digest of the archive is right, and of its image one bit is not; then what
// it starts is not in it.
func TestImagesThatDoNotRun(t *testing.T) {
	entries, err := build.Docker(build.Image{Names: []string{"broken:1"}, Config: oci.Config{Entrypoint: []string{"/app/none"}}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := build.Tar(entries)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "broken.tar")
	if err := os.WriteFile(archive, b, 0o600); err != nil {
		t.Fatal(err)
	}
	h := harness.Start(t)
	bent := h.Submit(server.Computation{Algorithm: archive}, func(m *manifest.Manifest) { m.Algorithm.Image.Config[0] ^= 1 })
	bent.Ready()
	if _, stderr, err := bent.CLI("algo", archive); err == nil || !strings.Contains(stderr, "the manifest pins") {
		t.Errorf("an image that the manifest does not pin: %v", err)
	}
	bent.Stop()

	r := h.Submit(server.Computation{Algorithm: archive}, nil)
	r.Ready()
	r.Upload()
	if e := r.State("Failed"); e.GetAttributes()["reason"] != "algorithm-failed" || strings.Contains(r.History(), "none") {
		t.Errorf("the host reads %s", r.History())
	}
	if why := h.Read(r.Failure(), "failure.txt"); !strings.Contains(why, `"/app/none" that it starts is not in it`) {
		t.Errorf("the consumer reads %q", why)
	}
}
