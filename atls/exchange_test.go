package atls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/atls/atlstest"
	"github.com/ultravioletrs/cocos/attest"
)

func newVM(t testing.TB) atlstest.VM {
	t.Helper()
	vm, err := atlstest.NewVM(filepath.Join(t.TempDir(), "host"), []byte(`{"a":"manifest"}`))
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func proverOf(t testing.TB, vm atlstest.VM, epoch time.Duration) *atls.Prover {
	t.Helper()
	p, err := vm.Prover(vm.Attester(), epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func takesCached(a *atls.Appraisal) *atls.Appraisal {
	a.AcceptCached = true
	return a
}

// ends runs a handshake of two credentials over loopback and returns what each
// end knows.
func ends(t testing.TB, s atls.ServerConfig, c atls.ClientConfig) (server, client atls.Info, serverErr, clientErr error) {
	t.Helper()
	sc, err := atls.Server(s)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := atls.Client(c)
	if err != nil {
		t.Fatal(err)
	}
	serverErr, clientErr = handshake(t, func(raw net.Conn) error {
		_, info, err := sc.ServerHandshake(raw)
		if err == nil {
			server = info.(atls.Info)
		}
		return err
	}, func(raw net.Conn) error {
		_, info, err := cc.ClientHandshake(t.Context(), "agent", raw)
		if err == nil {
			client = info.(atls.Info)
		}
		return err
	})
	return server, client, serverErr, clientErr
}

// Who proves itself to whom, and what both ends then know.
func TestAttestedConnections(t *testing.T) {
	one, two := newVM(t), newVM(t)
	id := identity(t)
	server, client := proverOf(t, one, 0), proverOf(t, two, 0)
	for name, tt := range map[string]struct {
		s                  atls.ServerConfig
		c                  atls.ClientConfig
		instance           atlstest.VM
		cached             bool
		atServer, atClient bool // who appraised
	}{
		"server": {s: atls.ServerConfig{Identity: id, Prover: server}, c: atls.ClientConfig{Appraisal: one.Appraisal()}, instance: one, atClient: true},
		"server, cached on one side only": {
			s: atls.ServerConfig{Identity: id, Prover: server}, c: atls.ClientConfig{Appraisal: takesCached(one.Appraisal())}, instance: one, atClient: true},
		"server, cached on the other": {
			s: atls.ServerConfig{Identity: id, Prover: proverOf(t, one, time.Hour)}, c: atls.ClientConfig{Appraisal: one.Appraisal()}, instance: one, atClient: true},
		"server, cached": {
			s: atls.ServerConfig{Identity: id, Prover: proverOf(t, one, time.Hour)}, c: atls.ClientConfig{Appraisal: takesCached(one.Appraisal())},
			instance: one, atClient: true, cached: true},
		"mutual": {
			s: atls.ServerConfig{Identity: id, Prover: server, Appraisal: two.Appraisal()}, c: atls.ClientConfig{Appraisal: one.Appraisal(), Identity: identity(t), Prover: client},
			instance: one, atClient: true, atServer: true},
		"mutual, the client cached": {
			s:        atls.ServerConfig{Identity: id, Prover: server, Appraisal: takesCached(two.Appraisal())},
			c:        atls.ClientConfig{Appraisal: one.Appraisal(), Identity: identity(t), Prover: proverOf(t, two, time.Hour)},
			instance: one, atClient: true, atServer: true, cached: true},
		"mutual, the server cached": {
			s:        atls.ServerConfig{Identity: id, Prover: proverOf(t, one, time.Hour), Appraisal: two.Appraisal()},
			c:        atls.ClientConfig{Appraisal: takesCached(one.Appraisal()), Identity: identity(t), Prover: client},
			instance: one, atClient: true, atServer: true, cached: true},
		"client": {
			s: atls.ServerConfig{Identity: id, Appraisal: two.Appraisal()}, c: atls.ClientConfig{ServerKey: id.Key(), Identity: identity(t), Prover: client},
			instance: two, atServer: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, c, serverErr, clientErr := ends(t, tt.s, tt.c)
			if serverErr != nil || clientErr != nil {
				t.Fatalf("server: %v; client: %v", serverErr, clientErr)
			}
			want := tt.instance.Instance.Public().SPKI()
			for end, i := range map[string]struct {
				atls.Info
				appraised bool
				of        []byte
			}{"server": {s, tt.atServer, two.Instance.Public().SPKI()}, "client": {c, tt.atClient, one.Instance.Public().SPKI()}} {
				if !bytes.Equal(i.Instance, want) || i.Cached != tt.cached || i.Exporter != c.Exporter {
					t.Errorf("%s: instance %x, cached %t", end, i.Instance, i.Cached)
				}
				if (i.Attestation != nil) != i.appraised {
					t.Fatalf("%s: appraised: %t", end, i.Attestation != nil)
				}
				if a := i.Attestation; a != nil && (!a.Result.Accepted || !a.Result.Simulated || a.Evidence.Type != attest.Sim || !bytes.Equal(a.Instance, i.of)) {
					t.Errorf("%s: %+v", end, a)
				}
			}
		})
	}
}

// Calls go over it, and both ends of one know the VM's instance.
func TestAttestedCalls(t *testing.T) {
	vm := newVM(t)
	addr, seen := serve(t, atls.ServerConfig{Identity: identity(t), Prover: proverOf(t, vm, 0)})
	used := map[[atls.ExporterSize]byte]bool{}
	for range 3 {
		c, err := call(t, addr, atls.ClientConfig{Appraisal: vm.Appraisal()})
		if err != nil {
			t.Fatal(err)
		}
		s := <-seen
		if c.Exporter != s.Exporter || used[c.Exporter] || !bytes.Equal(c.Instance, s.Instance) || len(c.Instance) == 0 || c.Cached || s.Cached {
			t.Errorf("client %+v, server %+v", c, s)
		}
		used[c.Exporter] = true
	}
}

// Whoever does not give what is demanded, or gives what is not, gets nothing.
func TestModesDoNotMix(t *testing.T) {
	vm := newVM(t)
	id, other := identity(t), identity(t)
	p, q := proverOf(t, vm, 0), proverOf(t, vm, 0)
	proves := atls.ServerConfig{Identity: id, Prover: p}
	both := atls.ServerConfig{Identity: id, Prover: p, Appraisal: vm.Appraisal()}
	demands := atls.ServerConfig{Identity: id, Appraisal: vm.Appraisal()}
	pinned := atls.ClientConfig{ServerKey: id.Key()}
	for name, tt := range map[string]struct {
		s    atls.ServerConfig
		c    atls.ClientConfig
		want string // at the client; empty: TLS ends it, with words of its own
		is   error
	}{
		"a plain client":                      {proves, pinned, "attested TLS alone", atls.ErrAttested},
		"a plain server":                      {atls.ServerConfig{Identity: id}, atls.ClientConfig{Appraisal: vm.Appraisal()}, "gives no evidence", atls.ErrNotAttested},
		"a server that only demands":          {demands, atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: other, Prover: q}, "this side demands it", nil},
		"a server that demands, too":          {both, atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: other}, "this side has none", nil},
		"a server that does not demand":       {proves, atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: other, Prover: q}, "does not appraise", nil},
		"a client that does not appraise":     {both, atls.ClientConfig{ServerKey: id.Key(), Identity: other, Prover: q}, "this side does not appraise it", nil},
		"a client without a certificate":      {both, atls.ClientConfig{Appraisal: vm.Appraisal()}, "", nil},
		"a client that another VM speaks for": {both, atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: other, Prover: proverOf(t, newVM(t), 0)}, "", atls.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, serverErr, clientErr := ends(t, tt.s, tt.c)
			if (serverErr == nil) != (tt.s.Prover == nil && tt.s.Appraisal == nil) || clientErr == nil || !strings.Contains(clientErr.Error(), tt.want) || tt.is != nil && !errors.Is(clientErr, tt.is) {
				t.Errorf("server: %v; client: %v, want %q", serverErr, clientErr, tt.want)
			}
		})
	}
}

