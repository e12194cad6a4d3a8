package oidc_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/oidc"
	"github.com/ultravioletrs/cocos/internal/oidc/oidctest"
)

func client(t *testing.T, p *oidctest.Provider, now func() time.Time) *oidc.Provider {
	t.Helper()
	c, err := oidc.New(oidc.Config{Issuer: p.URL, ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret, Redirect: "https://cocos.example.org/back", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSignIn(t *testing.T) {
	p := oidctest.New(t)
	c := client(t, p, nil)
	address, attempt, err := c.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(address, oidctest.ClientSecret) {
		t.Errorf("the browser is told the client's secret: %s", address)
	}
	got, err := c.Finish(context.Background(), p.Visit(address), attempt)
	want := oidc.Person{Issuer: p.URL, Subject: "ada-1", Email: "ada@example.org", EmailVerified: true, Name: "Ada"}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRefusals: each sign-in is right in all but one thing.
func TestRefusals(t *testing.T) {
	claim := func(name string, value any) func(*oidctest.Provider) {
		return func(p *oidctest.Provider) { p.Spoil = func(c map[string]any) { c[name] = value } }
	}
	for name, c := range map[string]struct {
		provider func(*oidctest.Provider)
		query    func(url.Values)
		attempt  func(own, another string) string
		later    time.Duration
		says     string
	}{
		"no attempt":      {attempt: func(string, string) string { return "" }, says: "did not begin"},
		"another attempt": {attempt: func(_, another string) string { return another }, says: "of another sign-in"},
		"state":           {query: func(q url.Values) { q.Set("state", "x") }, says: "of another sign-in"},
		"no state":        {query: func(q url.Values) { q.Del("state") }, says: "of another sign-in"},
		"error":           {query: func(q url.Values) { q.Set("error", "access_denied") }, says: `did not sign you in ("access_denied")`},
		"code":            {query: func(q url.Values) { q.Set("code", "x") }, says: "asking"},
		"too late":        {later: 16 * time.Minute, says: "longer than"},
		"nonce":           {provider: claim("nonce", "x"), says: "of another sign-in"},
		"audience":        {provider: claim("aud", "another"), says: "audience"},
		"issuer":          {provider: claim("iss", "https://evil.example"), says: "issued by"},
		"expired":         {provider: claim("exp", time.Now().Add(-time.Hour).Unix()), says: "expired"},
		"signature":       {provider: func(p *oidctest.Provider) { p.Forge = true }, says: "verify signature"},
		"verifier": {attempt: func(own, another string) string {
			var a, b map[string]any
			for text, to := range map[string]*map[string]any{own: &a, another: &b} {
				if err := json.Unmarshal([]byte(text), to); err != nil {
					panic(err)
				}
			}
			mixed := maps.Clone(a)
			mixed["verifier"] = b["verifier"]
			text, err := json.Marshal(mixed)
			if err != nil {
				panic(err)
			}
			return string(text)
		}, says: "asking"},
	} {
		t.Run(name, func(t *testing.T) {
			p := oidctest.New(t)
			now := time.Now()
			own := client(t, p, func() time.Time { return now })
			address, attempt, err := own.Start(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			_, another, err := own.Start(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if c.provider != nil {
				c.provider(p)
			}
			query := p.Visit(address)
			if c.query != nil {
				c.query(query)
			}
			if c.attempt != nil {
				attempt = c.attempt(attempt, another)
			}
			now = now.Add(c.later)
			got, err := own.Finish(context.Background(), query, attempt)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v; want %q", got, err, c.says)
			}
		})
	}
}

// TestProviderIsAway: the service starts without it, and finds it later.
func TestProviderIsAway(t *testing.T) {
	p := oidctest.New(t)
	away := true
	handler := p.Config.Handler
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(w, r)
	})
	c := client(t, p, nil)
	if _, _, err := c.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "how to sign in there") {
		t.Errorf("away: %v", err)
	}
	away = false
	if _, _, err := c.Start(context.Background()); err != nil {
		t.Errorf("back: %v", err)
	}
}

func TestConfig(t *testing.T) {
	good := oidc.Config{Issuer: "https://id.example.org", ClientID: "a", ClientSecret: "b"}
	if p, err := oidc.New(good); err != nil || p.Label() != "id.example.org" {
		t.Errorf("%v", err)
	}
	for name, spoil := range map[string]func(*oidc.Config){
		"scheme": func(c *oidc.Config) { c.Issuer = "http://id.example.org" },
		"host":   func(c *oidc.Config) { c.Issuer = "id" },
		"id":     func(c *oidc.Config) { c.ClientID = "" },
		"secret": func(c *oidc.Config) { c.ClientSecret = "" },
	} {
		c := good
		spoil(&c)
		if _, err := oidc.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
