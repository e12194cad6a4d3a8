package manager

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	managerv1 "github.com/ultravioletrs/cocos/api/manager/v1"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/telemetry/otlptest"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// wholeLife is what an agent tells of a run that succeeds.
const wholeLife = envAgent + "=agent.ready,input.received,agent.state:Running,agent.state:ResultReady,agent.state:Released"

// remoteParent is a server's span that asks for a run.
const (
	remoteTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	remoteSpan   = "00f067aa0ba902b7"
	remoteParent = "00-" + remoteTrace + "-" + remoteSpan + "-01"
)

// traced makes the Managers inside the test send their spans to c. done is to be
// called when they have ended.
func (l *lab) traced(c *otlptest.Collector, ratio float64) (done func()) {
	l.t.Helper()
	provider, shutdown, err := telemetry.NewTracing(c.URL, ratio, telemetry.Process{Service: "cocos-manager", Version: "test", Instance: "host-1"}, slog.Default())
	if err != nil {
		l.t.Fatal(err)
	}
	l.change = func(cfg *Config) { cfg.Tracing = provider }
	return func() {
		l.t.Helper()
		if err := shutdown(context.Background()); err != nil {
			l.t.Error(err)
		}
	}
}

func (l *lab) submitTraced(traceparent string) string {
	l.t.Helper()
	id := uuid.NewString()
	l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: freeze(l.t, testManifest()).Raw, Traceparent: traceparent})
	return id
}

func (l *lab) stopRun(id string) {
	l.t.Helper()
	if err := l.server.Stop(id); err != nil {
		l.t.Fatal(err)
	}
}

// released waits until the server has the last event that the fake agent tells.
func (l *lab) released(id string) {
	l.t.Helper()
	if _, err := l.server.Event(l.ctx, id, "the release", func(e *eventv1.Event) bool { return e.GetAttributes()["to"] == "Released" }); err != nil {
		l.t.Fatal(err)
	}
}

// wholeTree are the spans of a run that succeeds, each under its parent.
var wholeTree = map[string]string{
	"run": "", "run.accept": "run", "shim.start": "run", "vm.start": "run", "vm.boot": "run",
	"agent.inputs": "run", "agent.running": "run", "agent.result": "run", "vm.stop": "run", "run.removal": "run",
}

// checkTree checks the spans of one run. parent is the server's span; empty:
// there is none.
func checkTree(t *testing.T, spans []otlptest.Span, run, traceID, parent string) {
	t.Helper()
	byName := map[string]otlptest.Span{}
	for _, s := range spans {
		if _, twice := byName[s.Name]; twice {
			t.Errorf("%s came twice", s.Name)
		}
		byName[s.Name] = s
		if _, known := wholeTree[s.Name]; !known {
			t.Errorf("a span %q", s.Name)
		}
		if traceID != "" && s.Trace != traceID {
			t.Errorf("%s is of trace %s", s.Name, s.Trace)
		}
		if s.Trace != spans[0].Trace {
			t.Errorf("%s is of trace %s, %s of %s", s.Name, s.Trace, spans[0].Name, spans[0].Trace)
		}
		if s.End.Before(s.Start) {
			t.Errorf("%s ends %v before it starts", s.Name, s.Start.Sub(s.End))
		}
		if s.Error {
			t.Errorf("%s failed: %s", s.Name, s.Failed)
		}
		for name, value := range s.Attributes { // and nothing of the computation
			if !(name == "cocos.run" && value == run || name == "cocos.ended" && s.Name == "run") {
				t.Errorf("%s says %s=%q", s.Name, name, value)
			}
		}
	}
	root := byName["run"]
	for name, under := range wholeTree {
		s, ok := byName[name]
		switch {
		case !ok:
			t.Errorf("no span %s", name)
		case under == "" && s.Parent != parent:
			t.Errorf("%s is under %q, not under %q", name, s.Parent, parent)
		case under != "" && s.Parent != byName[under].ID:
			t.Errorf("%s is under %q, not under %s", name, s.Parent, under)
		case s.Start.Before(root.Start), s.End.After(root.End):
			t.Errorf("%s lasts from %v to %v, outside of the run", name, s.Start.Sub(root.Start), s.End.Sub(root.Start))
		}
	}
	order := []string{"shim.start", "vm.start", "vm.boot", "agent.inputs", "agent.running", "agent.result", "vm.stop", "run.removal"}
	for i := 1; i < len(order); i++ {
		if byName[order[i]].Start.Before(byName[order[i-1]].End) {
			t.Errorf("%s starts before %s ends", order[i], order[i-1])
		}
	}
}

