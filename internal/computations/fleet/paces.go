package fleet

import (
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/telemetry"
)

// How often one host may connect and renew its certificate, per second and at once.
// An honest one whose network is bad waits longer and longer between connections.
const (
	connectRate, connectBurst = 0.5, 60
	renewRate, renewBurst     = 1.0 / 600, 5
)

// paces bounds what hosts do, each for itself. Only hosts with a certificate of the
// service's have one, so that there are no more than have enrolled.
type paces struct {
	rate, burst float64

	mu    sync.Mutex
	hosts map[computations.ID]*telemetry.Limiter
}

func newPaces(rate, burst float64) *paces {
	return &paces{rate: rate, burst: burst, hosts: map[computations.ID]*telemetry.Limiter{}}
}

func (p *paces) allow(host computations.ID) bool {
	p.mu.Lock()
	l := p.hosts[host]
	if l == nil {
		l = telemetry.NewLimiter(p.rate, p.burst, time.Now)
		p.hosts[host] = l
	}
	p.mu.Unlock()
	ok, _ := l.Allow()
	return ok
}
