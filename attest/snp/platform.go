package snp

import (
	"fmt"

	"github.com/ultravioletrs/cocos/attest"
)

// The bits of PLATFORM_INFO (56860, table 24). Bit 6 is set by Turin's firmware
// and reserved in that table.
const (
	platformSMT              = 1 << 0
	platformTSME             = 1 << 1
	platformECC              = 1 << 2
	platformRAPLDisabled     = 1 << 3
	platformCiphertextHiding = 1 << 4
	platformAliasCheck       = 1 << 5
	platformTIO              = 1 << 7

	knownPlatformBits = platformSMT | platformTSME | platformECC | platformRAPLDisabled |
		platformCiphertextHiding | platformAliasCheck | platformTIO
)

// platformBit is one fact about the host.
type platformBit struct {
	name string // of its claim, after "snp.platform_info."
	bit  uint64
	// good is the word for what a policy may ask for, other for the opposite.
	good, other string
	// set tells whether a set bit is the good one.
	set bool
	// asked finds the policy's member.
	asked func(*attest.SNPPlatform) *bool
}

var platformBits = []platformBit{
	{"snp.platform_info.smt", platformSMT, "off", "on", false, func(p *attest.SNPPlatform) *bool { return &p.ForbidSMT }},
	{"snp.platform_info.tsme", platformTSME, "on", "off", true, func(p *attest.SNPPlatform) *bool { return &p.RequireTSME }},
	{"snp.platform_info.ecc", platformECC, "on", "off", true, func(p *attest.SNPPlatform) *bool { return &p.RequireECC }},
	{"snp.platform_info.rapl_disabled", platformRAPLDisabled, "disabled", "not disabled", true, func(p *attest.SNPPlatform) *bool { return &p.RequireRAPLDisabled }},
	{"snp.platform_info.ciphertext_hiding", platformCiphertextHiding, "on", "off", true, func(p *attest.SNPPlatform) *bool { return &p.RequireCiphertextHiding }},
	{"snp.platform_info.alias_check", platformAliasCheck, "done", "not done", true, func(p *attest.SNPPlatform) *bool { return &p.RequireAliasCheck }},
	{"snp.platform_info.tio", platformTIO, "off", "on", false, func(p *attest.SNPPlatform) *bool { return &p.ForbidTIO }},
}

// says tells whether PLATFORM_INFO has the good thing, and words what it has.
func (b platformBit) says(info uint64) (good bool, word string) {
	if good = info&b.bit != 0 == b.set; good {
		return true, b.good
	}
	return false, b.other
}

// platform judges what the policy asks of the host, and shows the rest.
func (a *appraisal) platform() {
	info, p := a.report.PlatformInfo, &a.policy.Platform
	for _, b := range platformBits {
		good, word := b.says(info)
		if *b.asked(p) {
			a.Add(good, b.name, b.good, word)
		} else {
			a.Skip(b.name, word)
		}
	}
	// Unlike those of the guest policy, bits that are not known don't refuse by
	// themselves: they give the host no right over the guest, genuine hardware sets
	// one, and firmware is updated more often than this program.
	unknown := info &^ knownPlatformBits
	if p.ForbidReserved {
		a.Add(unknown == 0, "snp.platform_info.reserved", "no bit that is not known", fmt.Sprintf("%#x", unknown))
	} else {
		a.Skip("snp.platform_info.reserved", fmt.Sprintf("%#x", unknown))
	}
	a.mitigations("snp.mitigations.launch", a.report.LaunchMitigations)
	a.mitigations("snp.mitigations.current", a.report.CurrentMitigations)
}

// mitigations judges a vector: its bits stand for faults that the firmware has
// verified to be mended, when the guest was launched and now.
func (a *appraisal) mitigations(name string, vector uint64) {
	want := a.policy.RequireMitigations
	found := attest.Bits(vector).String()
	stated := a.report.HasMitigations()
	if !stated {
		found = fmt.Sprintf("not stated by version %d", a.report.Version)
	}
	if want == 0 {
		a.Skip(name, found)
		return
	}
	a.Add(stated && vector&uint64(want) == uint64(want), name, "each bit of "+want.String(), found)
}

// HasMitigations tells whether a report of this version has the two vectors.
func (r *Report) HasMitigations() bool { return r.Version >= 5 }

// PlatformFact is one thing that PLATFORM_INFO says of the host.
type PlatformFact struct{ Name, Text string }

// Platform says what the report states of its host, bit by bit; names are those
// of the claims, without what all of them begin with.
func (r *Report) Platform() []PlatformFact {
	var facts []PlatformFact
	for _, b := range platformBits {
		_, word := b.says(r.PlatformInfo)
		facts = append(facts, PlatformFact{b.name[len("snp.platform_info."):], word})
	}
	if unknown := r.PlatformInfo &^ knownPlatformBits; unknown != 0 {
		facts = append(facts, PlatformFact{"reserved", fmt.Sprintf("%#x", unknown)})
	}
	return facts
}

// PinPlatform asks for every good thing that the report says of its host, and for
// the mitigations that it has had since the guest's launch.
func (r *Report) PinPlatform(p *attest.SNPPolicy) {
	for _, b := range platformBits {
		*b.asked(&p.Platform), _ = b.says(r.PlatformInfo)
	}
	p.Platform.ForbidReserved = r.PlatformInfo&^knownPlatformBits == 0
	p.RequireMitigations = attest.Bits(r.LaunchMitigations & r.CurrentMitigations)
}
