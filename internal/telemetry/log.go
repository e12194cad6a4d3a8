package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// Formats are those of a log; Levels are the least levels of its lines.
var (
	Formats = []string{"text", "json"}
	Levels  = []string{"debug", "info", "warn", "error"}
)

// Keys of a log line that more than one process uses.
const (
	// Run names the computation that a line is about.
	Run = "run"
	// Source says who speaks: manager, shim or agent.
	Source = "source"
)

const (
	// maxLine bounds the text of a line, in bytes before it is quoted. Quoting
	// makes at most two and a half of it, as all is printable: more than 48 KiB
	// would be split by journald, and the rest taken for a line of its own.
	maxLine = 16 << 10
	// maxDepth bounds groups in groups.
	maxDepth = 4
)

// NewLogger returns a logger that writes one line to w for each record of at
// least level, in one Write. Text in it is cleaned (Clean), bounded to 16 KiB in
// all, and quoted.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	if !slices.Contains(Levels, level) {
		return nil, fmt.Errorf("log level %q: expected %s", level, strings.Join(Levels, ", "))
	}
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: %w", level, err)
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case "text":
		return slog.New(Guard(slog.NewTextHandler(w, options))), nil
	case "json":
		return slog.New(Guard(slog.NewJSONHandler(w, options))), nil
	}
	return nil, fmt.Errorf("log format %q: expected %s", format, strings.Join(Formats, " or "))
}

// Guard returns a handler that cleans and bounds each record before next takes
// it.
func Guard(next slog.Handler) slog.Handler { return guard{next: next, room: maxLine} }

type guard struct {
	next slog.Handler
	// room is what attributes of With have left of maxLine.
	room int
}

func (g guard) Enabled(ctx context.Context, l slog.Level) bool { return g.next.Enabled(ctx, l) }

func (g guard) Handle(ctx context.Context, r slog.Record) error {
	room := g.room
	out := slog.NewRecord(r.Time, r.Level, take(r.Message, &room), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if room <= 0 {
			out.AddAttrs(slog.Bool("cut", true))
			return false
		}
		out.AddAttrs(harmless(a, &room, 0))
		return true
	})
	return g.next.Handle(ctx, out)
}

func (g guard) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := make([]slog.Attr, len(attrs))
	// Half of the room is always left for the record.
	room := g.room - maxLine/2
	for i, a := range attrs {
		out[i] = harmless(a, &room, 0)
	}
	return guard{next: g.next.WithAttrs(out), room: max(room, 0) + maxLine/2}
}

func (g guard) WithGroup(name string) slog.Handler {
	return guard{next: g.next.WithGroup(Clean(name, 64)), room: g.room}
}

// harmless turns whatever is not a number, a time or a truth value into clean
// text, and takes what it needs from room.
func harmless(a slog.Attr, room *int, depth int) slog.Attr {
	key := take(a.Key, room)
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(key, take(v.String(), room))
	case slog.KindGroup:
		if depth == maxDepth {
			return slog.String(key, take(v.String(), room))
		}
		members := v.Group()
		out := make([]slog.Attr, 0, len(members))
		for _, m := range members {
			if *room <= 0 {
				out = append(out, slog.Bool("cut", true))
				break
			}
			out = append(out, harmless(m, room, depth+1))
		}
		return slog.Attr{Key: key, Value: slog.GroupValue(out...)}
	case slog.KindAny:
		return slog.String(key, take(fmt.Sprint(v.Any()), room))
	default:
		*room -= 32
		return slog.Attr{Key: key, Value: v}
	}
}

// take cleans s and takes what is left of it, and a little for the quotes, from
// room.
func take(s string, room *int) string {
	s = Clean(s, max(*room, 0))
	*room -= len(s) + 4
	return s
}
