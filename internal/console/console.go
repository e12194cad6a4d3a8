// Package console is the web console: pages that the service renders, for people
// with a browser, and the live stream of a run.
//
// A page is a function that asks the use cases of package computations and fills
// a template; it decides nothing about who may do what. All of it works without
// JavaScript; a small script adds what makes it pleasanter.
//
// Invariants:
//   - Every address is in the table of routes.go, with the door it stands behind.
//     A test walks the table with every wrong identity.
//   - Nothing changes on GET. What changes something comes from a page of this
//     console (guard.go), and what can't be undone is asked for first.
//   - A browser is told to run this console's own script and style and nothing
//     else; no text of a user is ever markup.
//   - Errors of the service's own are logged and shown as a reference, never as
//     text. Addresses with a secret in them are logged by their pattern.
//   - What the console shows of a computation is what the service was told. Each
//     page that shows it says so, with the command that checks it.
package console

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// Config of a Console. Service and PublicURL are required.
type Config struct {
	Service *computations.Service
	// PublicURL is how browsers reach the console, such as
	// "https://cocos.example.org", without a path. With https, cookies are for TLS
	// only, also where a proxy ends TLS.
	PublicURL string
	// Proxies are the addresses of reverse proxies, whose X-Forwarded-For is
	// believed.
	Proxies []netip.Prefix
	// External signs people in elsewhere; nil: only passwords.
	External *External
	// EnrolCommand is the line that lets a host in with this secret; nil: one that
	// names the secret alone.
	EnrolCommand func(secret string) string
	// MaxStreams bounds the live streams open at once; zero means 4096. A user has
	// at most 32 of them.
	MaxStreams int
	// Observe is told of each request that was answered: the route's pattern, the
	// status and how long it took. May be nil.
	Observe func(route string, status int, took time.Duration)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Log is told of what goes wrong inside; nil: slog.Default.
	Log *slog.Logger
}

// External is an OpenID Connect provider. Browsers come back from it to
// ExternalPath.
type External struct {
	// Label is what people call the provider.
	Label string
	// Start returns the provider's address to go to, and the attempt that the
	// browser keeps until it comes back.
	Start func(context.Context) (address, attempt string, err error)
	// Finish says who came back with this query. Its error is shown, if it is a
	// *computations.Error.
	Finish func(ctx context.Context, query url.Values, attempt string) (computations.ExternalUser, error)
}

// ExternalPath is where the provider sends browsers back to.
const ExternalPath = "/sign-in/external/back"

// Console serves the pages. Make it with New; Close ends its streams.
type Console struct {
	Config
	public  *url.URL
	pages   map[string]*template.Template
	static  assets
	handler http.Handler

	closing chan struct{}
	once    sync.Once
	streams streams
}

// New makes a Console.
func New(cfg Config) (*Console, error) {
	if cfg.Service == nil {
		return nil, errors.New("the console has no service")
	}
	public, err := url.Parse(cfg.PublicURL)
	if err != nil || public.Host == "" || (public.Scheme != "https" && public.Scheme != "http") || strings.Trim(public.Path, "/") != "" || public.RawQuery != "" || public.User != nil {
		return nil, fmt.Errorf("the public address %q is not one such as https://cocos.example.org", cfg.PublicURL)
	}
	if public.Scheme == "http" && !loopback(public.Hostname()) {
		return nil, fmt.Errorf("the public address %q has no TLS: https is needed everywhere but on loopback", cfg.PublicURL)
	}
	public.Path = ""
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.EnrolCommand == nil {
		cfg.EnrolCommand = func(secret string) string {
			return "printf %s " + secret + " | sudo -u cocos cocos-manager enroll --token -"
		}
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 4096
	}
	c := &Console{Config: cfg, public: public, closing: make(chan struct{})}
	c.streams.most = cfg.MaxStreams
	if c.static, err = loadAssets(); err != nil {
		return nil, err
	}
	if c.pages, err = c.parse(); err != nil {
		return nil, err
	}
	c.handler = c.guard(c.mux())
	return c, nil
}

// ServeHTTP answers one request.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// Close ends the live streams, whose browsers come again elsewhere. Pages are
// served all the same.
func (c *Console) Close() { c.once.Do(func() { close(c.closing) }) }

// secure tells whether browsers come over TLS.
func (c *Console) secure() bool { return c.public.Scheme == "https" }

// Server returns an HTTP server for h, which is a Console or has one in it, with
// the bounds that it is meant for. Its Shutdown ends the live streams.
func (c *Console) Server(h http.Handler) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute, // streams set their own
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	s.RegisterOnShutdown(c.Close)
	return s
}

// loopback tells whether a host name is this machine's own.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
