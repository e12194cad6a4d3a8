package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/internal/vsock/vsocktest"
)

// vsockRates measures the shim's own vsock device with a real VM, beside a pair
// of unix sockets on which the same two loops run.
func vsockRates(ctx context.Context, l *lab) ([]row, error) {
	const deadline = 5 * time.Minute
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("not done within %v", deadline))
	defer cancel()
	figures, err := vsocktest.MeasureUser(ctx, l.runs)
	if err != nil {
		return nil, err
	}
	const reference = "a pair of unix sockets"
	slower := row{name: "vsock_throughput", unit: "MiB/s", reference: reference}
	toGuest := row{name: "vsock_throughput_to_guest", unit: "MiB/s", reference: reference}
	toHost := row{name: "vsock_throughput_to_host", unit: "MiB/s", reference: reference}
	trip := row{name: "vsock_roundtrip", unit: "ms", reference: reference}
	add := func(r *row, value, reference float64) {
		r.values = append(r.values, value)
		r.referenceValues = append(r.referenceValues, reference)
	}
	for _, f := range figures {
		v, ref := f.Vsock, f.Reference
		add(&slower, min(v.ToGuest, v.FromGuest)/mib, min(ref.ToGuest, ref.FromGuest)/mib)
		add(&toGuest, v.ToGuest/mib, ref.ToGuest/mib)
		add(&toHost, v.FromGuest/mib, ref.FromGuest/mib)
		add(&trip, milliseconds(v.RoundTrip), milliseconds(ref.RoundTrip))
	}
	return []row{slower, toGuest, toHost, trip}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
