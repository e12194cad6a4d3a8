package console_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
)

// sse is a live stream as a browser reads it.
type sse struct {
	t    testing.TB
	res  *http.Response
	scan *bufio.Scanner
	// last is the id that the browser would name when it comes again.
	last string
}

type sent struct {
	id, name, data string
}

// watch opens a stream as somebody.
func (w *world) watch(ctx context.Context, who, path, last string) *sse {
	w.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.srv.URL+path, nil)
	w.check(err)
	req.AddCookie(&http.Cookie{Name: "cocos", Value: w.secrets[who]})
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := http.DefaultClient.Do(req)
	w.check(err)
	w.t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode == http.StatusOK && res.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("%v", res.Header)
	}
	return &sse{t: w.t, res: res, scan: bufio.NewScanner(res.Body), last: last}
}

// next is the next event; false when the stream has ended.
func (s *sse) next() (sent, bool) {
	e, some := sent{}, false
	for s.scan.Scan() {
		line := s.scan.Text()
		switch {
		case line == "" && e.name != "":
			return e, true
		case line == "" && some:
			e, some = sent{}, false // a position alone
		case strings.HasPrefix(line, "id: "):
			e.id, some = line[4:], true
			s.last = e.id
		case strings.HasPrefix(line, "event: "):
			e.name = line[7:]
		case strings.HasPrefix(line, "data: "):
			e.data = line[6:]
		}
	}
	return e, false
}

// until reads entries until the stream ends or one is found, and returns their
// positions.
func (s *sse) until(stop func(sent) bool) (positions []int64, names []string) {
	for {
		e, ok := s.next()
		if !ok {
			return positions, names
		}
		names = append(names, e.name)
		if e.name == "entry" {
			n, err := strconv.ParseInt(e.id, 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			positions = append(positions, n)
		}
		if stop(e) {
			return positions, names
		}
	}
}

// tell adds log lines to a run.
func (w *world) tell(run computations.ID, n int, level, text string) {
	w.t.Helper()
	var entries []computations.Entry
	for i := range n {
		entries = append(entries, computations.Entry{Run: run, Type: computations.EntryLog, Source: "agent", Level: level, Time: time.Now(), Message: fmt.Sprintf("%s %d", text, i)})
	}
	w.put(func(tx computations.Writer) error {
		_, err := tx.Append(entries)
		tx.Signal(computations.RunTopic(run))
		return err
	})
}

// end ends a run.
func (w *world) end(run computations.ID) {
	w.t.Helper()
	w.put(func(tx computations.Writer) error {
		r, err := tx.LockRun(run)
		if err != nil {
			return err
		}
		r.State, r.Ended = computations.RunFinished, time.Now()
		tx.Signal(computations.RunTopic(run))
		return tx.PutRun(r)
	})
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestStreamOfAnEndedRunEnds(t *testing.T) {
	w := newWorld(t)
	s := w.watch(within(t), "vera", w.path("/r/{done run}/stream", false), "")
	positions, names := s.until(func(sent) bool { return false })
	if len(positions) != 9 || names[len(names)-1] != "end" {
		t.Errorf("positions %v, events %v", positions, names)
	}
	for i, p := range positions {
		if p != int64(i+1) {
			t.Errorf("positions are %v", positions)
			break
		}
	}
	// Whoever has seen all of it gets none of it again.
	if positions, names := w.watch(within(t), "vera", w.path("/r/{done run}/stream", false), s.last).until(func(sent) bool { return false }); len(positions) != 0 || names[len(names)-1] != "end" {
		t.Errorf("positions %v, events %v", positions, names)
	}
}

// TestStreamWithoutGaps has many watch a run that tells much; some break off again
// and again, and come back with what they saw last.
func TestStreamWithoutGaps(t *testing.T) {
	w := newWorld(t)
	run := w.things["busy run"]
	const lines, watchers = 2000, 24
	path := w.path("/r/{busy run}/stream", false)
	people := []string{"carl", "vera", "dora", "mona"}
	ctx := within(t)
	var all sync.WaitGroup
	results := make([][]int64, watchers)
	for i := range watchers {
		all.Go(func() {
			last := ""
			for ended := false; !ended && ctx.Err() == nil; {
				turn, cancel := context.WithCancel(ctx)
				s := w.watch(turn, people[i%len(people)], path, last)
				seen := 0
				positions, _ := s.until(func(e sent) bool {
					seen++
					ended = e.name == "end"
					return ended || i%2 == 1 && seen > 300 // breaks off
				})
				cancel()
				results[i] = append(results[i], positions...)
				last = s.last
			}
		})
	}
	for range lines / 100 {
		w.tell(run, 100, "info", "line")
	}
	w.end(run)
	all.Wait()
	for i, positions := range results {
		if len(positions) != lines+6 {
			t.Errorf("watcher %d has %d entries", i, len(positions))
		}
		for j, p := range positions {
			if p != int64(j+1) {
				t.Fatalf("watcher %d: entry %d is at position %d", i, j+1, p)
			}
		}
	}
}

func TestStreamFilters(t *testing.T) {
	w := newWorld(t)
	run := w.things["busy run"]
	s := w.watch(within(t), "vera", w.path("/r/{busy run}/stream?level=error&type=log&text=FIRE&after=6", false), "")
	w.tell(run, 5, "info", "fire")
	w.tell(run, 1, "error", "on fire")
	w.tell(run, 3, "error", "other")
	w.put(func(tx computations.Writer) error {
		_, err := tx.Append([]computations.Entry{{Run: run, Type: computations.EntryEvent, Source: "agent", Sequence: 9, Level: "info", Time: time.Now(), Kind: "agent.state", Attributes: map[string]string{"to": "Running"}}})
		return err
	})
	w.end(run)
	positions, names := s.until(func(sent) bool { return false })
	if len(positions) != 1 || positions[0] != 12 {
		t.Errorf("positions %v", positions)
	}
	if !strings.Contains(strings.Join(names, " "), "step") {
		t.Errorf("the page isn't told that a step is done: %v", names)
	}
	// What was let through or not, the browser knows how far it is.
	if s.last != "16" {
		t.Errorf("the last id is %s", s.last)
	}
}

func TestStreamTellsOfTheRun(t *testing.T) {
	w := newWorld(t)
	s := w.watch(within(t), "vera", w.path("/r/{busy run}/stream", false), "6")
	w.end(w.things["busy run"])
	var last struct {
		State, Tone, Agent string
		Reload             bool
	}
	for {
		e, ok := s.next()
		if !ok {
			t.Fatal("the stream ended without a word")
		}
		if e.name == "end" {
			break
		}
		if e.name == "run" {
			w.check(json.Unmarshal([]byte(e.data), &last))
		}
	}
	if last.State != "Finished" || last.Tone != "good" || !last.Reload {
		t.Errorf("%+v", last)
	}
}

func TestStreamRefuses(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		who, path, last string
		want            int
	}{
		"nobody":             {"expired", "/r/{busy run}/stream", "", http.StatusUnauthorized},
		"a stranger":         {"stan", "/r/{busy run}/stream", "", http.StatusNotFound},
		"a negative id":      {"vera", "/r/{busy run}/stream", "-1", http.StatusUnprocessableEntity},
		"no number":          {"vera", "/r/{busy run}/stream", "x", http.StatusUnprocessableEntity},
		"a broken filter":    {"vera", "/r/{busy run}/stream?from=yesterday", "", http.StatusUnprocessableEntity},
		"a run that is none": {"vera", "/r/nothing/stream", "", http.StatusNotFound},
	} {
		s := w.watch(within(t), tc.who, w.path(tc.path, false), tc.last)
		if s.res.StatusCode != tc.want || strings.Contains(s.res.Header.Get("Content-Type"), "event-stream") {
			t.Errorf("%s: %d", name, s.res.StatusCode)
		}
	}
}

func TestStreamByHeadEnds(t *testing.T) {
	w := newWorld(t)
	if r := w.browse("vera").do(http.MethodHead, w.path("/r/{busy run}/stream", false), nil, nil); r.status != http.StatusOK || r.body != "" {
		t.Errorf("%d %q", r.status, r.body)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t, func(c *console.Config) { c.MaxStreams = 34 })
	path := w.path("/r/{busy run}/stream", false)
	ctx, cancel := context.WithCancel(within(t))
	for i := range 32 {
		if s := w.watch(ctx, "vera", path, ""); s.res.StatusCode != http.StatusOK {
			t.Fatalf("stream %d: %d", i, s.res.StatusCode)
		}
	}
	if s := w.watch(ctx, "vera", path, ""); s.res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a user has more than 32: %d", s.res.StatusCode)
	}
	for i := range 2 {
		if s := w.watch(ctx, "carl", path, ""); s.res.StatusCode != http.StatusOK {
			t.Errorf("another user's stream %d: %d", i, s.res.StatusCode)
		}
	}
	if s := w.watch(ctx, "carl", path, ""); s.res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the console has more than its bound: %d", s.res.StatusCode)
	}
	cancel()
	// Places that were given back can be taken.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s := w.watch(within(t), "vera", path, "")
		if s.res.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no place comes free")
		}
	}
}

