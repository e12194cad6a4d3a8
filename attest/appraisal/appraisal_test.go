package appraisal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// source has e, and an error if there is one; it counts who asks.
type source struct {
	e     attest.Endorsements
	err   error
	asked []attest.Type
}

func (s *source) Endorse(_ context.Context, e attest.Evidence) (attest.Endorsements, error) {
	s.asked = append(s.asked, e.Type)
	return s.e, s.err
}

var ids = []string{attest.AnyID}

// sevens is one value of n bytes.
func sevens(n int) []attest.Hex { return []attest.Hex{bytes.Repeat([]byte{7}, n)} }

// everything has a section for each type, all valid.
func everything() attest.Policy {
	tcb := attest.IntelTCB{Collateral: attest.CheckRequired, Status: attest.IntelStatuses(), MinimumEvaluation: 1, FMSPCs: ids, PPIDs: ids}
	return attest.Policy{
		Version: attest.PolicyVersion,
		SNP: &attest.SNPPolicy{
			Measurements: sevens(48), Products: []string{"Milan"}, ChipIDs: ids, Signers: []string{"vcek"},
			MinimumTCB: map[string]attest.SNPTCB{"Milan": {}}, Revocation: attest.CheckRequired,
		},
		TDX: &attest.TDXPolicy{
			MRTD: sevens(48), RTMR0: sevens(48), RTMR1: sevens(48), RTMR2: sevens(48), MRSEAM: sevens(48), XFAM: sevens(8),
			Attributes: []attest.Hex{{0, 0, 0, 0x10, 0, 0, 0, 0}}, TCB: tcb,
		},
		SGX:       &attest.SGXPolicy{MREnclave: sevens(32), Attributes: []attest.Hex{make([]byte, 16)}, MiscSelect: sevens(4), TCB: tcb},
		Simulated: &attest.SimPolicy{Accept: attest.SimConsent, Roots: sevens(32), Measurements: sevens(48)},
	}
}

