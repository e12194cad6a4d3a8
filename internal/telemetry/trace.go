package telemetry

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Bounds of what tracing takes.
const (
	// maxQueue bounds the spans that wait; more are dropped.
	maxQueue = 2048
	maxBatch = 512
	// batchDelay is how long a span may wait for others.
	batchDelay = 2 * time.Second
	// exportTimeout bounds one attempt to send a batch, with its repetitions.
	exportTimeout = 10 * time.Second
	// shutdownTimeout bounds the last one.
	shutdownTimeout = 5 * time.Second
	// tracesPath is where OTLP/HTTP takes spans unless a URL says otherwise
	// (OpenTelemetry Protocol Exporter, "Endpoint URLs for OTLP/HTTP").
	tracesPath = "/v1/traces"
)

// Process is what every span says of the process it comes from.
type Process struct{ Service, Version, Instance string }

// StartTracing sends the spans of the whole process (otel.GetTracerProvider) to
// rawURL; where that is empty nothing is done. See NewTracing for the rest.
func StartTracing(rawURL string, ratio float64, p Process, log *slog.Logger) (shutdown func(context.Context) error, err error) {
	if err := CheckTracing(rawURL, ratio); err != nil {
		return nil, err
	}
	if rawURL == "" {
		return func(context.Context) error { return nil }, nil
	}
	provider, shutdown, err := NewTracing(rawURL, ratio, p, log)
	if err != nil {
		return nil, err
	}
	otel.SetTracerProvider(provider)
	return shutdown, nil
}

// CheckTracing judges the two variables. An empty rawURL is good.
func CheckTracing(rawURL string, ratio float64) error {
	if _, err := endpoint(rawURL); rawURL != "" && err != nil {
		return err
	}
	if !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("COCOS_JAEGER_TRACE_RATIO=%v: expected a number from 0 (no traces) to 1 (all)", ratio)
	}
	return nil
}

// endpoint completes the URL of a collector.
func endpoint(raw string) (string, error) {
	refuse := func(why string) (string, error) {
		// The URL itself may hold a password.
		return "", fmt.Errorf("COCOS_JAEGER_URL: %s; expected the OTLP/HTTP endpoint of a collector, such as http://localhost:4318/v1/traces", why)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return refuse("it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse(fmt.Sprintf("its scheme is %q, neither http nor https", u.Scheme))
	case u.Hostname() == "":
		return refuse("it names no host")
	case u.User != nil:
		return refuse("it holds a user name or a password, which belong into OTEL_EXPORTER_OTLP_HEADERS")
	case u.RawQuery != "" || u.Fragment != "":
		return refuse("it has a query or a fragment")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	return u.String(), nil
}

// NewTracing returns a provider whose spans are sent to rawURL as OTLP over HTTP.
// The span of a request follows its parent's choice of being sampled; of those
// without a parent the share ratio is. With ratio 0 no span is sampled at all.
// shutdown sends what waits, for 5 seconds at most.
func NewTracing(rawURL string, ratio float64, p Process, log *slog.Logger) (provider trace.TracerProvider, shutdown func(context.Context) error, err error) {
	if err := CheckTracing(rawURL, ratio); err != nil {
		return nil, nil, err
	}
	address, err := endpoint(rawURL)
	if err != nil {
		return nil, nil, err
	}
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(address),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("COCOS_JAEGER_URL: %w", err)
	}
	sampler := sdktrace.Sampler(sdktrace.NeverSample())
	if ratio > 0 {
		sampler = sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))
	}
	batches := sdktrace.NewBatchSpanProcessor(&watched{SpanExporter: exporter, log: log, address: address},
		sdktrace.WithMaxQueueSize(maxQueue), sdktrace.WithMaxExportBatchSize(maxBatch),
		sdktrace.WithBatchTimeout(batchDelay), sdktrace.WithExportTimeout(exportTimeout))
	tp := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(batches),
		sdktrace.WithSampler(sampler),
		sdktrace.WithIDGenerator(givenIDs{}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", p.Service),
			attribute.String("service.version", p.Version),
			attribute.String("service.instance.id", p.Instance))),
	)
	return tp, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		if err := tp.Shutdown(ctx); err != nil {
			return fmt.Errorf("sending the last traces to %s (COCOS_JAEGER_URL): %w", address, err)
		}
		return nil
	}, nil
}

// watched says once that a collector takes nothing, and once that it does again.
type watched struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	address string
	failing atomic.Bool
}

// ExportSpans implements sdktrace.SpanExporter. Spans that nobody took are gone.
func (w *watched) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := w.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !w.failing.Swap(true):
		w.log.Warn("traces can't be sent and are lost until this changes; nothing else depends on them",
			"url", w.address, "variable", "COCOS_JAEGER_URL", "error", err)
	case err != nil:
		w.log.Debug("traces were lost", "spans", len(spans), "error", err)
	case w.failing.Swap(false):
		w.log.Info("traces can be sent again", "url", w.address)
	}
	return nil
}

// identity is a span's, as it is to be.
type identity struct {
	trace trace.TraceID
	span  trace.SpanID
}

type identityKey struct{}

// WithIdentity gives the span that is started with exactly this context its
// identity: span, and the trace where it has no parent. Do not start another
// span with the context or one that comes from it.
func WithIdentity(ctx context.Context, t trace.TraceID, s trace.SpanID) context.Context {
	return context.WithValue(ctx, identityKey{}, identity{t, s})
}

// givenIDs takes identities from contexts, and makes random ones otherwise.
type givenIDs struct{}

// NewIDs implements sdktrace.IDGenerator.
func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if id, ok := ctx.Value(identityKey{}).(identity); ok {
		return id.trace, id.span
	}
	var t trace.TraceID
	for !t.IsValid() {
		_, _ = rand.Read(t[:]) // never fails
	}
	return t, newSpanID()
}

// NewSpanID implements sdktrace.IDGenerator.
func (givenIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if id, ok := ctx.Value(identityKey{}).(identity); ok {
		return id.span
	}
	return newSpanID()
}

func newSpanID() (s trace.SpanID) {
	for !s.IsValid() {
		_, _ = rand.Read(s[:]) // never fails
	}
	return s
}
