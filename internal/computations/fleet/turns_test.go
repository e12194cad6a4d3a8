package fleet

import (
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// A workspace with many runs keeps no other waiting; its own go oldest first.
func TestInTurns(t *testing.T) {
	for given, want := range map[string]string{
		"":                  "",
		"a1 a2 a3":          "a1 a2 a3",
		"a1 a2 a3 a4 b1":    "a1 b1 a2 a3 a4",
		"a1 a2 b1 a3 b2 c1": "a1 b1 c1 a2 b2 a3",
	} {
		var runs []computations.Run
		for _, name := range strings.Fields(given) {
			runs = append(runs, computations.Run{ID: computations.ID(name), Workspace: computations.ID(name[:1])})
		}
		var got []string
		for _, run := range inTurns(runs) {
			got = append(got, string(run.ID))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s becomes %s, want %s", given, got, want)
		}
	}
}
