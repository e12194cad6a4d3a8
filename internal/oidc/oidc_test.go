package oidc_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/oidc"
)

var signer = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// provider is an OpenID Connect provider that signs everybody in as Ada.
type provider struct {
	*httptest.Server
	t *testing.T
	// challenge is that of the last visit, by code.
	mu     sync.Mutex
	visits map[string]url.Values
	// spoil changes the claims of the ID token.
	spoil func(map[string]any)
	// forge signs with another key.
	forge bool
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t, visits: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.answer(w, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
			"jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		k := signer()
		p.answer(w, map[string]any{"keys": []any{map[string]any{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}}})
	})
	mux.HandleFunc("POST /token", p.token)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// visit is what a browser does that is sent to address: it comes back with this.
func (p *provider) visit(address string) url.Values {
	u, err := url.Parse(address)
	if err != nil {
		p.t.Fatal(err)
	}
	q := u.Query()
	code := rand.Text()
	p.mu.Lock()
	p.visits[code] = q
	p.mu.Unlock()
	return url.Values{"state": {q.Get("state")}, "code": {code}}
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	visit := p.visits[r.FormValue("code")]
	p.mu.Unlock()
	proof := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	id, secret, _ := r.BasicAuth()
	if visit == nil || b64(proof[:]) != visit.Get("code_challenge") || visit.Get("code_challenge_method") != "S256" ||
		id != "cocos" || secret != "s3cret" || r.FormValue("redirect_uri") != visit.Get("redirect_uri") {
		w.WriteHeader(http.StatusBadRequest)
		p.answer(w, map[string]any{"error": "invalid_grant"})
		return
	}
	claims := map[string]any{"iss": p.URL, "aud": "cocos", "sub": "ada-1", "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(),
		"nonce": visit.Get("nonce"), "email": "ada@example.org", "email_verified": true, "name": "Ada"}
	if p.spoil != nil {
		p.spoil(claims)
	}
	p.answer(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.sign(claims)})
}

func (p *provider) sign(claims map[string]any) string {
	body, err := json.Marshal(claims)
	if err != nil {
		p.t.Fatal(err)
	}
	text := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(body)
	key := signer()
	if p.forge {
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			p.t.Fatal(err)
		}
	}
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	return text + "." + b64(sig)
}

func (p *provider) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a broken connection shows at its other end
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (p *provider) client(now func() time.Time) *oidc.Provider {
	c, err := oidc.New(oidc.Config{Issuer: p.URL, ClientID: "cocos", ClientSecret: "s3cret", Redirect: "https://cocos.example.org/back", Now: now})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func TestSignIn(t *testing.T) {
	p := newProvider(t)
	c := p.client(nil)
	address, attempt, err := c.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(address, "s3cret") {
		t.Errorf("the browser is told the client's secret: %s", address)
	}
	got, err := c.Finish(context.Background(), p.visit(address), attempt)
	want := oidc.Person{Issuer: p.URL, Subject: "ada-1", Email: "ada@example.org", EmailVerified: true, Name: "Ada"}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRefusals: each sign-in is right in all but one thing.
func TestRefusals(t *testing.T) {
	claim := func(name string, value any) func(*provider) {
		return func(p *provider) { p.spoil = func(c map[string]any) { c[name] = value } }
	}
	for name, c := range map[string]struct {
		provider func(*provider)
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
		"signature":       {provider: func(p *provider) { p.forge = true }, says: "verify signature"},
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
			p := newProvider(t)
			now := time.Now()
			client := p.client(func() time.Time { return now })
			address, attempt, err := client.Start(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			_, another, err := client.Start(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if c.provider != nil {
				c.provider(p)
			}
			query := p.visit(address)
			if c.query != nil {
				c.query(query)
			}
			if c.attempt != nil {
				attempt = c.attempt(attempt, another)
			}
			now = now.Add(c.later)
			got, err := client.Finish(context.Background(), query, attempt)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v; want %q", got, err, c.says)
			}
		})
	}
}

// TestProviderIsAway: the service starts without it, and finds it later.
func TestProviderIsAway(t *testing.T) {
	p := newProvider(t)
	away := true
	handler := p.Config.Handler
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(w, r)
	})
	c := p.client(nil)
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
