package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/internal/telemetry/otlptest"
)

// global has the process traced for one test; spans sends what waits and returns it.
func global(t *testing.T) (spans func() map[string]otlptest.Span) {
	t.Helper()
	c := otlptest.New(t)
	before := otel.GetTracerProvider()
	shutdown, err := StartTracing(c.URL, 1, testProcess, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	return func() map[string]otlptest.Span {
		t.Helper()
		if err := shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		all := map[string]otlptest.Span{}
		for _, s := range c.Spans() {
			all[s.Name] = s
		}
		return all
	}
}

func TestSpansOfCalls(t *testing.T) {
	spans := global(t)
	call := func(method string, err error) {
		_, _ = UnaryServer(parent(true), nil, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
			_, done := StartPart(ctx, "part of "+method, attribute.String("db.system.name", "sqlite"))
			done(2, err != nil)
			return nil, err
		})
	}
	call("/cocos.a.v1.Good/Call", nil)
	call("/cocos.a.v1.Refused/Call", status.Error(codes.NotFound, "a secret"))
	call("/cocos.a.v1.Broken/Call", errors.New("a secret"))
	call("/grpc.health.v1.Health/Check", nil)
	got := spans()
	if len(got) != 7 {
		t.Errorf("%d spans: %v", len(got), got)
	}
	for name, want := range map[string]struct {
		code   string
		failed bool
	}{"Good": {"OK", false}, "Refused": {"NotFound", false}, "Broken": {"Unknown", true}} {
		method := "cocos.a.v1." + name + "/Call"
		s := got[method]
		attributes := map[string]string{"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": want.code}
		if !maps.Equal(s.Attributes, attributes) || s.Error != want.failed || s.Parent != "" || want.failed && s.Failed != want.code {
			t.Errorf("%s: %+v", name, s)
		}
		if s.Trace == "01020300000000000000000000000000" {
			t.Errorf("%s is in the trace that its caller chose", name)
		}
		part := got["part of /"+method]
		if part.Parent != s.ID || part.Trace != s.Trace || !maps.Equal(part.Attributes, map[string]string{"db.system.name": "sqlite", "cocos.attempts": "2"}) {
			t.Errorf("the part of %s: %+v", name, part)
		}
	}
	// What no call asks for has no part, but the one that is of the caller's trace here.
	if s := got["part of /grpc.health.v1.Health/Check"]; s.Parent != "0405000000000000" {
		t.Errorf("%+v", s)
	}
}

func TestSpansOfRequests(t *testing.T) {
	spans := global(t)
	for pattern, code := range map[string]int{"GET /link/{secret}": 200, "GET /broken": 503, "GET /left": 0} {
		_, done := StartRequest(parent(true), "GET", pattern)
		done(code)
	}
	_, done := StartPart(context.Background(), "nobody's part")
	done(1, false)
	_, finished := StartWork(context.Background(), "work", attribute.Int("cocos.hosts", 3))
	finished(true)
	got := spans()
	if len(got) != 4 {
		t.Errorf("%v", got)
	}
	for pattern, want := range map[string]string{"GET /link/{secret}": "200", "GET /broken": "503", "GET /left": ""} {
		s := got[pattern]
		if s.Attributes["http.route"] != pattern || s.Attributes["http.request.method"] != "GET" || s.Attributes["http.response.status_code"] != want ||
			s.Error != (want == "503") || s.Parent != "" {
			t.Errorf("%s: %+v", pattern, s)
		}
	}
	if s := got["work"]; !s.Error || s.Attributes["cocos.hosts"] != "3" {
		t.Errorf("%+v", s)
	}
}
