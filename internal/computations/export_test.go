package computations

import "time"

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

// AddressKey is what of an address is counted.
var AddressKey = addressKey

// HoldPasswords takes all turns of the hasher until release.
func HoldPasswords(s *Service) (release func()) {
	for range maxHashes {
		s.passwords.slots <- struct{}{}
		s.passwords.waiting.Add(1)
	}
	return func() {
		for range maxHashes {
			s.passwords.leave()
		}
	}
}

// Waiting counts those who hash or wait for their turn; MaxWaiting may wait.
func Waiting(s *Service) int { return int(s.passwords.waiting.Load()) - maxHashes }

// MaxWaiting may wait for their turn.
const MaxWaiting = maxWaiting

// CountHashes tells count what each hash costs, from now on.
func CountHashes(s *Service, count func(PasswordCost)) {
	s.passwords.derive = func(c PasswordCost, password string, salt []byte, n uint32) []byte {
		count(c)
		return derive(c, password, salt, n)
	}
}
