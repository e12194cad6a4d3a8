package manager

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/ultravioletrs/cocos/api/event/v1"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// nowhere is a sink without an end.
type nowhere struct{}

func (nowhere) Event(context.Context, *eventv1.Event) error { return nil }
func (nowhere) Log(*eventv1.Log)                            {}

// witnessTo is the witness of a Manager that logs to out as ours do.
func witnessTo(t *testing.T, out *bytes.Buffer, format, level string) (*witness, *slog.Logger) {
	t.Helper()
	log, err := telemetry.NewLogger(out, format, level)
	if err != nil {
		t.Fatal(err)
	}
	w := newWitness(Config{Version: "test", Clock: SystemClock{}, Log: log})
	return w, log.With(telemetry.Source, "manager")
}

func hear(t *testing.T, w *witness, own *slog.Logger, run string) heard {
	t.Helper()
	return heard{sink: nowhere{}, story: w.story(run, vm.Dir(t.TempDir()), &vm.Spec{}, own.With(telemetry.Run, run))}
}

func agentEvent(sequence uint64, kind, message string, attributes map[string]string) *eventv1.Event {
	return &eventv1.Event{Source: eventv1.Source_SOURCE_AGENT, Sequence: sequence, Kind: kind, Message: message, Attributes: attributes,
		Time: timestamppb.New(time.Unix(1_000_000, 0))}
}

// TestLogFollowsARun: what all three say of it is in the Manager's log, under
// the run and by whom.
func TestLogFollowsARun(t *testing.T) {
	var out bytes.Buffer
	w, own := witnessTo(t, &out, "text", "info")
	h := hear(t, w, own, "run-1")
	h.log.Info("run accepted")
	e := agentEvent(1, vm.EventReady, "the agent is ready", map[string]string{"agent_key": "sha256:ab", "console": "never here", "Bad Key": "x"})
	shim := &eventv1.Event{Source: eventv1.Source_SOURCE_SHIM, Sequence: 1, Kind: vm.EventBooting, Time: timestamppb.New(time.Unix(1_000_000, 0))}
	for range 2 { // the second time as after a new connection
		for _, e := range []*eventv1.Event{shim, e} {
			if err := h.Event(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Level: eventv1.Level_LEVEL_WARN, Message: "a warning", Dropped: 3})
	h.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Level: eventv1.Level_LEVEL_DEBUG, Message: "not at this level"})
	h.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_SHIM, Level: eventv1.Level_LEVEL_ERROR, Message: "QEMU: oh"})
	got := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(out.String(), "")
	want := `level=INFO msg="run accepted" source=manager run=run-1
level=INFO msg=event run=run-1 source=shim kind=vm.booting sequence=1 at=1970-01-12T13:46:40.000Z
level=INFO msg=event run=run-1 source=agent kind=agent.ready sequence=1 at=1970-01-12T13:46:40.000Z text="the agent is ready" attributes.agent_key=sha256:ab
level=WARN msg=log run=run-1 source=agent text="a warning" dropped=3
level=ERROR msg=log run=run-1 source=shim text="QEMU: oh"
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := testutil.ToFloat64(w.metrics.dropped.WithLabelValues(dropGuest)); n != 3 {
		t.Errorf("%v lines dropped in the guest", n)
	}
}

// TestGuestCannotForgeLines: not as a line of its agent, nor in an event's kind,
// message, attributes or their names. TestNoForgedLines of package telemetry has
// the texts; here it is the way that they come.
func TestGuestCannotForgeLines(t *testing.T) {
	const forged = "x\n" + `time=2026-01-01T00:00:00Z level=ERROR msg="the host burns" source=manager run=run-1` + "\r\u2028\x1b[31m\" level=ERROR \u202e"
	for _, text := range []string{forged, strings.Repeat(forged, 10_000)} {
		for _, format := range telemetry.Formats {
			var out bytes.Buffer
			w, own := witnessTo(t, &out, format, "debug")
			h := hear(t, w, own, "run-1")
			h.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Message: text})
			h.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_SHIM, Message: text})
			attributes := map[string]string{text: text, "level": text, "msg": text, "source": "manager", "run": "run-2"}
			for i := range 100 {
				attributes[fmt.Sprintf("a%s", strings.Repeat("b", i%30))] = text
			}
			if err := h.Event(t.Context(), agentEvent(1, text, text, attributes)); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			if len(lines) != 3 {
				t.Fatalf("%s: %d lines for 3:\n%.1000s", format, len(lines), out.String())
			}
			prefix := map[string]string{"text": `^time=\S+ level=INFO msg=(log|event) run=run-1 source=(agent|shim) `,
				"json": `^\{"time":"[^"]+","level":"INFO","msg":"(log|event)","run":"run-1","source":"(agent|shim)",`}[format]
			for _, line := range lines {
				if !regexp.MustCompile(prefix).MatchString(line) {
					t.Errorf("%s: a line begins with %.150s", format, line)
				}
				if strings.ContainsAny(line, "\r\x1b\u2028\u202e") {
					t.Errorf("%s: what moves a terminal is in %.300s", format, line)
				}
				if len(line) > 24<<10 {
					t.Errorf("%s: a line of %d bytes", format, len(line))
				}
			}
		}
	}
}

