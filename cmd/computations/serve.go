package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/computations/authority"
	"github.com/ultravioletrs/cocos/internal/computations/fleet"
	"github.com/ultravioletrs/cocos/internal/computations/userapi"
	"github.com/ultravioletrs/cocos/internal/console"
	"github.com/ultravioletrs/cocos/internal/oidc"
	"github.com/ultravioletrs/cocos/internal/sdnotify"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/telemetry"
	"github.com/ultravioletrs/cocos/internal/version"
)

// upkeepEvery is how often what has expired is deleted.
const upkeepEvery = time.Minute

// databaseFile is the embedded database in the data folder.
const databaseFile = "cocos.db"

// parts are what the service is made of, before it serves.
type parts struct {
	settings
	log       *slog.Logger
	store     *store.Store
	service   *computations.Service
	authority *authority.Authority
}

// open makes the data folder and opens what is in it.
func open(ctx context.Context, s settings, log *slog.Logger) (*parts, error) {
	p, err := openFolder(ctx, s, log)
	if err != nil {
		return nil, err
	}
	if err := known(ctx, p.store, s, p.authority.Fingerprint(), log); err != nil {
		return nil, errors.Join(err, p.store.Close())
	}
	p.service, err = computations.New(computations.Config{Store: p.store, Name: s.publicURL, LoginFlags: p.loginFlags(), Log: log})
	if err != nil {
		return nil, errors.Join(err, p.store.Close())
	}
	return p, nil
}

// openFolder is open without a look at whether database and authority belong together.
func openFolder(ctx context.Context, s settings, log *slog.Logger) (*parts, error) {
	if err := makeDataDir(s.dataDir); err != nil {
		return nil, err
	}
	p := &parts{settings: s, log: log}
	var err error
	if p.authority, err = authority.Open(authority.Config{Dir: s.dataDir}); err != nil {
		return nil, err
	}
	if p.store, err = store.Open(ctx, storeConfig(s, log)); err != nil {
		return nil, err
	}
	return p, nil
}

// makeDataDir makes the data folder, where there is none. Another user's is refused:
// files of this one in it would lock its service out.
func makeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("COMPUTATIONS_DATA_DIR: %w", err)
	}
	return ownDataDir(dir, os.Geteuid())
}

func ownDataDir(dir string, user int) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("COMPUTATIONS_DATA_DIR: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != user {
		return fmt.Errorf("COMPUTATIONS_DATA_DIR=%q belongs to user id %d, and you are %d: run this as the service's user; of the packaged service: systemd-run --pipe --quiet --uid=cocos-computations -p EnvironmentFile=/etc/cocos/cocos-computations.env cocos-computations …", dir, st.Uid, user)
	}
	return nil
}

// loginFlags are what cocos-cli can't know from the console's address alone.
func (p *parts) loginFlags() []string {
	var flags []string
	if u, err := url.Parse(p.publicURL); err != nil || p.grpcPublic != net.JoinHostPort(u.Hostname(), "7001") {
		flags = append(flags, "--grpc", p.grpcPublic)
	}
	if p.tlsCert == "" {
		flags = append(flags, "--fingerprint", p.authority.Fingerprint())
	}
	return flags
}

// loginCommand signs in with a link, and takes an address of one's own.
func (p *parts) loginCommand(link string) string {
	return strings.Join(append([]string{"cocos-cli login", link, "--email YOU@EXAMPLE.ORG"}, p.loginFlags()...), " ")
}

// enrolCommand lets a host join, as the packaged Manager's user, which owns its state.
// Where all users see each other's arguments the token is not among them.
func (p *parts) enrolCommand(secret string) string {
	line := fmt.Sprintf("printf %%s %s | sudo -u cocos cocos-manager enroll --service %s --token -", secret, p.grpcPublic)
	if p.tlsCert == "" {
		line += " --fingerprint " + p.authority.Fingerprint()
	}
	return line
}

func storeConfig(s settings, log *slog.Logger) store.Config {
	if s.database != "" {
		return store.Config{URL: s.database, Log: log}
	}
	return store.Config{Path: filepath.Join(s.dataDir, databaseFile), Log: log}
}

