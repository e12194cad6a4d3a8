package computations_test

import (
	"strings"
	"testing"
	"time"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

func (w *world) lives(session string) bool {
	w.t.Helper()
	_, err := w.Authenticate(w.ctx, session)
	if k := kindOf(err); k != "OK" && k != c.Unauthenticated {
		w.t.Fatal(err)
	}
	return err == nil
}

func TestBootstrap(t *testing.T) {
	w := bare(t, storetest.SQLite)
	first, err := w.Bootstrap(w.ctx)
	w.ok(err)
	// Nobody has used it: started again, the service prints another, and the one
	// before dies with it.
	link, err := w.Bootstrap(w.ctx)
	w.ok(err)
	_, err = w.RedeemLink(w.ctx, secretIn(t, first), "", "", password, "test")
	refused(t, err, c.NotFound, "not valid")
	u, err := w.LinkInfo(w.ctx, secretIn(t, link))
	w.ok(err)
	if u.Email != "admin@localhost" || !u.Operator || u.PasswordHash != "" {
		t.Errorf("the link is for %+v", u)
	}
	_, err = w.RedeemLink(w.ctx, secretIn(t, link), "Olga", "not an address", "short", "test")
	refused(t, err, c.Invalid, "email: ")
	refused(t, err, c.Invalid, "password: ")
	session, err := w.RedeemLink(w.ctx, secretIn(t, link), "Olga", "olga@example.org", password, "test")
	w.op = w.signedIn(session, err)
	if w.op.Email != "olga@example.org" || w.op.Name != "Olga" || !w.op.Operator {
		t.Errorf("became %+v", w.op.Identity)
	}
	_, err = w.RedeemLink(w.ctx, secretIn(t, link), "Olga", "", password, "test")
	refused(t, err, c.NotFound, "not valid")
	if link, err := w.Bootstrap(w.ctx); err != nil || link != "" {
		t.Errorf("a second bootstrap: %q, %v", link, err)
	}
	// Nobody else changes the address: neither another person, nor whoever makes an
	// account of the address that the first operator had.
	alice := w.person("alice")
	_, invitation, err := w.Invite(w.ctx, alice.Identity, c.Invite{Workspace: w.workspace(alice).ID, Email: "admin@localhost"})
	w.ok(err)
	session, _, err = w.AcceptAsNew(w.ctx, invitation, "Mallory", password, "test")
	mallory := w.signedIn(session, err)
	link, err = w.ResetPassword(w.ctx, w.op.Identity, mallory.User)
	w.ok(err)
	_, err = w.RedeemLink(w.ctx, secretIn(t, link), "", "victim@example.org", password, "test")
	refused(t, err, c.Invalid, "email: can't be changed")
	_, link, err = w.CreateUser(w.ctx, w.op.Identity, "new@example.org", "New", false)
	w.ok(err)
	_, err = w.RedeemLink(w.ctx, secretIn(t, link), "", "other@example.org", password, "test")
	refused(t, err, c.Invalid, "email: can't be changed")
	w.clock.pass(7 * 24 * time.Hour)
	_, err = w.LinkInfo(w.ctx, secretIn(t, link))
	refused(t, err, c.NotFound, "not valid")
	_, err = w.RedeemLink(w.ctx, secretIn(t, link), "", "", password, "test")
	refused(t, err, c.NotFound, "not valid")
	// A link is no session.
	if w.lives(secretIn(t, link)) {
		t.Error("a link's secret authenticates")
	}
}

func TestCreateUser(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ email, name, field string }{
		{"", "x", "email"}, {"x", "x", "email"}, {"a@b@c", "x", "email"}, {"a b@example.org", "x", "email"},
		{"аdmin@example.org", "x", "email"}, {"-x@example.org", "x", "email"}, {"x@-example.org", "x", "email"},
		{"x\"y@example.org", "x", "email"}, {"x`id`@example.org", "x", "email"}, {strings.Repeat("x", 250) + "@example.org", "x", "email"},
		{"x@example.org", "a\nb", "name"}, {"x@example.org", "a\u202eb", "name"},
	} {
		_, _, err := w.CreateUser(w.ctx, w.op.Identity, tt.email, tt.name, false)
		refused(t, err, c.Invalid, tt.field+": ")
	}
	_, _, err := w.CreateUser(w.ctx, w.op.Identity, "New@Example.org", "New", true)
	w.ok(err)
	_, _, err = w.CreateUser(w.ctx, w.op.Identity, "new@example.org", "New", false)
	refused(t, err, c.Conflict, "another account")
	all, err := w.Users(w.ctx, w.op.Identity, c.Page{})
	w.ok(err)
	if len(all) != 2 || all[0].Email != "new@example.org" || !all[0].Operator {
		t.Errorf("users: %+v", all)
	}
	for _, u := range all {
		if u.PasswordHash != "" {
			t.Error("a list of users shows hashes")
		}
	}
}

