package telemetry

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tracer is the whole process's; it traces nothing without StartTracing.
func tracer() trace.Tracer { return otel.Tracer("github.com/ultravioletrs/cocos") }

// ourMethods is what the protocols of Cocos begin with: calls of health and
// reflection are not worth a span.
const ourMethods = "/cocos."

// UnaryServer gives each call with one answer a span of its own. Who calls has no
// say in it: a stranger could otherwise have everything traced, and under names
// of his choice. Its name is the method, and of an error it has the code alone.
func UnaryServer(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !strings.HasPrefix(info.FullMethod, ourMethods) {
		return next(ctx, req)
	}
	method := strings.TrimPrefix(info.FullMethod, "/")
	ctx, span := tracer().Start(ctx, method, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("rpc.system.name", "grpc"), attribute.String("rpc.method", method)))
	defer span.End()
	resp, err := next(ctx, req)
	code := status.Code(err)
	span.SetAttributes(attribute.String("rpc.response.status_code", code.String()))
	if ownFailure[code] {
		span.SetStatus(codes.Error, code.String())
	}
	return resp, err
}

// ownFailure are the codes that are the server's fault and not the caller's.
var ownFailure = map[grpccodes.Code]bool{
	grpccodes.Unknown: true, grpccodes.DeadlineExceeded: true, grpccodes.Unimplemented: true,
	grpccodes.Internal: true, grpccodes.Unavailable: true, grpccodes.DataLoss: true,
}

// StartRequest begins the span of an HTTP request for a route, which is named by
// its pattern: an address may have a secret in it. done ends it with the answer's
// status.
func StartRequest(ctx context.Context, method, pattern string) (_ context.Context, done func(status int)) {
	ctx, span := tracer().Start(ctx, pattern, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("http.request.method", method), attribute.String("http.route", pattern)))
	return ctx, func(status int) {
		if status > 0 { // else the browser left before there was one
			span.SetAttributes(attribute.Int("http.response.status_code", status))
		}
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
		span.End()
	}
}

// StartWork begins the span of something that nobody asked for.
func StartWork(ctx context.Context, name string, attributes ...attribute.KeyValue) (_ context.Context, done func(failed bool)) {
	ctx, span := tracer().Start(ctx, name, trace.WithAttributes(attributes...))
	return ctx, func(failed bool) { end(span, failed) }
}

// StartPart begins a span within that of ctx; without one there is none, so that
// what goes on all the time in the background fills no collector. done says how
// often the work was begun.
func StartPart(ctx context.Context, name string, attributes ...attribute.KeyValue) (_ context.Context, done func(attempts int, failed bool)) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, func(int, bool) {}
	}
	ctx, span := tracer().Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return ctx, func(attempts int, failed bool) {
		span.SetAttributes(attribute.Int("cocos.attempts", attempts))
		end(span, failed)
	}
}

func end(span trace.Span, failed bool) {
	if failed {
		span.SetStatus(codes.Error, "") // the log has the text, which may hold anything
	}
	span.End()
}
