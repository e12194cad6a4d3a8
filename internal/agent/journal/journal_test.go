package journal

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func fixed() time.Time { return noon }

func TestEventsAreNumberedAndKept(t *testing.T) {
	j := New(fixed)
	attributes := map[string]string{"k": "v"}
	for i := range 10_000 {
		changed := j.Changed()
		e := j.Emit("kind", "message", attributes)
		if e.Sequence != uint64(i)+1 || !e.Time.Equal(noon) {
			t.Fatalf("event %d is %+v", i, e)
		}
		select {
		case <-changed:
		default:
			t.Fatal("nobody was woken")
		}
	}
	attributes["k"] = "changed"
	all := j.EventsAfter(0)
	if len(all) != 10_000 || j.LastEvent() != 10_000 || !maps.Equal(all[0].Attributes, map[string]string{"k": "v"}) {
		t.Errorf("%d events, the first %+v", len(all), all[0])
	}
	for after, want := range map[uint64]int{9_999: 1, 10_000: 0, 10_001: 0, 1 << 63: 0} {
		if got := j.EventsAfter(after); len(got) != want {
			t.Errorf("after %d: %d events, want %d", after, len(got), want)
		}
	}
	// What a reader holds is not written to.
	held := j.EventsAfter(9_999)
	_ = append(held, Event{Kind: "mine"})
	if e := j.Emit("next", "", nil); j.EventsAfter(10_000)[0].Kind != "next" {
		t.Errorf("%+v", e)
	}
}

// A text that the host would refuse must not keep an event from arriving.
func TestEventTextsAreBounded(t *testing.T) {
	j := New(fixed)
	long := strings.Repeat("é", maxLineBytes)
	e := j.Emit("kind", long, map[string]string{"reason": long, "bad": "a\xffb"})
	for name, s := range map[string]string{"message": e.Message, "reason": e.Attributes["reason"], "bad": e.Attributes["bad"]} {
		if len(s) > maxLineBytes || !utf8.ValidString(s) || s == "" {
			t.Errorf("%s has %d bytes, UTF-8 %t", name, len(s), utf8.ValidString(s))
		}
	}
	if !strings.HasSuffix(e.Message, "…") || len(e.Message) < maxLineBytes-8 {
		t.Errorf("cut to %d bytes", len(e.Message))
	}
}

func TestLinesAreBoundedAndDropsCounted(t *testing.T) {
	j := New(fixed)
	log := slog.New(j.Handler(slog.LevelInfo))
	const n = 3*maxLines + 17
	for i := range n {
		log.Info(fmt.Sprint(i))
	}
	lines, dropped := j.LinesAfter(0, n)
	if len(lines) > maxLines || len(lines) < maxLines/2 || dropped != lines[0].Sequence-1 || dropped+uint64(len(lines)) != n {
		t.Fatalf("%d lines from %d on, %d dropped", len(lines), lines[0].Sequence, dropped)
	}
	for i, l := range lines {
		if l.Sequence != dropped+uint64(i)+1 || l.Message != fmt.Sprint(l.Sequence-1) {
			t.Fatalf("line %d is %+v", i, l)
		}
	}
	// From within the window nothing is dropped; the limit cuts the end.
	some, dropped := j.LinesAfter(n-10, 4)
	if len(some) != 4 || dropped != 0 || some[0].Sequence != n-9 {
		t.Errorf("%+v, %d dropped", some, dropped)
	}
	if none, dropped := j.LinesAfter(n, 4); none != nil || dropped != 0 {
		t.Errorf("after the last: %v %d", none, dropped)
	}
}

func TestHandler(t *testing.T) {
	j := New(fixed)
	log := slog.New(j.Handler(slog.LevelInfo))
	log.Debug("not seen")
	log.Info("plain")
	log.Warn("with pairs", "a", 1, "b", "two words")
	log.With("x", "y").WithGroup("g").Error("grouped", "z", slog.GroupValue(slog.Int("n", 1)))
	log.Info("two\nlines\x1b[31m\x00", "k", "v\nw")
	log.Info("bad \xff", "k", "\xff")
	log.Info(strings.Repeat("ü", 4000))
	want := []struct {
		level Level
		text  string
	}{
		{Info, "plain"},
		{Warn, `with pairs a=1 b="two words"`},
		{Error, "grouped x=y g.z.n=1"},
		{Info, `two lines [31m  k="v\nw"`},
		{Info, "bad \uFFFD k=\"\\xff\""},
	}
	lines, _ := j.LinesAfter(0, 100)
	if len(lines) != len(want)+1 {
		t.Fatalf("%d lines: %+v", len(lines), lines)
	}
	for i, w := range want {
		if lines[i].Level != w.level || lines[i].Message != w.text {
			t.Errorf("line %d is %d %q, want %d %q", i, lines[i].Level, lines[i].Message, w.level, w.text)
		}
	}
	if long := lines[len(lines)-1].Message; len(long) > maxLineBytes || !utf8.ValidString(long) || !strings.HasSuffix(long, "ü…") {
		t.Errorf("the long line has %d bytes and ends in %q", len(long), long[len(long)-10:])
	}
}

func TestProto(t *testing.T) {
	e := Event{Sequence: 7, Time: noon, Kind: "k", Message: "m", Attributes: map[string]string{"a": "b"}}.Proto("run")
	if e.GetRunId() != "run" || e.GetSource() != eventv1.Source_SOURCE_AGENT || e.GetSequence() != 7 || !e.GetTime().AsTime().Equal(noon) ||
		e.GetKind() != "k" || e.GetMessage() != "m" || e.GetAttributes()["a"] != "b" {
		t.Errorf("%v", e)
	}
	for level, want := range map[Level]eventv1.Level{Debug: 1, Info: 2, Warn: 3, Error: 4} {
		l := Line{Time: noon, Level: level, Message: "m"}.Proto("run", 5)
		if l.GetRunId() != "run" || l.GetSource() != eventv1.Source_SOURCE_AGENT || l.GetLevel() != want || l.GetDropped() != 5 || l.GetMessage() != "m" {
			t.Errorf("%v", l)
		}
	}
}

// Writers and readers at once; the race detector watches.
func TestConcurrentUse(t *testing.T) {
	j := New(time.Now)
	log := slog.New(j.Handler(slog.LevelDebug))
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 500 {
				j.Emit("k", "m", map[string]string{"w": fmt.Sprint(w)})
				log.With("w", w).Debug("line", "i", i)
			}
		})
	}
	for range 4 {
		readers.Go(func() {
			var seen uint64
			for seen < 2000 {
				changed := j.Changed()
				for _, e := range j.EventsAfter(seen) {
					if e.Sequence != seen+1 {
						t.Errorf("got %d after %d", e.Sequence, seen)
						return
					}
					seen = e.Sequence
				}
				j.LinesAfter(seen, 10)
				if seen < 2000 {
					<-changed
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
}
