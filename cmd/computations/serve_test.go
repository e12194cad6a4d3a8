package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// freeAddr is an address that nobody listened on a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// running is the program in this process.
type running struct {
	t                   *testing.T
	dir                 string
	http, grpc, metrics string
	environ             []string
	out                 lines
	stop                context.CancelFunc
	ended               chan error
}

// lines is written by one and read by another.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, dir string, environ ...string) *running {
	t.Helper()
	r := &running{t: t, dir: dir, http: freeAddr(t), grpc: freeAddr(t), metrics: freeAddr(t), ended: make(chan error, 1)}
	r.environ = append([]string{
		"COMPUTATIONS_DATA_DIR=" + dir, "COMPUTATIONS_HTTP_ADDR=" + r.http, "COMPUTATIONS_GRPC_ADDR=" + r.grpc, "COMPUTATIONS_METRICS_ADDR=" + r.metrics,
	}, environ...)
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- run(ctx, nil, r.environ, &r.out, t.Output()) }()
	t.Cleanup(func() { r.end() })
	deadline := time.Now().Add(time.Minute)
	for {
		select {
		case err := <-r.ended:
			t.Fatalf("the service ended: %v", err)
		default:
		}
		if status, _ := r.get("http://" + r.metrics + "/readyz"); status == http.StatusOK {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatal("the service isn't ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// end stops the program and wants it to end in good order.
func (r *running) end() {
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	if err := <-r.ended; err != nil {
		r.t.Errorf("the service ended with %v", err)
	}
}

func (r *running) get(url string) (status int, body string) {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// command runs another command of the program on the same data.
func (r *running) command(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(r.t.Context(), args, r.environ, &out, io.Discard)
	return out.String(), err
}

var linkRE = regexp.MustCompile(`http://\S+/link/cl_\S+`)

// TestServeOnDefaults: with nothing but addresses and a folder set, everything is
// there: the link of the first administrator, console, gRPC under the service's
// own authority, health and metrics.
func TestServeOnDefaults(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	r := start(t, dir)
	link := linkRE.FindString(r.out.String())
	if status, body := r.get(link); status != http.StatusOK || !strings.Contains(body, "password") {
		t.Errorf("the link %q: %d\n%s", link, status, body)
	}
	for url, want := range map[string]string{
		"http://" + r.http + "/sign-in":    "Sign in",
		"http://" + r.metrics + "/healthz": `"ok"`,
		"http://" + r.metrics + "/metrics": "cocos_hosts{state=\"connected\"} 0",
	} {
		if status, body := r.get(url); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %q in it:\n%s", url, status, want, body)
		}
	}
	if command := "cocos-cli login " + link + " --email YOU@EXAMPLE.ORG --grpc " + r.grpc + " --fingerprint sha256:"; !strings.Contains(r.out.String(), command) {
		t.Errorf("it doesn't say %q:\n%s", command, r.out.String())
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data folder: %v, %v", info, err)
	}
	ca, err := r.command("ca")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, service := range []string{"", "cocos.manager.v1.ComputationsService", "cocos.computations.v1.ComputationsService"} {
		answer, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, answer, err)
		}
	}
	r.end()
	if status, _ := r.get("http://" + r.http + "/sign-in"); status != 0 {
		t.Error("it still serves")
	}
	// Nobody used the link: the next start prints another, and the first is dead.
	again := start(t, dir)
	second := linkRE.FindString(again.out.String())
	if status, _ := again.get(second); status != http.StatusOK {
		t.Errorf("the second link %q: %d", second, status)
	}
	old := strings.Replace(link, r.http, again.http, 1)
	if status, _ := again.get(old); status == http.StatusOK {
		t.Error("the first link holds after the second was made")
	}
}

// TestToolsBesideTheService: backup and the audit log's chain work on the data of
// a service that runs; restore and a way back in want it stopped.
func TestToolsBesideTheService(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "data"))
	if out, err := r.command("audit-verify"); err != nil || !strings.Contains(out, "2 entries") {
		t.Errorf("%q, %v", out, err)
	}
	file := filepath.Join(t.TempDir(), "copy.db")
	if out, err := r.command("backup", file); err != nil || !strings.Contains(out, authority.File) {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := r.command("link", "admin@localhost"); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a link beside the service: %v", err)
	}
	if _, err := r.command("restore", file); err == nil || !strings.Contains(err.Error(), "nothing is overwritten") {
		t.Errorf("restoring over a database: %v", err)
	}
	r.end()
	if _, err := r.command("link", "nobody@example.org"); err == nil || !strings.Contains(err.Error(), "no operator") {
		t.Errorf("a link for nobody: %v", err)
	}
	for _, args := range [][]string{{"link"}, {"link", "admin@localhost"}} {
		if out, err := r.command(args...); err != nil || !linkRE.MatchString(out) {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	other := &running{t: t, environ: []string{"COMPUTATIONS_DATA_DIR=" + filepath.Join(t.TempDir(), "other")}}
	if _, err := other.command("restore", file); err != nil {
		t.Fatal(err)
	}
	if out, err := other.command("audit-verify"); err != nil || !strings.Contains(out, "2 entries") {
		t.Errorf("after restoring: %q, %v", out, err)
	}
}

// TestOneAuthorityForOneDatabase: a process with an authority of its own is refused,
// unless the operator says that it takes the place of the lost one.
func TestOneAuthorityForOneDatabase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	start(t, dir).end()
	kept, err := os.ReadFile(filepath.Join(dir, authority.File))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, authority.File)); err != nil {
		t.Fatal(err)
	}
	other := &running{t: t, environ: []string{"COMPUTATIONS_DATA_DIR=" + dir}}
	if _, err := other.command("link"); !errors.Is(err, errOtherAuthority) || !strings.Contains(err.Error(), "new-authority") {
		t.Errorf("another authority: %v", err)
	}
	made, err := os.ReadFile(filepath.Join(dir, authority.File))
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, authority.File), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(kept)
	start(t, dir).end()
	put(made)
	if out, err := other.command("new-authority"); err != nil || !strings.Contains(out, "every host must enrol again") {
		t.Errorf("%q, %v", out, err)
	}
	start(t, dir).end()
}

