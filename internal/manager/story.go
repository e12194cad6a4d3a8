package manager

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"go.opentelemetry.io/otel/trace"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// mark is a moment in the life of a run that a span or a figure depends on.
type mark string

const (
	markAccepted mark = "accepted"
	markStarting mark = "starting"
	markBooting  mark = "booting"
	markReady    mark = "ready"
	markRunning  mark = "running"
	markResult   mark = "result" // the algorithm is done, well or not
	markReleased mark = "released"
	markSilent   mark = "silent"
	markExpired  mark = "expired"
	markStopping mark = "stopping"
	markExited   mark = "exited"
	markFailed   mark = "failed" // QEMU's exit status was not 0
	markLost     mark = "lost"
	markRemoved  mark = "removed"
)

// phases are the spans of a run beside its own: each lasts from one mark to
// another. One that has begun and not ended when the VM ends, ends with it.
var phases = []struct {
	span     string
	from, to mark
}{
	{"shim.start", markAccepted, markStarting},
	{"vm.start", markStarting, markBooting},
	{"vm.boot", markBooting, markReady},
	{"agent.inputs", markReady, markRunning},
	{"agent.running", markRunning, markResult},
	{"agent.result", markResult, markReleased},
	{"vm.stop", markStopping, markExited},
	{"run.removal", markExited, markRemoved},
	{"run.removal", markLost, markRemoved},
}

// marksOf names what an event marks; "" is nothing. What only the host can know
// is believed from the host alone.
func marksOf(e *eventv1.Event) mark {
	if e.GetSource() == eventv1.Source_SOURCE_AGENT {
		switch e.GetKind() {
		case vm.EventReady:
			return markReady
		case vm.EventState:
			switch e.GetAttributes()["to"] {
			case "Running":
				return markRunning
			case "ResultReady", "Failed":
				return markResult
			case "Released":
				return markReleased
			}
		}
		return ""
	}
	switch e.GetKind() {
	case vm.EventStarting:
		return markStarting
	case vm.EventBooting:
		return markBooting
	case vm.EventSilent:
		return markSilent
	case vm.EventExpired:
		return markExpired
	case vm.EventStopping:
		return markStopping
	case vm.EventExited:
		return markExited
	case vm.EventLost:
		return markLost
	case vm.EventRemoved:
		return markRemoved
	}
	return ""
}

// story follows one run through its marks and makes spans and figures of them.
// Its marks lie in the VM's folder, so that the next Manager goes on; nothing
// but telemetry depends on them, and what can't be kept is not missed.
type story struct {
	*witness
	id          string
	file        string
	log, voice  *slog.Logger // the Manager's own, and that of shim and agent
	limits      map[string]*telemetry.Limiter
	traceparent string // the request's
	root        trace.SpanContext

	mu    sync.Mutex
	marks map[mark]time.Time
	// logged is the last event of each source in the log.
	logged map[eventv1.Source]uint64
}

// story begins the story of a run, or goes on with one. spec is nil where it is
// gone: then the run is being removed, and what is left is not traced.
func (w *witness) story(id string, dir vm.Dir, spec *vm.Spec, log *slog.Logger) *story {
	s := &story{witness: w, id: id, file: dir.Story(), log: log, voice: w.base.With(telemetry.Run, id), limits: map[string]*telemetry.Limiter{}, marks: map[mark]time.Time{}, logged: map[eventv1.Source]uint64{}}
	for _, source := range []string{"agent", "shim"} {
		s.limits[source] = telemetry.NewLimiter(runLogRate, runLogBurst, time.Now) // not a clock that is set
	}
	if spec != nil {
		s.traceparent = spec.Trace
		s.root = w.tracer.root(id, spec.Trace)
	}
	b, err := os.ReadFile(s.file)
	if err == nil {
		err = json.Unmarshal(b, &s.marks)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Debug("what was noted of the run's times is lost", "error", err)
		s.marks = map[mark]time.Time{}
	}
	if info, err := os.Stat(dir.Spec()); err == nil && s.marks[markAccepted].IsZero() {
		s.marks[markAccepted] = info.ModTime()
	}
	return s
}

