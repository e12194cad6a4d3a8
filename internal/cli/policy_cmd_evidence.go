package cli

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
	"github.com/ultravioletrs/cocos/attest/sgx"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
)

// pins say what evidence can't, or may only with consent.
type pins struct {
	accept     string
	anyChip    bool
	allowDebug bool
	evaluation int
}

func (a *app) policyFromEvidenceCmd() *cobra.Command {
	var e evidenceFlags
	var p pins
	cmd := &cobra.Command{
		Use:   "from-evidence FILE",
		Short: "Print a policy that pins what evidence says",
		Long: `Print a policy that accepts what the evidence in FILE says, on the platform that it was
made on, and nothing else. Whoever made that evidence is trusted this once: appraise
it, or compare its measurement with one that you computed, before you rely on the
policy.`,
		Example: `  cocos-cli policy from-evidence report.bin --type snp --certs vcek.pem > policy.json`,
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			e.file = args[0]
			evidence, err := a.evidence(&e)
			if err != nil {
				return err
			}
			policy, err := p.policy(evidence)
			if err != nil {
				return advise(fmt.Errorf("%s: %w", e.file, err), "cocos-cli attestation explain shows what it says")
			}
			if err := a.printPolicy(policy); err != nil {
				return err
			}
			if pinsNoManifest(policy) {
				a.out.hint("its launch field is zero, and so pinned: it was launched for no manifest. Name one whenever you appraise (--manifest)")
			}
			a.out.hint("TRUSTED THIS ONCE: the policy takes %s at its word. Nobody checked who signed it, or what was measured:\nappraise it (cocos-cli attestation verify), and compare its measurement with cocos-cli measure", clean(e.file))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.kind, "type", "", "what the evidence is of: `snp`, tdx, sgx or sim; of use with raw files only")
	f.StringArrayVar(&e.certs, "certs", nil, "a `FILE` of certificates that came with the evidence, PEM or DER (repeatable)")
	f.StringVar(&p.accept, "accept-simulation", "", fmt.Sprintf("consent to simulation, the `TEXT` %q", attest.SimConsent))
	f.BoolVar(&p.anyChip, "any-chip", false, "accept every chip or platform, and not that of the evidence alone")
	f.BoolVar(&p.allowDebug, "allow-debug", false, "accept a guest that its host can read and change: for tests")
	f.IntVar(&p.evaluation, "minimum-evaluation", 0, "least `NUMBER` of Intel's TCB evaluation, where the evidence has no TCB info")
	complete(cmd, "type", func() []string { return []string{"snp", "tdx", "sgx", "sim"} })
	return cmd
}

// pinsNoManifest tells whether a policy lists a launch field of zeros.
func pinsNoManifest(p attest.Policy) bool {
	var fields []attest.Hex
	switch {
	case p.SNP != nil:
		fields = p.SNP.HostData
	case p.TDX != nil:
		fields = p.TDX.MRConfigID
	case p.Simulated != nil:
		fields = p.Simulated.HostData
	}
	return slices.ContainsFunc(fields, func(f attest.Hex) bool { return nonZero(f) == nil })
}

func (p *pins) policy(e attest.Evidence) (attest.Policy, error) {
	policy := attest.Policy{Version: attest.PolicyVersion, Note: "pinned to one piece of evidence"}
	var err error
	switch e.Type {
	case attest.SNP:
		policy.SNP, err = p.snp(e)
	case attest.Sim:
		policy.Simulated, err = p.sim(e)
	case attest.TDX:
		policy.TDX, err = p.tdx(e)
	case attest.SGX:
		policy.SGX, err = p.sgx(e)
	default:
		err = fmt.Errorf("evidence of the type %q is not known", e.Type)
	}
	return policy, err
}

// debugRefused is for guests that protect nothing.
func (p *pins) debugRefused(debug bool) error {
	if debug && !p.allowDebug {
		return usagef("--allow-debug accepts it, for tests", "it is of a guest in debug mode, which its host can read and change")
	}
	return nil
}

// nonZero lists a value unless it is all zeros, which policies accept unlisted.
func nonZero(b []byte) []attest.Hex {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return nil
	}
	return []attest.Hex{b}
}

func (p *pins) snp(e attest.Evidence) (*attest.SNPPolicy, error) {
	r, err := snp.Parse(e.Report)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(r.FamilyID[:], []byte(sim.Mark)) {
		return nil, usagef("give --type sim if you want to accept simulation", "it is of the simulated TEE, whatever its type says")
	}
	line, err := snp.LineOf(e)
	if err != nil {
		return nil, advise(fmt.Errorf("its product line is not known: %w", err), "give the certificate of its signer (--certs)")
	}
	// Bits of the guest policy (56860, table 9).
	bit := func(n uint) bool { return r.Policy>>n&1 == 1 }
	if err := p.debugRefused(bit(19)); err != nil {
		return nil, err
	}
	s := &attest.SNPPolicy{
		Measurements: []attest.Hex{r.Measurement[:]}, HostData: []attest.Hex{r.HostData[:]}, Products: []string{string(line)},
		Revocation: attest.CheckRequired, VMPL: r.VMPL, IDKeyDigests: nonZero(r.IDKeyDigest[:]), AuthorKeyDigests: nonZero(r.AuthorKeyDigest[:]),
		Guest: attest.SNPGuestPolicy{AllowDebug: bit(19), AllowMigrationAgent: bit(18), AllowSMT: bit(16), AllowCXL: bit(21), RequireSingleSocket: bit(20)},
	}
	r.PinPlatform(s)
	switch r.Signer {
	case snp.VCEK:
		s.Signers = []string{"vcek"}
	case snp.VLEK:
		s.Signers = []string{"vlek"}
	default:
		return nil, fmt.Errorf("it is signed by key %d, which no policy accepts", r.Signer)
	}
	switch {
	case p.anyChip:
		s.ChipIDs = []string{attest.AnyID}
	case r.ChipID == [64]byte{}:
		return nil, usagef("--any-chip accepts every chip of its product line", "it does not name its chip, so none can be pinned")
	default:
		s.ChipIDs = []string{attest.Hex(r.ChipID[:]).String()}
	}
	var least *attest.SNPTCB
	for _, t := range []snp.TCB{r.CurrentTCB, r.ReportedTCB, r.CommittedTCB, r.LaunchTCB} {
		v, err := t.Versions(line)
		if err != nil {
			return nil, err
		}
		if least == nil {
			least = &v
			continue
		}
		least.FMC, least.Bootloader, least.TEE = min(least.FMC, v.FMC), min(least.Bootloader, v.Bootloader), min(least.TEE, v.TEE)
		least.SNP, least.Microcode = min(least.SNP, v.SNP), min(least.Microcode, v.Microcode)
	}
	s.MinimumTCB = map[string]attest.SNPTCB{string(line): *least}
	return s, nil
}