func TestSpansOfARun(t *testing.T) {
	for name, parent := range map[string]string{"under the server's span": remoteParent, "alone": ""} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil, wholeLife)
			c := otlptest.New(t)
			done := l.traced(c, 1)
			stop := l.inside()
			id := l.submitTraced(parent)
			l.released(id)
			l.stopRun(id)
			l.complete(id)
			l.empty()
			stop()
			done()
			if parent != "" {
				checkTree(t, c.Spans(), id, remoteTrace, remoteSpan)
			} else {
				checkTree(t, c.Spans(), id, "", "")
			}
			checkStamps(t, l.server.Events(id), c.Spans())
		})
	}
}

// checkStamps checks that each event names the span in which it passed.
func checkStamps(t *testing.T, told []*eventv1.Event, spans []otlptest.Span) {
	t.Helper()
	names := map[string]string{}
	for _, s := range spans {
		names[fmt.Sprintf("00-%s-%s-01", s.Trace, s.ID)] = s.Name
	}
	want := map[string]string{
		vm.EventAccepted: "run", vm.EventStarting: "shim.start", vm.EventBooting: "vm.start", vm.EventReady: "vm.boot",
		vm.EventInput: "agent.inputs", vm.EventState + "Running": "agent.inputs", vm.EventState + "ResultReady": "agent.running",
		vm.EventState + "Released": "agent.result", vm.EventExited: "vm.stop", vm.EventRemoved: "run.removal",
	}
	seen := 0
	for _, e := range told {
		key := e.GetKind() + e.GetAttributes()["to"]
		got, ok := names[e.GetTraceparent()]
		if !ok {
			t.Errorf("%s names no span: %q", key, e.GetTraceparent())
		}
		if w, fixed := want[key]; fixed && key != vm.EventAccepted && got != w { // accepted may pass at any time
			t.Errorf("%s passed in %s, not in %s", key, got, w)
		}
		seen++
	}
	if seen < len(want) {
		t.Errorf("%d events", seen)
	}
}

// TestSpansGoOnAfterARestart: what one Manager began, the next one ends, with
// times and a parent that only the first one was told.
func TestSpansGoOnAfterARestart(t *testing.T) {
	l := newLab(t, nil, wholeLife)
	c := otlptest.New(t)
	for i, tt := range []struct{ traceparent, trace, span string }{{remoteParent, remoteTrace, remoteSpan}, {}} {
		before := len(c.Spans())
		done := l.traced(c, 1)
		stop := l.inside()
		id := l.submitTraced(tt.traceparent)
		l.released(id)
		stop()
		done()
		if n := len(c.Spans()) - before; n < 5 || n > len(wholeTree)-3 {
			t.Errorf("the first Manager sent %d spans", n)
		}
		done = l.traced(c, 1)
		stop = l.inside()
		if _, err := l.server.Hello(l.ctx, 2*i+2); err != nil {
			t.Fatal(err)
		}
		l.stopRun(id)
		l.complete(id)
		l.empty()
		stop()
		done()
		checkTree(t, c.Spans()[before:], id, tt.trace, tt.span)
	}
}

func TestUntracedRuns(t *testing.T) {
	unsampled := remoteParent[:len(remoteParent)-1] + "0"
	for name, tt := range map[string]struct {
		ratio       float64
		traceparent string
	}{
		"the operator wants none": {0, remoteParent},
		"none of its own":         {0, ""},
		"the server wants none":   {1, unsampled},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil, wholeLife, envEnds+"=yes")
			c := otlptest.New(t)
			done := l.traced(c, tt.ratio)
			stop := l.inside()
			id := l.submitTraced(tt.traceparent)
			l.complete(id)
			l.empty()
			stop()
			done()
			if n := len(c.Spans()); n > 0 || c.Calls() > 0 {
				t.Errorf("%d spans in %d calls", n, c.Calls())
			}
			for _, e := range l.server.Events(id) {
				if e.GetTraceparent() != "" {
					t.Errorf("%s names a span that there is not", e.GetKind())
				}
			}
		})
	}
}

