package manager

import (
	"fmt"
	"strings"
	"testing"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// drained are the lines that a ring has, as "run text+dropped".
func drained(r *logRing) string {
	var out []string
	for l := r.take(); l != nil; l = r.take() {
		text := l.GetRunId() + " " + l.GetMessage()
		if l.GetDropped() > 0 {
			text += fmt.Sprintf("+%d", l.GetDropped())
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func TestLogRing(t *testing.T) {
	const wide = 1 << 20
	for name, tt := range map[string]struct {
		lines, bytes int
		put          []string
		dropped      uint64
		want         string
	}{
		"nothing":                  {3, wide, nil, 0, ""},
		"all fit":                  {3, wide, []string{"a 1", "a 2", "a 3"}, 0, "a 1, a 2, a 3"},
		"one too many":             {3, wide, []string{"a 1", "a 2", "a 3", "a 4"}, 1, "a 2+1, a 3, a 4"},
		"runs take turns":          {9, wide, []string{"a 1", "a 2", "a 3", "b 1", "c 1", "c 2"}, 0, "a 1, b 1, c 1, a 2, c 2, a 3"},
		"who floods loses":         {4, wide, []string{"b 1", "a 1", "a 2", "a 3", "a 4", "a 5"}, 2, "b 1, a 3+2, a 4, a 5"},
		"whoever comes late stays": {4, wide, []string{"a 1", "a 2", "a 3", "a 4", "b 1", "c 1"}, 2, "a 3+2, b 1, c 1, a 4"},
		"earlier drops add up":     {2, wide, []string{"a 1+5", "a 2", "a 3"}, 1, "a 2+6, a 3"},
		"bytes count":              {9, 2*(logCost+2) + 1, []string{"a 11", "a 22", "a 33"}, 1, "a 22+1, a 33"},
		"one larger than all":      {9, 10, []string{"a 11", "a 22"}, 1, "a 22+1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newLogRing(tt.lines, tt.bytes)
			var dropped uint64
			for _, p := range tt.put {
				run, text, _ := strings.Cut(p, " ")
				l := &eventv1.Log{RunId: run}
				if n, err := fmt.Sscanf(text, "%1s+%d", &l.Message, &l.Dropped); n < 2 || err != nil {
					l.Message, l.Dropped = text, 0
				}
				dropped += r.put(l)
			}
			if len(tt.put) > 0 {
				select {
				case <-r.ready:
				default:
					t.Error("nobody is told of the lines")
				}
			}
			if dropped != tt.dropped {
				t.Errorf("%d dropped, want %d", dropped, tt.dropped)
			}
			if got := drained(r); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if r.lines != 0 || r.bytes != 0 || len(r.queues) != 0 || len(r.turns) != 0 {
				t.Errorf("the empty ring holds %+v", r)
			}
		})
	}
}

// TestFloodLeavesOthersAlone: however much one run says, another loses none.
func TestFloodLeavesOthersAlone(t *testing.T) {
	r := newLogRing(100, 1<<20)
	for i := range 10_000 {
		r.put(&eventv1.Log{RunId: "flood", Message: strings.Repeat("x", i%100)})
		if i%1000 == 0 {
			r.put(&eventv1.Log{RunId: "quiet", Message: fmt.Sprint(i)})
		}
	}
	quiet, seen := 0, uint64(0)
	for l := r.take(); l != nil; l = r.take() {
		if l.GetRunId() == "quiet" {
			quiet++
			if l.GetDropped() > 0 {
				t.Errorf("line %s of the quiet run follows %d dropped ones", l.GetMessage(), l.GetDropped())
			}
			continue
		}
		seen += 1 + l.GetDropped()
	}
	if quiet != 10 {
		t.Errorf("%d of 10 lines of the quiet run are left", quiet)
	}
	if seen != 10_000 {
		t.Errorf("lines and drops of the flood add up to %d of 10000", seen)
	}
}
