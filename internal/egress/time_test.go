package egress

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilentHost: the guest does not wait for ever, though its caller would.
func TestSilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, host := range map[string]func(context.Context) (net.Conn, error){
			"no answer": func(context.Context) (net.Conn, error) {
				a, b := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, b) }()
				return a, nil
			},
			"no connection": func(ctx context.Context) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		} {
			d := Dialer{Host: host}
			begun := time.Now()
			_, err := d.DialContext(context.Background(), "tcp", "a.example.org:1")
			if took := time.Since(begun); took != hostTimeout || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		}
	})
}

// TestConnectionOutlivesItsDial: what bounds connecting does not bound what comes.
func TestConnectionOutlivesItsDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := Dialer{Host: func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				defer b.Close()
				_, _ = readLine(b)
				_, _ = io.WriteString(b, okLine+"\n")
				time.Sleep(2 * hostTimeout)
				_, _ = io.WriteString(b, "late")
			}()
			return a, nil
		}}
		c, err := d.DialContext(context.Background(), "tcp", "a.example.org:1")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if b, err := io.ReadAll(c); string(b) != "late" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// TestSilentAddress leaves time for the others of its name.
func TestSilentAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const server = "a.example.org:1"
		var dialled []netip.AddrPort
		s := &Server{
			Servers: []string{server}, Log: slog.New(slog.DiscardHandler),
			lookup: resolves("10.0.0.1", "9.9.9.1", "9.9.9.2", "9.9.9.3"), own: func() ([]netip.Prefix, error) { return nil, nil },
			dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				if dialled = append(dialled, to); len(dialled) < 3 {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				a, _ := net.Pipe()
				return a, nil
			},
		}
		begun := time.Now()
		c, problem := s.connect(context.Background(), connectWord+server)
		if c == nil || problem != "" || len(dialled) != 3 {
			t.Fatalf("%v, dialled %v", problem, dialled)
		}
		if took := time.Since(begun); took != dialTimeout*2/3 {
			t.Errorf("two silent addresses of three took %v", took)
		}
		dialled = nil
		s.dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		begun = time.Now()
		if _, problem := s.connect(context.Background(), connectWord+server); problem != Unreachable || time.Since(begun) != dialTimeout {
			t.Errorf("all silent: %v after %v", problem, time.Since(begun))
		}
	})
}

// broken is a listener that can take no connection.
type broken struct{ closed chan struct{} }

func (broken) Accept() (net.Conn, error) { return nil, errors.New("too many open files") }
func (broken) Addr() net.Addr            { return server("") }
func (b broken) Close() error            { close(b.closed); return nil }

// TestBrokenListener is closed, too.
func TestBrokenListener(t *testing.T) {
	l := broken{make(chan struct{})}
	if err := (&Server{Log: slog.New(slog.DiscardHandler)}).Serve(t.Context(), l); err == nil {
		t.Error("no error")
	}
	select {
	case <-l.closed:
	default:
		t.Error("it is open")
	}
}
