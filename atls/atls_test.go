package atls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/atls"
)

func identity(t testing.TB) atls.Identity {
	t.Helper()
	id, err := atls.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// infos collects what servers see of connections.
type infos struct{ ch chan atls.Info }

func (i infos) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	info, err := atls.InfoFrom(ctx)
	if err != nil {
		return nil, err
	}
	i.ch <- info
	return next(ctx, req)
}

// serve runs a gRPC server with a service of gRPC's own on it.
func serve(t testing.TB, cfg atls.ServerConfig) (addr string, seen chan atls.Info) {
	t.Helper()
	creds, err := atls.Server(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return serveWith(t, creds)
}

func serveWith(t testing.TB, creds credentials.TransportCredentials) (addr string, seen chan atls.Info) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := infos{make(chan atls.Info, 10)}
	s := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(i.unary))
	healthv1.RegisterHealthServer(s, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), i.ch
}

// exporters notes the client's side of each call.
type exporters struct{ ch chan atls.Info }

func (e exporters) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, err := atls.InfoFrom(ctx)
	if err != nil {
		return nil, err
	}
	e.ch <- info
	return nil, nil
}
func (exporters) RequireTransportSecurity() bool { return true }

func call(t testing.TB, addr string, cfg atls.ClientConfig) (client atls.Info, err error) {
	t.Helper()
	creds, err := atls.Client(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := exporters{make(chan atls.Info, 1)}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithPerRPCCredentials(e))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		return atls.Info{}, err
	}
	return <-e.ch, nil
}

func TestBothEndsNameTheConnectionAlike(t *testing.T) {
	server, client := identity(t), identity(t)
	addr, seen := serve(t, atls.ServerConfig{Identity: server})
	used := map[[atls.ExporterSize]byte]bool{{}: true}
	for range 3 {
		c, err := call(t, addr, atls.ClientConfig{ServerKey: server.Key(), Identity: client})
		if err != nil {
			t.Fatal(err)
		}
		s := <-seen
		if c.Exporter != s.Exporter || used[c.Exporter] {
			t.Errorf("the client's exporter is %x, the server's %x; used before: %t", c.Exporter, s.Exporter, used[c.Exporter])
		}
		used[c.Exporter] = true
		if !c.HasPeer || atls.FormatKey(c.PeerSPKI) != server.Key() || s.HasPeer {
			t.Errorf("client sees %+v, server sees %+v", c, s)
		}
		for _, i := range []atls.Info{c, s} {
			if i.SecurityLevel != credentials.PrivacyAndIntegrity {
				t.Errorf("security level %v", i.SecurityLevel)
			}
		}
	}
}

func TestWrongPin(t *testing.T) {
	server := identity(t)
	addr, _ := serve(t, atls.ServerConfig{Identity: server})
	_, err := call(t, addr, atls.ClientConfig{ServerKey: identity(t).Key()})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not the pinned one") || !strings.Contains(err.Error(), server.Key()) {
		t.Errorf("got %v", err)
	}
}

// A self-signed server is not trusted by a CA pool, whatever is in it.
func TestCADoesNotKnowSelfSigned(t *testing.T) {
	addr, _ := serve(t, atls.ServerConfig{Identity: identity(t)})
	_, err := call(t, addr, atls.ClientConfig{ServerCAs: x509.NewCertPool()})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}

func TestMutualRefusesStrangers(t *testing.T) {
	server := identity(t)
	addr, _ := serve(t, atls.ServerConfig{Identity: server, ClientCAs: x509.NewCertPool()})
	for name, id := range map[string]atls.Identity{"none": {}, "self-signed": identity(t)} {
		if _, err := call(t, addr, atls.ClientConfig{ServerKey: server.Key(), Identity: id}); status.Code(err) != codes.Unavailable {
			t.Errorf("client certificate %s: %v", name, err)
		}
	}
}

