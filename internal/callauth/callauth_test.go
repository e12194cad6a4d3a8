package callauth_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func newKey(t testing.TB, kind keys.Kind) keys.Private {
	t.Helper()
	k, err := keys.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func onConnection(info credentials.AuthInfo) context.Context {
	return credentials.NewContextWithRequestInfo(context.Background(), credentials.RequestInfo{AuthInfo: info})
}

// What the Signer sends is what Authenticate takes, for every kind of key, and
// nothing that differs from it in one thing.
func TestAuthenticate(t *testing.T) {
	digest, exporter := manifest.Digest{1}, atls.Info{Exporter: [atls.ExporterSize]byte{2}, Instance: []byte("instance")}
	otherDigest, otherExporter := manifest.Digest{2}, exporter
	otherExporter.Exporter[0] = 3
	otherInstance, noInstance := exporter, exporter
	otherInstance.Instance, noInstance.Instance = []byte("another"), nil
	for _, kind := range keys.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			key, stranger := newKey(t, kind), newKey(t, kind)
			sent, err := callauth.Signer{Key: key, Role: manifest.Consumer, Digest: digest}.GetRequestMetadata(onConnection(exporter))
			if err != nil {
				t.Fatal(err)
			}
			md := metadata.New(sent)
			c, err := callauth.Authenticate(md, digest, exporter)
			if err != nil || !c.Key.Equal(key.Public()) || c.Role != manifest.Consumer {
				t.Fatalf("the right call: %v %v", c, err)
			}
			with := func(name string, values ...string) metadata.MD {
				m := md.Copy()
				delete(m, name)
				m.Append(name, values...)
				return m
			}
			first := func(name string) string { return md.Get(name)[0] }
			flip := func(s string, i int) string {
				b := []byte(s)
				b[i] ^= 1
				return string(b)
			}
			for _, tt := range []struct {
				name     string
				md       metadata.MD
				digest   manifest.Digest
				exporter atls.Info
				reason   rpcerr.Reason
			}{
				{"another manifest", md, otherDigest, exporter, rpcerr.Signature},
				{"no manifest", md, manifest.Digest{}, exporter, rpcerr.Signature},
				{"another connection", md, digest, otherExporter, rpcerr.Signature},
				{"no connection", md, digest, atls.Info{Instance: exporter.Instance}, rpcerr.Signature},
				{"another VM of the manifest", md, digest, otherInstance, rpcerr.Signature},
				{"a VM that nothing vouches for", md, digest, noInstance, rpcerr.Signature},
				{"another role", with(callauth.RoleHeader, string(manifest.Approver)), digest, exporter, rpcerr.Signature},
				{"role in capitals", with(callauth.RoleHeader, strings.ToUpper(first(callauth.RoleHeader))), digest, exporter, rpcerr.Signature},
				{"another key", with(callauth.KeyHeader, string(stranger.Public().SPKI())), digest, exporter, rpcerr.Signature},
				{"bytes after the key", with(callauth.KeyHeader, first(callauth.KeyHeader)+"\x00"), digest, exporter, rpcerr.Signature},
				{"signature's first byte", with(callauth.SignatureHeader, flip(first(callauth.SignatureHeader), 0)), digest, exporter, rpcerr.Signature},
				{"signature's last byte", with(callauth.SignatureHeader, flip(first(callauth.SignatureHeader), len(first(callauth.SignatureHeader))-1)), digest, exporter, rpcerr.Signature},
				{"bytes after the signature", with(callauth.SignatureHeader, first(callauth.SignatureHeader)+"\x00"), digest, exporter, rpcerr.Signature},
				{"no role", with(callauth.RoleHeader), digest, exporter, rpcerr.Unsigned},
				{"no key", with(callauth.KeyHeader), digest, exporter, rpcerr.Unsigned},
				{"no signature", with(callauth.SignatureHeader), digest, exporter, rpcerr.Unsigned},
				{"empty signature", with(callauth.SignatureHeader, ""), digest, exporter, rpcerr.Unsigned},
				{"two roles", with(callauth.RoleHeader, first(callauth.RoleHeader), first(callauth.RoleHeader)), digest, exporter, rpcerr.Unsigned},
				{"two keys", with(callauth.KeyHeader, first(callauth.KeyHeader), first(callauth.KeyHeader)), digest, exporter, rpcerr.Unsigned},
				{"two signatures", with(callauth.SignatureHeader, first(callauth.SignatureHeader), first(callauth.SignatureHeader)), digest, exporter, rpcerr.Unsigned},
				{"nothing", nil, digest, exporter, rpcerr.Unsigned},
			} {
				c, err := callauth.Authenticate(tt.md, tt.digest, tt.exporter)
				d, _ := rpcerr.DetailOf(err)
				if status.Code(err) != codes.Unauthenticated || d.Reason != tt.reason || !c.Key.IsZero() {
					t.Errorf("%s: got %v %v, want %s", tt.name, c, err, tt.reason)
				}
			}
		})
	}
}

type otherTLS struct{ credentials.CommonAuthInfo }

func (otherTLS) AuthType() string { return "tls" }

func TestSignerNeedsItsConnection(t *testing.T) {
	s := callauth.Signer{Key: newKey(t, keys.Ed25519), Role: manifest.Consumer}
	for name, ctx := range map[string]context.Context{
		"no call":   context.Background(),
		"no TLS":    onConnection(nil),
		"other TLS": onConnection(otherTLS{}),
	} {
		if _, err := s.GetRequestMetadata(ctx); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if !s.RequireTransportSecurity() {
		t.Error("would sign without TLS")
	}
	if _, err := (callauth.Signer{}).GetRequestMetadata(onConnection(atls.Info{})); err == nil {
		t.Error("signed without a key")
	}
}

func TestCallerFromNothing(t *testing.T) {
	if c, err := callauth.CallerFrom(context.Background()); status.Code(err) != codes.Unauthenticated || !c.Key.IsZero() {
		t.Errorf("got %v %v", c, err)
	}
}

// A server without this package's TLS lets nobody in, whatever the call.
func TestGateWithoutTLS(t *testing.T) {
	gate := callauth.Gate{Admit: func(context.Context, callauth.Caller, string) error { return nil }}
	server := grpc.NewServer(gate.ServerOptions()...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		<-served
	}()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := healthpb.NewHealthClient(conn)
	_, unary := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
	stream, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	for _, err := range []error{unary, err} {
		if d, _ := rpcerr.DetailOf(err); d.Reason != rpcerr.Unsigned {
			t.Errorf("got %v", err)
		}
	}
}