// accepted tells of the answer to the run's request.
func (s *story) accepted(from, to time.Time) {
	s.mu.Lock()
	s.marks[markAccepted] = from
	s.save()
	s.mu.Unlock()
	s.tracer.phase(s.root, s.id, spanAccept, from, to, "")
}

// sees takes an event that passes by, also one that did before.
func (s *story) sees(e *eventv1.Event) {
	m := marksOf(e)
	if m == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m == markExited && e.GetAttributes()["exit_status"] != "0" {
		s.note(markFailed, e.GetTime().AsTime())
	}
	at := e.GetTime().AsTime()
	if e.GetSource() == eventv1.Source_SOURCE_AGENT {
		at = s.believe(at)
	}
	if s.note(m, at) && m != markRemoved { // then its place is gone
		s.save()
	}
}

// believe fits what a guest says of a time between what the host knows.
func (s *story) believe(at time.Time) time.Time {
	first := slices.MaxFunc(slices.Collect(maps.Values(s.marks)), time.Time.Compare)
	if now := s.now(); at.After(now) {
		at = now
	}
	if at.Before(first) {
		at = first
	}
	return at
}

// note takes a mark, once. s.mu is held.
func (s *story) note(m mark, at time.Time) (fresh bool) {
	if _, again := s.marks[m]; again {
		return false
	}
	s.marks[m] = at
	for _, p := range phases {
		from, begun := s.marks[p.from]
		_, ended := s.marks[p.to]
		switch {
		case !begun:
		case p.to == m:
			s.spent(p.span, from, at)
			s.tracer.phase(s.root, s.id, p.span, from, later(from, at), "")
		case !ended && (m == markExited || m == markLost) && p.from != m:
			s.tracer.phase(s.root, s.id, p.span, from, later(from, at), "the VM ended first")
		}
	}
	if m == markRemoved {
		how := s.how()
		s.metrics.ended.WithLabelValues(how).Inc()
		if s.root.IsValid() {
			begin := s.marks[markAccepted]
			s.tracer.run(s.id, s.traceparent, begin, later(begin, at), how)
		}
	}
	return true
}

func later(a, b time.Time) time.Time {
	if b.Before(a) {
		return a
	}
	return b
}

func (s *story) spent(span string, from, to time.Time) {
	seconds := max(0, to.Sub(from).Seconds())
	switch span {
	case "vm.boot":
		s.metrics.boot.Observe(seconds)
	case "vm.stop":
		s.metrics.stop.Observe(seconds)
	}
}

// how the VM ended.
func (s *story) how() string {
	for _, c := range []struct {
		mark mark
		how  string
	}{{markLost, howLost}, {markExpired, howExpired}, {markSilent, howSilent}, {markStopping, howStopped}, {markFailed, howFailed}} {
		if _, ok := s.marks[c.mark]; ok {
			return c.how
		}
	}
	return howExited
}

// stamp names the span in which an event passed: that of the phase which it
// ends, else of the one that lasts, else the run's.
func (s *story) stamp(e *eventv1.Event) {
	if !s.root.IsValid() {
		return
	}
	m, span := marksOf(e), spanRun
	s.mu.Lock()
	for _, p := range phases {
		_, begun := s.marks[p.from]
		_, ended := s.marks[p.to]
		if begun && m != "" && p.to == m {
			span = p.span
			break
		}
		if begun && !ended && m == "" {
			span = p.span
		}
	}
	s.mu.Unlock()
	e.Traceparent = spanName(s.root, s.id, span)
}

// save keeps the marks for the next Manager. s.mu is held.
func (s *story) save() {
	b, err := json.Marshal(s.marks, json.Deterministic(true))
	if err == nil {
		err = os.WriteFile(s.file+newSuffix, b, 0o600)
	}
	if err == nil {
		err = os.Rename(s.file+newSuffix, s.file)
	}
	if err != nil {
		s.log.Debug("the run's times are not noted", "error", err)
	}
}
