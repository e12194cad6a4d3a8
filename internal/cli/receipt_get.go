package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	agentv1 "github.com/ultravioletrs/cocos/api/agent/v1"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

func (a *app) receiptGetCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Fetch the receipt alone",
		Long: `Fetch the receipt of a run that has ended, and verify it before it is stored: by the
policy, for the manifest and the VM of the connection. cocos-cli result does so too;
this is for a run that failed and left nothing else, and for a receipt that was lost.`,
		Example: `  cocos-cli receipt get --out run.receipt.json --agent 127.0.0.1:7020 \
    --policy policy.json --key carol.pem --manifest manifest.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := a.identity()
			if err != nil {
				return err
			}
			if err := id.role(manifest.Consumer); err != nil {
				return err
			}
			p, err := a.connect(cmd, id, manifest.Consumer)
			if err != nil {
				return err
			}
			defer p.close()
			s, err := p.state(cmd.Context(), id)
			if err != nil {
				return err
			}
			r, err := a.receipt(cmd.Context(), p, id)
			if err != nil {
				return err
			}
			if err := r.matches(s, id); err != nil {
				return err
			}
			if err := r.store(out); err != nil {
				return err
			}
			a.out.hint("wrote %s", out)
			return a.showReceipt(r.Receipt, shownReceipt{Verified: r.verified})
		},
	}
	a.agentFlags(cmd)
	cmd.Flags().StringVar(&out, "out", "receipt.json", "`FILE` for the receipt")
	return cmd
}

// heldReceipt is the receipt of the run that the agent holds.
type heldReceipt struct {
	*receipt.Receipt
	// verified: by the policy, for the manifest and the VM of the connection.
	verified bool
}

// receipt fetches the receipt. Over a connection whose evidence was appraised it
// is verified in the same way, or is an error; else it is only read.
func (a *app) receipt(ctx context.Context, p *peer, id *identity) (*heldReceipt, error) {
	const doing = "fetching the receipt"
	raw, err := a.callReceipt(ctx, p, doing)
	if err != nil {
		return nil, err
	}
	if !p.attested {
		r, err := receipt.Parse(raw)
		if err != nil {
			return nil, badReceipt(doing, err)
		}
		return &heldReceipt{Receipt: r}, nil
	}
	at := p.causes.peer()
	if at == nil {
		return nil, fmt.Errorf("%s: no evidence was appraised on this connection", doing)
	}
	v, err := a.verifier(&a.conn.policy)
	if err != nil {
		return nil, err
	}
	r, err := receipt.Verify(ctx, raw, receipt.Options{
		Verifier: v, Launch: attest.LaunchDigestsOf(id.manifest.Raw), Manifest: id.manifest, Instance: at.Instance,
	})
	if err != nil {
		return nil, badReceipt(doing, err)
	}
	if r.Evidence.Type != attest.Type(id.manifest.TEE) {
		return nil, badReceipt(doing, &otherTEE{id.manifest.TEE, r.Evidence.Type})
	}
	// By what it was accepted is kept with it: the vendor may not say it again.
	source, err := a.endorsements(&a.conn.policy)
	if err != nil {
		return nil, err
	}
	more, _ := source.Endorse(ctx, r.Evidence) // what it could not find was not needed
	r.Enclose(more)
	return &heldReceipt{Receipt: r, verified: true}, nil
}

// callReceipt asks until there is an answer.
func (a *app) callReceipt(ctx context.Context, p *peer, doing string) ([]byte, error) {
	try := retry{sleep: a.sleep, reached: true, resume: "run the same command again"}
	quiet := a.out.progress("receipt", -1)
	for {
		raw, err := func() ([]byte, error) {
			ctx, cancel := p.call(ctx)
			defer cancel()
			r, err := p.Receipt(ctx, &agentv1.ReceiptRequest{})
			return r.GetReceipt(), err
		}()
		if err == nil {
			return raw, nil
		}
		if err := try.next(ctx, p, quiet, doing, err); err != nil {
			return nil, err
		}
	}
}

// matches refuses a receipt of another end than the agent tells.
func (r *heldReceipt) matches(s *stateInfo, id *identity) error {
	const doing = "comparing the receipt with the agent's state"
	want := receipt.Succeeded
	if s.State == stateFailed {
		want = receipt.Failed
	}
	p := &r.Statement.Predicate
	switch {
	case p.Outcome != want:
		return badReceipt(doing, &receipt.Refusal{Field: "/predicate/outcome", Expected: fmt.Sprintf("%q, as the state is %s", want, clean(s.State)), Found: fmt.Sprintf("%q", p.Outcome)})
	case s.Result != nil:
		if err := matchResult(r.Receipt, s.Result, "the agent's result", id.key.Public().Fingerprint()); err != nil {
			return badReceipt(doing, err)
		}
	case p.Result != nil || len(p.Results) > 0:
		return badReceipt(doing, &receipt.Refusal{Field: "/predicate/result", Expected: "none, as the agent has none", Found: "one"})
	}
	return nil
}

// free refuses to write over anything but the same receipt.
func (r *heldReceipt) free(name string) error {
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	raw, err := readSmall(name, receipt.MaxSize)
	if err == nil {
		var there *receipt.Receipt
		if there, err = receipt.Parse(raw); err == nil && there.Same(r.Receipt) {
			return nil
		}
	}
	return advise(fmt.Errorf("%s exists and is not this receipt", name), "move it away, or choose another place")
}

// store writes it at once and for good.
func (r *heldReceipt) store(name string) error {
	if err := r.free(name); err != nil {
		return err
	}
	b, err := r.Bytes()
	if err != nil {
		return err
	}
	if err := replaceFile(name, b); err != nil {
		return advise(fmt.Errorf("storing the receipt: %w", err), "choose a place that you can write to")
	}
	return nil
}

// receiptSuffix is that of the receipt beside a result.
const receiptSuffix = ".receipt.json"

// resultReceipt is the receipt of the result that s announces, before anything
// of the result is here; nil in a plain VM, which has none.
func (a *app) resultReceipt(ctx context.Context, p *peer, id *identity, s *stateInfo) (*heldReceipt, error) {
	if id.manifest.TEE == manifest.TEENone {
		return nil, nil
	}
	r, err := a.receipt(ctx, p, id)
	if err != nil {
		return nil, err
	}
	return r, r.matches(s, id)
}

// tell says what a result's receipt is worth.
func (r *heldReceipt) tell(out *output, name string) {
	switch {
	case r == nil:
		out.hint("no receipt: nothing vouches for what a plain VM computed")
	case r.verified:
		out.hint("receipt verified, kept in %s", name)
	default:
		out.hint("UNVERIFIED receipt in %s: this connection is not attested; to verify it: cocos-cli receipt verify", name)
	}
}
