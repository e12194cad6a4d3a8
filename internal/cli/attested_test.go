package cli

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// attestedUser has a manifest that asks for the simulated TEE over attested
// TLS, and a policy that accepts the VMs of one host.
type attestedUser struct {
	*user
	host   *sim.Authority
	policy string
}

var simMeasurement = [48]byte(bytes.Repeat([]byte{7}, 48))

func newAttestedUser(t *testing.T, tee manifest.TEE) *attestedUser {
	t.Helper()
	u := &attestedUser{user: newUser(t)}
	u.freeze(func(m *manifest.Manifest) { m.TEE, m.AttestedTLS = tee, true })
	var err error
	if u.host, err = sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim")); err != nil {
		t.Fatal(err)
	}
	_, root := u.host.Root()
	b, err := attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{simMeasurement[:]},
	}}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	u.policy = u.file("policy.json", b)
	return u
}

// vm makes a server's part of one VM: its own instance key and attester.
func (u *attestedUser) vm(change func(attest.Attester) attest.Attester) func(*atls.ServerConfig) {
	u.t.Helper()
	instance, err := keys.Generate(keys.Ed25519)
	if err != nil {
		u.t.Fatal(err)
	}
	a := u.host.Attester(simMeasurement, u.digest)
	if change != nil {
		a = change(a)
	}
	p, err := atls.NewProver(atls.ProverConfig{Attester: a, Manifest: u.digest, Instance: instance})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(p.Close)
	return func(c *atls.ServerConfig) { c.Prover = p }
}

func (u *attestedUser) with(f *fakeAgent, args ...string) outcome {
	if args[0] == "data" {
		args = append(args, "--skip-check")
	}
	return u.run(u.t.Context(), append(args, "--agent", f.addr, "--key", u.key, "--manifest", u.manifest,
		"--policy", u.policy, "--timeout", "20s")...)
}

func TestAttestedUploadGoesOnAfterACut(t *testing.T) {
	u := newAttestedUser(t, manifest.TEESim)
	f := &fakeAgent{want: noise(1 << 20), cuts: []int{1000, 1 << 19}}
	reports := 0
	f.serve(t, u.vm(func(a attest.Attester) attest.Attester { return &countingAttester{a, &reports} }))
	u.with(f, "data", u.file("d", f.want), "--name", "d").wants(t, ExitOK, "SIMULATED", "verified the dataset d")
	if !bytes.Equal(f.held, f.want) {
		t.Error("the agent holds other bytes")
	}
	if reports != 3 {
		t.Errorf("%d reports for 3 connections", reports)
	}
}

type countingAttester struct {
	attest.Attester
	n *int
}

func (c *countingAttester) Attest(ctx context.Context, d attest.ReportData) (attest.Evidence, error) {
	*c.n++
	return c.Attester.Attest(ctx, d)
}

// An upload that is cut does not go on to another VM, though it has good
// evidence: neither without consent nor by the consent to the first one.
func TestAttestedUploadIsForOneVM(t *testing.T) {
	for name, args := range map[string][]string{"": nil, "with consent": {"--new-instance"}} {
		t.Run(name, func(t *testing.T) {
			u := newAttestedUser(t, manifest.TEESim)
			f := &fakeAgent{want: noise(1 << 20), cuts: []int{1000}}
			swap := &swapping{}
			f.serve(t, u.vm(nil), func(c *atls.ServerConfig) { f.creds = swap.of(t, *c, u.vm(nil)) })
			o := u.with(f, append([]string{"data", u.file("d", f.want), "--name", "d", "--json"}, args...)...)
			o.wants(t, ExitFailure)
			if _, reason, _, hint := o.failure(t); reason != reasonSecondInstance || !strings.Contains(hint, "--new-instance") {
				t.Errorf("reason %q, hint %q", reason, hint)
			}
			if len(f.held) != 1000 || len(u.sleeps) != 1 {
				t.Errorf("the agent holds %d bytes after %d pauses", len(f.held), len(u.sleeps))
			}
		})
	}
}

// swapping serves the first connection by one VM and the others by another.
type swapping struct {
	credentials.TransportCredentials
	then credentials.TransportCredentials
	n    atomic.Int32
}

func (s *swapping) of(t *testing.T, first atls.ServerConfig, second func(*atls.ServerConfig)) credentials.TransportCredentials {
	t.Helper()
	then := first
	second(&then)
	var err error
	if s.TransportCredentials, err = atls.Server(first); err != nil {
		t.Fatal(err)
	}
	if s.then, err = atls.Server(then); err != nil {
		t.Fatal(err)
	}
	return s
}

// ServerHandshake implements credentials.TransportCredentials.
func (s *swapping) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if s.n.Add(1) == 1 {
		return s.TransportCredentials.ServerHandshake(raw)
	}
	return s.then.ServerHandshake(raw)
}

