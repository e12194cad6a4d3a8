// Package otlptest is a collector of spans for tests: it takes OTLP over HTTP
// with protobuf, as the real ones do, and keeps what comes in memory.
package otlptest

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that came. Ids are in hex; a root's Parent is empty.
type Span struct {
	Name              string
	Trace, ID, Parent string
	Start, End        time.Time
	Attributes        map[string]string
	// Failed is the message of a span with an error, Error tells whether it has.
	Error  bool
	Failed string
	// Resource says which process it comes from.
	Resource map[string]string
}

// Collector is a running one.
type Collector struct {
	// URL is what COCOS_JAEGER_URL would be.
	URL string

	mu     sync.Mutex
	spans  []Span
	faults []string
	status int
	calls  int
}

// New starts a collector that ends with the test, which fails if anything came
// that is not OTLP.
func New(t *testing.T) *Collector {
	t.Helper()
	c := &Collector{status: http.StatusOK}
	s := httptest.NewServer(c)
	c.URL = s.URL + "/v1/traces"
	t.Cleanup(func() {
		s.Close()
		for _, f := range c.faults {
			t.Errorf("the collector got %s", f)
		}
	})
	return c
}

// Answer sets the status of answers; what comes is kept with 200 only.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

// Spans returns what came so far, a span that came again only once.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Span
	at := map[string]int{}
	for _, s := range c.spans {
		if i, again := at[s.Trace+s.ID]; again {
			out[i] = s
			continue
		}
		at[s.Trace+s.ID] = len(out)
		out = append(out, s)
	}
	return out
}

// Calls is the number of requests so far.
func (c *Collector) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// ServeHTTP implements http.Handler.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	spans, err := read(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if err != nil {
		c.faults = append(c.faults, err.Error())
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if c.status == http.StatusOK {
		c.spans = append(c.spans, spans...)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(c.status)
}

func read(r *http.Request) ([]Span, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, fmt.Errorf("%s %s of %q", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		body = z
	}
	b, err := io.ReadAll(io.LimitReader(body, 16<<20))
	if err != nil {
		return nil, err
	}
	var m collectorv1.ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	var out []Span
	for _, resource := range m.GetResourceSpans() {
		from := values(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				out = append(out, Span{
					Name: s.GetName(), Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
					Parent: hex.EncodeToString(s.GetParentSpanId()),
					Start:  time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
					Attributes: values(s.GetAttributes()), Resource: from,
					Error: s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR, Failed: s.GetStatus().GetMessage(),
				})
			}
		}
	}
	return out, nil
}

func values(kvs []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *commonv1.AnyValue_IntValue:
			out[kv.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		default:
			out[kv.GetKey()] = fmt.Sprint(v)
		}
	}
	return out
}
