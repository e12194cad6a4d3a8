package manager

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/ultravioletrs/cocos/api/control/v1"
	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/recent"
)

func TestKeptLines(t *testing.T) {
	lines := recent.New[ownLine](10, 1<<20)
	log := slog.New(keepLines(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelInfo}), lines))
	log.With("run", "a").Info("plain", "port", 7)
	log.Warn("attribute of the call", "run", "b", "error", errors.New("x y"))
	log.Debug("below the level", "run", "a")
	log.With("run", "a", "source", "agent").Info("passed on")
	log.Info("passed on, too", "run", "a", "source", "shim")
	log.Info("own", "run", "a", "source", "manager")
	log.With("run", "a").WithGroup("g").Error("grouped", "run", "c")
	log.Info("two\nlines \x1b[31mred\x1b[0m \u202eturned")
	type kept struct {
		run   string
		level slog.Level
		text  string
	}
	want := []kept{
		{"a", slog.LevelInfo, "plain port=7"},
		{"b", slog.LevelWarn, `attribute of the call error="x y"`},
		{"a", slog.LevelInfo, "own"},
		{"a", slog.LevelError, "grouped g.run=c"},
		{"", slog.LevelInfo, "two lines red turned"},
	}
	got, _, _, _ := lines.From(0, 100)
	if len(got) != len(want) {
		t.Fatalf("kept %+v", got)
	}
	for i, w := range want {
		if g := (kept{got[i].run, got[i].level, got[i].text}); g != w {
			t.Errorf("line %d: %+v, want %+v", i, g, w)
		}
		if got[i].time.IsZero() {
			t.Errorf("line %d has no time", i)
		}
	}
}

func TestLine(t *testing.T) {
	var told []bool
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	l := newWatched(at(1)).line.get()
	if l.connected || !l.since.Equal(at(1)) || l.why != "" {
		t.Errorf("at first: %+v", l)
	}
	w := newWatched(at(1))
	w.line.changed = func(up bool) { told = append(told, up) }
	w.line.lost(at(2), "refused")
	w.line.connected(at(3))
	w.line.connected(at(4))
	if l := w.line.get(); !l.connected || !l.since.Equal(at(3)) {
		t.Errorf("connected: %+v", l)
	}
	w.line.lost(at(5), "broken")
	w.line.lost(at(6), "refused")
	if l := w.line.get(); l.connected || !l.since.Equal(at(5)) || l.why != "refused" {
		t.Errorf("lost: %+v", l)
	}
	if !slices.Equal(told, []bool{true, false}) {
		t.Errorf("told %v", told)
	}
}

func TestEventsInOrder(t *testing.T) {
	e := func(source eventv1.Source, sequence uint64, second int64) *controlv1.SeenEvent {
		return &controlv1.SeenEvent{Event: &eventv1.Event{Source: source, Sequence: sequence, Time: &timestamppb.Timestamp{Seconds: second}}}
	}
	const agent, shim, manager = eventv1.Source_SOURCE_AGENT, eventv1.Source_SOURCE_SHIM, eventv1.Source_SOURCE_MANAGER
	want := []*controlv1.SeenEvent{
		e(manager, 1, 10), e(shim, 1, 11), e(agent, 1, 12), e(agent, 2, 3 /* its clock was set */), e(agent, 3, 13), e(shim, 2, 14), e(manager, 2, 14), e(manager, 3, 15),
	}
	want[5], want[6] = want[6], want[5] // the same time: the Manager was first to know
	in := slices.Clone(want)
	slices.Reverse(in)
	for i, got := range inOrder(in) {
		if got != want[i] {
			t.Errorf("%d: got %v, want %v", i, got, want[i])
		}
	}
	if len(inOrder(nil)) != 0 {
		t.Error("something came of nothing")
	}
}

func TestShimLines(t *testing.T) {
	const at = "2026-11-24T01:02:03Z"
	for name, tt := range map[string]struct {
		line, message string
		level         eventv1.Level
		timed         bool
	}{
		"text":             {`time=2026-11-24T01:02:03.000Z level=WARN msg="QEMU says" line=x`, `"QEMU says" line=x`, eventv1.Level_LEVEL_WARN, true},
		"text, one word":   {`time=` + at + ` level=INFO msg=released`, `released`, eventv1.Level_LEVEL_INFO, true},
		"JSON":             {`{"time":"` + at + `","level":"ERROR","msg":"m"}`, `{"time":"` + at + `","level":"ERROR","msg":"m"}`, eventv1.Level_LEVEL_ERROR, true},
		"a panic":          {`goroutine 1 [running]:`, `goroutine 1 [running]:`, 0, false},
		"no time":          {`time=soon level=INFO msg=x`, `time=soon level=INFO msg=x`, 0, false},
		"no level":         {`time=` + at + ` level=LOUD msg=x`, `time=` + at + ` level=LOUD msg=x`, 0, false},
		"half of JSON":     {`{"time":"` + at, `{"time":"` + at, 0, false},
		"terminal control": {"\x1b[2Jcleared\x07\r\u2066x", "cleared x", 0, false},
		"nothing":          {"", "", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := shimLine(tt.line)
			if got.GetMessage() != tt.message || got.GetLevel() != tt.level || (got.GetTime() != nil) != tt.timed {
				t.Errorf("got %v", got)
			}
			if tt.timed && got.GetTime().AsTime().Format(time.RFC3339) != at {
				t.Errorf("time %v", got.GetTime().AsTime())
			}
		})
	}
}

