// Package appraisal is the one Verifier for evidence of every type. It brings
// together what came with the evidence and what the relying party has itself,
// and hands both, with the policy's section for the type, to the package that
// knows the vendor's format.
//
// Invariants:
//   - A type that is not known, a policy without a section for the type, and a
//     policy with a fault anywhere refuse, before anything is fetched or parsed.
//   - Each type has its own package, and each of these its own roots: no root
//     passes through here, and simulated evidence gets nothing from a source.
//   - Endorsements come from anywhere and prove themselves by their signatures.
//     Of Intel's statements, which age, the relying party's own goes before the
//     evidence's: who sends evidence could choose an old one.
//   - What a source could not find is no refusal by itself. The appraisal then
//     has what there is, and says both if it refuses.
package appraisal

import (
	"context"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sgx"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
)

// Options of a Verifier.
type Options struct {
	// Source has what evidence lacks; nil: the evidence must bring everything.
	Source attest.EndorsementSource
	// Now is the clock where Expected.At is zero; nil means time.Now.
	Now func() time.Time
}

// Verifier appraises evidence of every type by one policy. Its zero value
// refuses everything. It may be used by several goroutines at once.
type Verifier struct {
	policy attest.Policy
	fault  error // of the policy
	source attest.EndorsementSource
	now    func() time.Time
}

// New returns a Verifier for the policy, which must not change any more.
func New(p attest.Policy, o Options) *Verifier {
	return &Verifier{policy: p, fault: p.Validate(), source: o.Source, now: o.Now}
}

// Verify implements attest.Verifier.
func (v *Verifier) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	at := want.At
	if at.IsZero() {
		at = v.clock()
	}
	appraise, known := v.of(e.Type)
	if !known {
		r := attest.Result{Type: e.Type, At: at}
		r.Add(false, "evidence.type", "one of "+attest.TypeNames(), fmt.Sprintf("%q", e.Type))
		return r, r.Conclude()
	}
	if err := v.fault; err != nil {
		return attest.Result{Type: e.Type, Simulated: e.Type == attest.Sim, At: at}, fmt.Errorf("appraising evidence: the policy is not valid: %w", err)
	}
	lacking := v.complete(ctx, &e, at)
	r, err := appraise(ctx, e, want, at)
	if err != nil && lacking != nil {
		err = fmt.Errorf("%w; besides, %w", err, lacking)
	}
	return r, err
}

// appraiser is an Appraise with the policy's section in it.
type appraiser func(context.Context, attest.Evidence, attest.Expected, time.Time) (attest.Result, error)

func (v *Verifier) of(t attest.Type) (appraiser, bool) {
	switch t {
	case attest.SNP:
		return func(ctx context.Context, e attest.Evidence, want attest.Expected, at time.Time) (attest.Result, error) {
			return snp.Appraise(ctx, e, want, v.policy.SNP, at)
		}, true
	case attest.TDX:
		return func(ctx context.Context, e attest.Evidence, want attest.Expected, at time.Time) (attest.Result, error) {
			return tdx.Appraise(ctx, e, want, v.policy.TDX, at)
		}, true
	case attest.SGX:
		return func(ctx context.Context, e attest.Evidence, want attest.Expected, at time.Time) (attest.Result, error) {
			return sgx.Appraise(ctx, e, want, v.policy.SGX, at)
		}, true
	case attest.Sim:
		return func(ctx context.Context, e attest.Evidence, want attest.Expected, at time.Time) (attest.Result, error) {
			return sim.Appraise(ctx, e, want, v.policy.Simulated, at)
		}, true
	}
	return nil, false
}

// asks tells whether a source is of use: where the policy accepts the type, and
// the type has a vendor.
func (v *Verifier) asks(t attest.Type) bool {
	switch t {
	case attest.SNP:
		return v.policy.SNP != nil
	case attest.TDX:
		return v.policy.TDX != nil
	case attest.SGX:
		return v.policy.SGX != nil
	}
	return false
}

// complete adds what the source has to e, and returns what it could not find.
func (v *Verifier) complete(ctx context.Context, e *attest.Evidence, at time.Time) error {
	if v.source == nil || !v.asks(e.Type) {
		return nil
	}
	own, err := v.source.Endorse(ctx, *e)
	e.Endorsements = merge(own, e.Endorsements, at)
	if err != nil {
		return fmt.Errorf("looking for what the evidence lacks: %w", err)
	}
	return nil
}

func (v *Verifier) clock() time.Time {
	if v.now == nil {
		return time.Now()
	}
	return v.now()
}
