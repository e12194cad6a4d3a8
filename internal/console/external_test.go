package console_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
	"github.com/ultravioletrs/cocos/internal/oidc"
	"github.com/ultravioletrs/cocos/internal/oidc/oidctest"
)

// signsInElsewhere puts a provider before a console, as the service does.
func signsInElsewhere(t *testing.T, p *oidctest.Provider) func(*console.Config) {
	t.Helper()
	c, err := oidc.New(oidc.Config{Issuer: p.URL, ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret, Redirect: publicURL + console.ExternalPath, Label: "Fjord ID"})
	if err != nil {
		t.Fatal(err)
	}
	return func(cfg *console.Config) {
		cfg.External = &console.External{Label: c.Label(), Start: c.Start, Finish: func(ctx context.Context, q url.Values, attempt string) (computations.ExternalUser, error) {
			person, err := c.Finish(ctx, q, attempt)
			return computations.ExternalUser{Issuer: person.Issuer, Subject: person.Subject, Email: person.Email, EmailVerified: person.EmailVerified, Name: person.Name}, err
		}}
	}
}

// leave goes to the provider and returns with what it sends back.
func (b *browser) leave(p *oidctest.Provider) url.Values {
	b.w.t.Helper()
	r := b.get("/sign-in/external")
	if r.status != http.StatusSeeOther || !strings.HasPrefix(r.to(), p.URL+"/authorize?") {
		b.w.t.Fatalf("%d to %q", r.status, r.to())
	}
	return p.Visit(r.to())
}

func back(q url.Values) string { return console.ExternalPath + "?" + q.Encode() }

func TestSignInElsewhere(t *testing.T) {
	p := oidctest.New(t)
	w := newWorld(t, signsInElsewhere(t, p))
	b := w.browse("")
	if r := b.get("/sign-in"); !strings.Contains(text(r.body), "Sign in with Fjord ID") {
		t.Errorf("the page doesn't offer it\n%s", text(r.body))
	}
	r := b.get(back(b.leave(p)))
	if r.status != http.StatusSeeOther || r.to() != "/" {
		t.Fatalf("%d to %q\n%s", r.status, r.to(), text(r.body))
	}
	if r := b.get("/settings"); !strings.Contains(r.body, `<strong>Ada</strong><br><span class="email">ada@example.org`) {
		t.Errorf("signed in as another\n%s", r.body)
	}
	// What she came back with is of no use once more, to her or to somebody else.
	again := b.leave(p)
	b.get(back(again))
	for name, other := range map[string]*browser{"the same browser": b, "another browser": w.browse("")} {
		if r := other.get(back(again)); r.status != http.StatusUnprocessableEntity || !strings.Contains(text(r.body), "wasn&#39;t begun in this browser") {
			t.Errorf("%s: %d\n%s", name, r.status, text(r.body))
		}
	}
}

