package agent_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// A stranger is refused by what it says first: it is not waited for, and what it
// would send is not kept.
func TestStrangersAreRefusedByTheirHeaders(t *testing.T) {
	e := start(t, basic(t))
	conn, _ := e.dial()
	for _, method := range []string{
		agentv1.AgentService_State_FullMethodName, agentv1.AgentService_ConfirmResult_FullMethodName,
		agentv1.AgentService_Upload_FullMethodName, agentv1.AgentService_Events_FullMethodName, "/no.such/Method",
	} {
		s, err := conn.NewStream(e.ctx(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is sent, and nothing is closed.
		err = s.RecvMsg(&agentv1.StateResponse{})
		refused(t, err, codes.Unauthenticated, rpcerr.Unsigned)
	}
}

// Silent strangers in any number lose their places to whoever comes; a
// participant that came before them keeps its own.
func TestStrangersTakeNoPlaces(t *testing.T) {
	p := everybody()
	e := start(t, basic(t))
	early := e.as(p.consumer, manifest.Consumer)
	if _, err := early.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Fatal(err)
	}
	strangers := e.silent(2*agent.SilentPlaces + 1)
	late := e.as(p.algo, manifest.AlgorithmProvider)
	if _, err := late.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Errorf("a participant that came after them: %v", err)
	}
	if _, err := early.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Errorf("a participant that came before them: %v", err)
	}
	// More came than there are places: the first ones are gone.
	for i, c := range strangers[:agent.SilentPlaces] {
		_ = c.SetReadDeadline(time.Now().Add(deadline))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("stranger %d still has its place: %v", i, err)
		}
	}
}

// silent connects n strangers that say nothing.
func (e *env) silent(n int) (conns []net.Conn) {
	e.t.Helper()
	for range n {
		c, err := net.Dial("tcp", e.addr)
		if err != nil {
			e.t.Fatal(err)
		}
		e.t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// greeted connects n strangers that say nothing in TLS.
func (e *env) greeted(n int) {
	e.t.Helper()
	for range n {
		c := e.silent(1)[0] // one by one: as silent ones they would be too many
		cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"cocos-attested/1"}}
		if err := tls.Client(c, cfg).HandshakeContext(e.ctx()); err != nil {
			e.t.Fatal(err)
		}
	}
}

// handshake begins one of attested TLS with that appraisal; done has its error.
func (e *env) handshake(a *atls.Appraisal) (done chan error) {
	e.t.Helper()
	creds, err := atls.Client(atls.ClientConfig{Appraisal: a})
	if err != nil {
		e.t.Fatal(err)
	}
	c := e.silent(1)[0]
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	done = make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		_, _, err := creds.ClientHandshake(ctx, "agent", c)
		done <- err
	})
	e.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return done
}

// tee is one that takes its time: a report is made when let, which says when it
// is asked for.
type tee struct {
	attest.Attester
	let func(ctx context.Context)
}

func (s tee) Attest(ctx context.Context, data attest.ReportData) (attest.Evidence, error) {
	s.let(ctx)
	return s.Attester.Attest(ctx, data)
}

// behind puts the agent's TEE behind one.
func behind(let func(ctx context.Context)) option {
	return func(c *agent.Config) { c.Attester = tee{c.Attester, let} }
}

// A handshake that waits for evidence as long as slow hardware takes comes
// through, however many strangers come meanwhile from the same address and stop.
func TestHandshakeAmongStrangers(t *testing.T) {
	asked, came := make(chan struct{}, 16), make(chan struct{})
	e := startAttested(t, behind(func(ctx context.Context) {
		asked <- struct{}{}
		time.Sleep(2 * time.Second)
		select {
		case <-came:
		case <-ctx.Done():
		}
	}))
	honest := make(chan error, 1)
	go func() {
		_, err := e.as(everybody().algo, manifest.AlgorithmProvider).State(e.ctx(), &agentv1.StateRequest{})
		honest <- err
	}()
	<-asked
	e.silent(500)
	e.greeted(agent.GreetedPlaces + 1)
	close(came)
	if err := <-honest; err != nil {
		t.Error(err)
	}
}

// An agent that is told to end waits for no stranger, however far it came: the
// handshake alone would be given 20 seconds.
func TestAgentEndsDespiteStrangers(t *testing.T) {
	var stuck atomic.Bool
	asked := make(chan struct{}, 16)
	e := startAttested(t, behind(func(ctx context.Context) {
		asked <- struct{}{}
		if stuck.Load() {
			<-ctx.Done()
		}
	}))
	appraises := make(chan struct{})
	e.handshake(&atls.Appraisal{Verifier: tell{appraises, stall{e.ctx()}}, Launch: e.trust.Launch})
	<-appraises
	if err := <-e.handshake(e.trust); err != nil { // and makes no call
		t.Fatal(err)
	}
	<-asked
	<-asked
	stuck.Store(true)
	e.handshake(e.trust)
	<-asked
	e.greeted(1)
	e.silent(1)

	begun := time.Now()
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the agent took %s to end", took)
	}
}

