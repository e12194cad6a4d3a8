// Package oidctest gives tests an OpenID Connect provider of their own: a real one, as
// far as a client can tell, on loopback.
package oidctest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// What the provider knows its one client by.
const (
	ClientID     = "cocos"
	ClientSecret = "s3cret"
)

var signer = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// Provider is an OpenID Connect provider that signs everybody in as Ada.
type Provider struct {
	*httptest.Server
	t testing.TB
	// Spoil changes the claims of the ID token; nil: they are right.
	Spoil func(map[string]any)
	// Forge signs with another key.
	Forge bool

	mu sync.Mutex
	// visits are the questions of those who were sent here, by the code that they got.
	visits map[string]url.Values
}

// New starts a provider, which ends with the test.
func New(t testing.TB) *Provider {
	p := &Provider{t: t, visits: map[string]url.Values{}}
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

// Visit is what a browser does that is sent to address: it comes back with this.
func (p *Provider) Visit(address string) url.Values {
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

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	visit := p.visits[r.FormValue("code")]
	p.mu.Unlock()
	proof := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	id, secret, _ := r.BasicAuth()
	if visit == nil || b64(proof[:]) != visit.Get("code_challenge") || visit.Get("code_challenge_method") != "S256" ||
		id != ClientID || secret != ClientSecret || r.FormValue("redirect_uri") != visit.Get("redirect_uri") {
		w.WriteHeader(http.StatusBadRequest)
		p.answer(w, map[string]any{"error": "invalid_grant"})
		return
	}
	claims := map[string]any{"iss": p.URL, "aud": ClientID, "sub": "ada-1", "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(),
		"nonce": visit.Get("nonce"), "email": "ada@example.org", "email_verified": true, "name": "Ada"}
	if p.Spoil != nil {
		p.Spoil(claims)
	}
	p.answer(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.sign(claims)})
}

func (p *Provider) sign(claims map[string]any) string {
	body, err := json.Marshal(claims)
	if err != nil {
		p.t.Fatal(err)
	}
	text := b64([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + b64(body)
	key := signer()
	if p.Forge {
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

func (p *Provider) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a broken connection shows at its other end
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
