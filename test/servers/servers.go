// Package servers runs, for tests, servers that datasets are taken from: an
// S3-compatible one (of versitygw, which checks signatures) and an image registry
// (distribution), each a process of its own that speaks TLS on loopback.
//
// They are built from the modules that programs/go.mod pins, which are no part of
// the product's own dependencies, and kept in the cache folder. Everything that a
// server has is in a folder of the test's; the process ends with the test.
package servers

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/debian"
	"github.com/ultravioletrs/cocos/internal/source"
	"github.com/ultravioletrs/cocos/manifest"
)

// Server is a process that answers on loopback.
type Server struct {
	// Host is "127.0.0.1:PORT".
	Host string
	// Authority vouches for it, as PEM.
	Authority string
	// Client speaks with it.
	Client *http.Client
}

// certificate makes one that is its own authority, for loopback.
func certificate(t testing.TB, dir string) (certFile, keyFile, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a test's server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, certFile, cert)
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return certFile, keyFile, string(cert)
}

func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// program builds one of programs/go.mod, unless the cache folder has it.
func program(t testing.TB, pkg string) string {
	t.Helper()
	cache, err := debian.CacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "servers")
	unlock, err := debian.LockFolder(dir) // tests of other packages run beside this one
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, here, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(here) { // built with -trimpath
		here = filepath.Join(root(t), "test", "servers", "servers.go")
	}
	file := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", file, pkg) // quick where the file is up to date
	cmd.Dir = filepath.Join(filepath.Dir(here), "programs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return file
}

// root of the source tree: the folder above with the product's go.mod.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "architecture_test.go")); err == nil {
			return dir
		}
	}
	t.Fatal("the test does not run in the source tree")
	return ""
}

// start runs a program until the test ends, and waits until it answers at health.
// args make its arguments for an address that was free.
func start(t testing.TB, file, dir, authority, health string, env []string, args func(host string) []string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Host: l.Addr().String(), Authority: authority}
	l.Close()
	tr, err := source.NewTransport(manifest.Source{Authorities: authority}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Client = &http.Client{Transport: tr, Timeout: time.Minute}
	var out bytes.Buffer
	cmd := exec.Command(file, args(s.Host)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "OTEL_TRACES_EXPORTER=none"}, env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		tr.CloseIdleConnections()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(file), out.Bytes())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := s.Client.Get("https://" + s.Host + health)
		if err == nil {
			resp.Body.Close()
			return s
		}
		select {
		case <-ended:
			t.Fatalf("%s has ended:\n%s", filepath.Base(file), out.Bytes())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", filepath.Base(file), err)
		}
	}
}

// do makes a request and wants one of the statuses.
func (s *Server) do(t testing.TB, r *http.Request, want ...int) *http.Response {
	t.Helper()
	resp, err := s.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range want {
		if resp.StatusCode == code {
			return resp
		}
	}
	t.Fatalf("%s %s: %s, want %v: %s", r.Method, r.URL.Path, resp.Status, want, body)
	return nil
}

func request(t testing.TB, method, url string, body []byte) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