// tell says when a verifier is asked.
type tell struct {
	asked chan struct{}
	next  attest.Verifier
}

func (v tell) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	close(v.asked)
	return v.next.Verify(ctx, e, want)
}

// pipes is a listener for one end of each pipe that is put into it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{} }

// from is a connection from somewhere.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// house is a door and who came.
type house struct {
	t       *testing.T
	in      pipes
	door    net.Listener
	names   []string
	near    map[string]net.Conn
	far     map[string]net.Conn
	expired []func()
}

func newHouse(t *testing.T, places int) *house {
	h := &house{t: t, in: make(pipes, 1), near: map[string]net.Conn{}, far: map[string]net.Conn{}}
	h.door = agent.NewDoor(h.in, places, func(_ time.Duration, f func()) *time.Timer {
		h.expired = append(h.expired, f)
		timer := time.NewTimer(time.Hour)
		t.Cleanup(func() { timer.Stop() })
		return timer
	})
	return h
}

// come takes somebody from an address to a step: a word of the table below.
func (h *house) come(name, address, step string) {
	h.t.Helper()
	if h.near[name] == nil {
		addr, err := netip.ParseAddr(address)
		if err != nil {
			h.t.Fatal(err)
		}
		far, inner := net.Pipe()
		h.in <- from{inner, net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(1000+len(h.names))))}
		near, err := h.door.Accept()
		if err != nil {
			h.t.Fatal(err)
		}
		h.names = append(h.names, name)
		h.near[name], h.far[name] = near, far
	}
	c := h.near[name]
	p := everybody()
	switch step {
	case "silent":
	case "greeted":
		c.(atls.Follower).Reached(atls.Greeted)
	case "waiting":
		c.(atls.Follower).Reached(atls.Waiting)
	case "appraising":
		c.(atls.Follower).Reached(atls.Appraising)
	case "connected":
		c.(atls.Follower).Reached(atls.Connected)
	case "alice":
		agent.LetStay(c, p.algo.Public())
	case "bob":
		agent.LetStay(c, p.data.Public())
	case "carol":
		agent.LetStay(c, p.consumer.Public())
	default:
		h.t.Fatalf("%s comes as far as %q", name, step)
	}
}

// gone lists who was sent away.
func (h *house) gone() string {
	var gone []string
	for _, name := range h.names {
		_ = h.far[name].SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := h.far[name].Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			gone = append(gone, name)
		}
	}
	return strings.Join(gone, " ")
}

