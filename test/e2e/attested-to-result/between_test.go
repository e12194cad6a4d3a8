package attested

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/ultravioletrs/cocos/test/computations/server"
)

// relay ends TLS with a key of its own, and passes on what is inside to the agent
// at address and back, evidence included.
func relay(t *testing.T, address string) string {
	t.Helper()
	return between(t, func(in net.Conn, cert tls.Certificate) {
		var out *tls.Conn
		inside := tls.Server(in, &tls.Config{
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				raw, err := net.Dial("tcp", address)
				if err != nil {
					return nil, err
				}
				out = tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: hello.SupportedProtos})
				return &tls.Config{
					MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: hello.SupportedProtos,
					Certificates: []tls.Certificate{cert},
				}, out.Handshake()
			},
		})
		defer inside.Close()
		if err := inside.Handshake(); err != nil {
			t.Errorf("the relay got no further than TLS: %v", err)
			return
		}
		defer out.Close()
		var both sync.WaitGroup
		pipe := func(to, from *tls.Conn) func() {
			return func() {
				_, _ = io.Copy(to, from) // whoever ends it ends both
				_ = to.CloseWrite()
			}
		}
		both.Go(pipe(out, inside))
		both.Go(pipe(inside, out))
		both.Wait()
	})
}

// plainTLS is a server that speaks TLS and shows no evidence.
func plainTLS(t *testing.T) string {
	t.Helper()
	return between(t, func(in net.Conn, cert tls.Certificate) {
		inside := tls.Server(in, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		defer inside.Close()
		_, _ = io.Copy(io.Discard, inside) // whatever the client says
	})
}

// between listens with a certificate of its own until the test ends.
func between(t *testing.T, serve func(net.Conn, tls.Certificate)) string {
	t.Helper()
	cert, _, err := server.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			open.Go(func() { serve(c, cert) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Wait()
	})
	return l.Addr().String()
}
