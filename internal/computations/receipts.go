package computations

import (
	"bytes"
	"context"
	"errors"

	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// SubmitReceipt keeps a run's receipt for the computation's consumers. It must be
// one of this run and this manifest. The service does not verify it, and can't
// vouch for it: that is for each consumer's own policy.
func (s *Service) SubmitReceipt(ctx context.Context, who Identity, id ID, raw []byte) error {
	// Read before the transaction, which others wait for; what is wrong with it is
	// for those to know who may hand it in.
	c, fault := receipt.Parse(raw)
	return s.change(ctx, func(w Writer) error {
		x, err := s.onRun(w, who, id, ReceiptSubmit)
		if err != nil {
			return err
		}
		if fault != nil {
			return invalid("receipt", "%v", fault)
		}
		p := &c.Statement.Predicate
		switch {
		case p.Manifest != x.computation.Digest:
			return invalid("receipt", "is of the manifest %s; this computation's is %s", p.Manifest, x.computation.Digest)
		case p.Run != string(id):
			return invalid("receipt", "is of the run %s; this is the run %s", p.Run, id)
		}
		before, err := w.Receipt(id)
		switch {
		case errors.Is(err, ErrNoRow):
		case err != nil:
			return err
		case bytes.Equal(before.Raw, raw):
			return nil
		default: // others may have fetched it: whoever handed it in can't take it back
			old, err := receipt.Parse(before.Raw)
			if err != nil {
				return err
			}
			if c.Same(old) {
				return nil // only what endorses it differs
			}
			return &Error{Kind: Conflict, Field: "receipt", Message: "a different receipt of this run was handed in already", Hint: "verify both with cocos-cli receipt verify, and talk to the other consumers: one of them is not what the run made"}
		}
		r := Receipt{Run: id, Raw: raw, By: x.user.ID, At: s.now(), Simulated: p.Simulated, Succeeded: p.Outcome == receipt.Succeeded}
		if err := w.PutReceipt(r); err != nil {
			return err
		}
		w.Signal(RunTopic(id))
		return s.did(w, &x, ReceiptSubmit, id, "outcome", string(p.Outcome), "sha256", manifest.Sum(raw).String())
	})
}

// Receipt is a run's, as a consumer handed it in.
func (s *Service) Receipt(ctx context.Context, who Identity, id ID) (Receipt, error) {
	return view(ctx, s, func(r Reader) (Receipt, error) {
		if _, err := s.onRun(r, who, id, ReceiptShow); err != nil {
			return Receipt{}, err
		}
		c, err := r.Receipt(id)
		if errors.Is(err, ErrNoRow) {
			return Receipt{}, &Error{Kind: NotFound, Message: "no receipt of this run was handed in yet"}
		}
		return c, err
	})
}
