package sgx

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
)

// thatDay is when the collateral in the folder of evidence was good.
var thatDay = time.Date(2025, 6, 20, 0, 0, 0, 0, time.UTC)

// genuine returns evidence of hardware, and a policy that pins what it says.
func genuine(t *testing.T) (attest.Evidence, attest.Expected, *attest.SGXPolicy) {
	t.Helper()
	dir, ok := inteltest.Folder()
	if !ok {
		t.Log("COCOS_EVIDENCE names no folder: quotes of hardware are not looked at, only self-made ones in genuine format")
		return attest.Evidence{}, attest.Expected{}, nil
	}
	e, err := inteltest.Real(dir, "sgx-v3", attest.SGX)
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse(e.Report)
	if err != nil {
		t.Fatal(err)
	}
	return e, attest.Expected{ReportData: q.Report.ReportData}, &attest.SGXPolicy{
		MREnclave: list(q.Report.MREnclave[:]), Attributes: list(q.Report.Attributes[:]), MiscSelect: list(q.Report.MiscSelect[:]),
		TCB: attest.IntelTCB{
			Collateral: attest.CheckRequired, Status: []string{"ConfigurationAndSWHardeningNeeded"}, MinimumEvaluation: 17,
			Advisories: []string{"INTEL-SA-00289", "INTEL-SA-00615"},
			FMSPCs:     []string{"00a067110000"}, PPIDs: []string{attest.AnyID},
		},
	}
}

func list(b []byte) []attest.Hex { return []attest.Hex{slices.Clone(b)} }

func TestReal(t *testing.T) {
	e, want, p := genuine(t)
	if p == nil {
		return
	}
	if !strings.HasPrefix(string(want.ReportData[:]), "Hello, world!\x00") || hex.EncodeToString(p.MREnclave[0][:4]) != "33d8736d" {
		t.Errorf("report data %q, MRENCLAVE %s", want.ReportData[:], p.MREnclave[0])
	}
	r, err := Appraise(t.Context(), e, want, p, thatDay)
	if err != nil {
		t.Fatal(err)
	}
	if c := inteltest.Claim(r, "sgx.tcb.status"); !strings.HasPrefix(c.Found, "ConfigurationAndSWHardeningNeeded") {
		t.Errorf("%+v", c)
	}
	for _, at := range []time.Time{r.NotBefore, r.NotAfter} {
		if _, err := Appraise(t.Context(), e, want, p, at); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
	_, err = Appraise(t.Context(), e, want, p, time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC))
	inteltest.Failed(t, err, "sgx.tcb_info.dates", "sgx.qe_identity.dates", "sgx.revocation.root", "sgx.revocation.pck")
	strict := *p
	strict.TCB.Status = []string{"UpToDate"}
	strict.TCB.Advisories = nil
	_, err = Appraise(t.Context(), e, want, &strict, thatDay)
	inteltest.Failed(t, err, "sgx.tcb.status", "sgx.tcb.advisories")
	p.TCB.Collateral = attest.CheckNot
	e.Endorsements = attest.Endorsements{}
	if _, err := Appraise(t.Context(), e, want, p, thatDay); err != nil {
		t.Error(err)
	}
	for _, at := range []int{40, 100, 300, 430, 600} {
		changed := e
		changed.Report = slices.Clone(e.Report)
		changed.Report[at] ^= 1
		if _, err := Appraise(t.Context(), changed, want, p, thatDay); err == nil {
			t.Errorf("accepted with byte %d changed", at)
		}
	}
}