// Whoever holds the database makes a link for an operator, however the address is
// written, and for nobody else.
func TestOperatorLink(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	link, err := w.OperatorLink(w.ctx, " Op@Example.ORG ")
	w.ok(err)
	if u, err := w.LinkInfo(w.ctx, secretIn(t, link)); err != nil || u.ID != w.op.User {
		t.Errorf("the link is for %+v, %v", u, err)
	}
	for _, email := range []string{alice.Email, "nobody@example.org", ""} {
		_, err := w.OperatorLink(w.ctx, email)
		refused(t, err, c.NotFound, "no operator with the address")
	}
}

// Who makes an account need not know what its person is called; they say so.
func TestUserWithoutName(t *testing.T) {
	w := newWorld(t)
	u, link, err := w.CreateUser(w.ctx, w.op.Identity, "new@example.org", "", false)
	w.ok(err)
	if u.Name != "" {
		t.Errorf("the account is called %q", u.Name)
	}
	_, err = w.RedeemLink(w.ctx, secretIn(t, link), "", "", password, "test")
	refused(t, err, c.Invalid, "name: ")
	new := w.signedIn(w.RedeemLink(w.ctx, secretIn(t, link), "Nora", "", password, "test"))
	if new.Name != "Nora" {
		t.Errorf("the account is called %q", new.Name)
	}
}

func TestDisabledUsersLoseEverythingAtOnce(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	token, _, err := w.CreateToken(w.ctx, alice.Identity, "ci", time.Hour)
	w.ok(err)
	link, err := w.ResetPassword(w.ctx, w.op.Identity, alice.User)
	w.ok(err)
	if w.lives(alice.session) || w.lives(token) {
		t.Error("a reset left a session or a token")
	}
	session, err := w.RedeemLink(w.ctx, secretIn(t, link), "", "", password, "test")
	alice = w.signedIn(session, err)
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, alice.User, true))
	if w.lives(session) {
		t.Error("the session lives")
	}
	_, err = w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1")
	refused(t, err, c.Unauthenticated, "wrong")
	_, err = w.ResetPassword(w.ctx, w.op.Identity, alice.User)
	refused(t, err, c.Conflict, "disabled")
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, alice.User, false))
	if w.lives(session) {
		t.Error("the session lives again")
	}
	_, err = w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1")
	w.ok(err)
	refused(t, w.SetUserDisabled(w.ctx, w.op.Identity, w.op.User, true), c.Conflict, "your own")
	_, err = w.ResetPassword(w.ctx, w.op.Identity, w.op.User)
	refused(t, err, c.Conflict, "your own")
	if !w.lives(w.op.session) {
		t.Error("what was refused ended the operator's session")
	}
}

func TestChangePassword(t *testing.T) {
	w := newWorld(t)
	alice := w.person("alice")
	other, err := w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1")
	w.ok(err)
	token, _, err := w.CreateToken(w.ctx, alice.Identity, "ci", time.Hour)
	w.ok(err)
	refused(t, w.ChangePassword(w.ctx, alice.Identity, password, "password1234"), c.Invalid, "new: ")
	refused(t, w.ChangePassword(w.ctx, alice.Identity, "not hers at all", "eight blue bottles"), c.Invalid, "old: is not your password")
	w.ok(w.ChangePassword(w.ctx, alice.Identity, password, "eight blue bottles"))
	if !w.lives(alice.session) || w.lives(other) {
		t.Error("the own session must go on, and others must end")
	}
	if !w.lives(token) {
		t.Error("a program's token ended")
	}
	_, err = w.SignIn(w.ctx, alice.Email, password, "test", "192.0.2.1")
	refused(t, err, c.Unauthenticated, "wrong")
	_, err = w.SignIn(w.ctx, alice.Email, "eight blue bottles", "test", "192.0.2.1")
	w.ok(err)
	// Whoever found the session open can't try all passwords.
	for range 9 { // one was above
		refused(t, w.ChangePassword(w.ctx, alice.Identity, "not hers at all", "nine blue bottles"), c.Invalid, "old")
	}
	refused(t, w.ChangePassword(w.ctx, alice.Identity, "eight blue bottles", "nine blue bottles"), c.Limited, "too many")
}

