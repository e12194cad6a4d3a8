package computations

import (
	"context"
	"time"
)

// SetRecheck makes watchers look again this often.
func SetRecheck(s *Service, d time.Duration) { s.recheck = d }

// Limit is a limiter, for its test.
type Limit struct{ l *limiter }

// NewLimit makes one.
func NewLimit(burst int, every time.Duration, now func() time.Time) Limit {
	return Limit{newLimiter(burst, every, now)}
}

// Take and GiveBack are the limiter's; Known counts what it remembers.
func (l Limit) Take(key string) time.Duration { return l.l.take(key) }
func (l Limit) GiveBack(key string)           { l.l.giveBack(key) }
func (l Limit) Known() int                    { return len(l.l.keys) }

// MaxLimited bounds it.
const MaxLimited = maxLimited

// PlaceOf is what of an address is counted.
func PlaceOf(from string) (address, network string) {
	at := placeOf(from)
	return at.address, at.network
}

// HoldPasswords takes all turns of the hasher until release.
func HoldPasswords(s *Service) (release func()) {
	var leave []func()
	for range maxHashes {
		l, err := s.passwords.enter(context.Background(), "a test")
		if err != nil {
			panic(err)
		}
		leave = append(leave, l)
	}
	return func() {
		for _, l := range leave {
			l()
		}
	}
}

// Waiting counts those who wait for their turn; MaxWaiting may, MaxOfOne of one who
// asks.
func Waiting(s *Service) int {
	s.passwords.mu.Lock()
	defer s.passwords.mu.Unlock()
	return s.passwords.waiting - maxHashes
}

// MaxWaiting may wait for their turn.
const (
	MaxWaiting = maxWaiting
	MaxOfOne   = maxOfOne
)

// CountHashes tells count what each hash costs, from now on.
func CountHashes(s *Service, count func(PasswordCost)) {
	s.passwords.derive = func(c PasswordCost, password string, salt []byte, n uint32) []byte {
		count(c)
		return derive(c, password, salt, n)
	}
}
