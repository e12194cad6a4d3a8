package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/ultravioletrs/cocos/internal/telemetry/otlptest"
)

var testProcess = Process{Service: "cocos-test", Version: "v1", Instance: "host-1"}

// tracing is a provider for one test; finish sends what waits.
func tracing(t *testing.T, url string, ratio float64) (tracer trace.Tracer, finish func() error, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	p, shutdown, err := NewTracing(url, ratio, testProcess, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return p.Tracer("test"), func() error { return shutdown(context.Background()) }, log
}

func parent(sampled bool) context.Context {
	var flags trace.TraceFlags
	if sampled {
		flags = trace.FlagsSampled
	}
	return trace.ContextWithRemoteSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5}, TraceFlags: flags, Remote: true}))
}

func TestSpansReachTheCollector(t *testing.T) {
	c := otlptest.New(t)
	tracer, finish, _ := tracing(t, c.URL, 1)
	start := time.Unix(1000, 0)
	_, s := tracer.Start(WithIdentity(parent(true), trace.TraceID{9}, trace.SpanID{7}), "with a parent", trace.WithTimestamp(start))
	s.End(trace.WithTimestamp(start.Add(time.Second)))
	_, s = tracer.Start(WithIdentity(context.Background(), trace.TraceID{9}, trace.SpanID{8}), "a root")
	s.End()
	_, s = tracer.Start(context.Background(), "at random")
	s.End()
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	got := c.Spans()
	if len(got) != 3 {
		t.Fatalf("%d spans came: %v", len(got), got)
	}
	if g := got[0]; g.Trace != "01020300000000000000000000000000" || g.Parent != "0405000000000000" || g.ID != "0700000000000000" ||
		!g.Start.Equal(start) || g.End.Sub(g.Start) != time.Second {
		t.Errorf("with a parent: %+v", g)
	}
	if g := got[1]; g.Trace != "09000000000000000000000000000000" || g.Parent != "" || g.ID != "0800000000000000" {
		t.Errorf("a root: %+v", g)
	}
	if g := got[2]; g.Parent != "" || len(g.Trace) != 32 || g.Trace == got[1].Trace {
		t.Errorf("at random: %+v", g)
	}
	if r := got[0].Resource; r["service.name"] != "cocos-test" || r["service.version"] != "v1" || r["service.instance.id"] != "host-1" || len(r) != 3 {
		t.Errorf("from %v", r)
	}
}

func TestSampling(t *testing.T) {
	for _, tt := range []struct {
		name    string
		ratio   float64
		context context.Context
		want    int
	}{
		{"all", 1, context.Background(), 1},
		{"none", 0, context.Background(), 0},
		{"none, whatever the parent wants", 0, parent(true), 0},
		{"the parent wants it", 1e-9, parent(true), 1},
		{"the parent does not", 1, parent(false), 0},
		{"hardly any", 1e-9, context.Background(), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := otlptest.New(t)
			tracer, finish, _ := tracing(t, c.URL, tt.ratio)
			_, s := tracer.Start(tt.context, "s")
			if s.IsRecording() != (tt.want > 0) {
				t.Errorf("recording: %v", s.IsRecording())
			}
			s.End()
			if err := finish(); err != nil {
				t.Fatal(err)
			}
			if n := len(c.Spans()); n != tt.want {
				t.Errorf("%d spans came, want %d", n, tt.want)
			}
		})
	}
}

// TestCollectorIsAway: nobody waits for it, it is said once, and that it is back
// is said, too.
func TestCollectorIsAway(t *testing.T) {
	c := otlptest.New(t)
	c.Answer(http.StatusBadRequest) // of all refusals the one that is not repeated
	tracer, finish, log := tracing(t, c.URL, 1)
	for i := 0; c.Calls() < 3; i++ {
		_, s := tracer.Start(context.Background(), "lost")
		s.End()
		if i%maxBatch == 0 {
			time.Sleep(time.Millisecond) // let the sender come to it
		}
	}
	c.Answer(http.StatusOK)
	for len(c.Spans()) == 0 {
		_, s := tracer.Start(context.Background(), "kept")
		s.End()
		time.Sleep(time.Millisecond)
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "traces can't be sent"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	if n := strings.Count(log.String(), "traces can be sent again"); n != 1 {
		t.Errorf("its return was said %d times:\n%s", n, log)
	}
	if !strings.Contains(log.String(), "COCOS_JAEGER_URL") {
		t.Errorf("the warning does not name the variable:\n%s", log)
	}
}

// TestShutdownIsBounded: a collector that takes a connection and says nothing
// keeps nobody, and neither do more spans than the queue holds.
func TestShutdownIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, shutdown, err := NewTracing("http://"+l.Addr().String(), 1, testProcess, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	tracer := p.Tracer("test")
	for range 2 * maxQueue {
		_, s := tracer.Start(context.Background(), "s")
		s.End()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := shutdown(ctx); err == nil || !strings.Contains(err.Error(), "COCOS_JAEGER_URL") {
		t.Errorf("shutdown: %v", err)
	}
}

func TestTracingRefuses(t *testing.T) {
	const url, ratio = "COCOS_JAEGER_URL", "COCOS_JAEGER_TRACE_RATIO"
	good := "http://localhost:4318/v1/traces"
	for _, tt := range []struct {
		name  string
		url   string
		ratio float64
		want  string // the variable; empty: accepted
	}{
		{"good", good, 0.5, ""},
		{"no path", "https://collector.example.org", 1, ""},
		{"off", "", 1, ""},
		{"other scheme", "grpc://localhost:4317", 1, url},
		{"no scheme", "localhost:4318", 1, url},
		{"host only", "localhost", 1, url},
		{"no host", "http:///v1/traces", 1, url},
		{"no URL", "http://[::1", 1, url},
		{"password", "http://u:secret@localhost:4318/v1/traces", 1, url},
		{"query", good + "?a=b", 1, url},
		{"fragment", good + "#a", 1, url},
		{"negative", good, -0.1, ratio},
		{"more than all", good, 1.1, ratio},
		{"no number", good, nan(), ratio},
		{"negative while off", "", -1, ratio},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckTracing(tt.url, tt.ratio)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
				t.Errorf("got %v, want a refusal that names %s", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("the password is told: %v", err)
			}
			if tt.want != "" {
				if _, err := StartTracing(tt.url, tt.ratio, testProcess, slog.New(slog.DiscardHandler)); err == nil {
					t.Error("started all the same")
				}
			}
		})
	}
}

func nan() float64 { var zero float64; return zero / zero }

func TestStartTracing(t *testing.T) {
	before := otel.GetTracerProvider()
	shutdown, err := StartTracing("", 1, testProcess, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if otel.GetTracerProvider() != before {
		t.Error("tracing is on without a URL")
	}
	if err := shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	c := otlptest.New(t)
	shutdown, err = StartTracing(c.URL, 1, testProcess, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer otel.SetTracerProvider(before)
	_, s := otel.Tracer("test").Start(context.Background(), "s")
	s.End()
	if err := shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if len(c.Spans()) != 1 {
		t.Errorf("%d spans came", len(c.Spans()))
	}
}
