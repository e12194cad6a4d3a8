package hostcheck

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/internal/computations/authority"
)

// pair is a certificate that signed itself, with its key, in PEM.
type pair struct{ cert, key string }

// newPair holds from then until so many days after today, for 127.0.0.1 or these
// names.
func newPair(t *testing.T, from time.Time, days int, names ...string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: from, NotAfter: today.Add(time.Duration(days) * day),
		IsCA: true, BasicConstraintsValid: true, DNSNames: names,
	}
	if names == nil {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))}
}

func (p pair) tls(t *testing.T) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair([]byte(p.cert), []byte(p.key))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newEnrolledPair is that of a host that joined by a token, so many days before it
// ends.
func newEnrolledPair(t *testing.T, left int) pair {
	t.Helper()
	a, err := authority.Open(authority.Config{Dir: t.TempDir(), Now: func() time.Time {
		return today.Add(time.Duration(left)*day - authority.HostLife)
	}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.SignHost("01936f7a-0000-7000-8000-000000000001", request)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{string(cert.PEM), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))}
}

// use makes the client's files.
func use(t *testing.T, c *Config, cert, key string) {
	dir := t.TempDir()
	c.Server.ClientCert, c.Server.ClientKey = write(t, filepath.Join(dir, "cert"), cert), write(t, filepath.Join(dir, "key"), key)
}

func TestCertificates(t *testing.T) {
	yesterday := today.Add(-day)
	good, other := newPair(t, yesterday, 100), newPair(t, yesterday, 100)
	cas := func(text string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, _ *host, c *Config) {
			c.Server.CACerts = write(t, filepath.Join(t.TempDir(), "ca"), text)
		}
	}
	client := func(cert, key string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, _ *host, c *Config) { use(t, c, cert, key) }
	}
	system := want{Info, "the authorities that this system trusts", "", ""}
	none := want{Info, "shows the server no certificate", "", ""}
	holds := want{OK, "holds for 100 more days", "", ""}
	mode := func(bits os.FileMode) func(*testing.T, *host, *Config) {
		return func(t *testing.T, h *host, c *Config) {
			client(good.cert, good.key)(t, h, c)
			if err := os.Chmod(c.Server.ClientKey, bits); err != nil {
				t.Fatal(err)
			}
		}
	}
	fresh, due, ended := newEnrolledPair(t, 10), newEnrolledPair(t, 8), newEnrolledPair(t, 0)
	runCases(t, certificates, map[string]probeCase{
		"none":              {nil, []want{system, none}},
		"authority":         {cas(good.cert), []want{holds, none}},
		"no authority":      {cas("nothing"), []want{{Fail, "MANAGER_GRPC_SERVER_CA_CERTS=/", "authorities", "correct"}, none}},
		"key for authority": {cas(good.key), []want{{Fail, `PEM block 1 is "PRIVATE KEY"`, "", ""}, none}},
		"damaged authority": {cas("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []want{{Fail, "PEM block 1: x509", "", ""}, none}},
		"missing authority": {func(_ *testing.T, _ *host, c *Config) { c.Server.CACerts = "/nowhere/ca" }, []want{{Fail, "no such file", "", "correct"}, none}},
		"a pipe": {func(t *testing.T, _ *host, c *Config) {
			c.Server.CACerts = filepath.Join(t.TempDir(), "fifo")
			if err := unix.Mkfifo(c.Server.CACerts, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []want{{Fail, "not a regular file", "", ""}, none}},
		"one of two expired":    {cas(good.cert + newPair(t, yesterday, 0).cert), []want{{Fail, "expired on 2026-11-24 12:00 UTC", "", "renew"}, none}},
		"one of two soon":       {cas(good.cert + newPair(t, yesterday, 29).cert), []want{{Warn, "expires in 29 days", "30 days", "renew"}, none}},
		"thirty days":           {cas(newPair(t, yesterday, 30).cert), []want{{OK, "30 more days", "", ""}, none}},
		"not yet valid":         {cas(newPair(t, today.Add(time.Hour), 50).cert), []want{{Fail, "from 2026-11-24 13:00 UTC on only", "", "clock"}, none}},
		"client":                {client(good.cert, good.key), []want{system, holds, {OK, "fits the certificate", "", ""}}},
		"enrolled":              {client(fresh.cert, fresh.key), []want{system, {OK, "holds for 10 more days", "", ""}, {OK, "fits", "", ""}}},
		"enrolled, not renewed": {client(due.cert, due.key), []want{system, {Warn, "expires in 8 days", "9 days", "let the Manager run, which renews it"}, {OK, "fits", "", ""}}},
		"enrolled, expired":     {client(ended.cert, ended.key), []want{system, {Fail, "expired", "", "cocos-manager enroll --again"}, {OK, "fits", "", ""}}},
		"client expired":        {client(newPair(t, yesterday, -1).cert, good.key), []want{system, {Fail, "expired", "", "renew"}, {Fail, "does not fit", "", ""}}},
		"client's other key":    {client(good.cert, other.key), []want{system, holds, {Fail, "does not fit", "private key of that certificate", "correct one"}}},
		"client without key":    {func(t *testing.T, _ *host, c *Config) { use(t, c, good.cert, good.key); c.Server.ClientKey = "" }, []want{system, holds, {Fail, "MANAGER_GRPC_CLIENT_KEY=", "", ""}}},
		"key without client":    {func(t *testing.T, _ *host, c *Config) { use(t, c, good.cert, good.key); c.Server.ClientCert = "" }, []want{system, {Fail, "MANAGER_GRPC_CLIENT_CERT=: is not set", "", ""}}},
		"key for everybody":     {mode(0o604), []want{system, holds, {Fail, "mode 0604: every user", "0640", "chmod o= /"}}},
		"key for a group":       {mode(0o640), []want{system, holds, {OK, "fits", "", ""}}},
		"huge":                  {cas(strings.Repeat("x", maxFile+1)), []want{{Fail, "larger than 4 MiB", "", ""}, none}},
	})
}

func TestUnreadable(t *testing.T) {
	got := goodHost(t).unreadable(keyVar, "/k", unix.EACCES, "a key")
	if got[0].Verdict != Fail || !strings.Contains(got[0].Mend, "setfacl -m u:cocos:r /k") {
		t.Errorf("%+v", got)
	}
}

// serve runs a gRPC server with this TLS configuration until the test ends.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	cfg.Time = func() time.Time { return today }
	l := listen(t)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); done.Wait() })
	return l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// answer takes connections and gives each to do.