// TestFloodOfOneRun: it is cut off, its shim and other runs are not, and what is
// missing is told.
func TestFloodOfOneRun(t *testing.T) {
	var out bytes.Buffer
	w, own := witnessTo(t, &out, "text", "info")
	now := time.Unix(0, 0)
	flood, quiet := hear(t, w, own, "run-flood"), hear(t, w, own, "run-quiet")
	for _, h := range []heard{flood, quiet} {
		for _, source := range []string{"agent", "shim"} {
			h.limits[source] = telemetry.NewLimiter(runLogRate, runLogBurst, func() time.Time { return now })
		}
	}
	const many = 5000
	for i := range many {
		flood.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Message: fmt.Sprint("noise ", i)})
		if err := flood.Event(t.Context(), agentEvent(uint64(i+1), vm.EventState, "noise", nil)); err != nil {
			t.Fatal(err)
		}
	}
	flood.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_SHIM, Message: "the shim is heard"})
	quiet.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Message: "the other run is heard"})
	if n := strings.Count(out.String(), "noise"); n != runLogBurst {
		t.Errorf("%d lines of the flood, want %d", n, runLogBurst)
	}
	for _, text := range []string{"the shim is heard", "the other run is heard"} {
		if strings.Count(out.String(), text) != 1 {
			t.Errorf("not in the log: %s", text)
		}
	}
	if strings.Contains(out.String(), "missing") {
		t.Error("told before the flood is over")
	}
	now = now.Add(time.Second)
	flood.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Message: "afterwards"})
	missing := fmt.Sprintf("run=run-flood of=agent missing=%d\n", 2*many-runLogBurst)
	if strings.Count(out.String(), missing) != 1 || !strings.Contains(out.String(), "afterwards") {
		t.Errorf("no line with %q in\n%s", missing, out.String()[max(0, out.Len()-1000):])
	}
	if n := testutil.ToFloat64(w.metrics.dropped.WithLabelValues(dropLog)); n != 2*many-runLogBurst {
		t.Errorf("%v lines counted", n)
	}
	for range 100 {
		flood.Log(&eventv1.Log{Source: eventv1.Source_SOURCE_AGENT, Message: "the end"})
	}
	flood.silence()
	flood.silence()
	if n := strings.Count(out.String(), "missing="); n != 2 {
		t.Errorf("told %d times", n)
	}
}

// TestManagersLogTellsTheWholeRun: over a real connection to a shim.
func TestManagersLogTellsTheWholeRun(t *testing.T) {
	l := newLab(t, nil, wholeLife)
	var out bytes.Buffer
	stop := l.insideLogging(&out)
	id := l.submit()
	l.released(id)
	l.stopRun(id)
	l.complete(id)
	l.empty()
	stop()
	last := 0
	for _, want := range []string{
		`msg="run accepted" source=manager run=` + id,
		`msg=event run=` + id + ` source=shim kind=vm.starting`,
		`msg=event run=` + id + ` source=agent kind=agent.ready`,
		`msg=event run=` + id + ` source=agent kind=agent.state`,
		`msg=event run=` + id + ` source=shim kind=vm.exited`,
		`msg="the run is over; nothing of its VM is left" source=manager run=` + id,
	} {
		i := strings.Index(out.String()[last:], want)
		if i < 0 {
			t.Fatalf("%s does not follow in\n%s", want, out.String())
		}
		last += i
	}
	// These come at any time.
	for _, want := range []string{`msg=log run=` + id + ` source=shim text=followed`, `msg="the VM is being stopped" source=manager run=` + id} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in\n%s", want, out.String())
		}
	}
}