func TestAttestedConfigs(t *testing.T) {
	vm := newVM(t)
	id := identity(t)
	cert, key := selfSigned(t)
	loaded, err := atls.LoadIdentity(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	cas, err := atls.LoadCAs(cert)
	if err != nil {
		t.Fatal(err)
	}
	p := proverOf(t, vm, 0)
	noVerifier, noManifest := vm.Appraisal(), vm.Appraisal()
	noVerifier.Verifier = nil
	noManifest.Launch = attest.LaunchDigests{}
	for name, tt := range map[string]struct {
		s    atls.ServerConfig
		want string
	}{
		"right":            {atls.ServerConfig{Identity: id, Prover: p, Appraisal: vm.Appraisal()}, ""},
		"no key":           {atls.ServerConfig{Prover: p}, "no certificate"},
		"a loaded key":     {atls.ServerConfig{Identity: loaded, Prover: p}, "the TLS key was loaded"},
		"client CAs":       {atls.ServerConfig{Identity: id, Prover: p, ClientCAs: cas}, "client CAs"},
		"CAs and evidence": {atls.ServerConfig{Identity: id, Appraisal: vm.Appraisal(), ClientCAs: cas}, "client CAs"},
		"no verifier":      {atls.ServerConfig{Identity: id, Appraisal: noVerifier}, "no verifier"},
		"no manifest":      {atls.ServerConfig{Identity: id, Appraisal: noManifest}, "manifest"},
	} {
		if _, err := atls.Server(tt.s); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("server, %s: %v; want %q", name, err, tt.want)
		}
	}
	for name, tt := range map[string]struct {
		c    atls.ClientConfig
		want string
	}{
		"right":                  {atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: id, Prover: p}, ""},
		"a loaded key, no proof": {atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: loaded}, ""},
		"no key":                 {atls.ClientConfig{Appraisal: vm.Appraisal(), Prover: p}, "there is none"},
		"a loaded key":           {atls.ClientConfig{Appraisal: vm.Appraisal(), Identity: loaded, Prover: p}, "the TLS key was loaded"},
		"a prover alone":         {atls.ClientConfig{Identity: id, Prover: p}, "neither"},
		"evidence and a pin":     {atls.ClientConfig{Appraisal: vm.Appraisal(), ServerKey: id.Key()}, "both"},
		"evidence and a CA":      {atls.ClientConfig{Appraisal: vm.Appraisal(), ServerCAs: cas}, "both"},
		"no verifier":            {atls.ClientConfig{Appraisal: noVerifier}, "no verifier"},
		"no manifest":            {atls.ClientConfig{Appraisal: noManifest}, "manifest"},
	} {
		if _, err := atls.Client(tt.c); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("client, %s: %v; want %q", name, err, tt.want)
		}
	}
}

