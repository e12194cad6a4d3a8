package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
)

// policyLine is one thing that a policy says, in plain words.
type policyLine struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Text    string `json:"text"`
}

// policyText lays lines out; what weakens stands out by its word.
func policyText(lines []policyLine) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%-9s %-14s %s\n", l.Section, l.Name, clean(l.Text))
	}
	return b.String()
}

func policySummary(p attest.Policy) []policyLine {
	var lines []policyLine
	add := func(section string) func(name, format string, args ...any) {
		return func(name, format string, args ...any) {
			lines = append(lines, policyLine{section, name, fmt.Sprintf(format, args...)})
		}
	}
	if p.Note != "" {
		add("note")("", "%s", p.Note)
	}
	if s := p.Simulated; s != nil {
		say := add("sim")
		say("DANGER", "accepts SIMULATED evidence, which protects nothing from the host")
		say("root", "%s", list(s.Roots))
		say("measurement", "%s", list(s.Measurements))
		say("launch field", "%s", field(s.HostData))
	}
	if s := p.SNP; s != nil {
		summarySNP(s, add("sev-snp"))
	}
	if s := p.TDX; s != nil {
		say := add("tdx")
		say("MRTD", "%s", list(s.MRTD))
		say("RTMR0", "%s", list(s.RTMR0))
		say("RTMR1", "%s", list(s.RTMR1))
		say("RTMR2", "%s", list(s.RTMR2))
		say("launch field", "%s", field(s.MRConfigID))
		say("TDX module", "MRSEAM %s", list(s.MRSEAM))
		say("attributes", "%s, XFAM %s", list(s.Attributes), list(s.XFAM))
		debugLine(s.AllowDebug, say)
		summaryIntel(s.TCB, say)
	}
	if s := p.SGX; s != nil {
		say := add("sgx")
		if len(s.MREnclave) > 0 {
			say("enclave", "MRENCLAVE %s", list(s.MREnclave))
		}
		if len(s.MRSigner) > 0 {
			say("signer", "MRSIGNER %s, product %v, version at least %d", list(s.MRSigner), s.ISVProdID, s.MinimumISVSVN)
		}
		debugLine(s.AllowDebug, say)
		summaryIntel(s.TCB, say)
	}
	var none []string
	for _, t := range []struct {
		name string
		has  bool
	}{{"sev-snp", p.SNP != nil}, {"tdx", p.TDX != nil}, {"sgx", p.SGX != nil}, {"sim", p.Simulated != nil}} {
		if !t.has {
			none = append(none, t.name)
		}
	}
	if len(none) > 0 {
		add("nothing")("", "of %s", strings.Join(none, ", "))
	}
	return lines
}

func summarySNP(s *attest.SNPPolicy, say func(name, format string, args ...any)) {
	say("measurement", "%s", list(s.Measurements))
	say("launch field", "%s", field(s.HostData))
	say("product", "%s", strings.Join(s.Products, ", "))
	for _, product := range slices.Sorted(maps.Keys(s.MinimumTCB)) {
		v := s.MinimumTCB[product]
		fmc := ""
		if product == "Turin" {
			fmc = fmt.Sprintf("fmc %d, ", v.FMC)
		}
		say("TCB", "%s: at least %sbootloader %d, tee %d, snp %d, microcode %d", product, fmc, v.Bootloader, v.TEE, v.SNP, v.Microcode)
	}
	say("chip", "%s", anyOf(s.ChipIDs, "ANY, wherever it stands: whoever broke one chip can imitate all"))
	say("signed by", "%s", strings.Join(s.Signers, " or "))
	say("revocation", "%s", s.Revocation)
	debugLine(s.Guest.AllowDebug, say)
	g := "SMT " + map[bool]string{true: "allowed", false: "off"}[s.Guest.AllowSMT]
	if s.Guest.RequireSingleSocket {
		g += ", on a single socket"
	}
	if s.Guest.AllowMigrationAgent {
		g += ", MIGRATION AGENT allowed: it can move the VM"
	}
	if s.Guest.AllowCXL {
		g += ", CXL memory allowed"
	}
	say("guest policy", "%s; VMPL %d", g, s.VMPL)
	say("host", "%s", orShown(strings.Join(platformWords(s.Platform), ", ")))
	if s.RequireMitigations != 0 {
		say("mitigations", "each bit of %s, at the guest's launch and now", s.RequireMitigations)
	}
}

// platformMember is a member of platform in an SNP policy, in plain words.
type platformMember struct {
	flag, text string
	of         func(*attest.SNPPlatform) *bool
}

var platformMembers = []platformMember{
	{"forbid_smt", "SMT off", func(p *attest.SNPPlatform) *bool { return &p.ForbidSMT }},
	{"require_tsme", "all memory encrypted (TSME)", func(p *attest.SNPPlatform) *bool { return &p.RequireTSME }},
	{"require_ecc", "ECC memory", func(p *attest.SNPPlatform) *bool { return &p.RequireECC }},
	{"require_rapl_disabled", "power not measured (RAPL)", func(p *attest.SNPPlatform) *bool { return &p.RequireRAPLDisabled }},
	{"require_ciphertext_hiding", "ciphertext hidden", func(p *attest.SNPPlatform) *bool { return &p.RequireCiphertextHiding }},
	{"require_alias_check", "memory checked for aliases", func(p *attest.SNPPlatform) *bool { return &p.RequireAliasCheck }},
	{"forbid_tio", "SEV-TIO off", func(p *attest.SNPPlatform) *bool { return &p.ForbidTIO }},
	{"forbid_reserved", "nothing that is not known", func(p *attest.SNPPlatform) *bool { return &p.ForbidReserved }},
}

func platformWords(p attest.SNPPlatform) (words []string) {
	for _, m := range platformMembers {
		if *m.of(&p) {
			words = append(words, m.text)
		}
	}
	return words
}

// orShown is for what a policy may leave open.
func orShown(words string) string {
	if words == "" {
		return "not judged: what it says of SMT, ECC and the like is shown"
	}
	return words
}

func summaryIntel(t attest.IntelTCB, say func(name, format string, args ...any)) {
	if t.Collateral == attest.CheckNot {
		say("TCB", "UNCHECKED: old and broken platforms are accepted")
	} else {
		say("TCB", "%s, evaluation number at least %d", strings.Join(t.Status, " or "), t.MinimumEvaluation)
	}
	if len(t.Advisories) > 0 {
		say("advisories", "%s", anyOf(t.Advisories, "ANY is put up with"))
	}
	say("platform", "kinds (FMSPC) %s; platforms (PPID) %s", anyOf(t.FMSPCs, "ANY"), anyOf(t.PPIDs, "ANY"))
}

func debugLine(allowed bool, say func(name, format string, args ...any)) {
	if allowed {
		say("DANGER", "accepts guests in debug mode, which their host reads and changes")
	}
}

func list(values []attest.Hex) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, " or ")
}

func field(values []attest.Hex) string {
	if len(values) == 0 {
		return "the digest of the manifest that you give"
	}
	return list(values) + ", or the digest of the manifest that you give"
}

func anyOf(values []string, anyText string) string {
	if slices.Equal(values, []string{attest.AnyID}) {
		return anyText
	}
	return strings.Join(values, " or ")
}