func serve(ctx context.Context, s settings, stdout, stderr io.Writer) (err error) {
	log, err := telemetry.NewLogger(stderr, s.logFormat, s.logLevel)
	if err != nil {
		return err
	}
	p, err := open(ctx, s, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.store.Close()) }()
	stopTracing, err := telemetry.StartTracing(s.traceURL, s.traceRatio, telemetry.Process{Service: "cocos-computations", Version: version.String(), Instance: s.grpcPublic}, log)
	if err != nil {
		return err
	}
	defer func() { _ = stopTracing(context.WithoutCancel(ctx)) }() // it logs what it could not send
	f, err := p.faces()
	if err != nil {
		return err
	}
	if err := f.listen(); err != nil {
		return err
	}
	ready, err := sdnotify.Take()
	if err != nil {
		return errors.Join(err, f.close())
	}
	first, err := p.service.Bootstrap(ctx)
	if err != nil {
		return errors.Join(err, f.close())
	}
	f.greet(stdout, first)
	return f.serve(ctx, ready)
}

// faces are the servers that people and Managers meet.
type faces struct {
	*parts
	console *console.Console
	api     *userapi.API
	fleet   *fleet.Fleet
	grpc    *grpc.Server
	http    *http.Server
	watch   *watch

	httpListener, grpcListener, metricsListener net.Listener
	// tls is with the operator's certificate; nil: there is none.
	tls *tls.Config
}

func (p *parts) faces() (*faces, error) {
	f := &faces{parts: p}
	external, err := p.external()
	if err != nil {
		return nil, err
	}
	f.watch = newWatch(p)
	f.console, err = console.New(console.Config{
		Service: p.service, PublicURL: p.publicURL, Proxies: p.proxies, External: external, Log: p.log, Observe: f.watch.page,
		EnrolCommand: p.enrolCommand,
	})
	if err != nil {
		return nil, err
	}
	certificate, err := p.certificate()
	if err != nil {
		return nil, err
	}
	f.http = f.console.Server(f.console)
	if p.tlsCert != "" {
		f.tls = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate, NextProtos: []string{"h2", "http/1.1"}}
		f.http.TLSConfig = f.tls.Clone()
	}
	if f.api, err = userapi.New(userapi.Config{Service: p.service, Version: version.String(), Log: p.log}); err != nil {
		return nil, err
	}
	var known []byte // the authority by which hosts know this server
	if p.tlsCert == "" {
		known = p.authority.PEM()
	}
	f.fleet, err = fleet.New(fleet.Config{Store: p.store, Authority: p.authority, ServerAuthorities: known, Log: p.log, Registry: f.watch.registry})
	if err != nil {
		return nil, err
	}
	// The user API checks the size of its requests by itself, the fleet's bound
	// comes last and holds.
	options := slices.Concat([]grpc.ServerOption{grpc.ChainUnaryInterceptor(telemetry.UnaryServer)}, f.api.ServerOptions(), fleet.ServerOptions(),
		[]grpc.ServerOption{grpc.Creds(credentials.NewTLS(p.authority.TLS(certificate)))})
	f.grpc = grpc.NewServer(options...)
	f.fleet.Register(f.grpc)
	f.api.Register(f.grpc) // last: it tells the health of all
	return f, nil
}

// certificate is the operator's, read again when it changes, or one of the
// service's own authority.
func (p *parts) certificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if p.tlsCert != "" {
		own := &pair{certFile: p.tlsCert, keyFile: p.tlsKey, log: p.log, now: time.Now}
		return own.certificate, own.read()
	}
	names := []string{"localhost", "127.0.0.1", "::1"}
	for _, addr := range []string{p.grpcPublic, p.grpcAddr} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err // both were checked
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.IsUnspecified() && !a.IsLoopback() {
			names = append(names, host)
		}
	}
	server, err := p.authority.Server(names...)
	if err != nil {
		return nil, err
	}
	return server.Certificate, nil
}

// external is the provider at which people may sign in; nil: none.
func (p *parts) external() (*console.External, error) {
	if p.oidcIssuer == "" {
		return nil, nil
	}
	secret, err := os.ReadFile(p.oidcSecretFile)
	if err != nil {
		return nil, fmt.Errorf("COMPUTATIONS_OIDC_CLIENT_SECRET_FILE: %w", err)
	}
	provider, err := oidc.New(oidc.Config{
		Issuer: p.oidcIssuer, ClientID: p.oidcClientID, ClientSecret: strings.TrimSpace(string(secret)),
		Redirect: p.publicURL + console.ExternalPath, Label: p.oidcLabel,
	})
	if err != nil {
		return nil, fmt.Errorf("COMPUTATIONS_OIDC_ISSUER: %w", err)
	}
	return &console.External{
		Label: provider.Label(),
		Start: provider.Start,
		Finish: func(ctx context.Context, query url.Values, attempt string) (computations.ExternalUser, error) {
			person, err := provider.Finish(ctx, query, attempt)
			if err != nil {
				return computations.ExternalUser{}, err // the console logs it, and shows none of it
			}
			return computations.ExternalUser{Issuer: person.Issuer, Subject: person.Subject, Email: person.Email, EmailVerified: person.EmailVerified, Name: person.Name}, nil
		},
	}, nil
}