// A copy of credentials, as gRPC makes them, is in the same mode.
func TestCopiesAttest(t *testing.T) {
	vm := newVM(t)
	s, err := atls.Server(atls.ServerConfig{Identity: identity(t), Prover: proverOf(t, vm, 0)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := atls.Client(atls.ClientConfig{Appraisal: vm.Appraisal()})
	if err != nil {
		t.Fatal(err)
	}
	var info credentials.AuthInfo
	serverErr, clientErr := handshake(t, func(raw net.Conn) error {
		_, _, err := s.Clone().ServerHandshake(raw)
		return err
	}, func(raw net.Conn) (err error) {
		_, info, err = c.Clone().ClientHandshake(t.Context(), "agent", raw)
		return err
	})
	if serverErr != nil || clientErr != nil || info.(atls.Info).Attestation == nil {
		t.Errorf("%v, %v, %+v", serverErr, clientErr, info)
	}
}

// One that stands between, with the VM's TLS key stolen, ends TLS on both sides
// and passes on every byte: the client refuses, with or without cached evidence,
// and the VM learns no more than that. Without the key, too.
func TestRelay(t *testing.T) {
	vm := newVM(t)
	id := identity(t)
	for name, tt := range map[string]struct {
		key    tls.Certificate
		cached bool
	}{
		"stolen key":         {id.Certificate(), false},
		"stolen key, cached": {id.Certificate(), true},
		"another key":        {identity(t).Certificate(), false},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := atls.Server(atls.ServerConfig{Identity: id, Prover: proverOf(t, vm, time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			appraisal := vm.Appraisal()
			appraisal.AcceptCached = tt.cached
			client, err := atls.Client(atls.ClientConfig{Appraisal: appraisal})
			if err != nil {
				t.Fatal(err)
			}
			near, far := net.Pipe() // to the VM
			vmSays := make(chan error, 1)
			go func() {
				_, _, err := server.ServerHandshake(far)
				vmSays <- err
			}()
			_, clientErr := handshake(t, func(raw net.Conn) error {
				protocols := []string{atls.AttestedProtocol}
				victim := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{tt.key}, NextProtos: protocols})
				real := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
				done := make(chan error, 1)
				go func() {
					_, err := io.Copy(real, victim)
					real.Close()
					done <- err
				}()
				_, err := io.Copy(victim, real)
				victim.Close()
				return errors.Join(err, <-done)
			}, func(raw net.Conn) error {
				_, _, err := client.ClientHandshake(t.Context(), "agent", raw)
				return err
			})
			var refused *atls.EvidenceError
			if !errors.As(clientErr, &refused) || refused.Cached != tt.cached || len(refused.Evidence.Report) == 0 {
				t.Fatalf("the client says %v", clientErr)
			}
			var why *attest.Refusal
			if errors.As(clientErr, &why) == tt.cached { // there the signature fails first
				t.Errorf("the client says %v", clientErr)
			}
			if why != nil && (len(why.Result.Failed()) != 1 || why.Result.Failed()[0].Name != "sim.report_data") {
				t.Errorf("failed claims: %v", why.Result.Failed())
			}
			if err := <-vmSays; !errors.Is(err, atls.ErrRefused) {
				t.Errorf("the VM says %v", err)
			}
		})
	}
}

// A client without evidence gets no byte of HTTP/2 from a server in attested
// mode: not by TLS alone, not with HTTP/2 in place of the exchange.
func TestNoCallsWithoutTheExchange(t *testing.T) {
	vm := newVM(t)
	addr, _ := serve(t, atls.ServerConfig{Identity: identity(t), Prover: proverOf(t, vm, 0)})
	for name, protocols := range map[string][]string{"attested": {atls.AttestedProtocol}, "h2": {"h2"}, "none": nil} {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(time.Minute))
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
		// The preface with empty settings.
		_, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		var got []byte
		if err == nil {
			got, err = io.ReadAll(conn)
		}
		if len(got) > 0 {
			t.Errorf("%s: the server sent %q", name, got)
		}
		if name == "h2" && (err == nil || !strings.Contains(err.Error(), "no application protocol")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The listener is none the worse for it.
	if _, err := call(t, addr, atls.ClientConfig{Appraisal: vm.Appraisal()}); err != nil {
		t.Error(err)
	}
}

// stalls hold connections open, each at another point of the handshake.
func stalls(t *testing.T, addr string) {
	t.Helper()
	hello := append([]byte{1, 0, 0, 0, 36, 0, 1, 1, 1}, make([]byte, 32)...)
	for name, say := range map[string]func(raw net.Conn, conn *tls.Conn) error{
		"silent":        func(net.Conn, *tls.Conn) error { return nil },
		"half a record": func(raw net.Conn, _ *tls.Conn) error { _, err := raw.Write([]byte{22, 3, 1, 2}); return err },
		"after TLS":     func(_ net.Conn, c *tls.Conn) error { return c.Handshake() },
		"half a hello":  func(_ net.Conn, c *tls.Conn) error { _, err := c.Write(hello[:10]); return err },
		"after hello":   func(_ net.Conn, c *tls.Conn) error { _, err := c.Write(hello); return err },
		"no verdict": func(_ net.Conn, c *tls.Conn) error {
			if _, err := c.Write(hello); err != nil {
				return err
			}
			_, err := io.ReadFull(c, make([]byte, len(hello)+5)) // and some of the evidence
			return err
		},
		"garbage": func(raw net.Conn, _ *tls.Conn) error {
			_, err := raw.Write(bytes.Repeat([]byte("x"), 1000))
			return err
		},
		"garbage in TLS": func(_ net.Conn, c *tls.Conn) error { _, err := c.Write(bytes.Repeat([]byte("x"), 1000)); return err },
		"a huge message": func(_ net.Conn, c *tls.Conn) error { _, err := c.Write([]byte{1, 255, 255, 255, 255}); return err },
		"a reset":        func(raw net.Conn, c *tls.Conn) error { _ = c.Handshake(); return raw.(*net.TCPConn).SetLinger(0) },
		"a word too many": func(_ net.Conn, c *tls.Conn) error {
			_, err := c.Write(append(bytes.Clone(hello), hello...))
			return err
		},
	} {
		for range 8 {
			raw, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{atls.AttestedProtocol}})
			_ = raw.SetDeadline(time.Now().Add(time.Minute))
			if err := say(raw, conn); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if name == "a reset" {
				raw.Close()
				continue
			}
			t.Cleanup(func() { raw.Close() })
		}
	}
}