func TestFileFollower(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	put := func(text string) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	f := &fileFollower{name: name}
	defer f.close()
	step := func(what string, got []string, err error, want ...string) {
		t.Helper()
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%s: %q, %v; want %q", what, got, err, want)
		}
	}
	got, err := f.last(5)
	step("a file that is not there", got, err)
	put("one\ntwo\nthr")
	got, err = f.more(false)
	step("it has come", got, err, "one", "two")
	put("ee\n")
	got, err = f.more(false)
	step("the rest of a line", got, err, "three")
	got, err = f.more(false)
	step("nothing new", got, err)
	if err := os.Truncate(name, 2); err != nil {
		t.Fatal(err)
	}
	put("\nfour\n")
	got, err = f.more(false)
	if err != nil || len(got) != 1 || !strings.Contains(got[0], "shortened") {
		t.Fatalf("a file that was cut: %q, %v", got, err)
	}
	put("five\nsi")
	got, err = f.more(false)
	step("after that", got, err, "five")
	got, err = f.more(true)
	step("the end of it", got, err, "si")

	g := &fileFollower{name: name}
	defer g.close()
	got, err = g.last(2)
	step("the last two", got, err, "four", "five")
	got, err = g.last(0)
	step("none", got, err)

	put(strings.Repeat("x", 3*maxLine))
	got, err = f.more(false)
	if err != nil || len(got) != 2 || len(got[0]) != maxLine {
		t.Errorf("a line without an end: %d lines, %v", len(got), err)
	}
	put("\n" + strings.Repeat(strings.Repeat("y", 99)+"\n", maxTailBytes/100+10))
	h := &fileFollower{name: name}
	defer h.close()
	got, err = h.last(1 << 20)
	if err != nil || len(got) == 0 || len(got) > maxTailBytes/100 || slices.ContainsFunc(got, func(l string) bool { return l != strings.Repeat("y", 99) }) {
		t.Errorf("the end of a long file: %d lines, %v", len(got), err)
	}
}

// lineTail has n lines of its past, then those of more.
func lineTail(source controlv1.LogSource, times []int64, more []string) tail {
	return func(ctx context.Context, _ int, follow bool, over <-chan struct{}, send func(*controlv1.LogsResponse) error) error {
		for _, s := range times {
			if err := send(&controlv1.LogsResponse{Source: source, Time: &timestamppb.Timestamp{Seconds: s}}); err != nil {
				return err
			}
		}
		if err := send(nil); err != nil || !follow {
			return err
		}
		for _, text := range more {
			if err := send(&controlv1.LogsResponse{Source: source, Message: text}); err != nil {
				return err
			}
		}
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestMerge(t *testing.T) {
	const agent, shim = controlv1.LogSource_LOG_SOURCE_AGENT, controlv1.LogSource_LOG_SOURCE_SHIM
	over := make(chan struct{})
	failing := func(context.Context, int, bool, <-chan struct{}, func(*controlv1.LogsResponse) error) error {
		return errors.New("it is\nbroken")
	}
	var past []int64
	var came []string
	tails := []tail{lineTail(agent, []int64{1, 4, 5}, []string{"a1", "a2"}), lineTail(shim, []int64{2, 3, 9}, nil), failing}
	err := merge(t.Context(), tails, 10, true, over, func(l *controlv1.LogsResponse) error {
		switch {
		case l.GetMessage() == "":
			past = append(past, l.GetTime().GetSeconds())
		case l.GetLevel() != eventv1.Level_LEVEL_WARN:
			if came = append(came, l.GetMessage()); len(came) == 2 {
				close(over)
			}
		case l.GetMessage() != "it is broken":
			t.Errorf("a source failed: %v", l)
		}
		return nil
	})
	if err != nil || !slices.Equal(past, []int64{1, 2, 3, 4, 5, 9}) || !slices.Equal(came, []string{"a1", "a2"}) {
		t.Errorf("past %v, then %q, %v", past, came, err)
	}
	// A caller that leaves ends the sources.
	gone := errors.New("gone")
	if err := merge(t.Context(), tails[:2], 10, true, make(chan struct{}), func(*controlv1.LogsResponse) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("a caller that left: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := merge(ctx, tails[:2], 10, true, make(chan struct{}), func(*controlv1.LogsResponse) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
}