// An agent does not wait for vendors' services; what was fetched is kept, so
// that another attempt gets further.
func TestFetchingSurvivesImpatientAgents(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"fetching":     {[]string{"--fetch"}, ExitOK, "AwaitingInputs"},
		"not fetching": {nil, ExitFailure, "connecting to the agent: can't "},
	} {
		t.Run(name, func(t *testing.T) {
			u := newAttestedUser(t, manifest.TEESim)
			f := &fakeAgent{state: u.state(stateAwaiting, nil)}
			impatient := &swapping{}
			f.serve(t, u.vm(nil), func(c *atls.ServerConfig) {
				f.creds = impatient.of(t, *c, func(*atls.ServerConfig) {})
				impatient.TransportCredentials = hangUp{}
			})
			u.with(f, append([]string{"state", "--role", "consumer"}, tt.args...)...).wants(t, tt.code, tt.want)
		})
	}
}

// hangUp ends connections.
type hangUp struct {
	credentials.TransportCredentials
}

func (hangUp) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	raw.Read(make([]byte, 1<<10)) //nolint:errcheck // lets the client write first
	raw.Close()
	return nil, nil, errors.New("it took too long")
}

// What else than evidence can be wrong with who answers.
func TestAttestedConnectionRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		tee    manifest.TEE // that the manifest asks for
		change func(attest.Attester) attest.Attester
		plain  bool
		reason string
		field  string
		want   string
	}{
		"good evidence of another TEE": {tee: manifest.TEESNP, reason: reasonRefused, field: "tee", want: `the TEE "sim", and the manifest asks for "sev-snp"`},
		"no evidence at all":           {tee: manifest.TEESim, plain: true, reason: reasonNotAttested, want: "does not prove itself as the manifest asks"},
		"a TEE that is not known": {tee: manifest.TEESim, reason: reasonRefused, field: "evidence.type", want: "is refused",
			change: func(a attest.Attester) attest.Attester {
				return &changing{a, func(e *attest.Evidence) { e.Type = "magic" }}
			}},
		"another's report": {tee: manifest.TEESim, reason: reasonRefused, field: "sim.report_data", want: "is refused",
			change: func(a attest.Attester) attest.Attester { return &replaying{a} }},
		"a changed report": {tee: manifest.TEESim, reason: reasonRefused, field: "sim.signature", want: "is refused",
			change: func(a attest.Attester) attest.Attester {
				return &changing{a, func(e *attest.Evidence) { e.Report = bytes.Clone(e.Report); e.Report[700] ^= 1 }}
			}},
		"a TEE that fails": {tee: manifest.TEESim, reason: reasonUnreachable, want: "can't speak with the agent",
			change: func(a attest.Attester) attest.Attester { return &failing{a} }},
	} {
		t.Run(name, func(t *testing.T) {
			u := newAttestedUser(t, tt.tee)
			f := &fakeAgent{want: []byte("secret")}
			options := []func(*atls.ServerConfig){}
			if !tt.plain {
				options = append(options, u.vm(tt.change))
			}
			f.serve(t, options...)
			o := u.with(f, "data", u.file("d", f.want), "--name", "d", "--json")
			o.wants(t, ExitFailure)
			message, reason, field, hint := o.failure(t)
			if reason != tt.reason || field != tt.field || !strings.Contains(message, tt.want) || hint == "" {
				t.Errorf("message %q, reason %q, field %q, hint %q", message, reason, field, hint)
			}
			if len(f.calls) != 0 || len(u.sleeps) != 0 {
				t.Errorf("calls %v and %d pauses", f.calls, len(u.sleeps))
			}
			var known instances
			if err := homeOf(t, map[string]string{"COCOS_HOME": u.path("home")}).readHome(instancesFile, &known); err != nil || len(known.Instances) != 0 {
				t.Errorf("remembered: %+v, %v", known, err)
			}
		})
	}
}

// changing changes evidence on its way.
type changing struct {
	attest.Attester
	change func(*attest.Evidence)
}

func (c *changing) Attest(ctx context.Context, d attest.ReportData) (attest.Evidence, error) {
	e, err := c.Attester.Attest(ctx, d)
	c.change(&e)
	return e, err
}

// replaying has one report, made for something else.
type replaying struct{ attest.Attester }

func (r *replaying) Attest(ctx context.Context, d attest.ReportData) (attest.Evidence, error) {
	d[0] ^= 1
	return r.Attester.Attest(ctx, d)
}

type failing struct{ attest.Attester }

func (*failing) Attest(context.Context, attest.ReportData) (attest.Evidence, error) {
	return attest.Evidence{}, errors.New("the device is gone")
}