// Who has to leave a door with two places at each step.
func TestPlaces(t *testing.T) {
	for name, tt := range map[string]struct {
		visits string // name address step; or only name and step
		gone   string
	}{
		"there is room":                  {"a 10.0.2.2 silent, b 10.0.2.2 silent", ""},
		"the silent one that is longest": {"a 10.0.2.2 silent, b 10.0.2.2 silent, c 10.0.2.2 silent, d 10.0.2.2 silent", "a b"},
		"silence against a greeting": {
			"honest 10.0.2.2 greeted, a 10.0.2.2 silent, b 10.0.2.2 silent, c 10.0.2.2 silent, d 10.0.2.2 silent", "a b"},
		"those who stop in TLS against who waits for evidence": {
			"honest 10.0.2.2 waiting, a 10.0.2.2 greeted, b 10.0.2.2 greeted, c 10.0.2.2 greeted, d 10.0.2.2 greeted", "a b"},
		"those who give no verdict against who waits for evidence": {
			"honest 10.0.2.2 waiting, a 10.0.2.2 appraising, b 10.0.2.2 appraising, c 10.0.2.2 appraising", "a"},
		"those who call nothing against who appraises": {
			"honest 10.0.2.2 appraising, a 10.0.2.2 connected, b 10.0.2.2 connected, c 10.0.2.2 connected", "a"},
		"those who have come far against who comes": {
			"a 10.0.2.2 waiting, b 10.0.2.2 waiting, c 10.0.2.2 appraising, d 10.0.2.2 appraising, e 10.0.2.2 connected, f 10.0.2.2 connected, honest 10.0.2.2 silent", ""},
		"longest at the step, not in the house": {
			"early 10.0.2.2 silent, a 10.0.2.2 waiting, b 10.0.2.2 waiting, early waiting", "a"},
		"an address with many against one with one": {
			"honest 10.0.0.1 waiting, a 10.0.0.2 waiting, b 10.0.0.2 waiting, c 10.0.0.2 waiting", "a b"},
		"each from an address of its own": {
			"a 10.0.0.1 waiting, b 10.0.0.2 waiting, honest 10.0.0.3 waiting", "a"},
		"one address of IPv6 is a network": {
			"honest 2001:db8::1 silent, a 2001:db8:0:1::1 silent, b 2001:db8:0:1:ffff::2 silent", "a"},
		"an address in the other's clothes": {
			"honest 10.0.0.1 silent, a 10.0.0.2 silent, b ::ffff:10.0.0.2 silent", "a"},
		"strangers against participants": {
			"p 10.0.2.2 alice, q 10.0.2.2 bob, a 10.0.2.2 connected, b 10.0.2.2 connected, c 10.0.2.2 connected", "a"},
		"a participant with many against one with one": {
			"a 10.0.2.2 alice, b 10.0.2.2 alice, honest 10.0.2.2 bob", "a"},
		"a participant with as many": {
			"a 10.0.2.2 alice, b 10.0.2.2 bob, c 10.0.2.2 carol", "c"},
		"a participant that comes again": {
			"a 10.0.2.2 alice, b 10.0.2.2 bob, c 10.0.2.2 alice", "c"},
		"no way back": {
			"honest 10.0.2.2 alice, honest greeted, a 10.0.2.2 greeted, b 10.0.2.2 greeted, honest bob", ""},
		"who has left does not come back": {
			"a 10.0.2.2 silent, b 10.0.2.2 silent, c 10.0.2.2 silent, d 10.0.2.2 waiting, e 10.0.2.2 waiting, a waiting", "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, 2)
			for _, visit := range strings.Split(tt.visits, ", ") {
				v := strings.Fields(visit)
				h.come(v[0], v[len(v)-2], v[len(v)-1])
			}
			if gone := h.gone(); gone != tt.gone {
				t.Errorf("%q had to leave; want %q", gone, tt.gone)
			}
		})
	}
}

// Time ends a visit only if no call was admitted meanwhile, and who has left
// makes room.
func TestVisitsEnd(t *testing.T) {
	h := newHouse(t, 2)
	h.come("participant", "10.0.2.2", "alice")
	for _, step := range []string{"silent", "greeted", "waiting", "appraising", "connected"} {
		h.come(step, "10.0.2.2", step)
	}
	for _, f := range h.expired {
		f()
	}
	if got, want := h.gone(), "silent greeted waiting appraising connected"; got != want {
		t.Errorf("when time was up, %q had to leave; want %q", got, want)
	}
	for _, name := range []string{"a", "b", "c"} {
		h.come(name, "10.0.2.2", "waiting")
		if name == "a" {
			_ = h.near["a"].Close()
			_ = h.near["a"].Close()
		}
	}
	if got, want := h.gone(), "silent greeted waiting appraising connected a"; got != want {
		t.Errorf("there was room, and gone are %q; want %q", got, want)
	}
}

// A door that is closed has no visitors, and takes none.
func TestClosedDoor(t *testing.T) {
	h := newHouse(t, 2)
	h.come("participant", "10.0.2.2", "alice")
	for _, step := range []string{"silent", "greeted", "waiting", "appraising", "connected"} {
		h.come(step, "10.0.2.2", step)
	}
	if err := h.door.Close(); err != nil {
		t.Fatal(err)
	}
	h.come("late", "10.0.2.2", "greeted")
	if got, want := h.gone(), "silent greeted waiting appraising connected late"; got != want {
		t.Errorf("%q had to leave; want %q", got, want)
	}
}

// The log is for participants: strangers can't fill it.
func TestStrangersAreNotLogged(t *testing.T) {
	p := everybody()
	e := start(t, basic(t))
	_, c := e.dial(grpc.WithPerRPCCredentials(callauth.Signer{Key: p.stranger, Role: manifest.Consumer, Digest: e.digest}))
	_, err := c.State(e.ctx(), &agentv1.StateRequest{})
	refused(t, err, codes.Unauthenticated, rpcerr.Signature)
	before, _ := e.journal.LinesAfter(0, 1000)
	for range 3 {
		if _, err := c.State(e.ctx(), &agentv1.StateRequest{}); err == nil {
			t.Fatal("a stranger's call was taken")
		}
	}
	if after, _ := e.journal.LinesAfter(0, 1000); len(after) != len(before) {
		t.Errorf("a stranger's calls made log lines: %v", after[len(before):])
	}
}
