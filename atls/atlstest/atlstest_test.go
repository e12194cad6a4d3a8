package atlstest

import (
	"path/filepath"
	"testing"
	"time"
)

// Both kinds of handshakes are made, by several at once.
func TestCompare(t *testing.T) {
	r, err := Compare(t.Context(), filepath.Join(t.TempDir(), "host"), 4, 1, 100*time.Millisecond)
	if err != nil || r.MutualTLS <= 0 || r.AttestedTLS <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// BenchmarkCompare says what attested TLS costs beside plain mutual TLS.
func BenchmarkCompare(b *testing.B) {
	for b.Loop() {
		r, err := Compare(b.Context(), filepath.Join(b.TempDir(), "host"), 16, 5, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(r.MutualTLS, "mutual/s")
		b.ReportMetric(r.AttestedTLS, "attested/s")
		b.ReportMetric(r.AttestedTLS/r.MutualTLS, "ratio")
	}
}