func TestSignInExternal(t *testing.T) {
	w := newWorld(t)
	as := func(subject, email string, verified bool) (string, error) {
		session, ended, err := w.SignInExternal(w.ctx, c.ExternalUser{Issuer: "https://id.example.org", Subject: subject, Email: email, EmailVerified: verified, Name: "N. N."}, "test")
		if ended {
			t.Errorf("%s is told that something has ended", email)
		}
		return session, err
	}
	alice := w.person("alice")
	_, err := as("1", alice.Email, false)
	refused(t, err, c.Denied, "no account")
	_, err = as("", alice.Email, true)
	refused(t, err, c.Unauthenticated, "")
	session, err := as("1", "ALICE@example.org", true)
	if p := w.signedIn(session, err); p.User != alice.User || p.Name != "alice" {
		t.Errorf("signed in as %+v", p.Identity)
	}
	if !w.lives(alice.session) {
		t.Error("linking ended her other session, though her address was verified")
	}
	// The subject counts from now on, whatever the address is by then.
	session, err = as("1", "married@example.org", false)
	if p := w.signedIn(session, err); p.User != alice.User {
		t.Errorf("signed in as %+v", p.Identity)
	}
	// Another subject of the same address is another person.
	_, err = as("2", alice.Email, true)
	refused(t, err, c.Denied, "no account")

	// No account is made but by invitation, or where the setting says so.
	_, err = as("3", "new@example.org", true)
	refused(t, err, c.Denied, "no account")
	ws := w.workspace(alice)
	inv, _, err := w.Invite(w.ctx, alice.Identity, c.Invite{Workspace: ws.ID, Email: "new@example.org", TTL: time.Hour})
	w.ok(err)
	session, err = as("3", "new@example.org", true)
	newbie := w.signedIn(session, err)
	w.ok(empty(w.AcceptMyInvitation(w.ctx, newbie.Identity, inv.ID)))
	_, _, err = w.Invite(w.ctx, alice.Identity, c.Invite{Workspace: ws.ID, Email: "late@example.org", TTL: time.Hour})
	w.ok(err)
	w.clock.pass(time.Hour)
	_, err = as("4", "late@example.org", true)
	refused(t, err, c.Denied, "no account")
	w.ok(w.SetSetting(w.ctx, w.op.Identity, "sign-up", "oidc"))
	session, err = as("5", "any@example.org", true)
	if p := w.signedIn(session, err); p.Operator || p.Name != "N. N." {
		t.Errorf("made %+v", p.Identity)
	}
	_, err = as("6", "unverified@example.org", false)
	refused(t, err, c.Denied, "no account")

	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, alice.User, true))
	_, err = as("1", alice.Email, true)
	refused(t, err, c.Denied, "no account")
	dora := w.person("dora")
	w.ok(w.SetUserDisabled(w.ctx, w.op.Identity, dora.User, true))
	_, err = as("7", dora.Email, true)
	refused(t, err, c.Denied, "no account")
	refused(t, w.ChangePassword(w.ctx, newbie.Identity, "", "eight blue bottles"), c.Conflict, "no password")
}

// Whoever has an invitation's link can make the account of its address, and wait
// in it for the person whose address it is. When somebody vouches for that person,
// what the other left in the account is gone.
func TestAccountsMadeInAdvance(t *testing.T) {
	for name, arrive := range map[string]func(*world, c.ID) string{
		"by a provider": func(w *world, _ c.ID) string {
			arrival := c.ExternalUser{Issuer: "https://id.example.org", Subject: "1", Email: "bob@example.org", EmailVerified: true}
			session, ended, err := w.SignInExternal(w.ctx, arrival, "test")
			w.ok(err)
			_, again, err := w.SignInExternal(w.ctx, arrival, "test")
			w.ok(err)
			if !ended || again {
				w.t.Errorf("he is told that something has ended: %v, and the next time %v", ended, again)
			}
			return session
		},
		"by an operator": func(w *world, id c.ID) string {
			link, err := w.ResetPassword(w.ctx, w.op.Identity, id)
			w.ok(err)
			session, err := w.RedeemLink(w.ctx, secretIn(w.t, link), "", "", "bob's own bottles", "test")
			w.ok(err)
			return session
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			mallory, alice := w.person("mallory"), w.person("alice")
			_, secret, err := w.Invite(w.ctx, mallory.Identity, c.Invite{Workspace: w.workspace(mallory).ID, Email: "bob@example.org"})
			w.ok(err)
			session, _, err := w.AcceptAsNew(w.ctx, secret, "Bob", password, "test")
			squatter := w.withKey(w.signedIn(session, err))
			token, _, err := w.CreateToken(w.ctx, squatter.Identity, "ci", time.Hour)
			w.ok(err)
			// The address alone gets her into nothing that waits for him.
			inv, _, err := w.Invite(w.ctx, alice.Identity, c.Invite{Workspace: w.workspace(alice).ID, Email: "bob@example.org"})
			w.ok(err)
			if all, err := w.MyInvitations(w.ctx, squatter.Identity); err != nil || len(all) != 0 {
				t.Errorf("she sees %+v, %v", all, err)
			}
			_, err = w.AcceptMyInvitation(w.ctx, squatter.Identity, inv.ID)
			refused(t, err, c.NotFound, "no such invitation")
			refused(t, w.DeclineMyInvitation(w.ctx, squatter.Identity, inv.ID), c.NotFound, "no such invitation")

			bob := w.signedIn(arrive(w, squatter.User), nil)
			if bob.User != squatter.User {
				t.Fatal("another account")
			}
			if w.lives(squatter.session) || w.lives(token) {
				t.Error("her session or token lives")
			}
			_, err = w.SignIn(w.ctx, "bob@example.org", password, "test", "192.0.2.1")
			refused(t, err, c.Unauthenticated, "wrong")
			ks, err := w.Keys(w.ctx, bob.Identity)
			w.ok(err)
			if len(ks) != 1 || ks[0].Revoked.IsZero() {
				t.Errorf("keys: %+v", ks)
			}
			w.ok(empty(w.AcceptMyInvitation(w.ctx, bob.Identity, inv.ID)))
		})
	}
}
