package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/internal/agent"
	"github.com/ultravioletrs/cocos/internal/bulk"
	"github.com/ultravioletrs/cocos/internal/callauth"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// participant appraises evidence of the tests' machine by a policy of its own.
type participant struct{ policy attest.SimPolicy }

func (p participant) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	return sim.Appraise(ctx, e, want, &p.policy, time.Now())
}

// startAttested runs an agent with attested TLS on a simulated TEE, whose
// clients appraise it.
func startAttested(t testing.TB, options ...option) *env {
	t.Helper()
	a := host(t)
	m := attested(t)
	e := start(t, m, append([]option{inTEE(a)}, options...)...)
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	_, root := a.Root()
	e.trust = &atls.Appraisal{
		Verifier: participant{attest.SimPolicy{Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measured[:]}}},
		Launch:   attest.LaunchDigestsOf(f.Raw),
	}
	return e
}

func TestAttestedFromInputsToResult(t *testing.T) {
	e := startAttested(t)
	e.uploadAll()
	e.wait(agent.ResultReady)
	info, b, err := e.takeResult(e.as(everybody().consumer, manifest.Consumer), 0)
	if err != nil || len(b) == 0 || uint64(len(b)) != info.GetSize() {
		t.Errorf("result of %d bytes, %v, %v", len(b), info, err)
	}
	ready := e.journal.EventsAfter(0)[0]
	for k, want := range map[string]string{
		"agent_key": e.agent.Key(), "manifest_digest": e.digest.String(), "tee": "sim",
		"instance": instance().Public().Fingerprint(), "attested": "true", "simulated": "true",
	} {
		if ready.Kind != vm.EventReady || ready.Attributes[k] != want {
			t.Errorf("%s says %s %q; want %q", ready.Kind, k, ready.Attributes[k], want)
		}
	}
}

// A connection with evidence older than itself is for what is not secret.
func TestCachedEvidenceServesNothingSecret(t *testing.T) {
	e := startAttested(t)
	e.trust.AcceptCached = true
	c := e.as(everybody().algo, manifest.AlgorithmProvider)
	harmless := []string{"State", "UploadStatus", "Events", "Logs"}
	for name, call := range everyCall(e, c) {
		err := call()
		if slices.Contains(harmless, name) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		refused(t, err, codes.FailedPrecondition, rpcerr.EvidenceCached)
	}
	e.trust.AcceptCached = false
	if _, err := e.upload(e.as(everybody().algo, manifest.AlgorithmProvider), algoRef(), algorithm, 0); err != nil {
		t.Errorf("over fresh evidence: %v", err)
	}
}

// Whoever does not appraise the agent is not served, and whoever does goes on
// only if everything agrees.
func TestAttestedAgentAndWrongClients(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(e *env)
		want   string
	}{
		"a pinned key": {func(e *env) { e.trust = nil }, "attested TLS"},
		"another manifest approved": {func(e *env) {
			e.trust.Launch = attest.LaunchDigestsOf([]byte("other"))
		}, "sim.report_data"},
		"another measurement": {func(e *env) {
			p := e.trust.Verifier.(participant)
			p.policy.Measurements = []attest.Hex{make([]byte, 48)}
			e.trust.Verifier = p
		}, "sim.measurement"},
		"another root": {func(e *env) {
			p := e.trust.Verifier.(participant)
			p.policy.Roots = []attest.Hex{make([]byte, 32)}
			e.trust.Verifier = p
		}, "sim.chain"},
		"no simulation": {func(e *env) {
			p := e.trust.Verifier.(participant)
			p.policy.Accept = ""
			e.trust.Verifier = p
		}, "sim.consent"},
		"another instance": {func(e *env) {
			e.trust.CheckInstance = func([]byte, atls.Attestation) error { return errors.New("a second instance") }
		}, "a second instance"},
	} {
		t.Run(name, func(t *testing.T) {
			e := startAttested(t)
			tt.change(e)
			_, err := e.as(everybody().algo, manifest.AlgorithmProvider).State(e.ctx(), &agentv1.StateRequest{})
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want no connection, and %q", err, tt.want)
			}
		})
	}
}

