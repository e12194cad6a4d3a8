package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/internal/store/storetest"
)

const (
	// pageComputations are in the database whose pages are measured.
	pageComputations = 100_000
	// pageTurns is how often each page is asked for in a turn, after once unmeasured.
	pageTurns = 20
	pageLimit = 40 * time.Minute // most of it to fill the database
)

// pageBench measures the console's pages in a workspace with 100,000 computations,
// one after the other over one connection, as its administrator sees them; beside
// it, a bare handler serves as many bytes over the same TLS.
func pageBench(suffix string, fresh func(dir string) (store.Config, error)) func(context.Context, *lab) ([]row, error) {
	return func(ctx context.Context, l *lab) (_ []row, err error) {
		ctx, cancel := context.WithTimeoutCause(ctx, pageLimit, fmt.Errorf("not done within %v", pageLimit))
		defer cancel()
		r := row{name: "page_p95" + suffix, unit: "ms", reference: "a bare HTTP handler with pages of that size", aim: aim{ofValue: true, bound: 100}}
		dir, remove, err := diskFolder()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, remove()) }()
		config, err := fresh(dir)
		if err != nil {
			return nil, err
		}
		f, session, err := fillPages(ctx, config)
		if err != nil {
			return nil, err
		}
		l.say("%d computations are in the database", pageComputations)
		cert, err := selfSigned()
		if err != nil {
			return nil, err
		}
		certFile, keyFile, err := writePair(dir, cert)
		if err != nil {
			return nil, err
		}
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		env := []string{"COMPUTATIONS_DATA_DIR=" + dir, "COMPUTATIONS_METRICS_ADDR=none", "COMPUTATIONS_LOG_LEVEL=warn", "COMPUTATIONS_GRPC_ADDR=127.0.0.1:0",
			"COMPUTATIONS_HTTP_ADDR=" + address, "COMPUTATIONS_PUBLIC_URL=https://" + address, "COMPUTATIONS_TLS_CERT=" + certFile, "COMPUTATIONS_TLS_KEY=" + keyFile}
		if config.URL != "" {
			env = append(env, "COMPUTATIONS_DATABASE="+config.URL)
		}
		service, err := l.start("computations", env, serviceBinary)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, service.stop()) }()
		if err := (&serviceLab{process: service, address: address}).reachable(ctx); err != nil {
			return nil, fmt.Errorf("%w; the service said: %s", err, service.lastWords())
		}
		console := pageClient{base: "https://" + address, cookie: "__Host-cocos=" + session, client: httpsClient(cert)}
		defer console.client.CloseIdleConnections()
		var size int
		for range min(l.runs, serviceTurns) {
			late, mean, err := console.visit(ctx, consolePages(f))
			if err != nil {
				return []row{r}, fmt.Errorf("%w; the service said: %s", err, service.lastWords())
			}
			if size == 0 {
				size = mean
			}
			r.values = append(r.values, late)
			bare, err := barePages(ctx, l, dir, size, len(consolePages(f)))
			if err != nil {
				return []row{r}, err
			}
			r.referenceValues = append(r.referenceValues, bare)
		}
		return []row{r}, nil
	}
}

// fillPages fills the database, and lets the administrator of its workspace in.
func fillPages(ctx context.Context, config store.Config) (f storetest.Filled, session string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("filling the database: %v", r)
		}
	}()
	db, err := store.Open(ctx, config)
	if err != nil {
		return f, "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	f = storetest.Fill(noTest{ctx: ctx}, db, pageComputations)
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	session = "cs_" + base64.RawURLEncoding.EncodeToString(b)
	now := time.Now()
	err = db.Update(ctx, func(w computations.Writer) error {
		return w.PutCredential(computations.Credential{ID: computations.NewID(), User: f.Creator.ID, Kind: computations.Session, Client: "bench",
			Hash: computations.HashSecret(session), Created: now, Expires: now.Add(12 * time.Hour), Used: now})
	})
	if err != nil || config.URL == "" {
		return f, session, err
	}
	// What the server does by itself within minutes.
	c, err := pgx.Connect(ctx, config.URL)
	if err != nil {
		return f, "", err
	}
	_, err = c.Exec(ctx, "VACUUM (ANALYZE)")
	return f, session, errors.Join(err, c.Close(ctx))
}

// consolePages are those of a workspace that show lists, or what is in them.
func consolePages(f storetest.Filled) []string {
	w, c := "/w/"+string(f.Workspace), "/c/"+string(f.Newest)
	return []string{
		w, w + "/computations", w + "/computations?state=running", w + "/computations?state=finished", w + "/computations?mine=yes",
		w + "/computations?text=no+such+text", w + "/assets", w + "/members", w + "/audit", c, c + "/runs", "/r/" + string(f.Run),
	}
}

// pageClient asks for pages as a browser does.
type pageClient struct {
	base, cookie string
	client       *http.Client
}

// visit gets each page and returns how long it takes at most, in milliseconds, but
// for one in twenty, and how large pages are.
func (p *pageClient) visit(ctx context.Context, pages []string) (late float64, mean int, err error) {
	var waits []float64
	total := 0
	for turn := range pageTurns + 1 {
		for _, page := range pages {
			began := time.Now()
			n, err := p.get(ctx, page)
			if err != nil {
				return 0, 0, err
			}
			if turn > 0 {
				waits = append(waits, milliseconds(time.Since(began)))
				total += n
			}
		}
	}
	return percentile(waits, 0.95), total / len(waits), nil
}

func (p *pageClient) get(ctx context.Context, page string) (size int, err error) {
	in, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+page, nil)
	if err != nil {
		return 0, err
	}
	in.Header.Set("Cookie", p.cookie)
	out, err := p.client.Do(in)
	if err != nil {
		return 0, err
	}
	defer out.Body.Close()
	n, err := io.Copy(io.Discard, out.Body)
	if err == nil && out.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", page, out.Status)
	}
	return int(n), err
}

func httpsClient(cert tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	if leaf, err := x509.ParseCertificate(cert.Certificate[0]); err == nil {
		roots.AddCert(leaf)
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // none is expected
	}
}

func writePair(dir string, cert tls.Certificate) (certFile, keyFile string, err error) {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(dir, "bench-cert.pem"), filepath.Join(dir, "bench-key.pem")
	return certFile, keyFile, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

// pageServe serves a page of so many bytes over TLS with a certificate, until it is
// killed. It writes its address to standard output.
func pageServe(args []string) error {
	if len(args) != 3 {
		return errors.New("page-serve: expected SIZE CERTIFICATE KEY")
	}
	size, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("page-serve: the size: %w", err)
	}
	page := bytes.Repeat([]byte("x"), size)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write(page)
		})}
	return server.ServeTLS(l, args[1], args[2])
}

// barePages is visit of pageServe, with the certificate that lies in dir.
func barePages(ctx context.Context, l *lab, dir string, size, pages int) (late float64, err error) {
	certFile, keyFile := filepath.Join(dir, "bench-cert.pem"), filepath.Join(dir, "bench-key.pem")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, l.self, "page-serve", strconv.Itoa(size), certFile, keyFile)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting the reference: %w", err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the reference: %w", err)
	}
	bare := pageClient{base: "https://" + strings.TrimSpace(address), client: httpsClient(cert)}
	defer bare.client.CloseIdleConnections()
	all := make([]string, pages)
	for i := range all {
		all[i] = "/"
	}
	late, _, err = bare.visit(ctx, all)
	return late, err
}
