package receipt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Options say what a receipt is held against. Verifier and Launch are required.
type Options struct {
	// Verifier appraises the evidence by the caller's own policy.
	Verifier attest.Verifier
	// Launch has the digests of the manifest that the caller approved.
	Launch attest.LaunchDigests
	// Manifest is that manifest, with which inputs and approvals are compared;
	// nil: they count for what the measured agent says.
	Manifest *manifest.Frozen
	// Instance is the instance key that must have signed (DER
	// SubjectPublicKeyInfo), such as that of a connection; empty: any that the
	// evidence binds.
	Instance []byte
	// At is the time for which the evidence is judged; zero: now.
	At time.Time
}

// Refusal is the error of a receipt that can be read and does not hold.
type Refusal struct {
	// Field is the part of the receipt that is at odds, such as "/evidence".
	Field string
	// Expected and Found are texts for people.
	Expected, Found string
	// Hint says what most likely happened.
	Hint string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the receipt is refused: %s: expected %s, found %s", r.Field, r.Expected, r.Found)
}

// Verify reads a receipt and returns it only if all of it holds. What it says of
// the evidence is an *attest.Refusal in the error's chain.
func Verify(ctx context.Context, raw []byte, o Options) (*Receipt, error) {
	if o.Verifier == nil {
		return nil, errors.New("verifying a receipt: there is no verifier for its evidence")
	}
	if o.Launch.SHA256 == ([32]byte{}) || o.Launch.SHA384 == ([48]byte{}) { // TDs launched for none have zeros, too
		return nil, errors.New("verifying a receipt: there is no manifest to hold it against")
	}
	if o.Manifest != nil && attest.LaunchDigestsOf(o.Manifest.Raw) != o.Launch {
		return nil, errors.New("verifying a receipt: the manifest is not the one whose digests are given")
	}
	r, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	if err := r.checkSigner(o.Instance); err != nil {
		return nil, err
	}
	if err := r.checkManifest(&o); err != nil {
		return nil, err
	}
	if err := r.checkMeasurement(); err != nil {
		return nil, err
	}
	if err := r.appraise(ctx, &o); err != nil {
		return nil, err
	}
	return r, nil
}

// checkSigner wants the instance key's signature, and the key that was asked for.
func (r *Receipt) checkSigner(instance []byte) error {
	key := r.Statement.Predicate.Instance
	sig := r.envelope.Signatures[0]
	if sig.KeyID != key.Fingerprint() {
		return &Refusal{
			Field: "/envelope/signatures/0/keyid", Expected: key.Fingerprint() + ", the instance key's", Found: fmt.Sprintf("%q", sig.KeyID),
			Hint: "the receipt was changed after it was made",
		}
	}
	if key.VerifyPayload(r.envelope.payload(), sig.Sig) != nil {
		return &Refusal{
			Field: "/envelope/signatures/0/sig", Expected: "a signature of the statement by the instance key", Found: "another",
			Hint: "the statement or its signature was changed after it was made",
		}
	}
	if len(instance) > 0 && !bytes.Equal(instance, key.SPKI()) {
		want := "another key"
		if k, err := keys.ParsePublic(instance); err == nil {
			want = k.Fingerprint()
		}
		return &Refusal{
			Field: "/predicate/instance", Expected: want, Found: key.Fingerprint(),
			Hint: "this is the receipt of another run: another VM made it",
		}
	}
	return nil
}

// checkManifest wants the statement to be about the manifest that was approved.
func (r *Receipt) checkManifest(o *Options) error {
	p := &r.Statement.Predicate
	if p.Manifest != o.Launch.SHA256 {
		return &Refusal{
			Field: "/predicate/manifest", Expected: manifest.Digest(o.Launch.SHA256).String(), Found: p.Manifest.String(),
			Hint: "this is the receipt of another computation",
		}
	}
	m := o.Manifest
	if m == nil {
		return nil
	}
	// Whatever the policy accepts beside it: a simulation is no TEE's receipt.
	if m.TEE != manifest.TEENone && attest.Type(m.TEE) != p.TEE {
		return &Refusal{
			Field: "/predicate/tee", Expected: fmt.Sprintf("%q, the manifest's /tee", m.TEE), Found: fmt.Sprintf("%q", p.TEE),
			Hint: "another kind of machine than the manifest asks for made it",
		}
	}
	if got := (manifest.Content{SHA256: p.Algorithm, Commitment: p.AlgorithmCommitment}); got != m.Algorithm.Content() {
		return &Refusal{Field: "/predicate/algorithm", Expected: m.Algorithm.Content().String(), Found: got.String()}
	}
	for _, in := range []struct {
		field     string
		want, got []Input
	}{{"/predicate/files", filesOf(m), p.Files}, {"/predicate/datasets", datasetsOf(m), p.Datasets}} {
		if !slices.Equal(in.got, in.want) {
			return &Refusal{Field: in.field, Expected: fmt.Sprint(in.want), Found: fmt.Sprint(in.got)}
		}
	}
	if err := p.checkShares(m); err != nil {
		return err
	}
	approvals, err := p.approvals(m)
	if err == nil {
		err = m.CheckApprovals(approvals)
	}
	if err != nil {
		return &Refusal{Field: "/predicate/approvals", Expected: "one valid approval of each key that the manifest asks", Found: err.Error()}
	}
	return nil
}

