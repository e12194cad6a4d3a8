package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// reasonReceipt is that of a receipt that does not hold.
const reasonReceipt = "RECEIPT_REFUSED"

func (a *app) receiptCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receipt",
		Short: "Verify and show receipts of computations",
	}
	group(cmd, a.receiptVerifyCmd(), a.receiptShowCmd(), a.receiptGetCmd())
	return cmd
}

// shownReceipt is what a script learns of a receipt.
type shownReceipt struct {
	// Verified: all of it holds, for the manifest and the policy that were given.
	Verified  bool `json:"verified"`
	Simulated bool `json:"simulated"`
	// Result: the result that was given is the receipt's.
	Result bool `json:"result_checked"`
	// Statement as it was signed.
	Statement json.RawMessage `json:"statement"`
	Appraisal *attest.Result  `json:"appraisal,omitempty"`
}

func (a *app) receiptVerifyCmd() *cobra.Command {
	var (
		p                                    policyFlags
		manifestFile, result, at, instanceID string
		consumer                             string
	)
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a receipt against your manifest and policy, offline",
		Long: `Verify a receipt: the instance key's signature over its statement, the evidence that
commits to both, by your policy, and that the statement is about the manifest that you
approved, with its inputs and approvals. With --result also that a result, unpacked or
as an archive, is the receipt's: where consumers get different ones, that of --consumer,
or else anybody's. Exit status 0 only if all of it holds.

Where a VM was accepted for this manifest before (cocos-cli instances list), the receipt
must be that VM's, or of the one that --instance names.

It works offline and later: what endorses the evidence is enclosed, or given with
--collateral. --time judges for another time than now.`,
		Example: `  cocos-cli receipt verify result.receipt.json --policy policy.json \
    --manifest manifest.json --result result
  cocos-cli receipt verify result.receipt.json --policy policy.json \
    --manifest manifest.json --time 2026-11-29T12:00:00Z`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if manifestFile == "" {
				return usagef("give the frozen manifest that you approved: the receipt could be another computation's", "--manifest is missing")
			}
			if consumer != "" && result == "" {
				return usagef("give the result, too: --result PATH", "--consumer is given without --result")
			}
			when, err := timeFlag(at)
			if err != nil {
				return err
			}
			raw, err := readSmall(args[0], receipt.MaxSize)
			if err != nil {
				return fmt.Errorf("reading the receipt: %w", err)
			}
			f, err := readManifest(manifestFile)
			if err != nil {
				return err
			}
			v, err := a.verifier(&p)
			if err != nil {
				return err
			}
			r, err := receipt.Verify(cmd.Context(), raw, receipt.Options{
				Verifier: v, Launch: attest.LaunchDigestsOf(f.Raw), Manifest: &f, At: when,
			})
			if err != nil {
				return badReceipt(args[0], err)
			}
			if err := a.checkInstance(r, &f, instanceID); err != nil {
				return badReceipt(args[0], err)
			}
			if result != "" {
				if err := a.checkResult(cmd.Context(), r, &f, result, consumer); err != nil {
					return badReceipt(args[0], err)
				}
			}
			return a.showReceipt(r, shownReceipt{Verified: true, Result: result != ""})
		},
	}
	p.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&manifestFile, "manifest", "", "the frozen manifest that you approved, a `FILE`")
	flags.StringVar(&consumer, "consumer", "", "`FINGERPRINT` of the key whose result it must be, where consumers get different ones")
	flags.StringVar(&result, "result", "", "`PATH` of the result that must be the receipt's: the folder that was unpacked, or the archive")
	flags.StringVar(&at, "time", "", "judge for this `TIME` (RFC 3339), not for now")
	flags.StringVar(&instanceID, "instance", "", "`sha256:HEX` of the instance key that must have signed it")
	return cmd
}

func (a *app) receiptShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Say in plain words what a receipt states, without verifying it",
		Long: `Say in plain words what a receipt states. Nothing of it is verified: whoever made the
file could have written anything. cocos-cli receipt verify verifies it.`,
		Example: `  cocos-cli receipt show result.receipt.json`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := readSmall(args[0], receipt.MaxSize)
			if err != nil {
				return fmt.Errorf("reading the receipt: %w", err)
			}
			r, err := receipt.Parse(raw)
			if err != nil {
				return badReceipt(args[0], err)
			}
			return a.showReceipt(r, shownReceipt{})
		},
	}
}

// showReceipt prints r. That it is simulated stands first.
func (a *app) showReceipt(r *receipt.Receipt, s shownReceipt) error {
	s.Simulated = r.Statement.Predicate.Simulated
	s.Statement = r.Payload()
	text := r.Text()
	if s.Verified {
		s.Appraisal = &r.Appraisal
		text += fmt.Sprintf("%-12s %s\n", "verified", window(r.Appraisal))
	}
	if err := a.out.result(s, "%s", text); err != nil {
		return err
	}
	switch {
	case !s.Verified:
		a.out.hint("UNVERIFIED: this is what the file says. To verify it: cocos-cli receipt verify FILE --policy FILE --manifest FILE")
	case !s.Result:
		a.out.hint("the receipt holds; --result PATH would also compare a result with it")
	}
	return nil
}

