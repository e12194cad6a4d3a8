package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

const (
	// beat is how often a quiet stream says that it is there.
	beat = 20 * time.Second
	// writePatience is how long a browser may take to read.
	writePatience = 30 * time.Second
	streamsOfUser = 32
	// comeBack is when a browser connects again after a stream broke.
	comeBack = 2 * time.Second
)

// streams counts those that are open.
type streams struct {
	mu   sync.Mutex
	most int
	all  int
	by   map[computations.ID]int
}

// open takes a place; close gives it back.
func (s *streams) open(user computations.ID) (close func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.most || s.by[user] >= streamsOfUser {
		return nil, false
	}
	if s.by == nil {
		s.by = map[computations.ID]int{}
	}
	s.all++
	s.by[user]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.by[user]--; s.by[user] == 0 {
			delete(s.by, user)
		}
	}, true
}

// runNews is what changes on a run's page.
type runNews struct {
	State  string `json:"state"`
	Tone   string `json:"tone"`
	Reason string `json:"reason"`
	Agent  string `json:"agent"`
	// Reload: the page has something else to say and to do now.
	Reload bool `json:"reload"`
}

// eventStream writes server-sent events, one at a time.
type eventStream struct {
	mu sync.Mutex
	w  http.ResponseWriter
	rc *http.ResponseController
}

// send writes one event, or, with an empty name, only moves the position on.
func (s *eventStream) send(name string, position int64, data any) error {
	var b strings.Builder
	if position > 0 {
		fmt.Fprintf(&b, "id: %d\n", position)
	}
	if name != "" {
		j, err := json.Marshal(data)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "event: %s\ndata: %s\n", name, j)
	}
	return s.write(b.String() + "\n")
}

func (s *eventStream) write(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.rc.SetWriteDeadline(time.Now().Add(writePatience)) // without one a write may only take longer
	_, err := s.w.Write([]byte(text))
	return err
}

func (s *eventStream) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rc.Flush()
}

// streamRun sends what a run tells, as server-sent events: "entry" for each entry
// that the page's filter lets through, with its position as id; "step" for others
// that say that something is done; "run" when the run changed; "end" when no more
// comes. A browser that connects again names the last id and misses nothing.
func streamRun(q *call) error {
	query := q.r.URL.Query()
	filter, _, err := entryFilter(query)
	if err != nil {
		return err
	}
	after, err := position(q.r.Header.Get("Last-Event-ID"), query.Get("after"))
	if err != nil {
		return err
	}
	// Refused here, it still has a status.
	run, err := q.c.Service.Run(q.r.Context(), q.who, q.id("run"))
	if err != nil {
		return err
	}
	release, ok := q.c.streams.open(q.who.User)
	if !ok {
		return &computations.Error{Kind: computations.Limited, Message: "too many live pages are open", Hint: "close some of them"}
	}
	defer release()

	ctx, cancel := context.WithCancel(q.r.Context())
	defer cancel()
	h := q.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // proxies pass it on as it comes
	q.w.WriteHeader(http.StatusOK)
	if q.r.Method == http.MethodHead {
		return nil
	}
	s := &eventStream{w: q.w, rc: http.NewResponseController(q.w)}
	if err := errors.Join(s.write(fmt.Sprintf("retry: %d\n\n", comeBack.Milliseconds())), s.flush()); err != nil {
		return nil // the browser is gone
	}
	var beating sync.WaitGroup
	defer beating.Wait()
	defer cancel()
	beating.Go(func() { q.keep(ctx, cancel, s) })

	was := stateOf(run.State)
	err = q.c.Service.Watch(ctx, q.who, run.ID, after, func(entries []computations.Entry, run computations.Run) error {
		for i := range entries {
			if err := s.sendEntry(&entries[i], &filter); err != nil {
				return err
			}
		}
		now := stateOf(run.State)
		news := runNews{State: now.Text, Tone: now.Tone, Reason: sentence(run.Reason), Agent: agentText(run.AgentState), Reload: now != was}
		if err := s.send("run", 0, news); err != nil {
			return err
		}
		return s.flush()
	})
	switch {
	case err == nil, kindOf(err) != "":
		// It ended, or it isn't the reader's to see any more.
		_ = errors.Join(s.send("end", 0, struct{}{}), s.flush())
	case ctx.Err() == nil && !errors.Is(err, http.ErrHandlerTimeout):
		q.c.Log.DebugContext(q.r.Context(), "a live stream broke", "error", err)
	}
	return nil
}

// keep says now and then that the stream is there, and ends it with the console.
func (q *call) keep(ctx context.Context, cancel context.CancelFunc, s *eventStream) {
	t := time.NewTicker(beat)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.c.closing:
			cancel()
			return
		case <-t.C:
			if err := errors.Join(s.write(": still here\n\n"), s.flush()); err != nil {
				cancel()
				return
			}
		}
	}
}

func (s *eventStream) sendEntry(e *computations.Entry, f *computations.EntryFilter) error {
	line := lineOf(e)
	switch {
	case passes(e, f):
		return s.send("entry", e.Position, line)
	case line.Step != "":
		return s.send("step", e.Position, line)
	}
	return s.send("", e.Position, nil)
}

// passes tells whether an entry is one that the filter asks for, as the store's
// own filter does.
func passes(e *computations.Entry, f *computations.EntryFilter) bool {
	level := e.Level
	if e.Type == computations.EntryEvent {
		level = "info"
	}
	return (len(f.Types) == 0 || slices.Contains(f.Types, e.Type)) &&
		(len(f.Sources) == 0 || slices.Contains(f.Sources, e.Source)) &&
		(len(f.Levels) == 0 || slices.Contains(f.Levels, level)) &&
		(f.Text == "" || strings.Contains(strings.ToLower(e.Message), strings.ToLower(f.Text))) &&
		(f.From.IsZero() || !e.Time.Before(f.From)) && (f.To.IsZero() || e.Time.Before(f.To))
}

// position is where a stream goes on: after the last event that the browser saw,
// else where its page ended.
func position(last, page string) (int64, error) {
	for _, text := range []string{last, page} {
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return 0, invalid("after", "is no position", "reload the page")
		}
		return n, nil
	}
	return 0, nil
}
