package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/oidc/oidctest"
)

// TestExternalErrors: what the provider's machines answer is an error for the log, and
// none of those whose words the console shows.
func TestExternalErrors(t *testing.T) {
	provider := oidctest.New(t)
	var broken atomic.Bool
	handler := provider.Config.Handler
	provider.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() && r.URL.Path == "/token" {
			http.Error(w, "dial tcp token-store-7.internal:5432: connection refused", http.StatusInternalServerError)
			return
		}
		handler.ServeHTTP(w, r)
	})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(oidctest.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &parts{settings: settings{
		publicURL: "http://127.0.0.1:7080", oidcIssuer: provider.URL, oidcClientID: oidctest.ClientID, oidcSecretFile: secret, oidcLabel: "Fjord ID",
	}}
	external, err := p.external()
	if err != nil {
		t.Fatal(err)
	}
	address, attempt, err := external.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	who, err := external.Finish(t.Context(), provider.Visit(address), attempt)
	if want := (computations.ExternalUser{Issuer: provider.URL, Subject: "ada-1", Email: "ada@example.org", EmailVerified: true, Name: "Ada"}); err != nil || who != want {
		t.Errorf("%+v, %v", who, err)
	}
	broken.Store(true)
	_, err = external.Finish(t.Context(), provider.Visit(address), attempt)
	var shown *computations.Error
	if err == nil || errors.As(err, &shown) || !strings.Contains(err.Error(), "token-store-7.internal") {
		t.Errorf("%T: %v", err, err)
	}
}
