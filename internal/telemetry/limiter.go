package telemetry

import (
	"sync"
	"time"
)

// Limiter lets a burst of lines through, then so many per second. It is safe
// for concurrent use.
type Limiter struct {
	rate, burst float64
	now         func() time.Time

	mu      sync.Mutex
	tokens  float64
	filled  time.Time
	dropped uint64
}

// NewLimiter returns a full Limiter; now is its clock.
func NewLimiter(perSecond, burst float64, now func() time.Time) *Limiter {
	return &Limiter{rate: perSecond, burst: burst, tokens: burst, now: now, filled: now()}
}

// Allow tells whether one more line may come. With the first that may after
// others that might not, dropped is their number.
func (l *Limiter) Allow() (ok bool, dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	// A clock that was set back fills nothing and takes nothing.
	if d := now.Sub(l.filled); d > 0 {
		l.tokens = min(l.burst, l.tokens+d.Seconds()*l.rate)
	}
	l.filled = now
	if l.tokens < 1 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}

// Rest is the number of lines dropped that Allow has not told of; it tells it
// once.
func (l *Limiter) Rest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	dropped := l.dropped
	l.dropped = 0
	return dropped
}
