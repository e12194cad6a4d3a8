package tdx

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
func genuine(t *testing.T, name string) (attest.Evidence, attest.Expected, *attest.TDXPolicy) {
	t.Helper()
	dir, ok := inteltest.Folder()
	if !ok {
		t.Log("COCOS_EVIDENCE names no folder: quotes of hardware are not looked at, only self-made ones in genuine format")
		return attest.Evidence{}, attest.Expected{}, nil
	}
	e, err := inteltest.Real(dir, name, attest.TDX)
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse(e.Report)
	if err != nil {
		t.Fatal(err)
	}
	p := pins(q)
	p.TCB = attest.IntelTCB{
		Collateral: attest.CheckRequired, Status: []string{"UpToDate"}, MinimumEvaluation: 17,
		FMSPCs: []string{attest.AnyID}, PPIDs: []string{attest.AnyID},
	}
	return e, attest.Expected{ReportData: q.ReportData}, p
}

// pins accepts what q says, and nothing else.
func pins(q *Quote) *attest.TDXPolicy {
	return &attest.TDXPolicy{
		MRTD: list(q.MRTD[:]), RTMR0: list(q.RTMR[0][:]), RTMR1: list(q.RTMR[1][:]), RTMR2: list(q.RTMR[2][:]),
		MRConfigID: list(q.MRConfigID[:]), MRSEAM: list(q.MRSEAM[:]), Attributes: list(q.Attributes[:]), XFAM: list(q.XFAM[:]),
	}
}

func list(b []byte) []attest.Hex { return []attest.Hex{slices.Clone(b)} }

func TestRealV4(t *testing.T) {
	e, want, p := genuine(t, "tdx-v4")
	if p == nil {
		return
	}
	r, err := Appraise(t.Context(), e, want, p, thatDay)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Accepted || r.NotBefore.After(thatDay) || r.NotAfter.Before(thatDay) || r.NotAfter.Sub(r.NotBefore) > 31*24*time.Hour {
		t.Errorf("accepted from %v to %v", r.NotBefore, r.NotAfter)
	}
	if c := inteltest.Claim(r, "tdx.tcb.status"); !strings.HasPrefix(c.Found, "UpToDate") {
		t.Errorf("%+v", c)
	}
	q, _ := Parse(e.Report)
	if hex.EncodeToString(q.MRTD[:3]) != "91eb2b" || q.Version != 4 || q.Trailing != 70 {
		t.Errorf("version %d, MRTD %x, %d trailing bytes", q.Version, q.MRTD, q.Trailing)
	}
	// The window is exact.
	for _, at := range []time.Time{r.NotBefore, r.NotAfter} {
		if _, err := Appraise(t.Context(), e, want, p, at); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
	for _, at := range []time.Time{r.NotBefore.Add(-time.Second), r.NotAfter.Add(time.Second)} {
		if _, err := Appraise(t.Context(), e, want, p, at); err == nil {
			t.Errorf("accepted at %v", at)
		}
	}
	// Today the collateral has expired.
	_, err = Appraise(t.Context(), e, want, p, time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC))
	inteltest.Failed(t, err, "tdx.tcb_info.dates", "tdx.qe_identity.dates", "tdx.revocation.root", "tdx.revocation.pck")
}

func TestRealWithoutCollateral(t *testing.T) {
	for name, mrtd := range map[string]string{"tdx-v4": "91eb2b44", "tdx-v5": "7348651a"} {
		e, want, p := genuine(t, name)
		if p == nil {
			return
		}
		today := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
		e.Endorsements = attest.Endorsements{}
		_, err := Appraise(t.Context(), e, want, p, today)
		inteltest.Failed(t, err, "tdx.tcb_info", "tdx.qe_identity", "tdx.revocation.root", "tdx.revocation.pck")
		p.TCB.Collateral = attest.CheckNot
		r, err := Appraise(t.Context(), e, want, p, today)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c := inteltest.Claim(r, "tdx.collateral"); c.Verdict != attest.Unchecked {
			t.Errorf("%s: %+v", name, c)
		}
		if c := inteltest.Claim(r, "tdx.mrtd"); !strings.HasPrefix(c.Found, mrtd) || c.Verdict != attest.Passed {
			t.Errorf("%s: %+v", name, c)
		}
		stated := map[string]attest.Verdict{"tdx-v4": attest.Unchecked, "tdx-v5": attest.Passed}
		if c := inteltest.Claim(r, "tdx.mr_service_td"); c.Verdict != stated[name] {
			t.Errorf("%s: %+v", name, c)
		}
		// One bit anywhere in what is signed.
		for _, at := range []int{30, 100, 300, 700, 1000} {
			changed := e
			changed.Report = slices.Clone(e.Report)
			changed.Report[at] ^= 1
			if _, err := Appraise(t.Context(), changed, want, p, today); err == nil {
				t.Errorf("%s: accepted with byte %d changed", name, at)
			}
		}
	}
}

func TestRealDebug(t *testing.T) {
	e, want, p := genuine(t, "tdx-v4-debug")
	if p == nil {
		return
	}
	p.TCB.Collateral = attest.CheckNot
	_, err := Appraise(t.Context(), e, want, p, thatDay)
	inteltest.Failed(t, err, "tdx.debug")
	p.AllowDebug = true
	if _, err := Appraise(t.Context(), e, want, p, thatDay); err != nil {
		t.Error(err)
	}
	p.Attributes = []attest.Hex{{0, 0, 0, 0x10, 0, 0, 0, 0}}
	_, err = Appraise(t.Context(), e, want, p, thatDay)
	inteltest.Failed(t, err, "tdx.attributes")
}