// window says when the same receipt holds without more collateral.
func window(r attest.Result) string {
	const form = "2006-01-02 15:04 MST"
	return fmt.Sprintf("for %s; with the same collateral it holds from %s to %s",
		r.At.UTC().Format(form), r.NotBefore.UTC().Format(form), r.NotAfter.UTC().Format(form))
}

// checkInstance compares the VM that made a receipt with the one that was named,
// which is consent to it, else with the one that is remembered for the manifest.
func (a *app) checkInstance(r *receipt.Receipt, f *manifest.Frozen, named string) error {
	got := r.Statement.Predicate.Instance.Fingerprint()
	refusal := &receipt.Refusal{Field: "/predicate/instance", Expected: named, Found: got, Hint: "this is the receipt of another run: another VM made it"}
	if named == "" {
		known, err := a.knownInstance(f.Digest)
		if err != nil {
			return err
		}
		if known == nil {
			return nil
		}
		refusal.Expected = known.Key.Fingerprint()
		refusal.Hint = fmt.Sprintf("the VM that was accepted for this manifest on %s is the expected one, and a second one made this receipt. If you know that VM, too, name it: --instance %s",
			known.Since.Format(time.RFC3339), got)
	}
	if refusal.Expected == got {
		return nil
	}
	return refusal
}

// checkResult compares a result with what the receipt says of it.
func (a *app) checkResult(ctx context.Context, r *receipt.Receipt, m *manifest.Frozen, path, consumer string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var size int64 // of an archive that was padded
	if one := r.Statement.Predicate.Result; one != nil {
		size = one.Size
	} else if m.Outputs.Pad {
		size = m.Outputs.ResultMax
	}
	d, n, err := archive.SumPadded(path, size)
	if err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	return matchResult(r, &resultInfo{Size: n, SHA256: d}, path, consumer)
}

// matchResult refuses a result that is not the receipt's, or not that of a
// consumer, named by its fingerprint; without one it may be anybody's.
func matchResult(r *receipt.Receipt, got *resultInfo, what, consumer string) error {
	want, shares := r.Statement.Predicate.Result, r.Statement.Predicate.Results
	refusal := &receipt.Refusal{Field: "/predicate/result", Found: fmt.Sprintf("%s, %d bytes with sha256 %s", what, got.Size, got.SHA256)}
	switch {
	case len(shares) > 0:
		shares = slices.DeleteFunc(slices.Clone(shares), func(s receipt.Share) bool { return consumer != "" && s.Consumer != consumer })
		if slices.ContainsFunc(shares, func(s receipt.Share) bool { return s.SHA256 == got.SHA256 }) {
			return nil
		}
		refusal.Field = "/predicate/results"
		if refusal.Expected = "a consumer's result"; consumer != "" {
			refusal.Expected = "the result of " + consumer
		}
		for _, s := range shares {
			refusal.Expected += ", sha256 " + s.SHA256.String()
		}
	case want == nil:
		refusal.Expected = "no result, as the receipt has none"
	case want.Size != got.Size || want.SHA256 != got.SHA256:
		refusal.Expected = fmt.Sprintf("%d bytes with sha256 %s", want.Size, want.SHA256)
	default:
		return nil
	}
	refusal.Hint = "the result was changed, or is another run's"
	return refusal
}

// badReceipt explains why a receipt is not accepted.
func badReceipt(name string, err error) error {
	q := &problem{reason: reasonReceipt, err: fmt.Errorf("%s: %w", name, err),
		hint: "it is no receipt, or it was changed on its way: have it sent again by whoever fetched it"}
	var (
		refusal  *receipt.Refusal
		evidence *attest.Refusal
	)
	switch {
	case errors.As(err, &evidence):
		q.reason = reasonRefused
		failed := evidence.Result.Failed()
		names := make([]string, len(failed))
		for i := range failed {
			names[i] = failed[i].Name
		}
		if len(names) > 0 {
			q.field = names[0]
		}
		q.claims = failed
		q.err = fmt.Errorf("%s: your policy refuses the evidence in the receipt: %s", name, strings.Join(names, ", "))
		q.hint = "each line above has what your policy and manifest expect and what the receipt shows. Where only dates failed, --time with a time at which the evidence was good, or newer --collateral, may help"
	case errors.As(err, &refusal):
		q.field, q.hint = refusal.Field, refusal.Hint
		if q.hint == "" {
			q.hint = "what the receipt states and what it is held against differ: don't rely on it"
		}
	}
	return q
}

// timeFlag reads --time; empty is the zero time, which means now.
func timeFlag(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.IsZero() {
		return time.Time{}, usagef("such as 2025-06-01T00:00:00Z", "--time %q is not a time of RFC 3339", s)
	}
	return t, nil
}
