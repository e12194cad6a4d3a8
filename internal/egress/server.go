package egress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Server is the host's end for one VM.
type Server struct {
	// Servers are those of the manifest, as HOST:PORT in lower case.
	Servers []string
	// Allow is the operator's.
	Allow Allow
	Log   *slog.Logger

	// Tests set these; the zero value stands for what a host does.
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	dial   func(ctx context.Context, address netip.AddrPort) (net.Conn, error)
	own    func() ([]netip.Prefix, error)
	most   int
	line   time.Duration
	idle   time.Duration

	refusals atomic.Int64
}

// maxRefusals is how many refusals of one VM are worth a line in the log.
const maxRefusals = 20

// Serve takes the guest's connections from l until ctx ends, closes l and them, and
// waits for all that it started. It returns an error only where l breaks before.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.defaults()
	ctx, cancel := context.WithCancel(ctx)
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, s.most)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("waiting for the guest's connections: %w", err)
		}
		connections.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, c)
		})
	}
}

func (s *Server) defaults() {
	if s.lookup == nil {
		s.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if s.dial == nil {
		s.dial = func(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address.String())
		}
	}
	if s.own == nil {
		s.own = ownNetworks
	}
	s.most, s.line, s.idle = cmp.Or(s.most, maxConnections), cmp.Or(s.line, lineTimeout), cmp.Or(s.idle, idleTimeout)
}

// serve is one connection from its line to its end.
func (s *Server) serve(ctx context.Context, guest net.Conn) {
	defer guest.Close()
	stop := context.AfterFunc(ctx, func() { _ = guest.Close() })
	defer stop()
	if guest.SetDeadline(time.Now().Add(s.line)) != nil {
		return
	}
	line, err := readLine(guest)
	if err != nil && !errors.Is(err, errLongLine) {
		return
	}
	out, problem := s.connect(ctx, line)
	answer := okLine
	if problem != "" {
		answer = errorWord + string(problem)
	} else {
		defer out.Close()
	}
	_ = guest.SetDeadline(time.Now().Add(s.line)) // connecting took its own time
	_, err = guest.Write([]byte(answer + "\n"))
	if problem != "" || err != nil || guest.SetDeadline(time.Time{}) != nil {
		return
	}
	stopOut := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer stopOut()
	a, ok := guest.(halfCloser)
	b, also := out.(halfCloser)
	if ok && also {
		pipe(a, b, s.idle)
	}
}

// connect answers the guest's line.
func (s *Server) connect(ctx context.Context, line string) (net.Conn, Problem) {
	server, ok := strings.CutPrefix(line, connectWord)
	host, port, err := net.SplitHostPort(server)
	if !ok || err != nil {
		return nil, s.refuse("", Malformed, nil)
	}
	if !slices.Contains(s.Servers, server) {
		return nil, s.refuse("", Unnamed, nil) // the guest chose the text: it is not logged
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addresses, err := s.resolve(ctx, host)
	if err != nil || len(addresses) == 0 {
		return nil, s.refuse(server, Unresolved, err)
	}
	own, err := s.own()
	if err != nil { // what is near can't be told
		return nil, s.refuse(server, Forbidden, err)
	}
	var (
		allowed []netip.AddrPort
		last    error
	)
	for _, address := range addresses {
		address = address.Unmap()
		if !s.Allow.named(server, address) && (!public(address) || near(address, own)) {
			last = errors.Join(last, fmt.Errorf("%s is not allowed", address))
			continue
		}
		to, err := netip.ParseAddrPort(net.JoinHostPort(address.String(), port))
		if err != nil {
			return nil, s.refuse(server, Malformed, err)
		}
		allowed = append(allowed, to)
	}
	if len(allowed) == 0 {
		return nil, s.refuse(server, Forbidden, last)
	}
	for i, to := range allowed {
		c, err := s.dialOne(ctx, to, len(allowed)-i)
		if err == nil {
			return c, ""
		}
		last = err
	}
	return nil, s.refuse(server, Unreachable, last)
}

// dialOne gives the first of left addresses its share of the time that is left: a
// silent one does not take it from the others.
func (s *Server) dialOne(ctx context.Context, to netip.AddrPort, left int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(time.Until(end)/time.Duration(left), leastDial))
		defer cancel()
	}
	return s.dial(ctx, to)
}

// resolve finds a host's addresses, once.
func (s *Server) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	return s.lookup(ctx, host)
}

// refuse tells the operator of a refusal. The guest can't fill the log with them.
func (s *Server) refuse(server string, p Problem, err error) Problem {
	if n := s.refusals.Add(1); n <= maxRefusals {
		s.Log.Warn("a connection of the guest's to a server was refused", "server", server, "reason", string(p), "error", err)
	}
	return p
}

// ownNetworks are this host's addresses with the networks that they are in.
func ownNetworks() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("asking for this host's addresses: %w", err)
	}
	var out []netip.Prefix
	for _, a := range addresses {
		if n, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, n.Masked())
		}
	}
	return out, nil
}

// pipe carries bytes both ways until both directions have ended, one has failed, or
// none has had a byte for as long as idle.
func pipe(a, b halfCloser, idle time.Duration) {
	end := func() { _, _ = a.Close(), b.Close() }
	timer := time.AfterFunc(idle, end)
	defer timer.Stop()
	carry := func(to, from halfCloser) {
		buffer := make([]byte, bufferSize)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				timer.Reset(idle)
				if _, err := to.Write(buffer[:n]); err != nil {
					end()
					return
				}
				timer.Reset(idle)
			}
			if err == nil {
				continue
			}
			if !isEnd(err) || to.CloseWrite() != nil {
				end()
			}
			return
		}
	}
	var back sync.WaitGroup
	back.Go(func() { carry(a, b) })
	carry(b, a)
	back.Wait()
}