// Clients that stall or fail at any point hurt nobody, on a platform that makes a
// report in 100 ms, though they stall for longer than anybody waits.
func TestStalledClientsHurtNobody(t *testing.T) {
	vm := newVM(t)
	tee := atlstest.Throttle(vm.Attester(), 100*time.Millisecond)
	p, err := vm.Prover(tee, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	s, err := atls.Server(atls.ServerConfig{Identity: identity(t), Prover: p})
	if err != nil {
		t.Fatal(err)
	}
	atls.Hurry(s, time.Hour)
	addr, _ := serveWith(t, s)
	stalls(t, addr)
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			_, err := call(t, addr, atls.ClientConfig{Appraisal: vm.Appraisal()})
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Whoever says nothing more, on either side, is waited for no longer than that.
func TestPatience(t *testing.T) {
	vm := newVM(t)
	s, err := atls.Server(atls.ServerConfig{Identity: identity(t), Prover: proverOf(t, vm, 0)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := atls.Client(atls.ClientConfig{Appraisal: vm.Appraisal()})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 300 * time.Millisecond
	atls.Hurry(s, limit)
	atls.Hurry(c, limit)
	for name, end := range map[string]func(net.Conn) error{
		"server": func(raw net.Conn) error { _, _, err := s.ServerHandshake(raw); return err },
		"client": func(raw net.Conn) error {
			_, _, err := c.ClientHandshake(context.Background(), "agent", raw)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			go func() { _, _ = io.Copy(io.Discard, near) }()
			begun := time.Now()
			err := end(far)
			if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took < limit {
				t.Errorf("after %s: %v", took, err)
			}
			if _, err := far.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("the connection is left open: %v", err)
			}
		})
	}
}

// A caller's own limit ends a client's wait, wherever it is.
func TestContextEnds(t *testing.T) {
	vm := newVM(t)
	hangs := make(chan struct{})
	p, err := vm.Prover(hanging{vm.Attester(), hangs}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	s, err := atls.Server(atls.ServerConfig{Identity: identity(t), Prover: p})
	if err != nil {
		t.Fatal(err)
	}
	c, err := atls.Client(atls.ClientConfig{Appraisal: vm.Appraisal()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		_, _, err := s.ServerHandshake(far)
		served <- err
	}()
	go func() {
		<-hangs // the client waits for evidence
		cancel()
	}()
	if _, _, err := c.ClientHandshake(ctx, "agent", near); !errors.Is(err, context.Canceled) {
		t.Errorf("the client says %v", err)
	}
	p.Close()
	if err := <-served; err == nil {
		t.Error("the server says nothing of it")
	}
}

// hanging is a TEE that does not answer.
type hanging struct {
	attest.Attester
	asked chan struct{}
}

func (h hanging) Attest(ctx context.Context, _ attest.ReportData) (attest.Evidence, error) {
	close(h.asked)
	<-ctx.Done()
	return attest.Evidence{}, ctx.Err()
}

// A TEE that fails is told to the client, in words of a closed list.
func TestNoEvidence(t *testing.T) {
	vm := newVM(t)
	p, err := vm.Prover(broken{vm.Attester()}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	_, _, serverErr, clientErr := ends(t, atls.ServerConfig{Identity: identity(t), Prover: p}, atls.ClientConfig{Appraisal: vm.Appraisal()})
	if !errors.Is(serverErr, errSecret) || clientErr == nil || !strings.Contains(clientErr.Error(), "TEE gave no evidence") || strings.Contains(clientErr.Error(), errSecret.Error()) {
		t.Errorf("server: %v; client: %v", serverErr, clientErr)
	}
}

var errSecret = errors.New("the firmware says 0x17")

type broken struct{ attest.Attester }

func (broken) Attest(context.Context, attest.ReportData) (attest.Evidence, error) {
	return attest.Evidence{}, errSecret
}

// A call's error says why evidence was refused; the server says nothing of it.
func TestRefusalReachesTheCaller(t *testing.T) {
	vm := newVM(t)
	addr, _ := serve(t, atls.ServerConfig{Identity: identity(t), Prover: proverOf(t, vm, 0)})
	other := vm.Appraisal()
	other.Launch = attest.LaunchDigestsOf([]byte("another manifest"))
	_, err := call(t, addr, atls.ClientConfig{Appraisal: other})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "sim.host_data") || !strings.Contains(err.Error(), "sim.report_data") {
		t.Errorf("got %v", err)
	}
}

// Who speaks another version hears which one this is, and nothing more.
func TestOtherVersionsAreAnswered(t *testing.T) {
	vm := newVM(t)
	s, err := atls.Server(atls.ServerConfig{Identity: identity(t), Prover: proverOf(t, vm, 0)})
	if err != nil {
		t.Fatal(err)
	}
	later := append([]byte{1, 0, 0, 0, 40, 0, 2, 1, 1}, make([]byte, 36)...)
	var answer []byte
	serverErr, _ := handshake(t, func(raw net.Conn) error {
		_, _, err := s.ServerHandshake(raw)
		return err
	}, func(raw net.Conn) error {
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{atls.AttestedProtocol}})
		if _, err := conn.Write(later); err != nil {
			return err
		}
		answer, err = io.ReadAll(conn)
		return err
	})
	if serverErr == nil || !strings.Contains(serverErr.Error(), "speaks version 2") {
		t.Errorf("the server says %v", serverErr)
	}
	if want := []byte{1, 0, 0, 0, 36, 0, 1, 2, 2}; len(answer) != 41 || !bytes.Equal(answer[:9], want) {
		t.Errorf("the client hears %x; want %x and a nonce", answer, want)
	}
}
