package atls_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/atls/atlstest"
)

// cpuTime is what this process has used: the measure that holds on a machine
// that has more to do.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHandshakes makes connections over loopback, both ends in this
// process: plain mutual TLS, attested TLS with a platform that makes reports as
// fast as it can, and with one that makes one in 200 ms.
func BenchmarkHandshakes(b *testing.B) {
	id := identity(b)
	cert, key := selfSigned(b)
	other, err := atls.LoadIdentity(cert, key)
	if err != nil {
		b.Fatal(err)
	}
	cas, err := atls.LoadCAs(cert)
	if err != nil {
		b.Fatal(err)
	}
	plainServer, err := atls.Server(atls.ServerConfig{Identity: id, ClientCAs: cas})
	if err != nil {
		b.Fatal(err)
	}
	plainClient, err := atls.Client(atls.ClientConfig{ServerKey: id.Key(), Identity: other})
	if err != nil {
		b.Fatal(err)
	}
	vm := newVM(b)
	client, err := atls.Client(atls.ClientConfig{Appraisal: vm.Appraisal()})
	if err != nil {
		b.Fatal(err)
	}
	lenient := vm.Appraisal()
	lenient.AcceptCached = true
	cachedClient, err := atls.Client(atls.ClientConfig{Appraisal: lenient})
	if err != nil {
		b.Fatal(err)
	}
	quick := atlstest.Throttle(vm.Attester(), 0)
	slow := atlstest.Throttle(vm.Attester(), 200*time.Millisecond)
	attested := func(a *atlstest.Throttled, epoch time.Duration) credentials.TransportCredentials {
		p, err := vm.Prover(a, epoch)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(p.Close)
		s, err := atls.Server(atls.ServerConfig{Identity: id, Prover: p})
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	for _, tt := range []struct {
		name           string
		server, client credentials.TransportCredentials
		attester       *atlstest.Throttled
	}{
		{"mutual", plainServer, plainClient, nil},
		{"attested", attested(quick, 0), client, quick},
		{"attested-slow", attested(slow, 0), client, slow},
		{"attested-cached", attested(quick, time.Hour), cachedClient, quick},
	} {
		for _, workers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", tt.name, workers), func(b *testing.B) {
				var before int64
				if tt.attester != nil {
					before = tt.attester.Reports()
				}
				for b.Loop() {
					cpu, begun := cpuTime(b), time.Now()
					rate, err := atlstest.Handshakes(b.Context(), tt.server, tt.client, workers, 2*time.Second)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(rate, "handshakes/s")
					b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/rate/time.Since(begun).Seconds(), "cpu-µs/handshake")
				}
				if tt.attester != nil {
					b.ReportMetric(float64(tt.attester.Reports()-before), "reports")
				}
			})
		}
	}
}