func TestConfigsWithoutTrust(t *testing.T) {
	key := identity(t).Key()
	for _, tt := range []struct {
		name, want string
		cfg        atls.ClientConfig
	}{
		{"nothing", "neither", atls.ClientConfig{}},
		{"a name only", "neither", atls.ClientConfig{ServerName: "agent"}},
		{"both", "both", atls.ClientConfig{ServerKey: key, ServerCAs: x509.NewCertPool()}},
		{"pin without prefix", "server key", atls.ClientConfig{ServerKey: strings.TrimPrefix(key, "sha256:")}},
		{"pin too short", "server key", atls.ClientConfig{ServerKey: key[:len(key)-1]}},
		{"pin too long", "server key", atls.ClientConfig{ServerKey: key + "0"}},
		{"pin in capitals", "server key", atls.ClientConfig{ServerKey: "sha256:" + strings.ToUpper(key[7:])}},
		{"pin not hexadecimal", "server key", atls.ClientConfig{ServerKey: key[:len(key)-1] + "g"}},
		{"pin of zero length", "server key", atls.ClientConfig{ServerKey: "sha256:"}},
	} {
		if _, err := atls.Client(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := atls.Server(atls.ServerConfig{}); err == nil {
		t.Error("a server without a key")
	}
}

// handshake runs both ends over a pipe.
func handshake(t testing.TB, server func(net.Conn) error, client func(net.Conn) error) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = server(c)
			c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	clientErr = client(c)
	c.Close()
	return <-done, clientErr
}

// Peers that are right in all but one thing.
func TestHandshakesThatAreRefused(t *testing.T) {
	id := identity(t)
	server, err := atls.Server(atls.ServerConfig{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	serve := func(c net.Conn) error { _, _, err := server.ServerHandshake(c); return err }
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.2":   {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}},
		"no ALPN":   {InsecureSkipVerify: true},
		"HTTP/1.1":  {InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}},
		"rightful":  {InsecureSkipVerify: true, NextProtos: []string{"h2"}},
		"plaintext": nil,
	} {
		t.Run(name, func(t *testing.T) {
			serverErr, _ := handshake(t, serve, func(c net.Conn) error {
				if cfg == nil {
					_, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
					return err
				}
				return tls.Client(c, cfg).Handshake()
			})
			if (serverErr == nil) != (name == "rightful") {
				t.Errorf("the server says %v", serverErr)
			}
		})
	}

	cert, err := tls.X509KeyPair(selfSigned(t))
	if err != nil {
		t.Fatal(err)
	}
	client, err := atls.Client(atls.ClientConfig{ServerKey: keyOf(t, cert)})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(c net.Conn) error {
		_, _, err := client.ClientHandshake(context.Background(), "agent", c)
		return err
	}
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.2 server":  {Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}},
		"no ALPN server":  {Certificates: []tls.Certificate{cert}},
		"rightful server": {Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, clientErr := handshake(t, func(c net.Conn) error { return tls.Server(c, cfg).Handshake() }, dial)
			if (clientErr == nil) != (name == "rightful server") {
				t.Errorf("the client says %v", clientErr)
			}
		})
	}
	// Each side's credentials do one thing.
	if _, _, err := client.ServerHandshake(nil); err == nil {
		t.Error("a client's credentials served")
	}
	if _, _, err := server.ClientHandshake(context.Background(), "", nil); err == nil {
		t.Error("a server's credentials dialled")
	}
}

// A client that offers a ticket gets a full handshake: none is ever issued.
func TestNoResumption(t *testing.T) {
	id := identity(t)
	server, err := atls.Server(atls.ServerConfig{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	cache := tls.NewLRUClientSessionCache(4)
	for range 3 {
		_, err := handshake(t, func(c net.Conn) error {
			conn, _, err := server.ServerHandshake(c)
			if err == nil {
				_, err = conn.Write([]byte("x"))
			}
			return err
		}, func(c net.Conn) error {
			conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, ServerName: "agent", ClientSessionCache: cache})
			// Tickets come after the handshake, with the first byte at the latest.
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				return err
			}
			if conn.ConnectionState().DidResume {
				return errors.New("resumed")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if _, ok := cache.Get("agent"); ok {
			t.Error("the server issued a ticket")
		}
	}
}

func TestInfoFromNothing(t *testing.T) {
	if _, err := atls.InfoFrom(context.Background()); err == nil {
		t.Error("found a connection where there is none")
	}
}