// checkShares wants an archive for each consumer where the manifest divides the
// result, and one for all of them where it does not.
func (p *Predicate) checkShares(m *manifest.Frozen) error {
	divided := len(m.Outputs.Release) > 0
	if !divided && len(p.Results) > 0 || divided && p.Result != nil {
		return &Refusal{
			Field: "/predicate/results", Expected: fmt.Sprintf("an archive for each consumer: %t, as the manifest's /outputs/release", divided),
			Found: fmt.Sprint(!divided),
		}
	}
	if len(p.Results) == 0 {
		return nil
	}
	var want, got []string
	for _, c := range m.Consumers {
		want = append(want, c.Fingerprint())
	}
	for _, r := range p.Results {
		got = append(got, r.Consumer)
	}
	if !slices.Equal(got, want) {
		return &Refusal{Field: "/predicate/results", Expected: fmt.Sprint(want), Found: fmt.Sprint(got)}
	}
	return nil
}

// approvals finds the keys in the manifest.
func (p *Predicate) approvals(m *manifest.Frozen) ([]manifest.Approval, error) {
	var found []manifest.Approval
	for _, a := range p.Approvals {
		i := slices.IndexFunc(m.Approvals, func(k keys.Public) bool { return k.Fingerprint() == a.Key })
		if i < 0 {
			return nil, fmt.Errorf("one by %q, which the manifest does not ask", a.Key)
		}
		found = append(found, manifest.Approval{PublicKey: m.Approvals[i], Signature: a.Signature})
	}
	return found, nil
}

// checkMeasurement wants the statement to say of the TEE what the evidence does.
func (r *Receipt) checkMeasurement() error {
	p := &r.Statement.Predicate
	if p.TEE != r.Evidence.Type {
		return &Refusal{Field: "/predicate/tee", Expected: fmt.Sprintf("%q, the type of the evidence", r.Evidence.Type), Found: fmt.Sprintf("%q", p.TEE)}
	}
	got, err := measured(r.Evidence)
	if err != nil {
		return &Refusal{Field: "/evidence/report", Expected: fmt.Sprintf("a report of type %q", r.Evidence.Type), Found: err.Error()}
	}
	if want := registers(got); registers(p.Measurement) != want {
		return &Refusal{
			Field: "/predicate/measurement", Expected: want + ", as in the evidence", Found: registers(p.Measurement),
			Hint: "the enclosed evidence is not that of the VM that made the statement",
		}
	}
	return nil
}

// appraise has the evidence judged: by the policy, and for this very statement.
func (r *Receipt) appraise(ctx context.Context, o *Options) error {
	p := &r.Statement.Predicate
	result, err := o.Verifier.Verify(ctx, r.Evidence, attest.Expected{
		ReportData: binding(p, r.envelope.Payload).ReportData(), Launch: &o.Launch, At: o.At,
	})
	switch {
	case err != nil:
		return fmt.Errorf("the receipt is refused: /evidence: %w", err)
	case !result.Accepted:
		return &Refusal{Field: "/evidence", Expected: "evidence that the policy accepts", Found: "none"}
	case result.Type != r.Evidence.Type || result.Simulated != p.Simulated:
		return &Refusal{
			Field: "/predicate/simulated", Expected: fmt.Sprintf("%t, as the evidence of type %q", result.Simulated, result.Type), Found: fmt.Sprint(p.Simulated),
		}
	}
	r.Appraisal = result
	return nil
}