// TestMetricsElsewhere than on loopback are over TLS.
func TestMetricsElsewhere(t *testing.T) {
	a, err := authority.Open(authority.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Server("localhost")
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	writePair(t, cert, key, c)
	own := &pair{certFile: cert, keyFile: key, log: discard(), now: time.Now}
	if err := own.read(); err != nil {
		t.Fatal(err)
	}
	f := &faces{tls: &tls.Config{GetCertificate: own.certificate}}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	for addr, covered := range map[string]bool{"127.0.0.1:9102": false, "192.0.2.1:9102": true} {
		l, err := net.Listen("tcp", "127.0.0.1:0") // in its place
		if err != nil {
			t.Fatal(err)
		}
		l = f.covered(l, addr)
		server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
		go func() { _ = server.Serve(l) }()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "localhost"})
		if (err == nil) != covered {
			t.Errorf("%s: %v", addr, err)
		}
		if err == nil {
			_ = conn.Close()
		}
		_ = server.Close()
	}
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args    []string
		environ []string
		says    string
	}{
		"port taken":      {nil, []string{"COMPUTATIONS_GRPC_ADDR=" + taken.Addr().String()}, "COMPUTATIONS_GRPC_ADDR="},
		"folder":          {nil, []string{"COMPUTATIONS_DATA_DIR=" + file}, "COMPUTATIONS_DATA_DIR"},
		"certificate":     {nil, []string{"COMPUTATIONS_TLS_CERT=" + file, "COMPUTATIONS_TLS_KEY=" + file}, "COMPUTATIONS_TLS_CERT="},
		"provider secret": {nil, []string{"COMPUTATIONS_OIDC_ISSUER=https://id.example.org", "COMPUTATIONS_OIDC_CLIENT_ID=x", "COMPUTATIONS_OIDC_CLIENT_SECRET_FILE=/nowhere"}, "COMPUTATIONS_OIDC_CLIENT_SECRET_FILE"},
		"provider scheme": {nil, []string{"COMPUTATIONS_OIDC_ISSUER=http://id.example.org", "COMPUTATIONS_OIDC_CLIENT_ID=x", "COMPUTATIONS_OIDC_CLIENT_SECRET_FILE=" + file}, "https only"},
		"database":        {nil, []string{"COMPUTATIONS_DATABASE=postgres://nobody@127.0.0.1:1/none?connect_timeout=2"}, "opening the database"},
		"command":         {[]string{"serve"}, nil, `no command "serve"`},
		"arguments":       {[]string{"backup"}, nil, "backup was given 0 arguments"},
		"too many":        {[]string{"version", "now"}, nil, "version takes no arguments"},
		"no authority":    {[]string{"ca"}, nil, "there is no authority yet"},
		"pg backup":       {[]string{"backup", "x"}, []string{"COMPUTATIONS_DATABASE=postgres://u@127.0.0.1/d"}, "use pg_dump"},
	} {
		t.Run(name, func(t *testing.T) {
			environ := append([]string{
				"COMPUTATIONS_DATA_DIR=" + filepath.Join(t.TempDir(), "data"), "COMPUTATIONS_METRICS_ADDR=none",
				"COMPUTATIONS_HTTP_ADDR=" + freeAddr(t), "COMPUTATIONS_GRPC_ADDR=" + freeAddr(t),
			}, c.environ...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := run(ctx, c.args, environ, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q", err, c.says)
			}
		})
	}
}

// TestLiveCertificate: a certificate that was renewed is used, one that can't be
// read is not.
func TestLiveCertificate(t *testing.T) {
	a, err := authority.Open(authority.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	renew := func(name string) string {
		s, err := a.Server(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		writePair(t, cert, key, c)
		return c.Leaf.SerialNumber.String()
	}
	now := time.Now()
	first := renew("one.example.org")
	w := &pair{certFile: cert, keyFile: key, log: discard(), now: func() time.Time { return now }}
	if err := w.read(); err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		c, err := w.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.String()
	}
	second := renew("two.example.org")
	if got := serial(); got != first {
		t.Errorf("looked again at once: %s", got)
	}
	now = now.Add(certificateEvery)
	if got := serial(); got != second {
		t.Errorf("after a renewal: %s, want %s", got, second)
	}
	if err := os.WriteFile(cert, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certificateEvery)
	if got := serial(); got != second {
		t.Errorf("after a file that can't be read: %s, want %s", got, second)
	}
}

func TestUsageNamesEveryCommand(t *testing.T) {
	for name := range commands {
		if !strings.Contains(usage, "cocos-computations "+name) {
			t.Errorf("the usage text does not have %s", name)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"help"}, nil, &out, io.Discard); err != nil || out.String() != usage {
		t.Errorf("help: %v, %q", err, out.String())
	}
	out.Reset()
	if err := run(t.Context(), []string{"env"}, nil, &out, io.Discard); err != nil || !strings.Contains(out.String(), fmt.Sprintf("#%s=", "COMPUTATIONS_DATA_DIR")) {
		t.Errorf("env: %v, %q", err, out.String())
	}
}

func writePair(t *testing.T, cert, key string, c *tls.Certificate) {
	t.Helper()
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{cert: chain, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
