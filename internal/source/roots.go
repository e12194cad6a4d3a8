package source

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of one connection.
const (
	dialTimeout      = 30 * time.Second
	handshakeTimeout = 20 * time.Second
	headerTimeout    = time.Minute
	maxHeaders       = 256 << 10 // bytes
)

// publicRoots are the authorities that Mozilla's browser trusts. They are in the
// program, and so in the measurement of an image, which has no others.
var publicRoots = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		c, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // a root that this Go refuses vouches for nobody
		}
		if root.Constraint == nil {
			pool.AddCert(c)
		} else {
			pool.AddCertWithConstraint(c, root.Constraint)
		}
	}
	return pool
})

// Roots are the authorities that vouch for the servers of s: its own alone, if it
// has any, or the public ones.
func Roots(s manifest.Source) (*x509.CertPool, error) {
	if s.Authorities == "" {
		return publicRoots(), nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.Authorities)) {
		return nil, errors.New("the source's authorities have no certificate")
	}
	return pool, nil
}

// NewTransport makes connections to the servers of s: by dial (nil: a net.Dialer),
// through no proxy, with TLS 1.2 or later under Roots, and one request at a time on
// each. Close its idle connections when it is not needed any more.
func NewTransport(s manifest.Source, dial Dial) (*http.Transport, error) {
	roots, err := Roots(s)
	if err != nil {
		return nil, err
	}
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	t := &http.Transport{
		Proxy:                  nil, // whoever sets variables does not redirect us
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeaders,
		MaxIdleConns:           2,
		IdleConnTimeout:        time.Minute,
		DisableCompression:     true, // what is sent is what was asked for, and as long
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t, nil
}

// NewClient returns a client that speaks with the given servers (HOST:PORT) over
// https alone, on a transport of NewTransport; it follows no redirect. It is what a
// source's key broker is asked with.
func NewClient(s manifest.Source, dial Dial, servers ...string) (*http.Client, error) {
	t, err := NewTransport(s, dial)
	if err != nil {
		return nil, fmt.Errorf("preparing connections: %w", err)
	}
	g := newGuard(t, servers, servers, false)
	return &http.Client{Transport: g, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}
