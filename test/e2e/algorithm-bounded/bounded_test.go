// Package bounded shows that an algorithm that never ends, fills the disk or makes
// a million files ends with a reason, that participants learn which limit it was
// and the host does not, and that the agent survives it.
package bounded

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/computations/server"
	"github.com/ultravioletrs/cocos/test/e2e/harness"
)

func TestBoundedAlgorithm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits manifest.Limits
		limit  string
		want   string // in failure.txt
	}{
		{"files", manifest.Limits{}, "files", "65536 files"},
		{"forever", manifest.Limits{Seconds: 3}, "seconds", "/algorithm/limits/seconds"},
		{"fill", manifest.Limits{OutputBytes: 64 << 20}, "output_bytes", "/algorithm/limits/output_bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := harness.Start(t)
			r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{tt.name}},
				func(m *manifest.Manifest) { m.Algorithm.Limits = tt.limits })
			r.Ready()
			r.Upload()
			failed := r.State("Failed")
			if told := fmt.Sprint(failed.GetMessage(), failed.GetAttributes()); strings.Contains(told, tt.limit) || !strings.Contains(told, "algorithm-failed") {
				t.Errorf("the host is told %s", told)
			}
			dir := r.Failure()
			if got := h.Read(dir, "failure.txt"); !strings.Contains(got, tt.want) {
				t.Errorf("failure.txt says %q; expected it to name %q", got, tt.want)
			}
			story := h.Read(dir, "run.json")
			if !strings.Contains(story, `"limit": "`+tt.limit+`"`) || !strings.Contains(story, `"max_rss_bytes"`) {
				t.Errorf("run.json says %s", story)
			}
			if tt.name == "files" && (!strings.Contains(h.Read(dir, "stderr.txt"), "failing after 6553") || !strings.Contains(story, `"exit_status": 3`)) {
				t.Errorf("standard error, or the exit status, did not come with it: %s", story)
			}
			for _, ask := range []string{"state", "events"} {
				if out := r.MustCLI(ask, "--json"); !strings.Contains(out, "Failed") || !strings.Contains(out, tt.limit) {
					t.Errorf("asked for %s the agent says %s", ask, out)
				}
			}
		})
	}
}

// TestMoreProcessesThanTheKernel: a manifest that asks for more than the VM's kernel
// has room for is told so, and not given fewer.
func TestMoreProcessesThanTheKernel(t *testing.T) {
	h := harness.Start(t, harness.Env("MANAGER_QEMU_MEMORY_SIZE=320M"))
	r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{"sum"}},
		func(m *manifest.Manifest) { m.Algorithm.Limits.Processes = 100_000 })
	r.Ready()
	r.Upload()
	r.State("Failed")
	if got := h.Read(r.Failure(), "failure.txt"); !strings.Contains(got, "limits.processes is 100000, and the kernel of this machine allows ") {
		t.Errorf("failure.txt says %q", got)
	}
}
