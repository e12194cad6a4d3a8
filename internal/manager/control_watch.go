package manager

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/recent"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

const (
	// What is kept in memory for people who look on, in all and of each run.
	maxOwnLines       = 4096
	maxOwnBytes       = 1 << 20
	maxSeenEvents     = 256
	maxSeenEventBytes = 256 << 10
	// maxLine bounds a line that is shown, in bytes.
	maxLine = 8 << 10
)

// watched is what a Manager keeps for people who look on, and nothing else
// depends on.
type watched struct {
	line  line
	lines *recent.Ring[ownLine]

	mu   sync.Mutex
	seen map[string]*recent.Ring[*eventv1.Event]
}

func newWatched(now time.Time) *watched {
	return &watched{line: line{state: lineState{since: now}}, lines: recent.New[ownLine](maxOwnLines, maxOwnBytes), seen: map[string]*recent.Ring[*eventv1.Event]{}}
}

// saw notes an event that passes by.
func (w *watched) saw(e *eventv1.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.seen[e.GetRunId()]
	if r == nil {
		r = recent.New[*eventv1.Event](maxSeenEvents, maxSeenEventBytes)
		w.seen[e.GetRunId()] = r
	}
	r.Add(proto.CloneOf(e), proto.Size(e)) // whoever has e may still change it
}

// events are the last ones of a run that passed by, in the order in which they
// did.
func (w *watched) events(run string) []*eventv1.Event {
	w.mu.Lock()
	r := w.seen[run]
	w.mu.Unlock()
	if r == nil {
		return nil
	}
	events, _, _, _ := r.From(0, maxSeenEvents)
	return events
}

// forget drops what was kept of a run that is gone.
func (w *watched) forget(run string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, run)
}

// line is how the connection to the computations server stands.
type line struct {
	mu    sync.Mutex
	state lineState
	// changed is told of each change, in order.
	changed func(connected bool)
}

type lineState struct {
	connected bool
	// since is when that began.
	since time.Time
	// why the last connection ended, or was not made; empty before the first.
	why string
}

func (l *line) connected(now time.Time) {
	if l == nil { // nobody looks on
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(true, now)
}

// lost takes the end of a connection, and each attempt that failed.
func (l *line) lost(now time.Time, why string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.why = why
	l.set(false, now)
}

func (l *line) set(connected bool, now time.Time) {
	if l.state.connected == connected {
		return
	}
	l.state.connected, l.state.since = connected, now
	if l.changed != nil {
		l.changed(connected)
	}
}

func (l *line) get() lineState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// ownLine is a line of the Manager's log.
type ownLine struct {
	run   string
	time  time.Time
	level slog.Level
	text  string
}

// keepLines returns a handler that also keeps what the Manager itself says for
// those who look on. Lines that it passes on for a shim or an agent carry their
// source and are left out: they are shown as what they are.
func keepLines(next slog.Handler, lines *recent.Ring[ownLine]) slog.Handler {
	k := &keeper{next: next, lines: lines, buffer: &lineBuffer{}}
	k.format = slog.NewTextHandler(k.buffer, &slog.HandlerOptions{Level: slog.LevelDebug - 8, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 {
			switch a.Key {
			case slog.TimeKey, slog.LevelKey, slog.MessageKey, telemetry.Run, telemetry.Source:
				return slog.Attr{}
			}
		}
		return a
	}})
	return k
}

type keeper struct {
	next   slog.Handler
	format slog.Handler // attributes only, into buffer
	buffer *lineBuffer
	lines  *recent.Ring[ownLine]
	// run and passedOn are what attributes of With said.
	run      string
	passedOn bool
	grouped  bool
}

type lineBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (k *keeper) Enabled(ctx context.Context, l slog.Level) bool { return k.next.Enabled(ctx, l) }

func (k *keeper) Handle(ctx context.Context, r slog.Record) error {
	look := *k
	r.Attrs(func(a slog.Attr) bool { look.note(a); return true })
	if !look.passedOn {
		k.buffer.mu.Lock()
		k.buffer.Reset()
		if err := k.format.Handle(ctx, r); err != nil {
			k.buffer.Reset()
		}
		text := r.Message
		if attributes := bytes.TrimSpace(k.buffer.Bytes()); len(attributes) > 0 {
			text += " " + string(attributes)
		}
		k.buffer.mu.Unlock()
		text = telemetry.Clean(text, maxLine)
		k.lines.Add(ownLine{run: look.run, time: r.Time, level: r.Level, text: text}, len(text))
	}
	return k.next.Handle(ctx, r)
}

func (k *keeper) note(a slog.Attr) {
	if k.grouped {
		return
	}
	switch a.Key {
	case telemetry.Run:
		k.run = a.Value.String()
	case telemetry.Source:
		k.passedOn = a.Value.String() != "manager"
	}
}

func (k *keeper) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *k
	for _, a := range attrs {
		out.note(a)
	}
	out.next, out.format = k.next.WithAttrs(attrs), k.format.WithAttrs(attrs)
	return &out
}

func (k *keeper) WithGroup(name string) slog.Handler {
	out := *k
	out.grouped = true
	out.next, out.format = k.next.WithGroup(name), k.format.WithGroup(name)
	return &out
}