func answer(t *testing.T, do func(net.Conn)) string {
	t.Helper()
	l := listen(t)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { defer c.Close(); do(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); done.Wait() })
	return l.Addr().String()
}

func TestServer(t *testing.T) {
	yesterday := today.Add(-day)
	cert, stranger, client := newPair(t, yesterday, 100), newPair(t, yesterday, 100), newPair(t, yesterday, 100)
	// at reaches for a server that shows p, trusting what ca is.
	at := func(p, ca pair, more func(*tls.Config)) func(*testing.T, *host, *Config) {
		return func(t *testing.T, _ *host, c *Config) {
			cfg := &tls.Config{Certificates: []tls.Certificate{p.tls(t)}}
			if more != nil {
				more(cfg)
			}
			c.Server = Server{Address: serve(t, cfg), CACerts: write(t, filepath.Join(t.TempDir(), "ca"), ca.cert)}
		}
	}
	addr := func(find func(t *testing.T) string) func(*testing.T, *host, *Config) {
		return func(t *testing.T, _ *host, c *Config) { c.Server.Address = find(t) }
	}
	mutual := func(cfg *tls.Config) {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		cfg.ClientCAs.AppendCertsFromPEM([]byte(client.cert))
	}
	short := newPair(t, yesterday, 10)
	expired, named := newPair(t, today.Add(-9*day), -1), newPair(t, yesterday, 100, "server.example.org")
	runCases(t, server, map[string]probeCase{
		"answers":      {at(cert, cert, nil), []want{{OK, "answers, its certificate holds for 100 more days", "", ""}}},
		"expires soon": {at(short, short, nil), []want{{Warn, "10 more days", "30 days", "renewed"}}},
		"wrong CA":     {at(cert, stranger, nil), []want{{Fail, "TLS handshake: ", "MANAGER_GRPC_SERVER_CA_CERTS", "set MANAGER_GRPC_SERVER_CA_CERTS"}}},
		"system's CAs": {func(t *testing.T, h *host, c *Config) { at(cert, cert, nil)(t, h, c); c.Server.CACerts = "" }, []want{{Fail, "TLS handshake: ", "", "MANAGER_GRPC_SERVER_CA_CERTS"}}},
		"expired":      {at(expired, expired, nil), []want{{Fail, "TLS handshake: ", "holds now", "renewed"}}},
		"another name": {at(named, named, nil), []want{{Fail, "TLS handshake: ", "a certificate for 127.0.0.1", "MANAGER_GRPC_URL"}}},
		"TLS 1.2 only": {at(cert, cert, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), []want{{Fail, "protocol version", "TLS 1.3", ""}}},
		"mutual": {func(t *testing.T, h *host, c *Config) {
			at(cert, cert, mutual)(t, h, c)
			use(t, c, client.cert, client.key)
		},
			[]want{{OK, "answers", "", ""}}},
		"mutual, without": {at(cert, cert, mutual), []want{{Fail, "after the TLS handshake: ", "accepts", "set MANAGER_GRPC_CLIENT_CERT"}}},
		"mutual, with another": {func(t *testing.T, h *host, c *Config) {
			at(cert, cert, mutual)(t, h, c)
			use(t, c, stranger.cert, stranger.key)
		},
			[]want{{Fail, "after the TLS handshake: ", "accepts", "MANAGER_GRPC_CLIENT_CERT accepted"}}},
		"certificates that do not fit": {func(t *testing.T, h *host, c *Config) {
			at(cert, cert, nil)(t, h, c)
			use(t, c, client.cert, stranger.key)
		},
			[]want{{Fail, "not tried: MANAGER_GRPC_CLIENT_CERT=", "", "row certificates"}}},
		"no authority": {func(_ *testing.T, _ *host, c *Config) {
			c.Server = Server{Address: "127.0.0.1:1", CACerts: "/nowhere/ca"}
		},
			[]want{{Fail, "not tried: MANAGER_GRPC_SERVER_CA_CERTS=/nowhere/ca", "", ""}}},
		"nobody listens": {addr(func(t *testing.T) string { l := listen(t); defer l.Close(); return l.Addr().String() }),
			[]want{{Fail, "connecting: refused", "", "start the server"}}},
		"no TLS": {addr(func(t *testing.T) string {
			return answer(t, func(c net.Conn) {
				_, _ = c.Write([]byte("220 mail.example.org ESMTP\r\n"))
				_, _ = c.Read(make([]byte, 1000))
			})
		}), []want{{Fail, "it speaks no TLS", "TLS 1.3", "MANAGER_GRPC_URL"}}},
		"hangs up": {addr(func(t *testing.T) string { return answer(t, func(net.Conn) {}) }), []want{{Fail, "TLS handshake: ", "", ""}}},
		"no HTTP/2": {func(t *testing.T, h *host, c *Config) {
			cfg := &tls.Config{Certificates: []tls.Certificate{cert.tls(t)}}
			c.Server = Server{Address: answer(t, func(n net.Conn) { _ = tls.Server(n, cfg).Handshake() }), CACerts: write(t, filepath.Join(t.TempDir(), "ca"), cert.cert)}
		}, []want{{Fail, "offers no HTTP/2", "gRPC", "MANAGER_GRPC_URL"}}},
		"no such name": {func(_ *testing.T, h *host, c *Config) {
			c.Server.Address = "nowhere.invalid:7001"
			h.dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
			}
		}, []want{{Fail, "finding the address", "a name that resolves", "getent hosts"}}},
		"no way there": {func(_ *testing.T, h *host, c *Config) {
			h.dial = func(context.Context, string, string) (net.Conn, error) { return nil, unix.EHOSTUNREACH }
		}, []want{{Fail, "no route to host", "", "network"}}},
	})
}

// A server that says nothing is told apart by the step in which it is silent.
func TestSilentServer(t *testing.T) {
	for step, c := range map[string]struct {
		change func(*testing.T, *host, *Config)
	}{
		"connecting: no answer": {func(_ *testing.T, h *host, _ *Config) {
			h.dial = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		}},
		"TLS handshake: no answer": {func(t *testing.T, _ *host, c *Config) {
			c.Server.Address = answer(t, func(n net.Conn) { _, _ = n.Read(make([]byte, 1<<16)); _, _ = n.Read(make([]byte, 1)) })
		}},
	} {
		t.Run(step, func(t *testing.T) {
			h, cfg := goodHost(t), goodConfig(t)
			c.change(t, h, &cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if fs := server(ctx, h, cfg); len(fs) != 1 || fs[0].Verdict != Fail || !strings.Contains(fs[0].Found, step) {
				t.Errorf("%+v", fs)
			}
		})
	}
}
