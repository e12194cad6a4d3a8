package manager

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// witness is what a Manager tells of itself by figures, spans and log lines of
// others. Nothing depends on it but those who look.
type witness struct {
	metrics *metrics
	tracer  tracer
	// base is the log without a source: theirs is named with each line.
	base *slog.Logger
	now  func() time.Time
}

const (
	// What agent and shim of one run get of the Manager's log each, in lines per second and at once.
	runLogRate, runLogBurst = 20, 200
	// maxGuestText bounds the text of one line that a guest says, maxShimText
	// one of its shim, which may be QEMU's command, and maxGuestValue that of an
	// event's attribute, in bytes.
	maxGuestText  = 4 << 10
	maxShimText   = 8 << 10
	maxGuestValue = 256
	// maxGuestValues bounds the attributes of an event in the log.
	maxGuestValues = 12
)

func newWitness(cfg Config) *witness {
	return &witness{metrics: newMetrics(cfg.Version), tracer: newTracer(cfg.Tracing), base: cfg.Log, now: cfg.Clock.Now}
}

// witnessed is the Manager as the server's requests find it.
type witnessed struct{ *Manager }

var _ service = witnessed{}

func (m witnessed) accept(req RunRequest) Reply {
	begin := m.cfg.Clock.Now()
	reply := m.Manager.accept(req)
	end := m.cfg.Clock.Now()
	switch {
	case len(reply.Faults) > 0:
		m.witness.metrics.refused.WithLabelValues(outcome(reply.Faults)).Inc()
		m.witness.tracer.refused(req.Traceparent, begin, end, reply.Faults[0].Reason)
	case reply.repeated:
		m.witness.metrics.repeated.Inc()
	default:
		m.witness.metrics.accepted.Inc()
		m.mu.Lock()
		r := m.runs[req.RunID]
		m.mu.Unlock()
		if r != nil {
			r.story.accepted(begin, end)
		}
	}
	return reply
}

func (m witnessed) halt(ctx context.Context, runID string, grace time.Duration) []Fault {
	faults := m.Manager.halt(ctx, runID, grace)
	m.witness.metrics.stops.WithLabelValues(outcome(faults)).Inc()
	return faults
}

func (m witnessed) ack(e eventKey) {
	if e.source >= eventv1.Source_SOURCE_AGENT && e.source <= eventv1.Source_SOURCE_MANAGER {
		m.witness.metrics.acked.WithLabelValues(sourceName(e.source)).Inc()
	}
	m.Manager.ack(e)
}

// heard is a sink that tells of what passes through it on the way to another.
type heard struct {
	sink
	*story
}

// Event implements sink.
func (h heard) Event(ctx context.Context, e *eventv1.Event) error {
	h.tells(e)
	h.stamp(e)
	if err := h.sink.Event(ctx, e); err != nil {
		return err
	}
	h.metrics.relayed.WithLabelValues(sourceName(e.GetSource())).Inc()
	return nil
}

// Log implements sink.
func (h heard) Log(l *eventv1.Log) {
	h.says(l)
	h.sink.Log(l)
}

// tells puts an event of shim or agent into the Manager's log, once.
func (s *story) tells(e *eventv1.Event) {
	if e.GetSource() == eventv1.Source_SOURCE_MANAGER {
		return // said when it was made
	}
	s.mu.Lock()
	fresh := e.GetSequence() > s.logged[e.GetSource()]
	if fresh {
		s.logged[e.GetSource()] = e.GetSequence()
	}
	s.mu.Unlock()
	if !fresh {
		return
	}
	source := sourceName(e.GetSource())
	attrs := []slog.Attr{
		slog.String(telemetry.Source, source),
		slog.String("kind", telemetry.Clean(e.GetKind(), 64)),
		slog.Uint64("sequence", e.GetSequence()),
		slog.Time("at", e.GetTime().AsTime()),
	}
	if text := telemetry.Clean(e.GetMessage(), maxGuestText); text != "" {
		attrs = append(attrs, slog.String("text", text))
	}
	if values := harmlessValues(e.GetAttributes()); len(values) > 0 {
		attrs = append(attrs, slog.Attr{Key: "attributes", Value: slog.GroupValue(values...)})
	}
	s.line(source, slog.LevelInfo, "event", attrs)
}

// says puts a line of shim or agent into the Manager's log.
func (s *story) says(l *eventv1.Log) {
	source, bound := sourceName(l.GetSource()), maxGuestText
	if l.GetSource() == eventv1.Source_SOURCE_SHIM {
		bound = maxShimText
	}
	s.metrics.lines.WithLabelValues(source).Inc()
	attrs := []slog.Attr{
		slog.String(telemetry.Source, source),
		slog.String("text", telemetry.Clean(l.GetMessage(), bound)),
	}
	if n := l.GetDropped(); n > 0 {
		s.metrics.dropped.WithLabelValues(dropGuest).Add(float64(n))
		attrs = append(attrs, slog.Uint64("dropped", n))
	}
	s.line(source, levelOf(l.GetLevel()), "log", attrs)
}

// line is one line about the run, if its share of the log allows.
func (s *story) line(source string, level slog.Level, message string, attrs []slog.Attr) {
	ctx := context.Background()
	if !s.log.Enabled(ctx, level) {
		return
	}
	ok, missing := s.limits[source].Allow()
	if !ok {
		s.metrics.dropped.WithLabelValues(dropLog).Inc()
		return
	}
	s.missing(source, missing)
	s.voice.LogAttrs(ctx, level, message, attrs...)
}

// missing says how many lines the log does not have.
func (s *story) missing(source string, n uint64) {
	if n > 0 {
		s.log.Warn("the run says too much: lines of it are missing from this log", "of", source, "missing", n)
	}
}

// silence is the end of what the run says.
func (s *story) silence() {
	for source, l := range s.limits {
		s.missing(source, l.Rest())
	}
}

func levelOf(l eventv1.Level) slog.Level {
	switch l {
	case eventv1.Level_LEVEL_DEBUG:
		return slog.LevelDebug
	case eventv1.Level_LEVEL_WARN:
		return slog.LevelWarn
	case eventv1.Level_LEVEL_ERROR:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// harmlessValues are an event's attributes for the log: bounded, in order, and
// with names of our own form only. The console's text has a file of its own.
func harmlessValues(attributes map[string]string) []slog.Attr {
	var out []slog.Attr
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if name == "console" || len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			continue
		}
		if len(out) == maxGuestValues {
			break
		}
		out = append(out, slog.String(name, telemetry.Clean(attributes[name], maxGuestValue)))
	}
	return out
}
