package atls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/keys"
)

// A VM of the tests' own: what it booted, and the manifest that it enforces.
var (
	measured = [48]byte{7}
	approved = attest.LaunchDigestsOf([]byte(`{"a":"manifest"}`))
)

func newHost(t testing.TB) *sim.Authority {
	t.Helper()
	a, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "host"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newInstance(t testing.TB) keys.Private {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newProver(t testing.TB, a attest.Attester, epoch time.Duration) *Prover {
	t.Helper()
	p, err := NewProver(ProverConfig{Attester: a, Manifest: approved.SHA256, Instance: newInstance(t), Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

type verifierFunc func(context.Context, attest.Evidence, attest.Expected) (attest.Result, error)

func (f verifierFunc) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	return f(ctx, e, want)
}

// verifierOf accepts VMs of the host that booted what is measured.
func verifierOf(a *sim.Authority) attest.Verifier {
	_, root := a.Root()
	policy := &attest.SimPolicy{Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measured[:]}}
	return verifierFunc(func(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
		return sim.Appraise(ctx, e, want, policy, time.Now())
	})
}

// connection as its verifier sees it, and the evidence that comes over it.
type connection struct {
	attester  role
	exporter  [ExporterSize]byte
	spki      hash
	nonce     [nonceSize]byte
	evidence  evidence
	appraisal Appraisal
}

func (c *connection) leaf() hash { return leafOf(c.attester, c.exporter, c.spki, c.nonce) }

func (c *connection) judge(t testing.TB) (Attestation, error) {
	return c.appraisal.judge(t.Context(), new(shared), c.evidence, c.leaf())
}

// prove makes evidence for several connections under one report.
func prove(t testing.TB, p *Prover, cached bool, cs ...*connection) {
	t.Helper()
	if cached {
		for _, c := range cs {
			var err error
			if c.evidence, err = p.prove(t.Context(), c.leaf(), true); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	p.mu.Lock()
	b := &batch{done: make(chan struct{})}
	p.mu.Unlock()
	for _, c := range cs {
		b.leaves = append(b.leaves, c.leaf())
	}
	p.make(b)
	if b.err != nil {
		t.Fatal(b.err)
	}
	for i, c := range cs {
		c.evidence = evidence{instance: p.cfg.Instance.Public().SPKI(), proof: b.tree.proof(i), report: b.report}
	}
}

// TestJudge: evidence that is right in all but one thing is refused, with the
// claim that it fails, or with words of this package where it has no such claim.
func TestJudge(t *testing.T) {
	host, stranger := newHost(t), newHost(t)
	edit := func(t *testing.T, c *connection, change func(*attest.Evidence)) {
		t.Helper()
		e, err := decode(c.evidence.report)
		if err != nil {
			t.Fatal(err)
		}
		change(&e)
		if c.evidence.report, err = encode(e); err != nil {
			t.Fatal(err)
		}
	}
	const data = "sim.report_data"
	type refusal struct {
		change func(t *testing.T, c *connection)
		claim  string // the only one that fails; empty: the verifier does not refuse
	}
	both := map[string]refusal{
		"another manifest": {func(t *testing.T, c *connection) { c.appraisal.Launch.SHA256[0] ^= 1 }, "sim.report_data, sim.host_data"},
		"another measurement": {func(t *testing.T, c *connection) {
			edit(t, c, func(e *attest.Evidence) {
				*e, _ = host.Report(bound(c), [48]byte{8}, approved.SHA256)
			})
		}, "sim.measurement"},
		"another launch field": {func(t *testing.T, c *connection) {
			edit(t, c, func(e *attest.Evidence) { *e, _ = host.Report(bound(c), measured, [32]byte{1}) })
		}, "sim.host_data"},
		"another host's report": {func(t *testing.T, c *connection) {
			edit(t, c, func(e *attest.Evidence) { *e, _ = stranger.Report(bound(c), measured, approved.SHA256) })
		}, "sim.chain"},
		"a bent report": {func(t *testing.T, c *connection) {
			edit(t, c, func(e *attest.Evidence) { e.Report[0x04] ^= 1 }) // guest SVN
		}, "sim.signature"},
		"another type":   {func(t *testing.T, c *connection) { edit(t, c, func(e *attest.Evidence) { e.Type = attest.SNP }) }, "sim.type"},
		"an empty type":  {func(t *testing.T, c *connection) { edit(t, c, func(e *attest.Evidence) { e.Type = "" }) }, "sim.type"},
		"no report":      {func(t *testing.T, c *connection) { edit(t, c, func(e *attest.Evidence) { e.Report = nil }) }, "sim.report"},
		"no JSON":        {func(t *testing.T, c *connection) { c.evidence.report = []byte("x") }, ""},
		"unknown member": {func(t *testing.T, c *connection) { c.evidence.report = []byte(`{"type":"sim","more":1}`) }, ""},
		"a member twice": {func(t *testing.T, c *connection) { c.evidence.report = []byte(`{"type":"sim","type":"sim"}`) }, ""},
		"JSON and more":  {func(t *testing.T, c *connection) { c.evidence.report = append(bytes.Clone(c.evidence.report), '1') }, ""},
		"no instance":    {func(t *testing.T, c *connection) { c.evidence.instance = nil }, ""},
		"a bent instance": {func(t *testing.T, c *connection) {
			c.evidence.instance = append(bytes.Clone(c.evidence.instance), 0)
		}, ""},
		"an instance that is not known": {func(t *testing.T, c *connection) {
			c.appraisal.CheckInstance = func([]byte, Attestation) error { return errors.New("another VM") }
		}, ""},
		"a verifier that says nothing": {func(t *testing.T, c *connection) {
			c.appraisal.Verifier = verifierFunc(func(context.Context, attest.Evidence, attest.Expected) (attest.Result, error) {
				return attest.Result{}, nil
			})
		}, ""},
		"a verifier that fails": {func(t *testing.T, c *connection) {
			c.appraisal.Verifier = verifierFunc(func(context.Context, attest.Evidence, attest.Expected) (attest.Result, error) {
				return attest.Result{Accepted: true}, errors.New("no collateral")
			})
		}, ""},
	}
	fresh := map[string]refusal{
		"another instance":  {func(t *testing.T, c *connection) { c.evidence.instance = newInstance(t).Public().SPKI() }, data},
		"another role":      {func(t *testing.T, c *connection) { c.attester = client }, data},
		"another exporter":  {func(t *testing.T, c *connection) { c.exporter[31] ^= 1 }, data},
		"another TLS key":   {func(t *testing.T, c *connection) { c.spki[0] ^= 1 }, data},
		"another nonce":     {func(t *testing.T, c *connection) { c.nonce[0] ^= 1 }, data},
		"another path":      {func(t *testing.T, c *connection) { c.evidence.proof.path ^= 1 }, data},
		"a bent proof":      {func(t *testing.T, c *connection) { c.evidence.proof.siblings[1][0] ^= 1 }, data},
		"a proof too short": {func(t *testing.T, c *connection) { c.evidence.proof.siblings = c.evidence.proof.siblings[:1] }, data},
		"a proof too long": {func(t *testing.T, c *connection) {
			c.evidence.proof.siblings = append(c.evidence.proof.siblings, hash{})
		}, data},
		"no proof": {func(t *testing.T, c *connection) { c.evidence.proof = proof{} }, data},
		"said to be cached": {func(t *testing.T, c *connection) {
			c.evidence.cached = true
			c.appraisal.AcceptCached = true
		}, ""},
	}
	cached := map[string]refusal{
		"not asked for":    {func(t *testing.T, c *connection) { c.appraisal.AcceptCached = false }, ""},
		"another instance": {func(t *testing.T, c *connection) { c.evidence.instance = newInstance(t).Public().SPKI() }, ""},
		"another role":     {func(t *testing.T, c *connection) { c.attester = client }, ""},
		"another exporter": {func(t *testing.T, c *connection) { c.exporter[31] ^= 1 }, ""},
		"another TLS key":  {func(t *testing.T, c *connection) { c.spki[0] ^= 1 }, ""},
		"another nonce":    {func(t *testing.T, c *connection) { c.nonce[0] ^= 1 }, ""},
		"no signature":     {func(t *testing.T, c *connection) { c.evidence.signature = nil }, ""},
		"a bent signature": {func(t *testing.T, c *connection) { c.evidence.signature[0] ^= 1 }, ""},
		"another's instance and signature": {func(t *testing.T, c *connection) {
			k := newInstance(t)
			c.evidence.instance = k.Public().SPKI()
			c.evidence.signature, _ = k.Sign(connectionText(c.leaf()))
		}, data},
		"said to be fresh": {func(t *testing.T, c *connection) { c.evidence.cached = false }, data},
	}
	for _, epoch := range []time.Duration{0, time.Hour} {
		isCached := epoch > 0
		p := newProver(t, host.Attester(measured, approved.SHA256), epoch)
		// Three share a report; the middle one is looked at.
		right := func(t *testing.T) (one, middle, other *connection) {
			var cs []*connection
			for i := range byte(3) {
				cs = append(cs, &connection{
					attester: server, exporter: [ExporterSize]byte{1, i}, spki: hash{2}, nonce: [nonceSize]byte{3, i},
					appraisal: Appraisal{Verifier: verifierOf(host), Launch: approved, AcceptCached: isCached},
				})
			}
			prove(t, p, isCached, cs...)
			return cs[0], cs[1], cs[2]
		}
		_, c, _ := right(t)
		got, err := c.judge(t)
		if err != nil || !got.Result.Accepted || got.Cached != isCached || !bytes.Equal(got.Instance, p.cfg.Instance.Public().SPKI()) ||
			len(got.Evidence.Report) == 0 || got.ReportData != bound(c) {
			t.Fatalf("cached %t: what is right: %+v, %v", isCached, got, err)
		}
		tables := []map[string]refusal{both, fresh}
		if isCached {
			tables[1] = cached
		}
		for _, table := range tables {
			for name, tt := range table {
				t.Run(fmt.Sprintf("cached %t/%s", isCached, name), func(t *testing.T) {
					_, c, _ := right(t)
					tt.change(t, c)
					got, err := c.judge(t)
					if err == nil || got.Result.Accepted {
						t.Fatalf("accepted: %+v", got)
					}
					var why *attest.Refusal
					var failed string
					if errors.As(err, &why) {
						for i, f := range why.Result.Failed() {
							if i > 0 {
								failed += ", "
							}
							failed += f.Name
						}
						var e *EvidenceError
						if !errors.As(err, &e) || e.ReportData == (attest.ReportData{}) {
							t.Errorf("a refusal without what it is about: %v", err)
						}
					}
					if failed != tt.claim {
						t.Errorf("%q fails; want %q (%v)", failed, tt.claim, err)
					}
				})
			}
		}
		// What is good for one connection is so for no other, under the same report
		// or under another one.
		one, middle, other := right(t)
		_, later, _ := right(t)
		later.nonce[0] = 9
		prove(t, p, isCached, later)
		for name, e := range map[string]evidence{"before": one.evidence, "after": other.evidence, "later": later.evidence} {
			c := *middle
			c.evidence = e
			if _, err := c.judge(t); err == nil {
				t.Errorf("cached %t: the evidence of the connection %s was accepted", isCached, name)
			}
		}
	}
}

// bound is the report data that the evidence of c had to bind.
func bound(c *connection) attest.ReportData {
	root := cachedRoot
	if !c.evidence.cached {
		root = c.evidence.proof.root(c.leaf())
	}
	return attest.Binding{Label: attest.ForConnections, Manifest: approved.SHA256, Instance: c.evidence.instance, Root: root}.ReportData()
}

// CheckInstance sees what was accepted, and its word is the error's.
func TestCheckInstance(t *testing.T) {
	host := newHost(t)
	p := newProver(t, host.Attester(measured, approved.SHA256), 0)
	errOther := errors.New("another VM than last time")
	var seen Attestation
	c := &connection{attester: server, appraisal: Appraisal{Verifier: verifierOf(host), Launch: approved,
		CheckInstance: func(instance []byte, a Attestation) error {
			if !bytes.Equal(instance, a.Instance) {
				t.Errorf("instance %x and %x", instance, a.Instance)
			}
			seen = a
			return errOther
		}}}
	prove(t, p, false, c)
	_, err := c.judge(t)
	var e *EvidenceError
	if !errors.Is(err, errOther) || !errors.As(err, &e) || !e.Result.Accepted || !seen.Result.Accepted {
		t.Errorf("got %v, seen %+v", err, seen)
	}
	// It is not asked of evidence that was refused.
	c.nonce[0] ^= 1
	seen = Attestation{}
	if _, err := c.judge(t); err == nil || errors.Is(err, errOther) || len(seen.Instance) > 0 {
		t.Errorf("got %v, seen %+v", err, seen)
	}
}

// TestLaunchIsKnown: whatever the verifier says, no VM is accepted for a launch
// field of zeros, which one has that was launched for nothing.
func TestLaunchIsKnown(t *testing.T) {
	host := newHost(t)
	p := newProver(t, host.Attester(measured, approved.SHA256), 0)
	for kind, ok := range map[attest.Type]bool{attest.Sim: true, attest.SNP: true, attest.SGX: true, attest.TDX: false} {
		c := &connection{attester: server, appraisal: Appraisal{Verifier: yes{}, Launch: attest.LaunchDigests{SHA256: approved.SHA256}}}
		prove(t, p, false, c)
		e, err := decode(c.evidence.report)
		if err != nil {
			t.Fatal(err)
		}
		e.Type = kind
		if c.evidence.report, err = encode(e); err != nil {
			t.Fatal(err)
		}
		_, err = c.judge(t)
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "is not known here") {
			t.Errorf("%s with the SHA-256 alone: %v", kind, err)
		}
	}
}

// yes accepts everything.
type yes struct{}

func (yes) Verify(context.Context, attest.Evidence, attest.Expected) (attest.Result, error) {
	return attest.Result{Accepted: true}, nil
}
