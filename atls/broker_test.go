package atls

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
)

const brokerURL = "https://keys.example"

// brokerRequest is a request to a broker that is right.
type brokerRequest struct {
	evidence  BrokerEvidence
	broker    string
	data      [sha512.Size]byte
	appraisal Appraisal
}

func (r *brokerRequest) judge(t testing.TB) (Attestation, error) {
	return r.appraisal.JudgeBroker(t.Context(), r.evidence, r.broker, r.data)
}

// requests are several that share one report with a connection.
func requests(t *testing.T) []brokerRequest {
	t.Helper()
	host := newHost(t)
	g := &gated{Attester: host.Attester(measured, approved.SHA256), let: make(chan error, 2)}
	p := newProver(t, g, 0)
	a := Appraisal{Verifier: verifierOf(host), Launch: approved}
	// The first report is held up, so that all others share the second.
	var wait sync.WaitGroup
	wait.Go(func() { _, _ = p.prove(t.Context(), hash{9}, false) })
	eventually(t, "the first report", func() bool { return g.begun() == 1 })
	all := make([]brokerRequest, 3)
	for i := range all {
		wait.Go(func() {
			r := brokerRequest{broker: brokerURL, data: sha512.Sum512([]byte{byte(i)}), appraisal: a}
			var err error
			if r.evidence, err = p.ForBroker(t.Context(), r.broker, r.data); err != nil {
				t.Error(err)
			}
			all[i] = r
		})
	}
	wait.Go(func() { _, _ = p.prove(t.Context(), hash{8}, false) })
	eventually(t, "four that wait", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.next != nil && len(p.next.leaves) == 4
	})
	g.let <- nil
	g.let <- nil
	wait.Wait()
	if len(g.seen) != 2 {
		t.Fatalf("%d reports were made; want 2", len(g.seen))
	}
	return all
}

func TestBrokersShareReportsWithConnections(t *testing.T) {
	for i, r := range requests(t) {
		at, err := r.judge(t)
		if err != nil || !at.Result.Accepted || !bytes.Equal(at.Instance, r.evidence.Instance) || at.Cached {
			t.Errorf("request %d: %+v, %v", i, at.Result, err)
		}
		if len(r.evidence.Siblings) != 2 {
			t.Errorf("request %d has %d siblings; want 2", i, len(r.evidence.Siblings))
		}
	}
}

// Evidence that is right but for one thing is refused.
func TestBrokerRefuses(t *testing.T) {
	r := requests(t)[0]
	other, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		bend func(*brokerRequest)
		want string
	}{
		"other runtime data": {func(r *brokerRequest) { r.data[0] ^= 1 }, "report_data"},
		"other broker":       {func(r *brokerRequest) { r.broker = "https://keys.example.net" }, "report_data"},
		"other instance":     {func(r *brokerRequest) { r.evidence.Instance = other.Public().SPKI() }, "report_data"},
		"other manifest":     {func(r *brokerRequest) { r.appraisal.Launch = attest.LaunchDigestsOf([]byte("another")) }, "report_data"},
		"path turned":        {func(r *brokerRequest) { r.evidence.Path ^= 1 }, "report_data"},
		"path too long":      {func(r *brokerRequest) { r.evidence.Path |= 4 }, "steps of siblings"},
		"sibling bent":       {func(r *brokerRequest) { r.evidence.Siblings[1][0] ^= 1 }, "report_data"},
		"sibling missing":    {func(r *brokerRequest) { r.evidence.Siblings = r.evidence.Siblings[:1]; r.evidence.Path &= 1 }, "report_data"},
		"sibling short":      {func(r *brokerRequest) { r.evidence.Siblings[0] = r.evidence.Siblings[0][:31] }, "siblings/0 has 31 bytes"},
		"siblings too many": {func(r *brokerRequest) {
			r.evidence.Siblings = slices.Repeat([][]byte{make([]byte, 32)}, maxDepth+1)
		}, "siblings has 11 entries"},
		"no instance":        {func(r *brokerRequest) { r.evidence.Instance = nil }, "instance_key has 0 bytes"},
		"instance too long":  {func(r *brokerRequest) { r.evidence.Instance = make([]byte, maxKey+1) }, "instance_key has 2049 bytes"},
		"instance is no key": {func(r *brokerRequest) { r.evidence.Instance = []byte("key") }, "instance_key"},
		"no evidence":        {func(r *brokerRequest) { r.evidence.Report = nil }, "evidence has 0 bytes"},
		"evidence too long":  {func(r *brokerRequest) { r.evidence.Report = make([]byte, maxEvidence+1) }, "evidence has 524289 bytes"},
		"evidence is none":   {func(r *brokerRequest) { r.evidence.Report = []byte(`{"type":1}`) }, "evidence"},
		"evidence says more": {func(r *brokerRequest) {
			r.evidence.Report = append([]byte(`{"more":1,`), r.evidence.Report[1:]...)
		}, "more"},
		"no verifier": {func(r *brokerRequest) { r.appraisal.Verifier = nil }, "no verifier"},
		"no manifest": {func(r *brokerRequest) { r.appraisal.Launch = attest.LaunchDigests{} }, "no digests"},
		"accepts nothing": {func(r *brokerRequest) {
			r.appraisal.Verifier = verifierOf(newHost(t))
		}, "refused"},
		"instance not wanted": {func(r *brokerRequest) {
			r.appraisal.CheckInstance = func([]byte, Attestation) error { return errors.New("a second one") }
		}, "a second one"},
	} {
		t.Run(name, func(t *testing.T) {
			bent := r
			bent.evidence.Siblings = nil
			for _, s := range r.evidence.Siblings {
				bent.evidence.Siblings = append(bent.evidence.Siblings, bytes.Clone(s))
			}
			tt.bend(&bent)
			if at, err := bent.judge(t); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, %v; want %q", at, err, tt.want)
			}
		})
	}
	if _, err := r.judge(t); err != nil {
		t.Errorf("the request itself: %v", err)
	}
}

// A report for a connection is none for a broker, whatever the bytes are, nor is
// one of a cached epoch.
func TestConnectionsAreNoBrokers(t *testing.T) {
	host := newHost(t)
	p := newProver(t, host.Attester(measured, approved.SHA256), 1<<40)
	a := Appraisal{Verifier: verifierOf(host), Launch: approved, AcceptCached: true}
	data := sha512.Sum512(nil)
	for name, cached := range map[string]bool{"fresh": false, "cached": true} {
		e, err := p.prove(t.Context(), leafOf(client, [ExporterSize]byte(data[:32]), hash(data[32:]), [nonceSize]byte{}), cached)
		if err != nil {
			t.Fatal(err)
		}
		b := BrokerEvidence{Instance: e.instance, Report: e.report}
		if at, err := a.JudgeBroker(t.Context(), b, brokerURL, data); err == nil {
			t.Errorf("%s: accepted: %+v", name, at)
		}
	}
	if _, err := parseHello(hello{role: brokerClient}.bytes()); err == nil {
		t.Error("a hello in a broker's client's role is taken")
	}
}
