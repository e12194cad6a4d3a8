// Package oidc signs people in at an OpenID Connect provider: the authorization
// code flow of OpenID Connect Core 1.0, with PKCE (RFC 7636).
//
// A sign-in begins with Start, whose Attempt the browser keeps in a cookie of its
// own until it comes back; Finish compares. So what comes back is refused unless
// this browser began it, the code was asked for with this attempt's verifier, and
// the provider signed a token with this attempt's nonce, for this client.
package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	// patience bounds each call to the provider.
	patience = 10 * time.Second
	// attemptTTL is how long a person may take at the provider.
	attemptTTL = 15 * time.Minute
)

// Config of a Provider. All but Label is required.
type Config struct {
	// Issuer is the provider's address, whose discovery document is read.
	Issuer                 string
	ClientID, ClientSecret string
	// Redirect is this service's address to which browsers come back.
	Redirect string
	// Label is what people call the provider; empty: its host.
	Label string
	// Client makes the calls; nil: one with bounds.
	Client *http.Client
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Provider is where people sign in. It is asked for its keys when they are
// needed, so that the service starts without it.
type Provider struct {
	cfg Config

	discovered chan *discovery // holds what was discovered, or nil
}

type discovery struct {
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
}

// New checks the configuration.
func New(cfg Config) (*Provider, error) {
	u, err := url.Parse(cfg.Issuer)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("issuer %q is not a URL", cfg.Issuer)
	case u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())):
		return nil, fmt.Errorf("issuer %q: tokens go over https only, but on loopback", cfg.Issuer)
	case cfg.ClientID == "" || cfg.ClientSecret == "":
		return nil, errors.New("the client's id or secret is missing")
	}
	if cfg.Label == "" {
		cfg.Label = u.Host
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: patience}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Provider{cfg: cfg, discovered: make(chan *discovery, 1)}
	p.discovered <- nil
	return p, nil
}

// Label is what people call the provider.
func (p *Provider) Label() string { return p.cfg.Label }

// Attempt is one sign-in that has begun. The browser keeps it; it is of no use to
// whoever has only the address that the browser is sent to.
type Attempt struct {
	State    string `json:"state"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
	// Began is Unix time in seconds.
	Began int64 `json:"began"`
}

// Person is whom the provider vouches for.
type Person struct {
	Issuer, Subject string
	Email           string
	EmailVerified   bool
	Name            string
}

// Start returns the address to send the browser to, and the attempt as text.
func (p *Provider) Start(ctx context.Context) (address, attempt string, err error) {
	d, err := p.discover(ctx)
	if err != nil {
		return "", "", err
	}
	a := Attempt{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Began: p.cfg.Now().Unix()}
	b, err := json.Marshal(a)
	if err != nil {
		return "", "", fmt.Errorf("writing down the attempt: %w", err)
	}
	return d.oauth.AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)), string(b), nil
}

// Finish takes what the browser came back with and the attempt that it kept.
func (p *Provider) Finish(ctx context.Context, query url.Values, attempt string) (Person, error) {
	var a Attempt
	if err := json.Unmarshal([]byte(attempt), &a); err != nil || a.State == "" || a.Nonce == "" || a.Verifier == "" {
		return Person{}, errors.New("this browser did not begin the sign-in; begin it anew")
	}
	if age := p.cfg.Now().Sub(time.Unix(a.Began, 0)); age < 0 || age > attemptTTL {
		return Person{}, fmt.Errorf("the sign-in took longer than %v; begin it anew", attemptTTL)
	}
	if subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(a.State)) != 1 {
		return Person{}, errors.New("the answer is of another sign-in; begin it anew")
	}
	if query.Get("error") != "" {
		return Person{}, fmt.Errorf("%s did not sign you in (%.64q)", p.cfg.Label, query.Get("error"))
	}
	d, err := p.discover(ctx)
	if err != nil {
		return Person{}, err
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.cfg.Client), patience)
	defer cancel()
	token, err := d.oauth.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return Person{}, fmt.Errorf("asking %s for its token: %w", p.cfg.Label, err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return Person{}, fmt.Errorf("%s sent no ID token", p.cfg.Label)
	}
	id, err := d.verifier.Verify(ctx, raw)
	if err != nil {
		return Person{}, fmt.Errorf("the ID token of %s: %w", p.cfg.Label, err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(a.Nonce)) != 1 {
		return Person{}, fmt.Errorf("the ID token of %s is of another sign-in; begin it anew", p.cfg.Label)
	}
	var claims struct {
		Email         string `json:"email"`
		EmailVerified bool   `json:"email_verified"`
		Name          string `json:"name"`
	}
	if err := id.Claims(&claims); err != nil {
		return Person{}, fmt.Errorf("the ID token of %s: %w", p.cfg.Label, err)
	}
	return Person{Issuer: id.Issuer, Subject: id.Subject, Email: claims.Email, EmailVerified: claims.EmailVerified, Name: claims.Name}, nil
}

// discover reads the discovery document, once it answers.
func (p *Provider) discover(ctx context.Context) (*discovery, error) {
	select {
	case d := <-p.discovered:
		defer func() { p.discovered <- d }()
		if d != nil {
			return d, nil
		}
		// The provider keeps the context for later calls: its keys change.
		kept := oidc.ClientContext(context.WithoutCancel(ctx), p.cfg.Client)
		found, err := oidc.NewProvider(kept, p.cfg.Issuer)
		if err != nil {
			return nil, fmt.Errorf("asking %s how to sign in there: %w", p.cfg.Label, err)
		}
		d = &discovery{
			oauth: oauth2.Config{
				ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret, RedirectURL: p.cfg.Redirect,
				Endpoint: found.Endpoint(), Scopes: []string{oidc.ScopeOpenID, "email", "profile"},
			},
			verifier: found.VerifierContext(kept, &oidc.Config{ClientID: p.cfg.ClientID, Now: p.cfg.Now}),
		}
		return d, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func loopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}
