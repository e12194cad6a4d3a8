package snp

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// Verifier appraises SEV-SNP evidence alone. Its zero value refuses everything.
type Verifier struct {
	Policy *attest.SNPPolicy
	// Now is the clock where Expected.At is zero; nil means time.Now.
	Now func() time.Time
}

// Verify implements attest.Verifier.
func (v *Verifier) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	at := want.At
	if at.IsZero() {
		now := v.Now
		if now == nil {
			now = time.Now
		}
		at = now()
	}
	return Appraise(ctx, e, want, v.Policy, at)
}

// Appraise judges evidence for the time at, by the policy and by AMD's pinned
// keys. The error of a refusal is an *attest.Refusal with every claim.
func Appraise(_ context.Context, e attest.Evidence, want attest.Expected, p *attest.SNPPolicy, at time.Time) (attest.Result, error) {
	return appraise(e, want, p, at, amd())
}

func appraise(e attest.Evidence, want attest.Expected, p *attest.SNPPolicy, at time.Time, vendors map[Line]vendor) (attest.Result, error) {
	a := &appraisal{Result: attest.Result{Type: attest.SNP, At: at}, evidence: e, policy: p, at: at}
	a.judge(want, vendors)
	for i, c := range a.Claims {
		if c.Verdict == attest.Failed {
			a.Claims[i].Hint = hints[c.Name]
		}
	}
	if err := a.Conclude(); err != nil {
		return a.Result, err
	}
	a.NotBefore, a.NotAfter = a.good.from, a.good.to
	return a.Result, nil
}

// appraisal is one in the making.
type appraisal struct {
	attest.Result
	evidence attest.Evidence
	policy   *attest.SNPPolicy
	at       time.Time
	report   *Report
	line     Line
	good     window // narrowed by each certificate and list
}

func (a *appraisal) judge(want attest.Expected, vendors map[Line]vendor) {
	if !a.Add(a.evidence.Type == attest.SNP, "snp.type", string(attest.SNP), fmt.Sprintf("%q", a.evidence.Type)) {
		return
	}
	if !a.Add(a.policy != nil, "snp.section", "a policy with the section snp", present(a.policy != nil)) {
		return
	}
	report, err := Parse(a.evidence.Report)
	if !a.Add(err == nil, "snp.report", fmt.Sprintf("a report of %d bytes, version %d to %d", ReportSize, MinVersion, MaxVersion), found(err, "one")) {
		return
	}
	a.report = report
	a.origin(vendors)
	a.content(want)
	a.guestPolicy()
	a.platform()
}

// origin judges who signed the report, for which chip and firmware.
func (a *appraisal) origin(vendors map[Line]vendor) {
	r, p := a.report, a.policy
	signer := strings.ToLower(strings.TrimPrefix(subjects[r.Signer], "SEV-"))
	if signer == "" {
		signer = fmt.Sprintf("key %d", r.Signer)
	}
	a.Add(slices.Contains(p.Signers, signer) && (r.Signer == VCEK || r.Signer == VLEK), "snp.signer", either(p.Signers), signer)
	a.Add(r.SignatureAlgo == SignatureECDSAP384, "snp.signature_algorithm", "1 (ECDSA P-384 with SHA-384)", fmt.Sprint(r.SignatureAlgo))

	k, err := findKey(a.evidence, r)
	a.Add(err == nil, "snp.certificate", "the signing key's certificate", found(err, "one"))
	line, lineErr := lineOf(r, k, err)
	a.Add(lineErr == nil && slices.Contains(p.Products, string(line)), "snp.product", either(p.Products), found(lineErr, string(line)))
	if lineErr == nil {
		a.line = line
		a.versions()
	}
	if err != nil || lineErr != nil {
		return // what follows has nothing to go by; refused it is
	}
	a.endorsed(k, vendors[line])
	a.chip(k)
}

// endorsed judges the signing key's certificate and the signature.
func (a *appraisal) endorsed(k *key, v vendor) {
	parent := v.keys[k.signer]
	if parent == nil {
		a.Add(false, "snp.chain", "AMD's keys for "+string(a.line), "none")
		return
	}
	err := k.issuedBy(parent)
	a.Add(err == nil, "snp.chain", fmt.Sprintf("a certificate issued by AMD's %s, which is pinned", parent.Subject.CommonName), found(err, "one"))
	for _, c := range []*x509.Certificate{k.certificate, parent, v.root} {
		a.good = a.good.within(c.NotBefore, c.NotAfter)
	}
	a.Add(a.good.contains(a.at), "snp.dates", a.good.String(), a.at.UTC().Format(time.RFC3339))
	switch a.policy.Revocation {
	case attest.CheckNot:
		a.Skip("snp.revocation", fmt.Sprintf("%d lists", len(a.evidence.Endorsements.CRLs)))
	case attest.CheckRequired:
		w, err := revocation(a.evidence.Endorsements.CRLs, v.root, parent, k, a.at)
		a.Add(err == nil, "snp.revocation", fmt.Sprintf("AMD's list for %s, good at that time, without %s", a.line, parent.Subject.CommonName), found(err, w.String()))
		a.good = a.good.within(w.from, w.to)
	default:
		a.Add(false, "snp.revocation", `"required" or "unchecked" in the policy`, fmt.Sprintf("%q", a.policy.Revocation))
	}
	a.Add(k.line == a.line, "snp.certificate.product", string(a.line), string(k.line))
	a.Add(k.tcb == a.report.ReportedTCB, "snp.certificate.tcb", hex.EncodeToString(a.report.ReportedTCB[:])+", which the report states", hex.EncodeToString(k.tcb[:]))
	err = VerifySignature(a.evidence.Report, k.certificate)
	a.Add(err == nil, "snp.signature", "by the certificate's key over the whole report", found(err, "it"))
}

