package computations

import (
	"container/list"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// maxLimited bounds how many keys a limiter remembers. Those that were quiet for
// longest are forgotten.
const maxLimited = 1 << 14

// limiter lets each key do a burst of things, and one more per so much time.
type limiter struct {
	burst int
	every time.Duration
	now   func() time.Time

	mu    sync.Mutex
	keys  map[string]*list.Element
	order *list.List // of *spent, the latest first
}

// spent is what a key has used up: nothing any more at full.
type spent struct {
	key  string
	full time.Time
}

func newLimiter(burst int, every time.Duration, now func() time.Time) *limiter {
	return &limiter{burst: burst, every: every, now: now, keys: map[string]*list.Element{}, order: list.New()}
}

// take uses up one; wait is how long until there is one, zero if it was taken.
func (l *limiter) take(key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	e, known := l.keys[key]
	if !known {
		e = l.order.PushFront(&spent{key: key})
		l.keys[key] = e
		if l.order.Len() > maxLimited {
			last := l.order.Back()
			l.order.Remove(last)
			delete(l.keys, last.Value.(*spent).key)
		}
	}
	l.order.MoveToFront(e)
	s := e.Value.(*spent)
	if s.full.Before(now) {
		s.full = now
	}
	if wait := s.full.Add(l.every).Sub(now) - time.Duration(l.burst)*l.every; wait > 0 {
		return wait
	}
	s.full = s.full.Add(l.every)
	return 0
}

// giveBack undoes one take.
func (l *limiter) giveBack(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, known := l.keys[key]; known {
		s := e.Value.(*spent)
		s.full = s.full.Add(-l.every)
	}
}

// place is where an attempt comes from: address is what one person has, an IPv4
// address or the /64 of an IPv6 address; network the most that one customer gets,
// where that is more: the /48.
type place struct{ address, network string }

func placeOf(from string) place {
	a, err := netip.ParseAddr(from)
	if err != nil {
		ap, err := netip.ParseAddrPort(from)
		if err != nil {
			text := strings.ToValidUTF8(from[:min(len(from), 64)], "")
			return place{text, text}
		}
		a = ap.Addr()
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return place{a.String(), a.String()}
	}
	own, _ := a.Prefix(64)
	network, _ := a.Prefix(48)
	return place{own.String(), network.String()}
}
