package cli

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/appraisal"
	"github.com/ultravioletrs/cocos/attest/explain"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// realEvidence are reports and quotes of hardware, where the environment names a
// folder with them.
func realEvidence(t *testing.T) map[string]attest.Evidence {
	dir, ok := inteltest.Folder()
	if !ok {
		t.Log("COCOS_EVIDENCE is not set: no real evidence was looked at")
		return nil
	}
	all := map[string]attest.Evidence{}
	for name, cert := range map[string]string{"snp-milan-v2-vcek": "vcek.pem", "snp-genoa-v3-vcek": "vcek.pem", "snp-turin-v5-vcek": "vcek.pem", "snp-milan-v3-vlek": "vlek.pem"} {
		report, err := os.ReadFile(filepath.Join(dir, name, "report.bin"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, name, cert))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		all[name] = attest.Evidence{Type: attest.SNP, Report: report, Endorsements: attest.Endorsements{Certificates: [][]byte{block.Bytes}}}
	}
	for name, typ := range map[string]attest.Type{"tdx-v4": attest.TDX, "sgx-v3": attest.SGX} {
		e, err := inteltest.Real(dir, name, typ)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = e
	}
	return all
}

// A policy that is pinned to evidence accepts it, whoever made it, and refuses
// evidence of the same kind from elsewhere.
func TestPinnedToRealEvidence(t *testing.T) {
	all := realEvidence(t)
	// When each one's certificates and lists are good.
	times := func(name string) time.Time {
		if name == "snp-turin-v5-vcek" {
			return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		return time.Date(2025, 6, 20, 0, 0, 0, 0, time.UTC)
	}
	for name, e := range all {
		p := pins{anyChip: strings.HasSuffix(name, "vlek"), allowDebug: name == "snp-milan-v2-vcek"}
		policy, err := p.policy(e)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if policy.SNP != nil {
			policy.SNP.Revocation = attest.CheckNot // no list is there
		}
		if policy.SGX != nil {
			policy.SGX.TCB.Status, policy.SGX.TCB.Advisories = []string{"ConfigurationAndSWHardeningNeeded"}, []string{attest.AnyID}
		}
		if err := policy.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		v := appraisal.New(policy, appraisal.Options{})
		want, err := expectOwn(e, nil, "", "")
		want.At = times(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), e, want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for other, o := range all {
			if own, err := expectOwn(o, nil, "", ""); err != nil {
				t.Fatal(err)
			} else if own.At = times(other); other != name {
				if _, err := v.Verify(t.Context(), o, own); err == nil {
					t.Errorf("the policy of %s accepts %s", name, other)
				}
			}
		}
	}
}

// Debug mode, a hidden chip and what a report does not say are asked for.
func TestPinsRefuse(t *testing.T) {
	fine := func() *snp.Report {
		r := &snp.Report{Version: 3, Policy: 0x30000, CPUIDFamily: 0x19, CPUIDModel: 1, ChipID: [64]byte{1}}
		return r
	}
	for name, tt := range map[string]struct {
		change func(*snp.Report)
		want   string
	}{
		"nothing":         {func(*snp.Report) {}, ""},
		"debug":           {func(r *snp.Report) { r.Policy |= 1 << 19 }, "debug mode"},
		"no chip":         {func(r *snp.Report) { r.ChipID = [64]byte{} }, "does not name its chip"},
		"unsigned":        {func(r *snp.Report) { r.Signer = snp.Unsigned }, "signed by key 7"},
		"unknown product": {func(r *snp.Report) { r.CPUIDFamily = 0x20 }, "product line is not known"},
		"version 2":       {func(r *snp.Report) { r.Version, r.CPUIDFamily, r.CPUIDModel = 2, 0, 0 }, "product line is not known"},
		"simulated":       {func(r *snp.Report) { copy(r.FamilyID[:], "SIMULATED") }, "it is of the simulated TEE"},
		"a reserved byte": {func(r *snp.Report) { r.LaunchTCB[2] = 1 }, "is reserved"},
	} {
		r := fine()
		tt.change(r)
		got, err := (&pins{}).policy(attest.Evidence{Type: attest.SNP, Report: snp.Marshal(r)})
		if tt.want == "" {
			if err != nil || got.Validate() != nil {
				t.Errorf("%s: %v, %v", name, err, got.Validate())
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v; want %q in it", name, err, tt.want)
		}
	}
}

// What a policy may ask of a host can be asked for on the command line by the
// member's own name, and sets that member alone.
func TestPlatformMembers(t *testing.T) {
	fields := reflect.TypeFor[attest.SNPPlatform]()
	if fields.NumField() != len(platformMembers) {
		t.Fatalf("%d members, %d on the command line", fields.NumField(), len(platformMembers))
	}
	seen := map[string]bool{}
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		var got attest.SNPPolicy
		if err := (&snpFlags{platform: []string{name}}).host(&got); err != nil {
			t.Error(err)
		}
		var want attest.SNPPlatform
		reflect.ValueOf(&want).Elem().Field(i).SetBool(true)
		words := platformWords(got.Platform)
		if got.Platform != want || len(words) != 1 || seen[words[0]] {
			t.Errorf("%s: %+v, said as %q", name, got.Platform, words)
		}
		seen[strings.Join(words, "")] = true
	}
}

// Pinned to a report, a policy asks for what is good of its host and no more.
func TestPinsPlatform(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(r *snp.Report)
		want   attest.SNPPlatform
		bits   attest.Bits
	}{
		"nothing good": {func(r *snp.Report) { r.PlatformInfo = 1<<0 | 1<<6 | 1<<7 }, attest.SNPPlatform{}, 0},
		"all good": {func(r *snp.Report) { r.PlatformInfo = 0x3e }, attest.SNPPlatform{
			ForbidSMT: true, RequireTSME: true, RequireECC: true, RequireRAPLDisabled: true, RequireCiphertextHiding: true,
			RequireAliasCheck: true, ForbidTIO: true, ForbidReserved: true,
		}, 0},
		"mended since": {func(r *snp.Report) {
			r.PlatformInfo, r.Version, r.LaunchMitigations, r.CurrentMitigations = 1<<0|1<<6|1<<7, 5, 5, 7
		}, attest.SNPPlatform{}, 5},
	} {
		r := &snp.Report{Version: 3, Policy: 0x30000, CPUIDFamily: 0x19, CPUIDModel: 1, ChipID: [64]byte{1}}
		tt.change(r)
		got, err := (&pins{}).policy(attest.Evidence{Type: attest.SNP, Report: snp.Marshal(r)})
		if err != nil || got.SNP.Platform != tt.want || got.SNP.RequireMitigations != tt.bits {
			t.Errorf("%s: %+v, %s, %v", name, got.SNP.Platform, got.SNP.RequireMitigations, err)
		}
	}
}

func TestRealEvidenceSpeaks(t *testing.T) {
	for name, e := range realEvidence(t) {
		facts, err := explain.Say(e)
		if err != nil || len(facts) < 8 {
			t.Errorf("%s: %v, %v", name, facts, err)
		}
		if name == "snp-milan-v2-vcek" && !strings.Contains(explanationText(facts), "debug          ON") {
			t.Errorf("%s is not said to be in debug mode", name)
		}
	}
}

func explanationText(facts []explain.Fact) string {
	return (&explanation{Says: facts}).text()
}
