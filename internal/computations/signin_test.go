package computations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
)

// Whatever is wrong, the answer is one and the same, word for word.
func TestSignInTellsNothing(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	disabled := w.person("dora")
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, disabled.User, true))
	_, _, err := w.CreateUser(w.ctx, w.op.Identity, "new@example.org", "New", false) // has no password yet
	w.ok(err)
	_, wrong := w.SignIn(w.ctx, alice.Email, "not her password", "test", "192.0.2.1")
	refused(t, wrong, c.Unauthenticated, "the email address or the password is wrong")
	for name, email := range map[string]string{
		"unknown": "nobody@example.org", "disabled": disabled.Email, "no password": "new@example.org", "no address": "x", "empty": "",
	} {
		if _, err := w.SignIn(w.ctx, email, password, "test", "192.0.2.1"); err == nil || err.Error() != wrong.Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
	session, err := w.SignIn(w.ctx, "  Alice@Example.ORG ", password, "test", "192.0.2.1")
	w.signedIn(session, err)
	all, err := w.Audit(w.ctx, w.op.Identity, c.AuditFilter{Action: "sign-in.failed"})
	w.ok(err)
	if len(all) != 6 {
		t.Errorf("%d failures are in the audit log", len(all))
	}
	for _, e := range all {
		if e.Actor != "" || len(e.Detail) != 1 || e.Detail["from"] != "192.0.2.1" {
			t.Errorf("a failure is noted as %+v", e)
		}
	}
}

// The work is the same, too: one hash of the same cost, whoever it is.
func TestSignInIsTheSameWork(t *testing.T) {
	w := newWorld(t)
	alice, dora := w.person("alice"), w.person("dora")
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, dora.User, true))
	_, _, err := w.CreateUser(w.ctx, w.op.Identity, "new@example.org", "New", false)
	w.ok(err)
	var hashes []c.PasswordCost
	c.CountHashes(w.Service, func(cost c.PasswordCost) { hashes = append(hashes, cost) })
	for _, email := range []string{alice.Email, dora.Email, "new@example.org", "nobody@example.org", "x", ""} {
		hashes = nil
		const right = password
		for _, password := range []string{"not the password", right, strings.Repeat("long", 1000)} {
			if email != alice.Email || password != right {
				_, err := w.SignIn(w.ctx, email, password, "test", "192.0.2.1")
				refused(t, err, c.Unauthenticated, "wrong")
			} else {
				w.ok(empty(w.SignIn(w.ctx, email, password, "test", "192.0.2.1")))
			}
		}
		if !slices.Equal(hashes, []c.PasswordCost{cheap, cheap, cheap}) {
			t.Errorf("%q costs %v", email, hashes)
		}
	}
}

func TestSignInIsLimited(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	try := func(email, password, from string) c.Kind {
		_, err := w.SignIn(w.ctx, email, password, "test", from)
		return kindOf(err)
	}
	// For an account from one address; and for one that isn't there just as well.
	for _, email := range []string{alice.Email, "nobody@example.org"} {
		from := "192.0.2.1"
		if email != alice.Email {
			from = "192.0.2.2"
		}
		for i := range 10 {
			if got := try(email, "wrong password", from); got != c.Unauthenticated {
				t.Fatalf("attempt %d for %s: %s", i, email, got)
			}
		}
		if got := try(email, password, from); got != c.Limited {
			t.Errorf("the eleventh for %s, with the right password: %s", email, got)
		}
	}
	// Who tries that doesn't lock out her, who comes from elsewhere.
	if got := try(alice.Email, password, "198.51.100.1"); got != "OK" {
		t.Errorf("from another address: %s", got)
	}
	w.clock.pass(61 * time.Second)
	if got := try(alice.Email, password, "192.0.2.1"); got != "OK" {
		t.Errorf("a minute later: %s", got)
	}
	// Success isn't counted for an account, as often as it may be from one address.
	for i := range 12 {
		if got := try(alice.Email, password, "192.0.2.1"); got != "OK" {
			t.Fatalf("success %d: %s", i, got)
		}
	}
	// From one address, whatever the account; IPv6 by network.
	n := 0
	for i := range 60 {
		if try(fmt.Sprintf("u%d@example.org", i), password, fmt.Sprintf("[2001:db8::%x]:1", i+1)) == c.Unauthenticated {
			n++
		}
	}
	if n != 50 {
		t.Errorf("%d attempts from one network went through", n)
	}
	// For one account, wherever from.
	w.clock.pass(time.Hour)
	n = 0
	for i := range 150 {
		if try(alice.Email, "wrong password", fmt.Sprintf("203.0.113.%d", i)) == c.Unauthenticated {
			n++
		}
	}
	if n != 100 {
		t.Errorf("%d attempts for one account went through", n)
	}
	// That locks her out of where she never was, and not of where she was before:
	// there she has the limit of that address.
	if got := try(alice.Email, password, "198.51.100.77"); got != c.Limited {
		t.Errorf("from an address that is new: %s", got)
	}
	if got := try(alice.Email, password, "192.0.2.1"); got != "OK" {
		t.Errorf("from an address where she signed in before: %s", got)
	}
	for range 10 {
		if got := try(alice.Email, "wrong password", "192.0.2.1"); got != c.Unauthenticated {
			t.Errorf("a wrong password from there: %s", got)
		}
	}
	if got := try(alice.Email, password, "192.0.2.1"); got != c.Limited {
		t.Errorf("after ten of them: %s", got)
	}
	// Many networks of one customer's are one.
	n = 0
	for i := range 250 {
		if try(fmt.Sprintf("v%d@example.org", i), password, fmt.Sprintf("2001:db8:7:%x::1", i)) == c.Unauthenticated {
			n++
		}
	}
	if n != 200 {
		t.Errorf("%d attempts from the networks of one customer went through", n)
	}
}