// replay sends what was signed elsewhere.
type replay map[string]string

func (r replay) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return r, nil
}
func (replay) RequireTransportSecurity() bool { return true }

// record signs as usual and keeps what was sent.
type record struct {
	callauth.Signer
	sent *map[string]string
}

func (r record) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	m, err := r.Signer.GetRequestMetadata(ctx, uri...)
	*r.sent = m
	return m, err
}

// otherInstance signs for another VM on the same connection.
type otherInstance struct {
	callauth.Signer
	instance []byte
}

func (o otherInstance) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, err := atls.InfoFrom(ctx)
	if err != nil {
		return nil, err
	}
	sig, err := o.Key.Sign(manifest.CallText(o.Digest, o.Role, o.Key.Public(), o.instance, info.Exporter[:]))
	return map[string]string{
		callauth.RoleHeader: string(o.Role), callauth.KeyHeader: string(o.Key.Public().SPKI()), callauth.SignatureHeader: string(sig),
	}, err
}

// A call's signature is good on its own connection, in its role, for its
// computation and for this VM, and nowhere else.
func TestSignaturesAreNotReplayed(t *testing.T) {
	e := startAttested(t)
	p := everybody()
	signer := callauth.Signer{Key: p.algo, Role: manifest.AlgorithmProvider, Digest: e.digest}
	var sent map[string]string
	_, c := e.dial(grpc.WithPerRPCCredentials(record{signer, &sent}))
	if _, err := c.State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Fatal(err)
	}
	elsewhere := startAttested(t) // the same manifest in another VM
	role := replay{}
	for k, v := range sent {
		role[k] = v
	}
	role[callauth.RoleHeader] = string(manifest.Consumer)
	other := signer
	other.Digest = manifest.Digest{1}
	for i, tt := range []struct {
		name string
		e    *env
		as   grpc.DialOption
	}{
		{"on another connection", e, grpc.WithPerRPCCredentials(replay(sent))},
		{"to another VM", elsewhere, grpc.WithPerRPCCredentials(replay(sent))},
		{"in another role", e, grpc.WithPerRPCCredentials(role)},
		{"for another computation", e, grpc.WithPerRPCCredentials(other)},
		{"for another instance", e, grpc.WithPerRPCCredentials(otherInstance{signer, newInstance().Public().SPKI()})},
		{"for no instance", e, grpc.WithPerRPCCredentials(otherInstance{signer, nil})},
		{"for this instance", e, grpc.WithPerRPCCredentials(otherInstance{signer, instance().Public().SPKI()})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := tt.e.dial(tt.as)
			_, err := c.State(e.ctx(), &agentv1.StateRequest{})
			if i == 6 { // right in all
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, codes.Unauthenticated, rpcerr.Signature)
		})
	}
}

// Clients that connect and say nothing keep nobody from a report.
func TestStalledClientsHurtNobody(t *testing.T) {
	e := startAttested(t)
	for range 16 {
		creds, err := atls.Client(atls.ClientConfig{Appraisal: &atls.Appraisal{Verifier: stall{e.ctx()}, Launch: e.trust.Launch}})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("passthrough:///"+e.addr, append(bulk.DialOptions(), grpc.WithTransportCredentials(creds))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Connect()
	}
	if _, err := e.as(everybody().algo, manifest.AlgorithmProvider).State(e.ctx(), &agentv1.StateRequest{}); err != nil {
		t.Error(err)
	}
}

// stall never comes to a verdict.
type stall struct{ ctx context.Context }

func (s stall) Verify(ctx context.Context, _ attest.Evidence, _ attest.Expected) (attest.Result, error) {
	select {
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return attest.Result{}, fmt.Errorf("no verdict: %w", context.Cause(ctx))
}
