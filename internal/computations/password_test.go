package computations_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

// stored is a user as the database has them.
func (w *world) stored(id c.ID) c.User {
	w.t.Helper()
	var u c.User
	w.ok(w.store.View(w.ctx, func(r c.Reader) (err error) {
		u, err = r.User(id)
		return err
	}))
	return u
}

func TestPasswordsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	_, link, err := w.CreateUser(w.ctx, w.op.Identity, "rosalind.franklin@example.org", "Rosalind", false)
	w.ok(err)
	secret := secretIn(t, link)
	for bad, why := range map[string]string{
		"":                                  "at least 12",
		"elevenchars":                       "has 11 characters",
		"日本語日本語日本語日本":                       "has 11 characters",
		"password1234":                      "others would try first",
		"Password 1234":                     "others would try first",
		"correct horse battery staple":      "others would try first",
		"WelcomeToCocos!":                   "others would try first",
		"ababababababab":                    "only 2 different",
		"rosalind.franklin@example.org":     "the email address",
		"Rosalind.Franklin99":               "the email address",
		"bad \xff bytes in it":              "UTF-8",
		strings.Repeat("pass phrase ", 100): "at most 1024",
	} {
		_, err := w.RedeemLink(w.ctx, secret, "", "", bad, "test")
		refused(t, err, c.Invalid, why)
	}
	_, err = w.RedeemLink(w.ctx, secret, "", "", "日本語日本語日本語日本語", "test")
	refused(t, err, c.Invalid, "only 3 different")
	_, err = w.RedeemLink(w.ctx, secret, "", "", "elevenchars!", "test")
	w.ok(err) // twelve are enough
}

// Hashes are Argon2id in PHC's form; one that costs less than today's is made anew
// when its password is there.
func TestHashes(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	weak := w.stored(alice.User).PasswordHash
	if !strings.HasPrefix(weak, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatalf("hash is %q", weak)
	}
	better := w.service(c.PasswordCost{MemoryKiB: 128, Passes: 2, Threads: 1})
	_, err := better.SignIn(w.ctx, alice.Email, "not her password", "test", "192.0.2.1")
	refused(t, err, c.Unauthenticated, "wrong")
	if now := w.stored(alice.User).PasswordHash; now != weak {
		t.Error("a wrong password changed the hash")
	}
	_, err = better.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1")
	w.ok(err)
	strong := w.stored(alice.User).PasswordHash
	if !strings.HasPrefix(strong, "$argon2id$v=19$m=128,t=2,p=1$") {
		t.Errorf("after signing in, the hash is %q", strong)
	}
	// Not back to the weaker one; and it still is her password.
	_, err = w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1")
	w.ok(err)
	if now := w.stored(alice.User).PasswordHash; now != strong {
		t.Errorf("the hash became %q", now)
	}
	if d := c.DefaultPasswordCost; d.MemoryKiB < 64<<10 || d.Passes < 3 {
		t.Errorf("the default cost %+v is below RFC 9106's recommendation", d)
	}
	for _, bent := range []string{"x", "$argon2i$" + weak[10:], strings.Replace(weak, "m=64", "m=99999999", 1), weak[:len(weak)-4]} {
		w.ok(w.store.Update(w.ctx, func(x c.Writer) error {
			u := w.stored(alice.User)
			u.PasswordHash = bent
			return x.PutUser(u)
		}))
		if _, err := w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1"); kindOf(err) != "BROKEN" {
			t.Errorf("with the hash %q: %v", bent, err)
		}
	}
}

// Few hashes are made at once, few wait, and the others are sent away: sign-ins
// can't eat the memory.
func TestHashesAtOnce(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	release := c.HoldPasswords(w.Service)
	ctx, cancel := context.WithCancel(w.ctx)
	var group sync.WaitGroup
	got := make(chan c.Kind, c.MaxWaiting+5)
	for i := range c.MaxWaiting + 5 {
		group.Go(func() {
			_, err := w.SignIn(ctx, alice.Email, password, "test", fmt.Sprintf("192.0.2.%d", i))
			got <- kindOf(err)
		})
	}
	for range 5 {
		if k := <-got; k != c.Limited {
			t.Errorf("one too many got %s", k)
		}
	}
	if n := c.Waiting(w.Service); n != c.MaxWaiting {
		t.Errorf("%d wait", n)
	}
	cancel() // those who go away wait no longer
	group.Wait()
	if n := c.Waiting(w.Service); n != 0 {
		t.Errorf("%d wait after they went away", n)
	}
	// From one network only so many wait: others get their turn.
	ctx, cancel = context.WithCancel(w.ctx)
	defer cancel()
	const more = 5
	got = make(chan c.Kind, c.MaxOfOne+more)
	for i := range c.MaxOfOne + more {
		group.Go(func() {
			_, err := w.SignIn(ctx, fmt.Sprintf("u%d@example.org", i), password, "test", fmt.Sprintf("2001:db8:0:%x::1", i))
			got <- kindOf(err)
		})
	}
	for range more {
		if k := <-got; k != c.Limited {
			t.Errorf("one too many of a network got %s", k)
		}
	}
	if n := c.Waiting(w.Service); n != c.MaxOfOne {
		t.Errorf("%d of a network wait", n)
	}
	release()
	_, err := w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.200")
	w.ok(err)
	group.Wait()
}

func TestLimiter(t *testing.T) {
	k := &clock{now: time.Unix(1_800_000_000, 0)}
	l := c.NewLimit(3, time.Minute, k.Now)
	for i := range 3 {
		if wait := l.Take("a"); wait != 0 {
			t.Fatalf("%d has to wait %v", i, wait)
		}
	}
	if wait := l.Take("a"); wait != time.Minute {
		t.Errorf("the fourth waits %v", wait)
	}
	if wait := l.Take("b"); wait != 0 {
		t.Errorf("another has to wait %v", wait)
	}
	k.pass(59 * time.Second)
	if wait := l.Take("a"); wait != time.Second {
		t.Errorf("a second early it waits %v", wait)
	}
	k.pass(time.Second)
	if wait := l.Take("a"); wait != 0 {
		t.Errorf("a minute later it has to wait %v", wait)
	}
	l.GiveBack("a")
	if wait := l.Take("a"); wait != 0 {
		t.Errorf("given back, and has to wait %v", wait)
	}
	for i := range 2 * c.MaxLimited {
		l.Take(fmt.Sprint(i))
	}
	if n := l.Known(); n != c.MaxLimited {
		t.Errorf("remembers %d", n)
	}
}

func TestPlaceOf(t *testing.T) {
	for from, want := range map[string][2]string{
		"192.0.2.7":                  {"192.0.2.7", "192.0.2.7"},
		"192.0.2.7:4711":             {"192.0.2.7", "192.0.2.7"},
		"::ffff:192.0.2.7":           {"192.0.2.7", "192.0.2.7"},
		"[2001:db8:1:2:3:4:5:6]:443": {"2001:db8:1:2::/64", "2001:db8:1::/48"},
		"2001:db8:1:2:ffff::1":       {"2001:db8:1:2::/64", "2001:db8:1::/48"},
		"":                           {"", ""},
		"bufconn":                    {"bufconn", "bufconn"},
	} {
		if address, network := c.PlaceOf(from); address != want[0] || network != want[1] {
			t.Errorf("%q counts as %q in %q, want %q", from, address, network, want)
		}
	}
	if address, _ := c.PlaceOf(strings.Repeat("x", 10_000)); len(address) > 64 {
		t.Errorf("a long one takes %d bytes", len(address))
	}
}
