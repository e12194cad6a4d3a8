package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// Dialer is the guest's end.
type Dialer struct {
	// Host connects to the host's egress port.
	Host func(context.Context) (net.Conn, error)
}

// DialContext connects to address, HOST:PORT, over TCP through the host. The name is
// resolved there. Its errors are net.OpErrors; a *net.OpError of a Problem is the
// host's refusal. A host that does not answer is given up after 75 s, whatever ctx
// allows.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) error { return &net.OpError{Op: "dial", Net: network, Addr: server(address), Err: err} }
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, fail(net.UnknownNetworkError(network))
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || strings.ContainsAny(address, " \r\n") || len(connectWord)+len(address)+1 > maxLine {
		return nil, fail(&net.AddrError{Err: "is not HOST:PORT", Addr: address})
	}
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	c, err := d.Host(ctx)
	if err != nil {
		return nil, fail(fmt.Errorf("the host lets no connections out: %w", err))
	}
	if err := ask(ctx, c, strings.ToLower(address)); err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fail(err)
	}
	return c, nil
}

// ask names the server and reads the host's answer, for as long as ctx allows.
func ask(ctx context.Context, c net.Conn, address string) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	_, err := io.WriteString(c, connectWord+address+"\n")
	line := ""
	if err == nil {
		line, err = readLine(c)
	}
	if !stop() { // the deadline is in the past, or about to be
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the host broke off: %w", err)
	}
	if line == okLine {
		return nil
	}
	word, ok := strings.CutPrefix(line, errorWord)
	if p := Problem(word); ok && slices.Contains(allProblems, p) {
		return p
	}
	return errors.New("the host answered something else than OK or ERROR")
}

var allProblems = []Problem{Malformed, Unnamed, Unresolved, Forbidden, Unreachable}

// server is a net.Addr for errors.
type server string

func (server) Network() string  { return "tcp" }
func (s server) String() string { return string(s) }
