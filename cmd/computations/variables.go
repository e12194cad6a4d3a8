package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ultravioletrs/cocos/internal/config"
)

// settings are the values of all variables.
type settings struct {
	logLevel, logFormat string
	dataDir, database   string
	grpcAddr, httpAddr  string
	metricsAddr         string
	publicURL           string
	grpcPublic          string
	tlsCert, tlsKey     string
	proxies             []netip.Prefix
	oidcIssuer          string
	oidcClientID        string
	oidcSecretFile      string
	oidcLabel           string
	grace               time.Duration
	traceURL            string
	traceRatio          float64
}

// table is the program's configuration: docs/computations.md shows the same
// rows, and a test compares.
func table() config.Table[settings] {
	return config.Table[settings]{Prefix: "COMPUTATIONS_", Docs: "docs/computations.md", Variables: []config.Variable[settings]{
		{Name: "COMPUTATIONS_LOG_LEVEL", Kind: "debug, info, warn or error", Fallback: "info",
			Effect: "Least level of the lines that are logged.",
			Set:    config.OneOf(func(s *settings) *string { return &s.logLevel }, "debug", "info", "warn", "error")},
		{Name: "COMPUTATIONS_LOG_FORMAT", Kind: "text or json", Fallback: "text",
			Effect: "Form of the log: `text` for people, `json` for programs.",
			Set:    config.OneOf(func(s *settings) *string { return &s.logFormat }, "text", "json")},
		{Name: "COMPUTATIONS_DATA_DIR", Kind: "folder",
			Effect: "Where the certificate authority and the embedded database are; made with mode 0700. Unset: `/var/lib/cocos-computations` for root and the user whose it is, else `cocos-computations` in the user's data folder (`XDG_DATA_HOME`, or `~/.local/share`).",
			Set:    config.Path(func(s *settings) *string { return &s.dataDir })},
		{Name: "COMPUTATIONS_DATABASE", Kind: "URL", Secret: true,
			Effect: "A PostgreSQL database, such as `postgres://cocos:PASSWORD@db.example.org/cocos?sslmode=verify-full`; several processes may share it. Anywhere but on this machine `sslmode` must ask for TLS. Unset: an embedded SQLite database in the data folder, for one process.",
			Set:    databaseURL},
		{Name: "COMPUTATIONS_HTTP_ADDR", Kind: "ADDRESS:PORT", Fallback: "127.0.0.1:7080",
			Effect: "Where the console listens. Anywhere but on loopback it speaks TLS only, with COMPUTATIONS_TLS_CERT.",
			Set:    config.ListenAddr(func(s *settings) *string { return &s.httpAddr }, "127.0.0.1:7080")},
		{Name: "COMPUTATIONS_GRPC_ADDR", Kind: "ADDRESS:PORT", Fallback: "127.0.0.1:7001",
			Effect: "Where Managers and `cocos-cli` connect; always TLS 1.3.",
			Set:    config.ListenAddr(func(s *settings) *string { return &s.grpcAddr }, "127.0.0.1:7001")},
		{Name: "COMPUTATIONS_PUBLIC_URL", Kind: "URL",
			Effect: "The console's address as people reach it, such as `https://cocos.example.org`: links begin with it, and keys are registered with it, so that it should never change. Unset: made of COMPUTATIONS_HTTP_ADDR.",
			Set:    publicURL},
		{Name: "COMPUTATIONS_GRPC_PUBLIC", Kind: "HOST:PORT",
			Effect: "Where Managers and `cocos-cli` reach COMPUTATIONS_GRPC_ADDR, for the commands that the console shows and for the name in the server's own certificate. Unset: COMPUTATIONS_GRPC_ADDR.",
			Set:    config.HostPort(func(s *settings) *string { return &s.grpcPublic }, "cocos.example.org:7001")},
		{Name: "COMPUTATIONS_TLS_CERT", Kind: "file",
			Effect: "PEM certificate, with its chain, for all addresses; read again when it changes. Unset: the gRPC address has a certificate of the service's own authority, and console and metrics must be on loopback.",
			Set:    config.Path(func(s *settings) *string { return &s.tlsCert })},
		{Name: "COMPUTATIONS_TLS_KEY", Kind: "file",
			Effect: "PEM private key of that certificate.",
			Set:    config.Path(func(s *settings) *string { return &s.tlsKey })},
		{Name: "COMPUTATIONS_TRUSTED_PROXIES", Kind: "networks, with commas between them",
			Effect: "Reverse proxies, such as `10.0.0.0/8`, whose `X-Forwarded-For` is believed. Unset: none.",
			Set:    networks},
		{Name: "COMPUTATIONS_METRICS_ADDR", Kind: "ADDRESS:PORT or none", Fallback: "127.0.0.1:9102",
			Effect: "Where `/healthz`, `/readyz` and Prometheus' `/metrics` are. Anywhere but on loopback it speaks TLS only, with COMPUTATIONS_TLS_CERT.",
			Set: config.OrNone(func(s *settings) { s.metricsAddr = "" },
				config.ListenAddr(func(s *settings) *string { return &s.metricsAddr }, "127.0.0.1:9102"))},
		{Name: "COMPUTATIONS_OIDC_ISSUER", Kind: "URL",
			Effect: "An OpenID Connect provider at which people may sign in; its client's redirect address is COMPUTATIONS_PUBLIC_URL with `/sign-in/external/back`. Unset: none.",
			Set:    func(s *settings, v string) error { s.oidcIssuer = v; return nil }}, // package oidc checks it
		{Name: "COMPUTATIONS_OIDC_CLIENT_ID", Kind: "text",
			Effect: "This service's name at the provider.",
			Set:    func(s *settings, v string) error { s.oidcClientID = v; return nil }},
		{Name: "COMPUTATIONS_OIDC_CLIENT_SECRET_FILE", Kind: "file",
			Effect: "File with the secret that goes with it.",
			Set:    config.Path(func(s *settings) *string { return &s.oidcSecretFile })},
		{Name: "COMPUTATIONS_OIDC_LABEL", Kind: "text",
			Effect: "What the sign-in page calls the provider; unset: its host.",
			Set:    func(s *settings, v string) error { s.oidcLabel = v; return nil }},
		{Name: "COMPUTATIONS_SHUTDOWN_GRACE", Kind: "duration", Unit: "Go duration, 1s to 10m", Fallback: "20s",
			Effect: "How long calls in progress may take to end when the service is stopped.",
			Set:    config.Duration(func(s *settings) *time.Duration { return &s.grace }, time.Second, 10*time.Minute)},
		{Name: "COCOS_JAEGER_URL", Kind: "URL", Secret: true,
			Effect: "OTLP collector to which spans are sent over HTTP, such as `http://localhost:4318/v1/traces`, or over HTTPS where it is not on this machine; unset: none.",
			Set:    config.TraceURL(func(s *settings) *string { return &s.traceURL })},
		{Name: "COCOS_JAEGER_TRACE_RATIO", Kind: "number", Unit: "0 to 1", Fallback: "1.0",
			Effect: "Share of the calls, pages and runs that are traced.",
			Set:    config.Ratio(func(s *settings) *float64 { return &s.traceRatio })},
	}}
}

