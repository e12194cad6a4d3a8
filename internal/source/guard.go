package source

import (
	"net/http"
	"slices"

	"github.com/ultravioletrs/cocos/manifest"
)

// maxHops bounds the redirects that lead to one answer.
const maxHops = 5

// secretHeaders are those that a request tells secrets in.
var secretHeaders = []string{"Authorization", "X-Amz-Security-Token", "Cookie"}

// guard lets requests pass to the servers that the manifest names, with secrets to
// fewer of them. It is below everything that makes requests, libraries included.
type guard struct {
	next    http.RoundTripper
	servers []string // HOST:PORT
	trusted []string // those of servers that secrets may go to
	plain   bool     // http is what the source itself asks for
}

func newGuard(next http.RoundTripper, servers, trusted []string, plain bool) *guard {
	return &guard{next, servers, trusted, plain}
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := g.check(r); err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	return g.next.RoundTrip(r)
}

// CloseIdleConnections is what http.Client's looks for.
func (g *guard) CloseIdleConnections() {
	if t, ok := g.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func (g *guard) check(r *http.Request) error {
	to := manifest.ServerOf(r.URL)
	secret := slices.ContainsFunc(secretHeaders, func(h string) bool { return r.Header.Get(h) != "" })
	switch {
	case r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !g.plain):
		return lasting("the server sends the agent from https to %.20q, which it does not follow", r.URL.Scheme)
	case !slices.Contains(g.servers, to):
		return lasting("the server sends the agent to %.255q, which is none of the manifest's servers of this source (redirects)", to)
	case secret && r.URL.Scheme != "https":
		return lasting("credentials would travel over plain http to %s: use https", to)
	case secret && !slices.Contains(g.trusted, to):
		return lasting("the server asks for the credentials to be sent to %s; if that is its token service, name it in the secret (token_server)", to)
	}
	return nil
}

// redirect is what http.Client asks before it follows one. Secrets stay where they
// were sent first: once a chain has left that server they don't come back.
func redirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxHops {
		return lasting("the server sends the agent on more than %d times", maxHops)
	}
	first := via[0].URL
	left := false
	r.Header.Del("Referer") // a URL may be signed
	for _, v := range append(slices.Clone(via[1:]), r) {
		left = left || v.URL.Scheme != first.Scheme || manifest.ServerOf(v.URL) != manifest.ServerOf(first)
	}
	if left {
		for _, h := range secretHeaders {
			r.Header.Del(h)
		}
	}
	if last := via[len(via)-1].URL; last.Scheme == "https" && r.URL.Scheme != "https" {
		return lasting("the server sends the agent from https to %.20q, which it does not follow", r.URL.Scheme)
	}
	return nil
}