func TestRefusedRequestIsTraced(t *testing.T) {
	l := newLab(t, nil)
	c := otlptest.New(t)
	done := l.traced(c, 1)
	stop := l.inside()
	id := uuid.NewString()
	l.server.Submit(&managerv1.RunRequest{RunId: id, Manifest: []byte("{}"), Traceparent: remoteParent})
	if reply, _, err := l.server.Reply(l.ctx, id); err != nil || reply.GetRefusal() == nil {
		t.Fatalf("%v, %v", reply, err)
	}
	stop()
	done()
	spans := c.Spans()
	if len(spans) != 1 || spans[0].Name != "run.accept" || spans[0].Parent != remoteSpan || !spans[0].Error || spans[0].Failed != string(Invalid) {
		t.Errorf("spans: %+v", spans)
	}
}

// at is a time of a test's own, in seconds.
func at(s int) time.Time { return time.Unix(int64(1_000_000+s), 0) }

// testStory is a story that nobody else tells.
func testStory(t *testing.T, c *otlptest.Collector) (s *story, finish func() []otlptest.Span) {
	t.Helper()
	cfg := Config{Version: "test", Clock: SystemClock{}, Log: slog.New(slog.DiscardHandler), Tracing: noop.NewTracerProvider()}
	finish = func() []otlptest.Span { return nil }
	if c != nil {
		p, shutdown, err := telemetry.NewTracing(c.URL, 1, telemetry.Process{}, cfg.Log)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Tracing = p
		finish = func() []otlptest.Span {
			t.Helper()
			if err := shutdown(context.Background()); err != nil {
				t.Fatal(err)
			}
			return c.Spans()
		}
	}
	w := newWitness(cfg)
	w.now = func() time.Time { return at(1000) }
	s = w.story("run-1", vm.Dir(t.TempDir()), &vm.Spec{}, cfg.Log)
	s.marks[markAccepted] = at(0)
	return s, finish
}

func tellOf(s *story, source eventv1.Source, kind string, seconds int, attributes map[string]string) {
	s.sees(&eventv1.Event{Source: source, Kind: kind, Time: timestamppb.New(at(seconds)), Attributes: attributes})
}

// TestGuestLiesAboutTime: it moves none of the host's spans, and its own no
// further than from what the host knows last until now.
func TestGuestLiesAboutTime(t *testing.T) {
	for name, tt := range map[string]struct{ says, want int }{
		"honest": {12, 12}, "before the boot": {-5000, 10}, "in the future": {500_000, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			s, finish := testStory(t, otlptest.New(t))
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventStarting, 5, nil)
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventBooting, 10, nil)
			tellOf(s, eventv1.Source_SOURCE_AGENT, vm.EventReady, tt.says, nil)
			for _, span := range finish() {
				if span.Name == "vm.boot" && (!span.Start.Equal(at(10)) || !span.End.Equal(at(tt.want))) {
					t.Errorf("the boot lasted from %v to %v", span.Start.Sub(at(0)), span.End.Sub(at(0)))
				}
			}
		})
	}
}

// TestGuestCannotSpeakForTheHost: an agent's event of a host's kind, or a shim's
// of an agent's, marks nothing.
func TestGuestCannotSpeakForTheHost(t *testing.T) {
	for _, kind := range []string{vm.EventStarting, vm.EventBooting, vm.EventExited, vm.EventLost, vm.EventRemoved, vm.EventStopping, vm.EventExpired, vm.EventSilent} {
		if m := marksOf(&eventv1.Event{Source: eventv1.Source_SOURCE_AGENT, Kind: kind}); m != "" {
			t.Errorf("an agent's %s marks %s", kind, m)
		}
	}
	if m := marksOf(&eventv1.Event{Source: eventv1.Source_SOURCE_SHIM, Kind: vm.EventReady}); m != "" {
		t.Errorf("a shim's agent.ready marks %s", m)
	}
}