func simulated(t *testing.T) (attest.Evidence, attest.Policy, attest.Expected) {
	t.Helper()
	a, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	launch := attest.LaunchDigestsOf([]byte("manifest"))
	want := attest.Expected{ReportData: attest.ReportData{1}, Launch: &launch}
	p := everything()
	e, err := a.Report(want.ReportData, [48]byte(p.Simulated.Measurements[0]), launch.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	_, root := a.Root()
	p.Simulated.Roots = []attest.Hex{root[:]}
	return e, p, want
}

func failed(err error) (names []string) {
	var refusal *attest.Refusal
	if errors.As(err, &refusal) {
		for _, c := range refusal.Result.Failed() {
			names = append(names, c.Name)
		}
	}
	return names
}

func TestSimulated(t *testing.T) {
	e, p, want := simulated(t)
	s := &source{e: attest.Endorsements{Certificates: [][]byte{[]byte("what no chain has")}}, err: errors.New("away")}
	r, err := New(p, Options{Source: s}).Verify(t.Context(), e, want)
	if err != nil || !r.Accepted || !r.Simulated || len(s.asked) > 0 {
		t.Fatalf("%+v, %v; the source was asked for %v", r, err, s.asked)
	}
	// The same under another name is nobody's.
	for _, other := range []attest.Type{attest.SNP, attest.TDX, attest.SGX} {
		e.Type = other
		if r, err := New(p, Options{}).Verify(t.Context(), e, want); err == nil || r.Accepted || r.Simulated {
			t.Errorf("simulated evidence as %s: %+v, %v", other, r, err)
		}
	}
}

func TestRefused(t *testing.T) {
	e, whole, want := simulated(t)
	refuses := func(name string, v *Verifier, e attest.Evidence, claim string) {
		t.Helper()
		r, err := v.Verify(t.Context(), e, want)
		if err == nil || r.Accepted || !slices.Contains(failed(err), claim) {
			t.Errorf("%s: %+v, %v; want %s", name, r, err, claim)
		}
	}
	for _, unknown := range []attest.Type{"", "snp", "nitro", "SEV-SNP"} {
		e := e
		e.Type = unknown
		s := &source{}
		refuses("type "+string(unknown), New(whole, Options{Source: s}), e, "evidence.type")
		if len(s.asked) > 0 {
			t.Errorf("a source was asked for %v", s.asked)
		}
	}
	for _, tt := range []struct {
		kind  attest.Type
		claim string
		drop  func(p *attest.Policy)
	}{
		{attest.SNP, "snp.section", func(p *attest.Policy) { p.SNP = nil }},
		{attest.TDX, "tdx.section", func(p *attest.Policy) { p.TDX = nil }},
		{attest.SGX, "sgx.section", func(p *attest.Policy) { p.SGX = nil }},
		{attest.Sim, "sim.consent", func(p *attest.Policy) { p.Simulated = nil }},
	} {
		e, p, s := e, whole, &source{}
		e.Type = tt.kind
		tt.drop(&p)
		refuses("no section for "+string(tt.kind), New(p, Options{Source: s}), e, tt.claim)
		refuses("no policy for "+string(tt.kind), new(Verifier), e, tt.claim)
		if len(s.asked) > 0 {
			t.Errorf("a source was asked for %v, which the policy does not accept", s.asked)
		}
	}
	// A policy with a fault accepts nothing, whichever section has it.
	for name, change := range map[string]func(p *attest.Policy){
		"an empty policy":      func(p *attest.Policy) { *p = attest.Policy{} },
		"no version":           func(p *attest.Policy) { p.Version = 0 },
		"a fault in the other": func(p *attest.Policy) { p.SNP.Revocation = "" },
		"a fault in its own":   func(p *attest.Policy) { p.Simulated.Accept = "yes" },
	} {
		e, p, want := simulated(t)
		change(&p)
		r, err := New(p, Options{}).Verify(t.Context(), e, want)
		if err == nil || r.Accepted || !r.Simulated || !strings.Contains(err.Error(), "policy is not valid") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestClock(t *testing.T) {
	e, p, want := simulated(t)
	far := time.Now().AddDate(50, 0, 0)
	v := New(p, Options{Now: func() time.Time { return far }})
	if r, err := v.Verify(t.Context(), e, want); !slices.Equal(failed(err), []string{"sim.dates"}) || !r.At.Equal(far) {
		t.Errorf("by its own clock: %v", err)
	}
	want.At = time.Now()
	if r, err := v.Verify(t.Context(), e, want); err != nil || !r.At.Equal(want.At) {
		t.Errorf("at the time asked for: %v", err)
	}
}

// genuine is a TDX quote of hardware, Intel's collateral apart, or none.
func genuine(t *testing.T) (bare attest.Evidence, own attest.Endorsements, p attest.Policy, want attest.Expected, ok bool) {
	t.Helper()
	dir, ok := inteltest.Folder()
	if !ok {
		t.Log("COCOS_EVIDENCE names no folder: what a source adds to quotes of hardware is not tried")
		return bare, own, p, want, false
	}
	e, err := inteltest.Real(dir, "sgx-v3", attest.SGX)
	if err != nil {
		t.Fatal(err)
	}
	bare, own = attest.Evidence{Type: e.Type, Report: e.Report}, e.Endorsements
	body := e.Report[48:]
	p = attest.Policy{Version: attest.PolicyVersion, SGX: &attest.SGXPolicy{
		MREnclave: []attest.Hex{body[64:96]}, Attributes: []attest.Hex{slices.Clone(body[48:64])}, MiscSelect: []attest.Hex{body[16:20]},
		TCB: attest.IntelTCB{
			Collateral: attest.CheckRequired, Status: []string{"ConfigurationAndSWHardeningNeeded"}, Advisories: ids, MinimumEvaluation: 17, FMSPCs: ids, PPIDs: ids,
		},
	}}
	want = attest.Expected{ReportData: attest.ReportData(body[320:384]), At: time.Date(2025, 6, 20, 0, 0, 0, 0, time.UTC)}
	return bare, own, p, want, true
}

func TestSourceAddsWhatIsLacking(t *testing.T) {
	e, own, p, want, ok := genuine(t)
	if !ok {
		return
	}
	if _, err := New(p, Options{}).Verify(t.Context(), e, want); !slices.Contains(failed(err), "sgx.tcb_info") {
		t.Errorf("without collateral: %v", err)
	}
	s := &source{e: own}
	if r, err := New(p, Options{Source: s}).Verify(t.Context(), e, want); err != nil || !r.Accepted || len(s.asked) != 1 {
		t.Errorf("with a source: %v", err)
	}
	// What a source could not find counts only where it is missed.
	e.Endorsements, s.e, s.err = own, attest.Endorsements{}, errors.New("the service is away")
	if r, err := New(p, Options{Source: s}).Verify(t.Context(), e, want); err != nil || !r.Accepted {
		t.Errorf("all came with the evidence: %v", err)
	}
	e.Endorsements.CRLs = nil
	r, err := New(p, Options{Source: s}).Verify(t.Context(), e, want)
	if !errors.Is(err, s.err) || !slices.Equal(failed(err), []string{"sgx.revocation.root", "sgx.revocation.pck"}) || r.Accepted {
		t.Errorf("without lists: %v", err)
	}
}

func TestMerge(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2025, 6, d, 0, 0, 0, 0, time.UTC) }
	statement := func(member string, from, to int) []byte {
		return []byte(`{"` + member + `":{"issueDate":"` + day(from).Format(time.RFC3339) + `","nextUpdate":"` + day(to).Format(time.RFC3339) + `"},"signature":""}`)
	}
	for name, tt := range map[string]struct {
		own, enclosed []byte
		want          string // whose is judged
	}{
		"both good":            {statement("tcbInfo", 10, 20), statement("tcbInfo", 5, 20), "own"},
		"own expired":          {statement("tcbInfo", 1, 9), statement("tcbInfo", 5, 20), "enclosed"},
		"own not yet":          {statement("tcbInfo", 16, 20), statement("tcbInfo", 5, 20), "enclosed"},
		"both expired":         {statement("tcbInfo", 1, 9), statement("tcbInfo", 1, 8), "own"},
		"own alone":            {statement("tcbInfo", 1, 9), nil, "own"},
		"none of its own":      {nil, statement("tcbInfo", 1, 9), "enclosed"},
		"enclosed is no JSON":  {statement("tcbInfo", 1, 9), []byte("x"), "own"},
		"enclosed has no date": {statement("tcbInfo", 1, 9), []byte(`{"tcbInfo":{}}`), "own"},
		"enclosed is huge":     {statement("tcbInfo", 1, 9), append(statement("tcbInfo", 5, 20), make([]byte, maxStatement)...), "own"},
	} {
		for _, member := range []string{"tcbInfo", "enclaveIdentity"} {
			a, b := bytes.ReplaceAll(tt.own, []byte("tcbInfo"), []byte(member)), bytes.ReplaceAll(tt.enclosed, []byte("tcbInfo"), []byte(member))
			own := attest.Endorsements{TCBInfo: a, TCBInfoChain: []byte("own"), QEIdentity: a, QEIdentityChain: []byte("own")}
			enclosed := attest.Endorsements{TCBInfo: b, TCBInfoChain: []byte("enclosed"), QEIdentity: b, QEIdentityChain: []byte("enclosed")}
			got := merge(own, enclosed, day(15))
			if string(got.TCBInfoChain) != tt.want || string(got.QEIdentityChain) != tt.want {
				t.Errorf("%s: %s and %s are judged", name, got.TCBInfoChain, got.QEIdentityChain)
			}
		}
	}
	one, two := []byte("1"), []byte("2")
	got := merge(attest.Endorsements{Certificates: [][]byte{one}, CRLs: [][]byte{two}}, attest.Endorsements{Certificates: [][]byte{two, one}, CRLs: [][]byte{two}}, day(1))
	if len(got.Certificates) != 2 || len(got.CRLs) != 1 || string(got.Certificates[0]) != "1" {
		t.Errorf("%q", got)
	}
}

// AMD's evidence is judged by AMD's keys through this door as through its own.
func TestRealSNP(t *testing.T) {
	dir, ok := inteltest.Folder()
	if !ok {
		t.Log("COCOS_EVIDENCE names no folder: reports of hardware are not tried")
		return
	}
	report, err := os.ReadFile(filepath.Join(dir, "snp-genoa-v3-vcek", "report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.Parse(report)
	if err != nil {
		t.Fatal(err)
	}
	p := everything()
	p.SNP.Products, p.SNP.MinimumTCB = []string{"Genoa"}, map[string]attest.SNPTCB{"Genoa": {}}
	result, err := New(p, Options{}).Verify(t.Context(), attest.Evidence{Type: attest.SNP, Report: report}, attest.Expected{ReportData: r.ReportData})
	if !slices.Contains(failed(err), "snp.certificate") || result.Accepted {
		t.Errorf("without its certificate: %v", err)
	}
}