// Right passwords are as much work as wrong ones: from one address only so many.
func TestSuccessIsLimitedToo(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	n := 0
	for range 60 {
		if _, err := w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1"); err == nil {
			n++
		} else {
			refused(t, err, c.Limited, "too many attempts")
		}
	}
	if n != 50 {
		t.Errorf("%d sign-ins from one address went through", n)
	}
	_, err := w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.2")
	w.ok(err)
}

func TestSessionsEnd(t *testing.T) {
	w := newWorld(t)
	lives := func(session string) bool {
		_, err := w.Authenticate(w.ctx, session)
		if k := kindOf(err); k != "OK" && k != c.Unauthenticated {
			t.Fatal(err)
		}
		return err == nil
	}
	alice := w.person("alice")
	w.clock.pass(12*time.Hour - time.Second)
	if !lives(alice.session) {
		t.Error("ended before twelve idle hours")
	}
	w.clock.pass(12 * time.Hour)
	if lives(alice.session) {
		t.Error("lives after twelve idle hours")
	}
	bob := w.person2("bob")
	for range 2*14 - 1 {
		w.clock.pass(11 * time.Hour)
		if !lives(bob.session) {
			t.Fatal("ended while it was used")
		}
	}
	w.clock.pass(11 * time.Hour)
	w.clock.pass(11 * time.Hour)
	for range 3 {
		w.clock.pass(11 * time.Hour)
		lives(bob.session)
	}
	if lives(bob.session) {
		t.Error("lives after fourteen days of use")
	}
	for _, secret := range []string{"", "cs_", "cs_" + bob.session[4:] + "A", "ct_" + bob.session[3:], bob.session + "x"} {
		if lives(secret) {
			t.Errorf("%q lets somebody in", secret)
		}
	}
}

// A use is noted at most once a minute.
func TestUseIsNoted(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	used := func() time.Time {
		all, err := w.Service.Credentials(w.ctx, alice.Identity)
		w.ok(err)
		if len(all) != 1 || all[0].Hash != ([32]byte{}) {
			t.Fatalf("credentials: %+v", all)
		}
		return all[0].Used
	}
	first := used()
	w.clock.pass(59 * time.Second)
	w.ok(empty(w.Authenticate(w.ctx, alice.session)))
	if !used().Equal(first) {
		t.Error("noted within a minute")
	}
	w.clock.pass(time.Second)
	w.ok(empty(w.Authenticate(w.ctx, alice.session)))
	if got := used().Sub(first); got != time.Minute {
		t.Errorf("noted after %v", got)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	for _, ttl := range []time.Duration{0, -time.Hour, time.Second, 366 * 24 * time.Hour} {
		_, _, err := w.CreateToken(w.ctx, alice.Identity, "ci", ttl)
		refused(t, err, c.Invalid, "ttl")
	}
	secret, token, err := w.CreateToken(w.ctx, alice.Identity, "ci", 365*24*time.Hour)
	w.ok(err)
	w.clock.pass(365*24*time.Hour - time.Second) // no idle time
	id, err := w.Authenticate(w.ctx, secret)
	w.ok(err)
	if id.User != alice.User || id.Kind != c.AccessToken || id.Credential != token.ID {
		t.Errorf("the token is %+v", id)
	}
	// What lies in a file can't make more of itself.
	_, _, err = w.CreateToken(w.ctx, id, "more", time.Hour)
	refused(t, err, c.Denied, "an access token can't do this")
	refused(t, w.ChangePassword(w.ctx, id, password, "another long one"), c.Denied, "an access token can't do this")
	refused(t, w.RevokeCredential(w.ctx, id, alice.Credential), c.Denied, "an access token can't do this")
	w.clock.pass(time.Second)
	_, err = w.Authenticate(w.ctx, secret)
	refused(t, err, c.Unauthenticated, "")

	bob := w.person2("bob")
	secret, token, err = w.CreateToken(w.ctx, bob.Identity, "ci", time.Hour)
	w.ok(err)
	refused(t, w.RevokeCredential(w.ctx, w.op2().Identity, token.ID), c.NotFound, "session or token")
	w.ok(w.RevokeCredential(w.ctx, bob.Identity, token.ID))
	_, err = w.Authenticate(w.ctx, secret)
	refused(t, err, c.Unauthenticated, "")
	// As many as there may be, and no more.
	now := w.clock.Now()
	w.ok(w.store.Update(w.ctx, func(x c.Writer) error {
		for i := range 100 {
			k := c.Credential{ID: c.NewID(), User: bob.User, Kind: c.AccessToken, Hash: [32]byte{1, byte(i)}, Created: now, Expires: now.Add(time.Hour), Used: now}
			if err := x.PutCredential(k); err != nil {
				return err
			}
			k.ID, k.Kind, k.Hash[0], k.Used = c.NewID(), c.Session, 2, now.Add(-time.Duration(i)*time.Minute)
			if err := x.PutCredential(k); err != nil {
				return err
			}
		}
		return nil
	}))
	_, _, err = w.CreateToken(w.ctx, bob.Identity, "one more", time.Hour)
	refused(t, err, c.Limited, "as many access tokens")
	// Sessions make room instead: those that were idle for longest go.
	all, err := w.Service.Credentials(w.ctx, w.again(bob).Identity)
	w.ok(err)
	oldest := slices.ContainsFunc(all, func(k c.Credential) bool { return k.Kind == c.Session && now.Sub(k.Used) >= 98*time.Minute })
	if len(all) != 200 || oldest {
		t.Errorf("%d credentials are left, and the one that was idle for longest is %t", len(all), oldest)
	}
}