// TestPhasesEndWithTheVM: one that has begun and got no further failed.
func TestPhasesEndWithTheVM(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*story)
		want []string // "span" or "span!" for one that failed
	}{
		"lost while it boots": {func(s *story) {
			tellOf(s, eventv1.Source_SOURCE_MANAGER, vm.EventLost, 20, nil)
			tellOf(s, eventv1.Source_SOURCE_MANAGER, vm.EventRemoved, 21, nil)
		}, []string{"run!", "run.removal", "shim.start", "vm.boot!", "vm.start"}},
		"failed while it boots": {func(s *story) {
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventExited, 20, map[string]string{"exit_status": "1"})
			tellOf(s, eventv1.Source_SOURCE_MANAGER, vm.EventRemoved, 21, nil)
		}, []string{"run!", "run.removal", "shim.start", "vm.boot!", "vm.start"}},
		"told twice": {func(s *story) {
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventStopping, 15, nil)
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventStopping, 16, nil)
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventExited, 20, map[string]string{"exit_status": "0"})
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventExited, 30, map[string]string{"exit_status": "1"})
			tellOf(s, eventv1.Source_SOURCE_MANAGER, vm.EventRemoved, 31, nil)
		}, []string{"run", "run.removal", "shim.start", "vm.boot!", "vm.start", "vm.stop"}},
		"clocks that jump back": {func(s *story) {
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventStopping, -900, nil)
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventExited, -950, map[string]string{"exit_status": "0"})
			tellOf(s, eventv1.Source_SOURCE_MANAGER, vm.EventRemoved, -960, nil)
		}, []string{"run", "run.removal", "shim.start", "vm.boot!", "vm.start", "vm.stop"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, finish := testStory(t, otlptest.New(t))
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventStarting, 5, nil)
			tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventBooting, 10, nil)
			tt.end(s)
			var got []string
			for _, span := range finish() {
				if span.Error {
					span.Name += "!"
				}
				if span.End.Before(span.Start) {
					t.Errorf("%s ends before it starts", span.Name)
				}
				got = append(got, span.Name)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
}

// TestCollectorAwayChangesNothing: a run goes its way while nobody takes its
// spans, and the Manager ends all the same.
func TestCollectorAwayChangesNothing(t *testing.T) {
	l := newLab(t, nil, wholeLife, envEnds+"=yes")
	provider, shutdown, err := telemetry.NewTracing("http://"+freeAddress(t)+"/v1/traces", 1, telemetry.Process{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.change = func(cfg *Config) { cfg.Tracing = provider }
	stop := l.inside()
	id := l.submitTraced(remoteParent)
	l.complete(id)
	l.empty()
	stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := shutdown(ctx); err == nil {
		t.Error("all spans were sent")
	}
}

// TestStoryIsKept: the next Manager has the times of the one before it, and
// what can't be read is done without.
func TestStoryIsKept(t *testing.T) {
	s, _ := testStory(t, nil)
	dir := vm.Dir(t.TempDir())
	s = s.witness.story("run-1", dir, &vm.Spec{}, s.log)
	s.accepted(at(1), at(2))
	tellOf(s, eventv1.Source_SOURCE_SHIM, vm.EventStarting, 5, nil)
	if err := vm.WriteSpec(dir, vm.Spec{RunID: "run-1"}); err != nil { // whose time is another
		t.Fatal(err)
	}
	next := s.witness.story("run-1", dir, &vm.Spec{}, s.log)
	if !next.marks[markAccepted].Equal(at(1)) || !next.marks[markStarting].Equal(at(5)) || len(next.marks) != 2 {
		t.Errorf("kept: %v", next.marks)
	}
	if err := os.WriteFile(dir.Story(), []byte(`{"accepted":`), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir.Spec())
	if err != nil {
		t.Fatal(err)
	}
	if broken := s.witness.story("run-1", dir, &vm.Spec{}, s.log); !broken.marks[markAccepted].Equal(info.ModTime()) || len(broken.marks) != 1 {
		t.Errorf("of a damaged file: %v", broken.marks)
	}
}
