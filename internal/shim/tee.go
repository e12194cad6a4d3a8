package shim

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
)

// tee is a log handler that tells the Manager each line, too: the message, and
// behind it the attributes as the text format writes them.
type tee struct {
	next  slog.Handler
	pairs slog.Handler // the attributes of this record and of With, into text
	text  *teeText
	tell  func(slog.Level, string)
}

type teeText struct {
	mu sync.Mutex
	bytes.Buffer
}

// newTee has no attributes of its own: those that next has already, the run and
// who speaks, each line to the Manager names in fields.
func newTee(next slog.Handler, tell func(slog.Level, string)) *tee {
	t := &tee{next: next, text: &teeText{}, tell: tell}
	t.pairs = slog.NewTextHandler(t.text, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return t
}

// Enabled implements slog.Handler.
func (t *tee) Enabled(ctx context.Context, l slog.Level) bool { return t.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (t *tee) Handle(ctx context.Context, r slog.Record) error {
	t.text.mu.Lock()
	t.text.Reset()
	err := t.pairs.Handle(ctx, r)
	text := r.Message
	if pairs := bytes.TrimSpace(t.text.Bytes()); err == nil && len(pairs) > 0 {
		text += " " + string(pairs)
	}
	t.text.mu.Unlock()
	t.tell(r.Level, text)
	return t.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t *tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &tee{next: t.next.WithAttrs(attrs), pairs: t.pairs.WithAttrs(attrs), text: t.text, tell: t.tell}
}

// WithGroup implements slog.Handler.
func (t *tee) WithGroup(name string) slog.Handler {
	return &tee{next: t.next.WithGroup(name), pairs: t.pairs.WithGroup(name), text: t.text, tell: t.tell}
}

// tell tells the Manager a line of the shim's. Guests provoke some of them, so
// that they are limited as theirs are.
func (s *shim) tell(level slog.Level, text string) {
	s.logs.limited(shimLog(s.spec.RunID, levelOf(level), text), time.Now())
}

func levelOf(l slog.Level) eventv1.Level {
	switch {
	case l < slog.LevelInfo:
		return eventv1.Level_LEVEL_DEBUG
	case l < slog.LevelWarn:
		return eventv1.Level_LEVEL_INFO
	case l < slog.LevelError:
		return eventv1.Level_LEVEL_WARN
	}
	return eventv1.Level_LEVEL_ERROR
}
