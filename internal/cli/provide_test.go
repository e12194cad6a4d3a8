package cli

import (
	"strings"
	"testing"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
)

// TestFollowEnds: whoever waits for a pull learns why there is none any more.
func TestFollowEnds(t *testing.T) {
	for _, tt := range []struct{ problem, want string }{
		{"the file is gone\x1b[2J", `can't take the dataset scans from its source: the file is gone`},
		{"", "no longer takes the dataset scans with what was handed over: an upload of it, "},
	} {
		u := &upload{name: "dataset scans"}
		_, err := u.follow(t.Context(), &agentv1.InputState{Problem: tt.problem})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("problem %q: %v", tt.problem, err)
		}
	}
	if st, err := (&upload{}).follow(t.Context(), &agentv1.InputState{Complete: true}); err != nil || !st.GetComplete() {
		t.Errorf("%v, %v", st, err)
	}
}