// TestStreamOutlivesTheServersBounds: those are for requests that end.
func TestStreamOutlivesTheServersBounds(t *testing.T) {
	w := newWorld(t)
	short := httptest.NewUnstartedServer(w.con)
	short.Config.ReadTimeout, short.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	short.Start()
	t.Cleanup(func() { w.con.Close(); short.Close() })
	w.srv.URL = short.URL
	s := w.watch(within(t), "vera", w.path("/r/{busy run}/stream", false), "6")
	time.Sleep(time.Second)
	w.tell(w.things["busy run"], 3, "info", "late")
	w.end(w.things["busy run"])
	if positions, names := s.until(func(sent) bool { return false }); len(positions) != 3 || names[len(names)-1] != "end" {
		t.Errorf("positions %v, events %v", positions, names)
	}
}

// TestStreamEndsWithTheConsole: at shutdown browsers are let go, and come again.
func TestStreamEndsWithTheConsole(t *testing.T) {
	w := newWorld(t)
	s := w.watch(within(t), "vera", w.path("/r/{busy run}/stream", false), "6")
	if e, ok := s.next(); !ok || e.name != "run" {
		t.Fatalf("%+v", e)
	}
	done := make(chan error, 1)
	go func() { done <- w.srv.Config.Shutdown(within(t)) }()
	if _, names := s.until(func(sent) bool { return false }); len(names) > 0 {
		t.Errorf("the browser is told %v, and so would not come again", names)
	}
	w.check(<-done)
}

// TestStreamEndsForWhoIsNoMemberAnyMore: the right to watch is looked at again.
func TestStreamEndsForWhoIsNoMemberAnyMore(t *testing.T) {
	w := newWorld(t)
	s := w.watch(within(t), "vera", w.path("/r/{busy run}/stream", false), "6")
	if e, ok := s.next(); !ok || e.name != "run" {
		t.Fatalf("%+v", e)
	}
	w.check(w.svc.RemoveMember(t.Context(), w.who["ada"], w.things["workspace"], w.users["vera"]))
	w.tell(w.things["busy run"], 1, "info", "not for Vera")
	if positions, names := s.until(func(sent) bool { return false }); len(positions) != 0 || len(names) != 1 || names[0] != "end" {
		t.Errorf("positions %v, events %v", positions, names)
	}
}
