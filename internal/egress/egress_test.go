package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// host is a Server on a unix socket, in place of vsock, and the guest's Dialer.
type host struct {
	*Server
	Dialer
	end  context.CancelFunc
	done chan error
	path string
}

// serve starts a Server for servers, on a host that has no network near it. change
// may set more.
func serve(t *testing.T, servers []string, change func(*Server)) *host {
	t.Helper()
	h := &host{done: make(chan error, 1), path: t.TempDir() + "/s"}
	h.Server = &Server{Servers: servers, Log: slog.New(slog.DiscardHandler), own: func() ([]netip.Prefix, error) { return nil, nil }}
	if change != nil {
		change(h.Server)
	}
	l, err := net.Listen("unix", h.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.end = cancel
	go func() { h.done <- h.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-h.done; err != nil {
			t.Error(err)
		}
	})
	h.Host = func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", h.path) }
	return h
}

// echo is a TCP server on loopback that answers what it gets, once that has ended,
// with a line before and one after.
func echo(t *testing.T) netip.AddrPort {
	return tcp(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "hello\n")
		b, err := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "%s %v\n", b, err)
	})
}

func tcp(t *testing.T, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.TCPConn))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func allow(t *testing.T, entries ...string) Allow {
	t.Helper()
	a, err := ParseAllow(entries)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// resolves answers every name with the same addresses.
func resolves(addresses ...string) func(context.Context, string) ([]netip.Addr, error) {
	return func(context.Context, string) (out []netip.Addr, _ error) {
		for _, a := range addresses {
			out = append(out, netip.MustParseAddr(a))
		}
		return out, nil
	}
}

// TestConnection carries bytes both ways, and each direction's end for itself.
func TestConnection(t *testing.T) {
	to := echo(t)
	server := fmt.Sprintf("data.example.org:%d", to.Port())
	h := serve(t, []string{server}, func(s *Server) { s.Allow, s.lookup = allow(t, server), resolves("127.0.0.1") })
	c, err := h.DialContext(t.Context(), "tcp", strings.ToUpper(server))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hello := make([]byte, 6)
	if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "hello\n" {
		t.Fatalf("%q, %v", hello, err)
	}
	large := strings.Repeat("x", 1<<20)
	if _, err := io.WriteString(c, large); err != nil {
		t.Fatal(err)
	}
	if err := c.(halfCloser).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != large+" <nil>\n" {
		t.Errorf("%d bytes, %v; want all back, then the end", len(got), err)
	}
}

// TestRefusals are right in all but one thing, which is that connection's.
func TestRefusals(t *testing.T) {
	to := echo(t)
	server := fmt.Sprintf("data.example.org:%d", to.Port())
	literal := to.String()
	good := func(s *Server) {
		s.Servers, s.lookup = []string{server, literal}, resolves("127.0.0.1")
		s.Allow = allow(t, server, "127.0.0.0/8")
	}
	for name, c := range map[string]struct {
		change  func(*Server)
		address string
		want    Problem // empty: it connects
	}{
		"by name":                {nil, server, ""},
		"by address":             {nil, literal, ""},
		"another port":           {nil, fmt.Sprintf("data.example.org:%d", to.Port()-1), Unnamed},
		"another name":           {nil, fmt.Sprintf("data.example.com:%d", to.Port()), Unnamed},
		"an address for a name":  {func(s *Server) { s.Servers = s.Servers[:1] }, literal, Unnamed},
		"no server":              {func(s *Server) { s.Servers = nil }, server, Unnamed},
		"a private address":      {func(s *Server) { s.Allow = Allow{} }, server, Forbidden},
		"a literal one":          {func(s *Server) { s.Allow = Allow{} }, literal, Forbidden},
		"another network":        {func(s *Server) { s.Allow = allow(t, "10.0.0.0/8") }, server, Forbidden},
		"another server's right": {func(s *Server) { s.Allow = allow(t, "other.example.org:443") }, server, Forbidden},
		"mapped into IPv6":       {func(s *Server) { s.Allow, s.lookup = Allow{}, resolves("::ffff:127.0.0.1") }, server, Forbidden},
		"no such name":           {func(s *Server) { s.lookup = resolves() }, server, Unresolved},
		"names can't be asked": {func(s *Server) {
			s.lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no answer") }
		}, server, Unresolved},
		"nobody there": {func(s *Server) {
			s.dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("connection refused") }
		}, server, Unreachable},
		"near, and public": {func(s *Server) {
			s.Allow, s.lookup = Allow{}, resolves("9.9.9.9")
			s.own = func() ([]netip.Prefix, error) { return prefixes("9.9.9.0/24"), nil }
		}, server, Forbidden},
		"near, behind NAT64": {func(s *Server) {
			s.Allow, s.lookup = Allow{}, resolves("64:ff9b::9.9.9.9")
			s.own = func() ([]netip.Prefix, error) { return prefixes("9.9.9.0/24"), nil }
		}, server, Forbidden},
		"near is not known": {func(s *Server) {
			s.own = func() ([]netip.Prefix, error) { return nil, errors.New("no interfaces") }
		}, server, Forbidden},
		"a second address that is allowed": {func(s *Server) { s.Allow, s.lookup = allow(t, "127.0.0.1/32"), resolves("10.0.0.1", "127.0.0.1") }, server, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var dialled atomic.Int64
			h := serve(t, nil, func(s *Server) {
				good(s)
				if c.change != nil {
					c.change(s)
				}
				s.defaults()
				dial := s.dial
				s.dial = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
					dialled.Add(1)
					return dial(ctx, a)
				}
			})
			conn, err := h.DialContext(t.Context(), "tcp", c.address)
			if err == nil {
				_ = conn.Close()
			}
			var got Problem
			switch errors.As(err, &got); {
			case c.want == "" && err != nil, c.want != got:
				t.Errorf("%v, want %q", err, c.want)
			case c.want == Forbidden && dialled.Load() > 0:
				t.Error("it was dialled all the same")
			}
		})
	}
}

