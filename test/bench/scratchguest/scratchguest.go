// Package scratchguest is what the bench of the scratch disk and its guest (init)
// agree on: the plan, a file of the initial RAM disk, and the report, one line on
// the console. A report that lacks anything is an error, never a zero.
package scratchguest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// PlanFile is where the guest finds the plan.
const PlanFile = "bench.json"

// Plan is what the guest measures.
type Plan struct {
	Bytes int64 `json:"bytes"` // of a turn, a multiple of scratch.BlockSize
	Turns int   `json:"turns"`
}

// Turn is how long it took to write and to read Plan.Bytes once: through the
// scratch disk's encryption and hash tree, and of the bare disk.
type Turn struct {
	Write     time.Duration `json:"write"`
	Read      time.Duration `json:"read"`
	BareWrite time.Duration `json:"bare_write"`
	BareRead  time.Duration `json:"bare_read"`
}

const marker = "cocos-bench: scratch disk: "

// Line is the report.
func Line(turns []Turn) (string, error) {
	b, err := json.Marshal(turns)
	return marker + string(b), err
}

// Parse finds the report in what the console says.
func Parse(console string, turns int) ([]Turn, error) {
	_, text, ok := strings.Cut(console, marker)
	if !ok {
		return nil, errors.New("the guest reports nothing")
	}
	text, _, ok = strings.Cut(text, "\n")
	if !ok {
		return nil, errors.New("the guest's report has no end")
	}
	var got []Turn
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return nil, fmt.Errorf("parsing the guest's report: %w", err)
	}
	if len(got) != turns {
		return nil, fmt.Errorf("the guest reports %d turns; expected %d", len(got), turns)
	}
	for i, t := range got {
		if min(t.Write, t.Read, t.BareWrite, t.BareRead) <= 0 {
			return nil, fmt.Errorf("turn %d of the guest's report lacks a time: %+v", i, t)
		}
	}
	return got, nil
}
