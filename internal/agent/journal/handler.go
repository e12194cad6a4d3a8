package journal

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"unicode"
)

// Handler makes log lines of slog's records, from level up: the message, then
// key=value pairs in slog's text form.
func (j *Journal) Handler(level slog.Leveler) slog.Handler {
	h := &handler{journal: j, shared: &shared{}}
	h.pairs = slog.NewTextHandler(&h.shared.buf, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{} // the line has these in fields of its own
			}
			return a
		},
	})
	return h
}

// shared is one buffer for a handler and all that WithAttrs and WithGroup made
// of it.
type shared struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

type handler struct {
	journal *Journal
	shared  *shared
	pairs   slog.Handler // writes into shared.buf
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.pairs.Enabled(ctx, l) }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{journal: h.journal, shared: h.shared, pairs: h.pairs.WithAttrs(attrs)}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{journal: h.journal, shared: h.shared, pairs: h.pairs.WithGroup(name)}
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.shared.mu.Lock()
	defer h.shared.mu.Unlock()
	h.shared.buf.Reset()
	if err := h.pairs.Handle(ctx, r); err != nil {
		return err
	}
	text := clean(r.Message)
	if pairs := strings.TrimSpace(h.shared.buf.String()); pairs != "" {
		text += " " + pairs
	}
	h.journal.log(Line{Time: r.Time, Level: levelOf(r.Level), Message: short(text)})
	return nil
}

// short cuts a text at maxLineBytes, and makes it UTF-8.
func short(s string) string {
	if len(s) <= maxLineBytes {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ToValidUTF8(s[:maxLineBytes-len("…")], "") + "…"
}

// clean keeps a line one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

func levelOf(l slog.Level) Level {
	switch {
	case l >= slog.LevelError:
		return Error
	case l >= slog.LevelWarn:
		return Warn
	case l >= slog.LevelInfo:
		return Info
	}
	return Debug
}
