package manager

import (
	"context"
	"crypto/sha256"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// The spans of a run. All of them, and the trace where the request names none,
// have identities that follow from the run's id, so that a Manager goes on with
// the trace that another one began, and a span that is sent again is the same.
// They say nothing but the run's id and how it ended.
const (
	spanRun    = "run"        // from the request to the removal; parent: the request's span
	spanAccept = "run.accept" // judging the request and making the folder
)

// tracer makes the spans of runs.
type tracer struct{ trace.Tracer }

func newTracer(p trace.TracerProvider) tracer {
	if p == nil {
		p = otel.GetTracerProvider()
	}
	return tracer{p.Tracer("github.com/ultravioletrs/cocos/internal/manager")}
}

// remote returns a context with the span that a traceparent names as parent.
func remote(traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
}

// traceOf is the trace of a run whose request names none.
func traceOf(run string) (id trace.TraceID) {
	sum := sha256.Sum256([]byte("cocos/v1/trace\x00" + run))
	copy(id[:], sum[:])
	return id
}

// spanOf is the identity of one of a run's spans.
func spanOf(run, name string) (id trace.SpanID) {
	sum := sha256.Sum256([]byte("cocos/v1/span\x00" + run + "\x00" + name))
	copy(id[:], sum[:])
	return id
}

// root tells which span everything of a run belongs under. It is not valid where
// the run is not traced.
func (t tracer) root(run, traceparent string) trace.SpanContext {
	// Only whoever starts a span learns whether it is sampled. This one is
	// never ended, so that it is never sent.
	_, s := t.Start(telemetry.WithIdentity(remote(traceparent), traceOf(run), spanOf(run, spanRun)), spanRun)
	if !s.IsRecording() {
		return trace.SpanContext{}
	}
	return s.SpanContext()
}

// run sends a run's own span.
func (t tracer) run(run, traceparent string, from, to time.Time, how string) {
	_, s := t.Start(telemetry.WithIdentity(remote(traceparent), traceOf(run), spanOf(run, spanRun)), spanRun,
		trace.WithTimestamp(from), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("cocos.run", run), attribute.String("cocos.ended", how)))
	if how != howExited && how != howStopped {
		s.SetStatus(codes.Error, how)
	}
	s.End(trace.WithTimestamp(to))
}

// phase sends the span of one phase of a run. failed is empty, or why it did not
// reach its end.
func (t tracer) phase(root trace.SpanContext, run, name string, from, to time.Time, failed string) {
	if !root.IsValid() {
		return
	}
	ctx := trace.ContextWithSpanContext(context.Background(), root)
	_, s := t.Start(telemetry.WithIdentity(ctx, root.TraceID(), spanOf(run, name)), name,
		trace.WithTimestamp(from), trace.WithAttributes(attribute.String("cocos.run", run)))
	if failed != "" {
		s.SetStatus(codes.Error, failed)
	}
	s.End(trace.WithTimestamp(to))
}

// refused sends the span of a request that was refused: nothing else of it is
// traced.
func (t tracer) refused(traceparent string, from, to time.Time, why Reason) {
	_, s := t.Start(remote(traceparent), spanAccept, trace.WithTimestamp(from), trace.WithSpanKind(trace.SpanKindServer))
	s.SetStatus(codes.Error, string(why))
	s.End(trace.WithTimestamp(to))
}

// spanName is how a span of a run is named to others: a W3C traceparent.
func spanName(root trace.SpanContext, run, span string) string {
	if !root.IsValid() {
		return ""
	}
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), root.WithSpanID(spanOf(run, span))), c)
	return c["traceparent"]
}