func (p *pins) sim(e attest.Evidence) (*attest.SimPolicy, error) {
	if p.accept != attest.SimConsent {
		return nil, usagef(fmt.Sprintf("--accept-simulation %q", attest.SimConsent), "it is SIMULATED evidence, and --accept-simulation does not say that you accept that")
	}
	r, err := snp.Parse(e.Report)
	if err != nil {
		return nil, err
	}
	for _, der := range e.Endorsements.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil || !c.IsCA {
			continue
		}
		sum := sha256.Sum256(der)
		return &attest.SimPolicy{Accept: p.accept, Roots: []attest.Hex{sum[:]}, Measurements: []attest.Hex{r.Measurement[:]}, HostData: []attest.Hex{r.HostData[:]}}, nil
	}
	return nil, usagef("give the host's sim/root.pem with --certs", "it comes without its root certificate, so none can be pinned")
}

// intel pins the platform.
func (p *pins) intel(e attest.Evidence) (attest.IntelTCB, error) {
	t := attest.IntelTCB{Collateral: attest.CheckRequired, Status: []string{"UpToDate"}, MinimumEvaluation: p.evaluation}
	platform, err := intel.PlatformOf(e)
	switch {
	case err != nil:
		return t, err
	case p.anyChip:
		t.FMSPCs, t.PPIDs = []string{attest.AnyID}, []string{attest.AnyID}
	default:
		t.FMSPCs, t.PPIDs = []string{attest.Hex(platform.FMSPC[:]).String()}, []string{attest.Hex(platform.PPID[:]).String()}
	}
	if t.MinimumEvaluation != 0 {
		return t, nil
	}
	var info struct {
		TCBInfo struct {
			Number int `json:"tcbEvaluationDataNumber"`
		} `json:"tcbInfo"`
	}
	if err := json.Unmarshal(e.Endorsements.TCBInfo, &info); err != nil || info.TCBInfo.Number < 1 {
		return t, usagef("tcbEvaluationDataNumber of Intel's current TCB info: --minimum-evaluation", "it comes without TCB info, and --minimum-evaluation is missing")
	}
	t.MinimumEvaluation = info.TCBInfo.Number
	return t, nil
}

func (p *pins) tdx(e attest.Evidence) (*attest.TDXPolicy, error) {
	q, err := tdx.Parse(e.Report)
	if err != nil {
		return nil, err
	}
	if err := p.debugRefused(q.Attributes[0] != 0); err != nil {
		return nil, err
	}
	tcb, err := p.intel(e)
	if err != nil {
		return nil, err
	}
	one := func(b []byte) []attest.Hex { return []attest.Hex{b} }
	return &attest.TDXPolicy{
		MRTD: one(q.MRTD[:]), RTMR0: one(q.RTMR[0][:]), RTMR1: one(q.RTMR[1][:]), RTMR2: one(q.RTMR[2][:]), RTMR3: nonZero(q.RTMR[3][:]),
		MRConfigID: one(q.MRConfigID[:]), MRSEAM: one(q.MRSEAM[:]), Attributes: one(q.Attributes[:]), XFAM: one(q.XFAM[:]),
		MRServiceTD: nonZero(q.MRServiceTD[:]), AllowDebug: q.Attributes[0] != 0, TCB: tcb,
	}, nil
}

// sgxDebug is the bit DEBUG of an enclave's attributes, which policies list apart.
const sgxDebug = 0x02

func (p *pins) sgx(e attest.Evidence) (*attest.SGXPolicy, error) {
	q, err := sgx.Parse(e.Report)
	if err != nil {
		return nil, err
	}
	r := q.Report
	debug := r.Attributes[0]&sgxDebug != 0
	if err := p.debugRefused(debug); err != nil {
		return nil, err
	}
	tcb, err := p.intel(e)
	if err != nil {
		return nil, err
	}
	r.Attributes[0] &^= sgxDebug
	return &attest.SGXPolicy{
		MREnclave: []attest.Hex{r.MREnclave[:]}, Attributes: []attest.Hex{r.Attributes[:]}, MiscSelect: []attest.Hex{r.MiscSelect[:]},
		ConfigID: nonZero(r.ConfigID[:]), ISVExtProdID: nonZero(r.ISVExtProdID[:]), ISVFamilyID: nonZero(r.ISVFamilyID[:]),
		AllowDebug: debug, TCB: tcb,
	}, nil
}