// parse reads environ and finds every fault.
func parse(environ []string) (settings, error) {
	var s settings
	_, errs := table().Read(environ, &s)
	if len(errs) > 0 {
		return s, errors.Join(errs...)
	}
	if (s.tlsCert == "") != (s.tlsKey == "") {
		errs = append(errs, errors.New("COMPUTATIONS_TLS_CERT and COMPUTATIONS_TLS_KEY go together; set both, or neither"))
	}
	if s.tlsCert == "" && s.metricsAddr != "" && !loopback(s.metricsAddr) {
		errs = append(errs, fmt.Errorf("COMPUTATIONS_METRICS_ADDR=%q is not on loopback, and there is no certificate for it; set COMPUTATIONS_TLS_CERT and COMPUTATIONS_TLS_KEY, or listen on 127.0.0.1", s.metricsAddr))
	}
	if u, err := url.Parse(s.traceURL); err == nil && u.Scheme == "http" && !here(u.Hostname()) {
		errs = append(errs, errors.New("COCOS_JAEGER_URL is an http address of another machine: use https, or a collector on this one"))
	}
	if s.tlsCert == "" && !loopback(s.httpAddr) {
		errs = append(errs, fmt.Errorf("COMPUTATIONS_HTTP_ADDR=%q is not on loopback, and the console has no certificate; set COMPUTATIONS_TLS_CERT and COMPUTATIONS_TLS_KEY, or listen on 127.0.0.1 behind a reverse proxy", s.httpAddr))
	}
	if set := []string{s.oidcIssuer, s.oidcClientID, s.oidcSecretFile}; strings.Join(set, "") != "" {
		for i, name := range []string{"COMPUTATIONS_OIDC_ISSUER", "COMPUTATIONS_OIDC_CLIENT_ID", "COMPUTATIONS_OIDC_CLIENT_SECRET_FILE"} {
			if set[i] == "" {
				errs = append(errs, fmt.Errorf("%s is unset, and it goes with the other COMPUTATIONS_OIDC_ variables; set it, or unset them", name))
			}
		}
	}
	if s.publicURL == "" {
		s.publicURL = scheme(s.tlsCert) + "://" + reachable(s.httpAddr)
	}
	if s.grpcPublic == "" {
		s.grpcPublic = reachable(s.grpcAddr)
	}
	if s.dataDir == "" {
		dir, err := defaultDataDir()
		if err != nil {
			errs = append(errs, err)
		}
		s.dataDir = dir
	}
	return s, errors.Join(errs...)
}

