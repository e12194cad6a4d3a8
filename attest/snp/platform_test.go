package snp

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

// claimsOf are the verdicts and findings whose names begin with the prefix.
func claimsOf(r attest.Result, prefix string) map[string]attest.Claim {
	found := map[string]attest.Claim{}
	for _, c := range r.Claims {
		if name, ok := strings.CutPrefix(c.Name, prefix); ok {
			found[name] = c
		}
	}
	return found
}

// What a policy says nothing of is shown as it is, and refuses nothing.
func TestPlatformIsShown(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(r *Report)
		want   map[string]string
	}{
		"none of it": {func(r *Report) { r.PlatformInfo = 0 }, map[string]string{
			"smt": "off", "tsme": "off", "ecc": "off", "rapl_disabled": "not disabled", "ciphertext_hiding": "off", "alias_check": "not done", "tio": "off", "reserved": "0x0",
		}},
		"all of it": {func(r *Report) { r.PlatformInfo = 1<<64 - 1 }, map[string]string{
			"smt": "on", "tsme": "on", "ecc": "on", "rapl_disabled": "disabled", "ciphertext_hiding": "on", "alias_check": "done", "tio": "on", "reserved": "0xffffffffffffff40",
		}},
		"version 2": {func(r *Report) { r.Version, r.PlatformInfo = 2, 1 }, map[string]string{"smt": "on", "alias_check": "not done"}},
	} {
		s := right(Milan, VCEK)
		tt.change(s.report)
		if s.report.Version < 3 {
			s.report.CPUIDFamily, s.report.CPUIDModel = 0, 0
		}
		s.policy.Platform, s.policy.RequireMitigations = attest.SNPPlatform{}, 0
		r, err := s.appraise()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		claims := claimsOf(r, "snp.platform_info.")
		if len(claims) != len(platformBits)+1 {
			t.Errorf("%s: %d claims", name, len(claims))
		}
		for claim, text := range tt.want {
			if c := claims[claim]; c.Found != text || c.Verdict != attest.Unchecked {
				t.Errorf("%s: %s is %+v; want %q", name, claim, c, text)
			}
		}
	}
}

func TestMitigationsAreShown(t *testing.T) {
	for version, want := range map[uint32][2]string{
		2: {"not stated by version 2", "not stated by version 2"},
		4: {"not stated by version 4", "not stated by version 4"},
		5: {"0x7", "0xb"},
	} {
		s := right(Milan, VCEK)
		if s.report.Version = version; version < 3 {
			s.report.CPUIDFamily, s.report.CPUIDModel = 0, 0
		}
		s.policy.RequireMitigations = 0
		r, err := s.appraise()
		if err != nil {
			t.Errorf("version %d: %v", version, err)
		}
		claims := claimsOf(r, "snp.mitigations.")
		for i, name := range []string{"launch", "current"} {
			if c := claims[name]; c.Found != want[i] || c.Verdict != attest.Unchecked {
				t.Errorf("version %d: %s is %+v; want %q", version, name, c, want[i])
			}
		}
	}
	// A report that states none has not what is asked for.
	s := right(Milan, VCEK)
	s.report.LaunchMitigations, s.report.CurrentMitigations = 0, 0
	wantRefusal(t, "no mitigation", s, "snp.mitigations.launch snp.mitigations.current", map[string]bool{})
}

// Each member of the policy has a bit of its own: asked alone, it refuses a host
// that has everything but that, and no other.
func TestPlatformMembers(t *testing.T) {
	fields := reflect.TypeFor[attest.SNPPlatform]()
	if fields.NumField() != len(platformBits)+1 { // and ForbidReserved
		t.Errorf("%d members for %d bits", fields.NumField(), len(platformBits))
	}
	for i := range fields.NumField() {
		s := right(Milan, VCEK)
		s.policy.Platform = attest.SNPPlatform{}
		reflect.ValueOf(&s.policy.Platform).Elem().Field(i).SetBool(true)
		if _, err := s.appraise(); err != nil {
			t.Fatalf("%s alone: %v", fields.Field(i).Name, err)
		}
		refused := 0
		for _, bit := range append(slices.Clone(platformBits), platformBit{name: "snp.platform_info.reserved", bit: 1 << 62}) {
			s.report.PlatformInfo ^= bit.bit
			if r, err := s.appraise(); err != nil {
				refused++
				if len(r.Failed()) != 1 || r.Failed()[0].Name != bit.name {
					t.Errorf("%s, without %s: %v", fields.Field(i).Name, bit.name, err)
				}
			}
			s.report.PlatformInfo ^= bit.bit
		}
		if refused != 1 {
			t.Errorf("%s refuses for %d of the bits; want 1", fields.Field(i).Name, refused)
		}
	}
}

// A policy that is pinned to a report accepts it, and no worse a host.
func TestPinPlatform(t *testing.T) {
	for _, info := range []uint64{0, 1<<64 - 1, platformSMT | platformECC, platformTIO | platformAliasCheck, 0x67} {
		s := right(Milan, VCEK)
		s.report.PlatformInfo = info
		s.policy.Platform, s.policy.RequireMitigations = attest.SNPPlatform{}, 0
		s.report.PinPlatform(s.policy)
		if s.policy.RequireMitigations != 0x3 {
			t.Errorf("%#x: mitigations %s of 0x7 and 0xb", info, s.policy.RequireMitigations)
		}
		if _, err := s.appraise(); err != nil {
			t.Errorf("%#x: its own report: %v", info, err)
		}
		for _, b := range platformBits {
			good, _ := b.says(info)
			s.report.PlatformInfo = info ^ b.bit
			if _, err := s.appraise(); (err == nil) == good {
				t.Errorf("%#x, %s changed: %v", info, b.name, err)
			}
		}
	}
}