// TestRefusedElsewhere: each sign-in is right in all but one thing. The page says that
// it failed; why, which may be in words of the provider's or name machines that are
// nobody's business, is in the log.
func TestRefusedElsewhere(t *testing.T) {
	const inner = "token-store-7.internal"
	for name, tc := range map[string]struct {
		provider func(*oidctest.Provider)
		query    func(url.Values)
		// people changes the fixture.
		people func(*world)
		status int
		says   string
		logged string
	}{
		"state": {query: func(q url.Values) { q.Set("state", "x") }, status: 422, says: "not signed in by Fjord ID", logged: "of another sign-in"},
		"nonce": {provider: func(p *oidctest.Provider) { p.Spoil = func(c map[string]any) { c["nonce"] = "x" } }, status: 422, says: "not signed in by Fjord ID", logged: "of another sign-in"},
		"error": {query: func(q url.Values) { q.Set("error", inner) }, status: 422, says: "not signed in by Fjord ID", logged: inner},
		"token endpoint": {provider: func(p *oidctest.Provider) {
			handler := p.Config.Handler
			p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					http.Error(w, "dial tcp "+inner+":5432: connection refused", http.StatusInternalServerError)
					return
				}
				handler.ServeHTTP(w, r)
			})
		}, status: 422, says: "not signed in by Fjord ID", logged: inner},
		"somebody unknown": {provider: func(p *oidctest.Provider) {
			p.Spoil = func(c map[string]any) { c["sub"], c["email"] = "zoe-1", "zoe@example.org" }
		}, status: 403, says: "no account for you here"},
		"an unverified address": {provider: func(p *oidctest.Provider) { p.Spoil = func(c map[string]any) { c["email_verified"] = false } }, status: 403, says: "no account for you here"},
		"a disabled account":    {people: func(w *world) { w.change("ada", func(u *computations.User) { u.Disabled = true }) }, status: 403, says: "no account for you here"},
	} {
		t.Run(name, func(t *testing.T) {
			p := oidctest.New(t)
			w := newWorld(t, signsInElsewhere(t, p))
			if tc.provider != nil {
				tc.provider(p)
			}
			if tc.people != nil {
				tc.people(w)
			}
			b := w.browse("")
			q := b.leave(p)
			if tc.query != nil {
				tc.query(q)
			}
			r := b.get(back(q))
			if r.status != tc.status || !strings.Contains(text(r.body), tc.says) {
				t.Errorf("%d\n%s", r.status, text(r.body))
			}
			if strings.Contains(r.body, inner) || strings.Contains(r.body, p.URL) {
				t.Errorf("the page tells what is the log's\n%s", text(r.body))
			}
			if !strings.Contains(w.log.String(), tc.logged) {
				t.Errorf("the log lacks %q: %s", tc.logged, w.log.String())
			}
			if r := b.get("/keys"); r.to() != "/sign-in?next=%2Fkeys" {
				t.Errorf("there is a session: %d", r.status)
			}
		})
	}
}

// TestInvitedAndElsewhere: an invitation offers the provider, and who comes by it finds
// the invitation.
func TestInvitedAndElsewhere(t *testing.T) {
	p := oidctest.New(t)
	p.Spoil = func(c map[string]any) { c["sub"], c["email"], c["name"] = "new-1", "new@example.org", "Nora" }
	w := newWorld(t, signsInElsewhere(t, p))
	b := w.browse("")
	if r := b.get(w.path("/invitation/{new invitation}", false)); !strings.Contains(r.body, `href="/sign-in/external">Sign in with Fjord ID`) {
		t.Errorf("it isn't offered\n%s", text(r.body))
	}
	if r := b.get(back(b.leave(p))); r.to() != "/" {
		t.Fatalf("%d to %q", r.status, r.to())
	}
	accept := "/invitations/" + string(w.things["new invitation"]) + "/accept"
	if r := b.get("/"); !strings.Contains(r.body, `action="`+accept+`"`) {
		t.Fatalf("the invitation isn't there\n%s", text(r.body))
	}
	if r := b.post(accept, form()); r.to() != "/w/"+string(w.things["workspace"])+"?done=accepted" {
		t.Errorf("%d to %q", r.status, r.to())
	}
}

// TestLinkingSaysWhatEnded: an account that anybody with a link could have made is
// another one after its person has come, and that is said.
func TestLinkingSaysWhatEnded(t *testing.T) {
	p := oidctest.New(t)
	p.Spoil = func(c map[string]any) { c["sub"], c["email"] = "dora-1", "dora@example.org" }
	w := newWorld(t, signsInElsewhere(t, p))
	w.change("dora", func(u *computations.User) { u.EmailVerified, u.PasswordHash = false, "of somebody" })
	b := w.browse("")
	r := b.get(back(b.leave(p)))
	if r.to() != "/?done=linked" {
		t.Fatalf("%d to %q", r.status, r.to())
	}
	if page := text(b.get(r.to()).body); !strings.Contains(page, "its password, its other sessions and its tokens have ended, and its keys are revoked") {
		t.Errorf("nothing is said\n%s", page)
	}
	w.put(func(tx computations.Writer) error {
		u, err := tx.User(w.users["dora"])
		if err == nil && (u.PasswordHash != "" || !u.EmailVerified) {
			t.Errorf("the account is %+v", u)
		}
		return err
	})
	if k, err := w.svc.Keys(t.Context(), w.signedIn("dora")); err != nil || k[0].Revoked.IsZero() || time.Since(k[0].Revoked) > time.Minute {
		t.Errorf("%+v, %v", k, err)
	}
	// The next time there is nothing to say.
	if r := b.get(back(b.leave(p))); r.to() != "/" {
		t.Errorf("%d to %q", r.status, r.to())
	}
}