// TestWhatIsJudgedIsDialled: a name that changes its address between two questions
// does not get the second one dialled.
func TestWhatIsJudgedIsDialled(t *testing.T) {
	const server = "rebind.example.org:80"
	asked, dialled := 0, netip.AddrPort{}
	h := serve(t, []string{server}, func(s *Server) {
		s.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if asked++; asked > 1 {
				return resolves("127.0.0.1")(ctx, host)
			}
			return resolves("93.184.216.34")(ctx, host)
		}
		s.dial = func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
			dialled = a
			return nil, errors.New("not here")
		}
	})
	if _, err := h.DialContext(t.Context(), "tcp", server); !errors.Is(err, Unreachable) {
		t.Error(err)
	}
	if asked != 1 || dialled != netip.MustParseAddrPort("93.184.216.34:80") {
		t.Errorf("asked %d times, dialled %v", asked, dialled)
	}
}

// TestHostileGuest sends lines that are none.
func TestHostileGuest(t *testing.T) {
	h := serve(t, []string{"a.example.org:1"}, func(s *Server) { s.line, s.most = 100*time.Millisecond, 1 })
	for name, c := range map[string]struct{ line, want string }{
		"another word":  {"GET / HTTP/1.1\n", "ERROR malformed\n"},
		"no port":       {"CONNECT a.example.org\n", "ERROR malformed\n"},
		"upper case":    {"CONNECT A.example.org:1\n", "ERROR unnamed\n"},
		"a longer one":  {"CONNECT " + strings.Repeat("a", maxLine) + "\n", "ERROR malformed\n"},
		"control bytes": {"CONNECT a.example.org:1\r\n", "ERROR unnamed\n"},
		"a half line":   {"CONNECT a.example.org:1", ""}, // and the connection is given up
		"nothing":       {"", ""},
	} {
		conn, err := h.Host(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, c.line)
		got, _ := io.ReadAll(conn)
		_ = conn.Close()
		if string(got) != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestHostileHost answers what is no answer.
func TestHostileHost(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"another word": {"YES\n", "something else"},
		"own words":    {"ERROR send us your keys\n", "something else"},
		"an empty one": {"\n", "something else"},
		"endless":      {strings.Repeat("x", 2*maxLine), "too long"},
		"half":         {"OK", "broke off"},
		"no more":      {"", "broke off"},
	} {
		d := Dialer{Host: func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				_, _ = readLine(b)
				_, _ = io.WriteString(b, c.answer)
				_ = b.Close()
			}()
			return a, nil
		}}
		if conn, err := d.DialContext(t.Context(), "tcp", "a.example.org:1"); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "keys") {
			t.Errorf("%s: %v, %v", name, conn, err)
		}
	}
	silent := Dialer{Host: func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, b) }()
		return a, nil
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := silent.DialContext(ctx, "tcp", "a.example.org:1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent host: %v", err)
	}
	closed := Dialer{Host: func(context.Context) (net.Conn, error) { return nil, errors.New("connection reset") }}
	if _, err := closed.DialContext(t.Context(), "tcp", "a.example.org:1"); err == nil || !strings.Contains(err.Error(), "lets no connections out") {
		t.Errorf("a host without the port: %v", err)
	}
	for _, address := range []string{"a.example.org", ":1", "a:", "a b:1", "a\n:1", strings.Repeat("a", maxLine) + ":1"} {
		if _, err := closed.DialContext(t.Context(), "tcp", address); err == nil || strings.Contains(err.Error(), "lets no") {
			t.Errorf("%q was sent: %v", address, err)
		}
	}
	if _, err := closed.DialContext(t.Context(), "udp", "a.example.org:1"); err == nil || strings.Contains(err.Error(), "lets no") {
		t.Errorf("udp: %v", err)
	}
}

