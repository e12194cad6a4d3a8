package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/collateral"
	"github.com/ultravioletrs/cocos/manifest"
)

const reasonRefused = "EVIDENCE_REFUSED"

// expectFlags say what evidence must bind beside the policy.
type expectFlags struct {
	reportData, hostData, manifest, at string
	// tee is what the manifest asks for; empty: none was given.
	tee manifest.TEE
}

func (a *app) attestationVerifyCmd() *cobra.Command {
	var e evidenceFlags
	var p policyFlags
	var x expectFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Appraise evidence from a file by your own policy",
		Long: `Appraise evidence from a file by your own policy: a raw SEV-SNP report, a raw TDX or
SGX quote, or what attestation get wrote. Prints every claim with what was expected
and found. Exit status 0 only if the evidence is accepted.

Who signed the evidence is judged by the vendors' keys in this program. The launch
field must carry the digest of --manifest, whose TEE the evidence must be of, or
--host-data; without either, the policy must list what it may carry. Nothing is fetched without --fetch.`,
		Example: `  cocos-cli attestation verify --type snp --evidence report.bin --certs vcek.pem \
    --collateral crl.der --policy policy.json --report-data 0102…`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			evidence, err := a.evidence(&e)
			if err != nil {
				return err
			}
			want, err := x.read(evidence.Type)
			if err != nil {
				return err
			}
			verifier, err := a.verifier(&p)
			if err != nil {
				return err
			}
			result, err := verifier.Verify(cmd.Context(), evidence, want)
			var refusal *attest.Refusal
			if err != nil && !errors.As(err, &refusal) {
				return fmt.Errorf("%s can't be appraised: %w", e.file, err)
			}
			right := x.judgeTEE(&result, evidence.Type)
			refusal = &attest.Refusal{Result: result}
			if !right && err == nil {
				err = refusal
			}
			if outErr := a.out.result(result, "%s", appraised(&result)); outErr != nil {
				return outErr
			}
			if err != nil {
				return p.offer(refused(e.file, refusal, err), evidence, refusal)
			}
			return nil
		},
	}
	e.add(cmd)
	p.add(cmd)
	f := cmd.Flags()
	f.StringVar(&x.reportData, "report-data", "", "what the evidence must bind, 64 bytes in `HEX`")
	f.StringVar(&x.manifest, "manifest", "", "the frozen manifest whose digest the launch field must carry, a `FILE`")
	f.StringVar(&x.hostData, "host-data", "", "or what that field (HOST_DATA, MRCONFIGID) must carry, in `HEX`")
	f.StringVar(&x.at, "time", "", "judge dates for this `TIME`, such as 2025-06-01T00:00:00Z, instead of now")
	return cmd
}

// read returns what evidence of type t must say.
func (x *expectFlags) read(t attest.Type) (attest.Expected, error) {
	var want attest.Expected
	if x.reportData == "" {
		return want, usagef("give the 64 bytes that the evidence was asked to bind; evidence that binds nothing that you chose may be old, or another's", "--report-data is missing")
	}
	b, err := hex.DecodeString(x.reportData)
	if err != nil {
		return want, usagef("128 hexadecimal digits", "--report-data is not hexadecimal")
	}
	if len(b) != attest.ReportDataSize {
		return want, usagef("tools that take less fill it up with zeros: write them, too", "--report-data has %d bytes; expected %d", len(b), attest.ReportDataSize)
	}
	copy(want.ReportData[:], b)
	if want.At, err = timeFlag(x.at); err != nil {
		return want, err
	}
	want.Launch, err = x.launch(t)
	return want, err
}

// launch is nil where the policy says what the launch field may carry.
func (x *expectFlags) launch(t attest.Type) (*attest.LaunchDigests, error) {
	var d attest.LaunchDigests
	field := d.Field(t)
	switch {
	case x.manifest != "" && x.hostData != "":
		return nil, usagef("give one of them", "--manifest and --host-data exclude each other")
	case x.manifest+x.hostData != "" && field == nil:
		return nil, usagef("leave --manifest and --host-data out; what an enclave was started for must be part of its report data", "%s evidence has no launch field", t)
	case x.manifest != "":
		f, err := readManifest(x.manifest)
		if err != nil {
			return nil, err
		}
		d, x.tee = attest.LaunchDigestsOf(f.Raw), f.TEE
		return &d, nil
	case x.hostData == "":
		return nil, nil
	}
	b, err := hex.DecodeString(x.hostData)
	if err != nil || len(b) != len(field) {
		return nil, usagef(fmt.Sprintf("%d hexadecimal digits", 2*len(field)), "--host-data is not %d bytes in hexadecimal, which the launch field of %s has", len(field), t)
	}
	copy(d.SHA256[:], b) // as far as it goes; only the type's own is looked at
	copy(d.SHA384[:], b)
	return &d, nil
}

