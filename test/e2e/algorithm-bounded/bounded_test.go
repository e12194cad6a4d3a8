// Package bounded shows that an algorithm that fails, never ends or fills the
// disk ends with a reason, and that the agent survives it.
package bounded

import (
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
		want   string // in failure.txt
	}{
		{"fail", manifest.Limits{}, "3"},
		{"forever", manifest.Limits{Seconds: 3}, "seconds"},
		{"fill", manifest.Limits{OutputBytes: 64 << 20}, "output_bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := harness.Start(t)
			r := h.Submit(server.Computation{Algorithm: harness.Algorithm(t), Args: []string{tt.name}},
				func(m *manifest.Manifest) { m.Algorithm.Limits = tt.limits })
			r.Ready()
			r.Upload()
			r.State("Failed")
			dir := r.Failure()
			if got := h.Read(dir, "failure.txt"); !strings.Contains(got, tt.want) {
				t.Errorf("failure.txt says %q; expected it to name %q", got, tt.want)
			}
			if tt.name == "fail" && !strings.Contains(h.Read(dir, "stderr.txt"), "failing as asked") {
				t.Error("standard error did not come with it")
			}
			if out := r.MustCLI("state", "--json"); !strings.Contains(out, "Failed") {
				t.Errorf("the agent says %s", out)
			}
		})
	}
}