// TestIdle: a connection without a byte ends, one with some in one direction alone
// does not.
func TestIdle(t *testing.T) {
	const idle = 2 * time.Second
	ended := make(chan time.Duration, 1)
	to := tcp(t, func(c *net.TCPConn) {
		for range 8 { // twice the time, and never silent for all of it
			time.Sleep(idle / 4)
			_, _ = c.Write([]byte("x"))
		}
		last := time.Now()
		_, _ = c.Read(make([]byte, 1))
		ended <- time.Since(last)
	})
	h := serve(t, []string{to.String()}, func(s *Server) { s.Allow, s.idle = allow(t, to.String()), idle })
	c, err := h.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, _ := io.ReadAll(c); string(got) != "xxxxxxxx" {
		t.Errorf("%q came before the end", got)
	}
	if d := <-ended; d < idle/2 {
		t.Errorf("it ended after %v without a byte, want %v", d, idle)
	}
}

// TestManyAtOnce: more than the bound wait until one of them has ended.
func TestManyAtOnce(t *testing.T) {
	to := tcp(t, func(c *net.TCPConn) { go func() { _, _ = io.Copy(io.Discard, c) }() })
	h := serve(t, []string{to.String()}, func(s *Server) { s.Allow, s.most = allow(t, to.String()), 1 })
	first, err := h.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.DialContext(ctx, "tcp", to.String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one: %v", err)
	}
	_ = first.Close()
	second, err := h.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	_ = second.Close()
}

// TestEnd: the end of the VM ends its connections, and is waited for.
func TestEnd(t *testing.T) {
	gone := make(chan error, 1)
	to := tcp(t, func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		gone <- err
	})
	h := serve(t, []string{to.String()}, func(s *Server) { s.Allow = allow(t, to.String()) })
	c, err := h.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h.end()
	if err := <-h.done; err != nil {
		t.Error(err)
	}
	h.done <- nil
	if err := <-gone; err == nil {
		t.Error("the server's end is open")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the guest's end is open")
	}
}

// TestRefusalsInTheLog are bounded, and no text of the guest's is in them.
func TestRefusalsInTheLog(t *testing.T) {
	var out strings.Builder
	h := serve(t, []string{"a.example.org:1"}, func(s *Server) { s.Log = slog.New(slog.NewTextHandler(&out, nil)) })
	for i := range 3 * maxRefusals {
		if _, err := h.DialContext(t.Context(), "tcp", fmt.Sprintf("secret-%d.example.org:1", i)); !errors.Is(err, Unnamed) {
			t.Fatal(err)
		}
	}
	h.end()
	if err := <-h.done; err != nil {
		t.Error(err)
	}
	h.done <- nil
	if n := strings.Count(out.String(), "\n"); n != maxRefusals || strings.Contains(out.String(), "secret") {
		t.Errorf("%d lines, want %d without the guest's words:\n%s", n, maxRefusals, out.String())
	}
}
