package computations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

// Whoever asks for a list says what is in it by words that there are, each once: a
// list of a million words would be as long a question to the database.
func TestFiltersAreBounded(t *testing.T) {
	p := newPlay(t)
	p.ready()
	run := p.run()
	million := slices.Repeat([]string{"draft"}, 1_000_000)
	for name, tt := range map[string]struct {
		states []string
		why    string
	}{
		"no such state":       {[]string{"draft", "lost"}, "states: have \"lost\""},
		"a state twice":       {[]string{"draft", "ready", "draft"}, "states: have \"draft\" twice"},
		"one a million times": {million, "states: have \"draft\" twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Computations(p.ctx, p.alice.Identity, c.ComputationFilter{Workspace: p.ws.ID, States: tt.states}, c.Page{})
			refused(t, err, c.Invalid, tt.why)
		})
	}
	var nine []string
	for i := range 9 {
		nine = append(nine, fmt.Sprint("source", i))
	}
	for name, tt := range map[string]struct {
		filter c.EntryFilter
		why    string
	}{
		"no such type":     {c.EntryFilter{Types: []c.EntryType{"secret"}}, "types: have \"secret\""},
		"a type twice":     {c.EntryFilter{Types: []c.EntryType{c.EntryLog, c.EntryLog}}, "types: have \"log\" twice"},
		"no such level":    {c.EntryFilter{Levels: []string{"panic"}}, "levels: have \"panic\""},
		"a level twice":    {c.EntryFilter{Levels: []string{"warn", "info", "warn"}}, "levels: have \"warn\" twice"},
		"a source twice":   {c.EntryFilter{Sources: []string{"agent", "agent"}}, "sources: have \"agent\" twice"},
		"no source":        {c.EntryFilter{Sources: []string{""}}, "sources: have a name of 0 characters"},
		"a long source":    {c.EntryFilter{Sources: []string{strings.Repeat("x", 65)}}, "sources: have a name of 65 characters"},
		"too many sources": {c.EntryFilter{Sources: nine}, "sources: are 9; at most 8"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Entries(p.ctx, p.alice.Identity, run.ID, tt.filter)
			refused(t, err, c.Invalid, tt.why)
		})
	}
	// All that there is can be asked for.
	all := []string{"draft", "approvals", "ready", "queued", "offered", "starting", "running", "finished", "failed", "stopped"}
	if found, err := p.Computations(p.ctx, p.alice.Identity, c.ComputationFilter{Workspace: p.ws.ID, States: all}, c.Page{}); err != nil || len(found) != 1 {
		t.Errorf("in any state: %+v, %v", found, err)
	}
	everything := c.EntryFilter{
		Types: []c.EntryType{c.EntryEvent, c.EntryLog}, Levels: []string{"debug", "info", "warn", "error"},
		Sources: append(nine[:7:7], c.ServiceSource),
	}
	if found, err := p.Entries(p.ctx, p.alice.Identity, run.ID, everything); err != nil || len(found) != 1 {
		t.Errorf("of any kind: %+v, %v", found, err)
	}
}