func scheme(cert string) string {
	if cert == "" {
		return "http"
	}
	return "https"
}

// reachable is an address at which this machine reaches a listener.
func reachable(addr string) string {
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().IsUnspecified() {
		return addr
	}
	return net.JoinHostPort("localhost", fmt.Sprint(a.Port()))
}

func loopback(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Addr().IsLoopback()
}

// packagedDataDir is the service's, where it runs as a system's.
const packagedDataDir = "/var/lib/cocos-computations"

func defaultDataDir() (string, error) {
	if os.Geteuid() == 0 || ownDataDir(packagedDataDir, os.Geteuid()) == nil {
		return packagedDataDir, nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cocos-computations"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("COMPUTATIONS_DATA_DIR is unset, and there is no home folder: %w; set it", err)
	}
	return filepath.Join(home, ".local/share/cocos-computations"), nil
}

func databaseURL(s *settings, v string) error {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return errors.New("a URL that begins with postgres://, such as postgres://USER:PASSWORD@HOST/DATABASE")
	}
	c, err := pgconn.ParseConfig(v)
	if err != nil {
		return errors.New("a URL that PostgreSQL's clients can read, such as postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full") // not the error: it may have the password
	}
	// Each way that a client would try, as it is without TLS where the server asks for none.
	ways := []pgconn.FallbackConfig{{Host: c.Host, TLSConfig: c.TLSConfig}}
	for _, f := range c.Fallbacks {
		ways = append(ways, *f)
	}
	for _, w := range ways {
		if w.TLSConfig == nil && !filepath.IsAbs(w.Host) && !here(w.Host) {
			return errors.New("a URL with ?sslmode=verify-full, as the server is not on this machine: else the connection may go without TLS")
		}
	}
	s.database = v
	return nil
}

// here tells whether a host's name or address is this machine's own.
func here(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func publicURL(s *settings, v string) error {
	u, err := url.Parse(v)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return errors.New("an address without path, query and password, such as https://cocos.example.org")
	}
	if u.Scheme == "http" && !here(u.Hostname()) {
		return errors.New("an https address: without TLS only this machine itself may be served")
	}
	s.publicURL = u.Scheme + "://" + u.Host
	return nil
}

func networks(s *settings, v string) error {
	s.proxies = nil
	for text := range strings.SplitSeq(v, ",") {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); err != nil && aerr == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return fmt.Errorf("networks such as 10.0.0.0/8, or addresses, with commas between them; %q is neither", text)
		}
		s.proxies = append(s.proxies, p)
	}
	return nil
}