// chip judges CHIP_ID by the certificate and by the policy. A provider's key is
// the same on many chips, and its certificate names none.
func (a *appraisal) chip(k *key) {
	id := a.report.ChipID
	if k.signer == VCEK {
		a.Add(id == k.chipID, "snp.certificate.chip_id", hex.EncodeToString(id[:])+", which the report states", hex.EncodeToString(k.chipID[:]))
	}
	masked := id == [64]byte{}
	ok := slices.Contains(a.policy.ChipIDs, hex.EncodeToString(id[:])) && !masked ||
		slices.Contains(a.policy.ChipIDs, attest.AnyID) && (!masked || k.signer == VLEK)
	text := hex.EncodeToString(id[:])
	if masked {
		text = "none: the host hides it (MASK_CHIP_ID)"
	}
	a.Add(ok, "snp.chip_id", either(a.policy.ChipIDs), text)
}

// versions judges the four TCB versions.
func (a *appraisal) versions() {
	least, listed := a.policy.MinimumTCB[string(a.line)]
	for _, t := range []struct {
		name string
		tcb  TCB
	}{
		{"snp.tcb.current", a.report.CurrentTCB},
		{"snp.tcb.reported", a.report.ReportedTCB},
		{"snp.tcb.committed", a.report.CommittedTCB},
		{"snp.tcb.launch", a.report.LaunchTCB},
	} {
		v, err := t.tcb.Versions(a.line)
		expected := "at least " + tcbText(a.line, least)
		if !listed {
			expected = "a minimum that the policy lists for " + string(a.line) + "; it lists none"
		}
		a.Add(err == nil && listed && reaches(v, least), t.name, expected, found(err, tcbText(a.line, v)))
	}
}

// content judges what the report says about the guest.
func (a *appraisal) content(want attest.Expected) {
	r, p := a.report, a.policy
	a.listed("snp.measurement", p.Measurements, r.Measurement[:])
	a.Add(r.ReportData == want.ReportData, "snp.report_data", hex.EncodeToString(want.ReportData[:]), hex.EncodeToString(r.ReportData[:]))
	launch := p.HostData
	if want.Launch != nil {
		launch = []attest.Hex{want.Launch.SHA256[:]}
	}
	a.listed("snp.host_data", launch, r.HostData[:])
	a.Add(r.VMPL == p.VMPL, "snp.vmpl", fmt.Sprint(p.VMPL), fmt.Sprint(r.VMPL))
	a.noneOr("snp.id_key_digest", p.IDKeyDigests, r.IDKeyDigest[:])
	a.noneOr("snp.author_key_digest", p.AuthorKeyDigests, r.AuthorKeyDigest[:])
	ma := bytes.Count(r.ReportIDMA[:], []byte{0xff}) == len(r.ReportIDMA)
	expected := "no migration agent (all ones)"
	if p.Guest.AllowMigrationAgent {
		expected = "any"
	}
	a.Add(ma || p.Guest.AllowMigrationAgent, "snp.report_id_ma", expected, hex.EncodeToString(r.ReportIDMA[:]))
}

func (a *appraisal) listed(name string, accepted []attest.Hex, got []byte) {
	texts := make([]string, len(accepted))
	for i, v := range accepted {
		texts[i] = v.String()
	}
	a.Add(slices.ContainsFunc(accepted, func(v attest.Hex) bool { return bytes.Equal(v, got) }), name, either(texts), hex.EncodeToString(got))
}

// noneOr accepts zeros, beside what is listed.
func (a *appraisal) noneOr(name string, accepted []attest.Hex, got []byte) {
	a.listed(name, append([]attest.Hex{make([]byte, len(got))}, accepted...), got)
}

func either(values []string) string {
	if len(values) == 0 {
		return "a value that the policy lists; it lists none"
	}
	return strings.Join(values, " or ")
}

func found(err error, ok string) string {
	if err != nil {
		return err.Error()
	}
	return ok
}

func present(ok bool) string {
	if ok {
		return "one"
	}
	return "none"
}