// judgeTEE adds to a result whether the evidence is of the TEE that the manifest
// asks for: a policy may accept several.
func (x *expectFlags) judgeTEE(r *attest.Result, got attest.Type) bool {
	if x.tee == "" || r.Add(attest.Type(x.tee) == got, "manifest.tee", string(x.tee), string(got)) {
		return true
	}
	r.Claims[len(r.Claims)-1].Hint = "a VM with another TEE than the manifest asks for is not the one that was approved, whatever else is right"
	r.Accepted, r.NotBefore, r.NotAfter = false, time.Time{}, time.Time{}
	return false
}

// refused says so, and what is the most likely cause.
func refused(file string, r *attest.Refusal, err error) error {
	failed := r.Result.Failed()
	names := make([]string, len(failed))
	for i, c := range failed {
		names[i] = c.Name
	}
	p := &problem{reason: reasonRefused, hint: "cocos-cli attestation explain says more"}
	if len(failed) > 0 {
		p.field = failed[0].Name
		if failed[0].Hint != "" {
			p.hint = failed[0].Hint
		}
	}
	p.err = fmt.Errorf("%s is refused: %d of %d claims failed: %s", file, len(failed), len(r.Result.Claims), strings.Join(names, ", "))
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 1 {
		p.err = fmt.Errorf("%w; besides, %w", p.err, joined.Unwrap()[1])
	}
	return p
}

// offer tells where what was missing is to be had, unless that was asked.
func (p *policyFlags) offer(err error, e attest.Evidence, r *attest.Refusal) error {
	lacks := slices.ContainsFunc(r.Result.Failed(), func(c attest.Claim) bool {
		_, name, _ := strings.Cut(c.Name, ".")
		return name == "certificate" || name == "revocation" || strings.HasPrefix(name, "revocation.") || strings.HasPrefix(name, "tcb_info") || strings.HasPrefix(name, "qe_identity")
	})
	if places := collateral.Places(e); lacks && !p.fetch && len(places) > 0 {
		return then(err, "--fetch asks the vendor's service for what is missing; or fetch it yourself and give it with --collateral: "+strings.Join(places, " "))
	}
	return err
}

// simulatedBanner stands above everything that simulated evidence gave.
const simulatedBanner = `
  ####################################################################
  ##   SIMULATED: no hardware stands behind this evidence.          ##
  ##   It protects nothing from the host. Not for real data.        ##
  ####################################################################

`

// appraised is a Result for people.
func appraised(r *attest.Result) string {
	var b strings.Builder
	if r.Simulated {
		b.WriteString(simulatedBanner)
	}
	word := "REFUSED"
	if r.Accepted {
		word = "ACCEPTED"
	}
	if r.Simulated {
		word = "SIMULATED, " + word
	}
	fmt.Fprintf(&b, "%s: %s evidence, dates judged for %s\n", word, clean(string(r.Type)), r.At.UTC().Format(time.RFC3339))
	if r.Accepted {
		fmt.Fprintf(&b, "with the same endorsements good from %s to %s\n", r.NotBefore.UTC().Format(time.RFC3339), r.NotAfter.UTC().Format(time.RFC3339))
	}
	for _, c := range r.Claims {
		fmt.Fprintf(&b, "\n%-9s  %s\n", verdictWord(c.Verdict), c.Name)
		for _, line := range []struct{ what, text string }{{"expected", c.Expected}, {"found", c.Found}, {"hint", c.Hint}} {
			if line.text != "" {
				fmt.Fprintf(&b, "  %-9s%s\n", line.what, clean(line.text))
			}
		}
	}
	return b.String()
}

// verdictWord makes what failed stand out.
func verdictWord(v attest.Verdict) string {
	if v == attest.Failed {
		return strings.ToUpper(string(v))
	}
	return string(v)
}
