package store_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
)

type entry = computations.Entry

func event(run id, source string, sequence int64) entry {
	return entry{Run: run, Type: computations.EntryEvent, Source: source, Sequence: sequence, Time: now, Level: "info", Kind: "agent.state",
		Message: fmt.Sprintf("%s %d", source, sequence)}
}

func line(run id, level, message string) entry {
	return entry{Run: run, Type: computations.EntryLog, Source: "agent", Time: now, Level: level, Message: message}
}

// appended appends and returns "RUN POSITION MESSAGE" of what was kept.
func appended(t testing.TB, s *store.Store, entries ...entry) []string {
	t.Helper()
	var got []string
	update(t, s, func(w writer) error {
		kept, err := w.Append(entries)
		got = nil
		for _, e := range kept {
			got = append(got, fmt.Sprintf("%s %d %s", e.Run, e.Position, e.Message))
		}
		return err
	})
	return got
}

func testEntries(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	second := w.run
	second.ID, second.Number = "run-2", 2
	put(t, s, func(wr writer) error { return wr.PutRun(second) })
	for i, step := range []struct {
		entries []entry
		want    []string
	}{
		{nil, nil},
		{[]entry{event("run-1", "agent", 1), line("run-2", "warn", "a"), event("run-1", "shim", 1), event("run-1", "agent", 2)},
			[]string{"run-1 1 agent 1", "run-2 1 a", "run-1 2 shim 1", "run-1 3 agent 2"}},
		// The same again, and twice in one batch; log lines are never the same.
		{[]entry{event("run-1", "agent", 2), line("run-2", "warn", "a"), event("run-1", "agent", 3), event("run-1", "agent", 3)},
			[]string{"run-2 2 a", "run-1 4 agent 3"}},
		{[]entry{event("run-1", "agent", 1), event("run-1", "shim", 1)}, nil},
		// Late, but new.
		{[]entry{event("run-1", "agent", 9)}, []string{"run-1 5 agent 9"}},
		{[]entry{event("run-1", "agent", 9), event("run-1", "agent", 5)}, []string{"run-1 6 agent 5"}},
		{[]entry{event("run-1", "agent", 5), event("run-2", "agent", 5)}, []string{"run-2 3 agent 5"}},
	} {
		if got := appended(t, s, step.entries...); !slices.Equal(got, step.want) {
			t.Errorf("step %d: kept %q, want %q", i, got, step.want)
		}
	}
	// A batch of duplicates that is longer than what is asked for at once, from more
	// sources than are remembered.
	var many []entry
	for i := range 130 {
		many = append(many, event("run-1", "agent", int64(10+i)), event("run-1", fmt.Sprint("source ", i%20), int64(1+i/20)))
	}
	if got := appended(t, s, many...); len(got) != len(many) {
		t.Errorf("kept %d, want %d", len(got), len(many))
	}
	if got := appended(t, s, many...); got != nil {
		t.Errorf("kept again: %q", got)
	}

	e := event("run-2", "service", 1)
	e.Attributes, e.Dropped = map[string]string{"b": "2", "a": "\x00"}, 7
	update(t, s, func(wr writer) error {
		kept, err := wr.Append([]entry{e})
		if err != nil {
			return err
		}
		all, err := wr.Entries("run-2", computations.EntryFilter{Backward: true, Limit: 1})
		kept[0].Committed = kept[0].Committed.UTC().Round(0)
		if kept[0].Told <= kept[0].Bytes() {
			t.Errorf("%d bytes told with this one, of %d itself", kept[0].Told, kept[0].Bytes())
		}
		kept[0].Told = 0
		if !reflect.DeepEqual(all, kept) {
			t.Errorf("kept  %+v\nfound %+v", kept, all)
		}
		if since := time.Since(kept[0].Committed); since < 0 || since > time.Hour {
			t.Errorf("committed %v ago", since)
		}
		return err
	})
}