func (f *faces) listen() (err error) {
	for _, l := range []struct {
		to   *net.Listener
		name string
		addr string
	}{
		{&f.httpListener, "COMPUTATIONS_HTTP_ADDR", f.httpAddr},
		{&f.grpcListener, "COMPUTATIONS_GRPC_ADDR", f.grpcAddr},
		{&f.metricsListener, "COMPUTATIONS_METRICS_ADDR", f.metricsAddr},
	} {
		if l.addr == "" {
			continue
		}
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			return errors.Join(fmt.Errorf("%s=%q: %w; set another address or port", l.name, l.addr, err), f.close())
		}
	}
	if f.metricsAddr != "" {
		f.metricsListener = f.covered(f.metricsListener, f.metricsAddr)
	}
	return nil
}

// covered is a listener whose connections have TLS where others than this machine come.
func (f *faces) covered(l net.Listener, addr string) net.Listener {
	if loopback(addr) {
		return l
	}
	c := f.tls.Clone() // there is one: parse wants it
	c.NextProtos = nil
	return tls.NewListener(l, c)
}

// close closes what listens and is not being served.
func (f *faces) close() (err error) {
	for _, l := range []net.Listener{f.httpListener, f.grpcListener, f.metricsListener} {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}
	return err
}

// greet tells whoever started the service what to do next.
func (f *faces) greet(w io.Writer, first string) {
	fmt.Fprintf(w, "The console is at       %s\ncocos-cli and Managers  %s\n", f.publicURL, f.grpcPublic)
	if f.tlsCert == "" {
		fmt.Fprintf(w, "Its certificate is of   %s\n", f.authority.Fingerprint())
	}
	fmt.Fprintf(w, "Its data is in          %s\n", f.dataDir)
	if first != "" {
		fmt.Fprintf(w, "\nNobody has signed in yet. Become the first administrator with this link, which\nis good once, for a week:\n\n  %s\n\nor without a browser:\n\n  %s\n", first, f.loginCommand(first))
	}
	fmt.Fprintln(w)
}

// serve serves until ctx ends, having said that it is ready, and then ends in good order: nobody new, live
// streams sent away, calls in progress finished, within the grace.
func (f *faces) serve(ctx context.Context, ready func() error) error {
	f.log.Info("the service starts", "version", version.String(), "console", f.publicURL, "grpc", f.grpcListener.Addr().String())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := error(nil)
		if f.http.TLSConfig != nil {
			err = f.http.ServeTLS(f.httpListener, "", "")
		} else {
			err = f.http.Serve(f.httpListener)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serving the console: %w", err)
	})
	group.Go(func() error {
		if err := f.grpc.Serve(f.grpcListener); err != nil {
			return fmt.Errorf("serving gRPC: %w", err)
		}
		return nil
	})
	group.Go(func() error { return f.watch.serve(ctx, f.metricsListener) })
	group.Go(ready) // what listens is served from here on
	group.Go(func() error { f.upkeep(ctx); return nil })
	group.Go(func() error { return f.fleet.Run(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		f.log.Info("the service ends")
		f.shutdown()
		return nil
	})
	return group.Wait()
}

func (f *faces) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), f.grace)
	defer cancel()
	f.watch.drain()
	f.api.Drain()
	f.console.Close()
	done := make(chan struct{})
	go func() { f.grpc.GracefulStop(); close(done) }()
	if err := f.http.Shutdown(ctx); err != nil {
		f.log.Warn("some requests took too long and were cut off", "error", err)
		_ = f.http.Close() // it was told already
	}
	select {
	case <-done:
	case <-ctx.Done():
		f.log.Warn("some calls took too long and were cut off")
		f.grpc.Stop()
		<-done
	}
}

// upkeep deletes what has expired, now and then, until ctx ends.
func (f *faces) upkeep(ctx context.Context) {
	for {
		if err := f.service.Upkeep(ctx); err != nil && ctx.Err() == nil {
			f.log.Error("what has expired was not deleted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(upkeepEvery):
		}
	}
}