func testSelectEntries(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	second := w.run
	second.ID, second.Number = "run-2", 2
	later := line("run-1", "error", "LATER Ünfug 100%")
	later.Time = now.Add(time.Hour)
	put(t, s, func(wr writer) error { return wr.PutRun(second) })
	appended(t, s, event("run-1", "agent", 1), line("run-1", "debug", "one"), event("run-1", "shim", 1), line("run-2", "warn", "other"),
		later, event("run-1", "agent", 2))
	type ef = computations.EntryFilter
	for name, c := range map[string]struct {
		filter ef
		want   []int64
	}{
		"all":                   {ef{}, []int64{1, 2, 3, 4, 5}},
		"after":                 {ef{After: 3}, []int64{4, 5}},
		"after, limited":        {ef{After: 1, Limit: 2}, []int64{2, 3}},
		"backward":              {ef{Backward: true, Limit: 2}, []int64{5, 4}},
		"backward before":       {ef{Backward: true, After: 4, Limit: 2}, []int64{3, 2}},
		"events":                {ef{Types: []computations.EntryType{computations.EntryEvent}}, []int64{1, 3, 5}},
		"events and logs":       {ef{Types: []computations.EntryType{computations.EntryEvent, computations.EntryLog}}, []int64{1, 2, 3, 4, 5}},
		"source":                {ef{Sources: []string{"shim", "manager"}}, []int64{3}},
		"levels":                {ef{Levels: []string{"info"}}, []int64{1, 3, 5}},
		"more levels":           {ef{Levels: []string{"warn", "error", "debug"}}, []int64{2, 4}},
		"kind":                  {ef{Kind: "agent.state", After: 1}, []int64{3, 5}},
		"no such kind":          {ef{Kind: "agent"}, nil},
		"text":                  {ef{Text: "ünfUG"}, []int64{4}},
		"text with a %":         {ef{Text: "0%"}, []int64{4}},
		"text that is a %":      {ef{Text: "%"}, []int64{4}},
		"from":                  {ef{From: now.Add(1)}, []int64{4}},
		"from its time":         {ef{From: now.Add(time.Hour)}, []int64{4}},
		"to":                    {ef{To: now.Add(time.Hour)}, []int64{1, 2, 3, 5}},
		"all of it, backward":   {ef{Text: "agent", Sources: []string{"agent"}, To: now.Add(1), Backward: true}, []int64{5, 1}},
		"nothing after the end": {ef{After: 5}, nil},
		"one, if it is large":   {ef{Bytes: 1}, []int64{1}},
		"some bytes":            {ef{After: 1, Bytes: 300}, []int64{2, 3}},
		"some bytes, backward":  {ef{Backward: true, Bytes: 600}, []int64{5, 4, 3}},
		"more than there is":    {ef{Bytes: 1 << 20}, []int64{1, 2, 3, 4, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			view(t, s, func(r reader) error {
				list, err := r.Entries("run-1", c.filter)
				var got []int64
				for _, e := range list {
					got = append(got, e.Position)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
				if c.filter.Bytes > 0 { // the transaction goes on where rows were left unread
					_, again := r.Run("run-1")
					err = errors.Join(err, again)
				}
				return err
			})
		})
	}
	same(t, s, nil, func(r reader) ([]entry, error) { return r.Entries("run-x", ef{}) })
}

// testDirtyEntries: hosts send what they like, and one such entry must not keep
// the others of its batch out. Both databases keep the same of it.
func testDirtyEntries(t *testing.T, s *store.Store) {
	newWorld(t, s)
	e := entry{Run: "run-1", Type: computations.EntryEvent, Source: "ma\x00nager", Sequence: 1, Kind: "\xff", Message: "a\x00b\xc3",
		Time: time.Unix(math.MaxInt64/2, 0), Attributes: map[string]string{"\xfe": "\x00"}}
	f := line("run-1", "in\x00fo", "after it")
	f.Time = time.Time{}
	update(t, s, func(w writer) error {
		kept, err := w.Append([]entry{e, f})
		if err != nil {
			return err
		}
		found, err := w.Entries("run-1", computations.EntryFilter{})
		told := int64(0)
		for i := range kept {
			if told += kept[i].Bytes(); kept[i].Told != told {
				t.Errorf("%d bytes told, want %d", kept[i].Told, told)
			}
			kept[i].Told = 0
			kept[i].Committed = kept[i].Committed.UTC().Round(0)
		}
		if !reflect.DeepEqual(kept, found) {
			t.Errorf("kept  %+v\nfound %+v", kept, found)
		}
		want := entry{Run: "run-1", Position: 1, Type: computations.EntryEvent, Source: "ma\uFFFDnager", Sequence: 1, Kind: "\uFFFD",
			Level: "info", Message: "a\uFFFDb\uFFFD", Time: time.Unix(0, math.MaxInt64).UTC(), Attributes: map[string]string{"\uFFFD": "\uFFFD"},
			Committed: found[0].Committed}
		if !reflect.DeepEqual(found[0], want) {
			t.Errorf("found %+v\nwant  %+v", found[0], want)
		}
		return err
	})
	if got := appended(t, s, e); got != nil {
		t.Errorf("kept again: %q", got)
	}
}

func testExpire(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	run := func(name id, number int64, ended time.Time, workspace id) {
		put(t, s, func(wr writer) error {
			return wr.PutRun(computations.Run{ID: name, Computation: w.draft.ID, Workspace: workspace, Number: number, By: w.ann.ID,
				State: computations.RunFinished, Ended: ended})
		})
		for i := range 3 {
			appended(t, s, line(name, "info", fmt.Sprint(i)))
		}
	}
	run("old", 1, now.Add(-3), w.ws.ID)
	run("older", 2, now.Add(-4), w.ws.ID)
	run("young", 3, now, w.ws.ID)
	run("another's", 4, now.Add(-4), w.other.ID)
	run("running", 5, time.Time{}, w.ws.ID)
	expire := func(limit, want int) {
		t.Helper()
		update(t, s, func(wr writer) error {
			n, err := wr.Expire(w.ws.ID, now, limit)
			if n != want {
				t.Errorf("deleted %d, want %d", n, want)
			}
			return err
		})
	}
	left := func(want map[id]int) {
		t.Helper()
		view(t, s, func(r reader) error {
			for name, n := range want {
				list, err := r.Entries(name, computations.EntryFilter{})
				if len(list) != n || err != nil {
					t.Errorf("%s has %d, want %d; %v", name, len(list), n, err)
				}
			}
			return nil
		})
	}
	expire(2, 2)
	left(map[id]int{"older": 1, "old": 3})
	expire(100, 4)
	left(map[id]int{"older": 0, "old": 0, "young": 3, "another's": 3, "running": 3})
	expire(100, 0)
	// What comes later is deleted, too, and its position isn't one that was.
	if got, want := appended(t, s, line("old", "info", "late")), []string{"old 4 late"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	expire(100, 1)
	left(map[id]int{"old": 0})
	view(t, s, func(r reader) error { _, err := r.Run("old"); return err })
}

func testAudit(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	entries := []computations.AuditEntry{
		{At: now, Workspace: w.ws.ID, Actor: w.ann.ID, Action: "computation.run", Object: w.run.ID, Detail: map[string]string{"b": "2", "a": "\x00\xff"}},
		{At: now.Add(time.Second), Action: "sign-in.failed", Detail: map[string]string{"email": "x"}},
		{At: now.Add(2 * time.Second), Workspace: w.ws.ID, Actor: w.bob.ID, Action: "computation.run", Object: "z"},
		{At: now.Add(3 * time.Second), Workspace: w.ws.ID, Action: "run.ended", Object: w.run.ID},
	}
	for _, e := range entries[:2] {
		put(t, s, func(wr writer) error { return wr.AppendAudit(e) })
	}
	// Two in one transaction, and one that isn't committed before.
	refused(t, s, errors.ErrUnsupported, func(wr writer) error { return errors.Join(wr.AppendAudit(entries[3]), errors.ErrUnsupported) })
	put(t, s, func(wr writer) error { return errors.Join(wr.AppendAudit(entries[2]), wr.AppendAudit(entries[3])) })

	view(t, s, func(r reader) error {
		chain, err := r.AuditChain(0, 10)
		if err != nil || len(chain) != len(entries) {
			t.Fatalf("%d entries, want %d; %v", len(chain), len(entries), err)
		}
		var previous [32]byte
		for i, e := range chain {
			if e.Sequence != int64(i+1) || e.Previous != previous || e.Hash != e.Sum() || e.Hash == previous {
				t.Errorf("entry %d isn't in the chain: %+v", i, e)
			}
			previous = e.Hash
			if want := entries[i]; e.Action != want.Action || e.Workspace != want.Workspace || e.Object != want.Object || !e.At.Equal(want.At.Truncate(time.Microsecond)) {
				t.Errorf("got %+v, want %+v", e, want)
			}
		}
		if e := chain[0]; e.Email != w.ann.Email || !reflect.DeepEqual(e.Detail, map[string]string{"b": "2", "a": "\uFFFD\uFFFD"}) {
			t.Errorf("got %+v", e)
		}
		rest, err := r.AuditChain(2, 1)
		if len(rest) != 1 || rest[0].Sequence != 3 {
			t.Errorf("after 2: %+v", rest)
		}
		return err
	})
	type af = computations.AuditFilter
	for name, c := range map[string]struct {
		filter af
		want   []int64
	}{
		"the service":      {af{}, []int64{2}},
		"workspace":        {af{Workspace: w.ws.ID}, []int64{4, 3, 1}},
		"before":           {af{Workspace: w.ws.ID, Before: 4, Limit: 1}, []int64{3}},
		"actor":            {af{Workspace: w.ws.ID, Actor: w.ann.ID}, []int64{1}},
		"action":           {af{Workspace: w.ws.ID, Action: "computation.run"}, []int64{3, 1}},
		"object":           {af{Workspace: w.ws.ID, Object: w.run.ID}, []int64{4, 1}},
		"from":             {af{Workspace: w.ws.ID, From: now.Add(time.Second)}, []int64{4, 3}},
		"to":               {af{Workspace: w.ws.ID, To: now.Add(time.Second)}, []int64{1}},
		"another's object": {af{Workspace: w.other.ID, Object: w.run.ID}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			view(t, s, func(r reader) error {
				list, err := r.Audit(c.filter)
				var got []int64
				for _, e := range list {
					got = append(got, e.Sequence)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
				return err
			})
		})
	}
}
