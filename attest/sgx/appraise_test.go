package sgx

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
)

// Where fields of an enclave's report lie.
const (
	atMiscSelect = 16
	atExtProdID  = 32
	atAttributes = 48
	atMREnclave  = 64
	atMRSigner   = 128
	atConfigID   = 192
	atProdID     = 256
	atSVN        = 258
	atFamilyID   = 304
	atReportData = 320
)

// subject is a fake's quote, and everything that it is judged by.
type subject struct {
	*inteltest.Fake
	policy *attest.SGXPolicy
	want   attest.Expected
	at     time.Time
}

func right() *subject {
	b := make([]byte, intel.EnclaveSize)
	b[atAttributes], b[atAttributes+8] = 0x05, 0xe7
	copy(b[atMREnclave:], bytes.Repeat([]byte{0xa1}, 32))
	copy(b[atMRSigner:], bytes.Repeat([]byte{0xa2}, 32))
	b[atProdID], b[atSVN] = 7, 3
	copy(b[atReportData:], bytes.Repeat([]byte{0xda}, 64))
	return &subject{
		Fake: inteltest.New(attest.SGX, b),
		want: attest.Expected{ReportData: attest.ReportData(bytes.Repeat([]byte{0xda}, 64))},
		policy: &attest.SGXPolicy{
			MREnclave: list(b[atMREnclave:][:32]), Attributes: list(b[atAttributes:][:16]), MiscSelect: list(b[atMiscSelect:][:4]),
		},
		at: inteltest.Now,
	}
}

// bySigner accepts the enclave by who signed it.
func bySigner(s *subject) {
	s.policy.MREnclave = nil
	s.policy.MRSigner, s.policy.ISVProdID, s.policy.MinimumISVSVN = list(s.Body[atMRSigner:][:32]), []uint16{6, 7}, 3
}

func (s *subject) appraise(e attest.Evidence) (attest.Result, error) {
	s.policy.TCB = s.Policy
	return appraise(e, s.want, s.policy, s.at, s.Root.Certificate)
}

func TestAccepted(t *testing.T) {
	for name, change := range map[string]func(s *subject){
		"as it is":            func(*subject) {},
		"by its signer":       bySigner,
		"by both":             func(s *subject) { bySigner(s); s.policy.MREnclave = list(s.Body[atMREnclave:][:32]) },
		"bytes after it":      func(s *subject) { s.Trailing = append(make([]byte, 70), 1) },
		"a manifest expected": func(s *subject) { l := attest.LaunchDigestsOf([]byte("manifest")); s.want.Launch = &l },
		"debugged, allowed":   func(s *subject) { s.Body[atAttributes] |= 2; s.policy.AllowDebug = true },
		"configured, listed": func(s *subject) {
			s.Body[atConfigID], s.Body[atExtProdID], s.Body[atFamilyID] = 1, 1, 1
			s.policy.ConfigID, s.policy.ISVExtProdID, s.policy.ISVFamilyID =
				list(s.Body[atConfigID:][:64]), list(s.Body[atExtProdID:][:16]), list(s.Body[atFamilyID:][:16])
		},
		"unchecked, without collateral": func(s *subject) {
			s.Policy = attest.IntelTCB{Collateral: attest.CheckNot, FMSPCs: []string{"any"}, PPIDs: []string{"any"}}
			s.TCBInfo, s.QEIdentity, s.RootList, s.PCKList = nil, nil, nil, nil
		},
		"the platform's certificate alone, the rest beside it": func(s *subject) {
			s.Evidence(attest.SGX) // makes the leaf
			s.CertType, s.CertData = 4, inteltest.PEM(s.Leaf)
			s.Certificates = []*inteltest.Cert{s.Authority}
		},
	} {
		s := right()
		change(s)
		r, err := s.appraise(s.Evidence(attest.SGX))
		if err != nil || !r.Accepted || r.Type != attest.SGX || r.NotBefore.After(s.at) || !r.NotAfter.After(s.at) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefused(t *testing.T) {
	var s *subject
	fresh := func() *inteltest.Fake { s = right(); return s.Fake }
	inteltest.RunRefusals(t, attest.SGX, fresh, func(_ *inteltest.Fake, e attest.Evidence) (attest.Result, error) { return s.appraise(e) }, fields(&s))
}

// fields are SGX's own refusals.
func fields(s **subject) map[string]inteltest.Refusal {
	flip := func(at int, claims string) inteltest.Refusal {
		return inteltest.Refusal{Change: func(f *inteltest.Fake) { f.Body[at] ^= 1 }, Claims: claims}
	}
	policy := func(change func(s *subject), claims string) inteltest.Refusal {
		return inteltest.Refusal{Change: func(*inteltest.Fake) { change(*s) }, Claims: claims}
	}
	signed := func(change func(s *subject), claims string) inteltest.Refusal {
		return policy(func(s *subject) { bySigner(s); change(s) }, claims)
	}
	return map[string]inteltest.Refusal{
		"another enclave":        flip(atMREnclave+31, "mr_enclave"),
		"another report data":    flip(atReportData+63, "report_data"),
		"another attribute":      flip(atAttributes+1, "attributes"),
		"another XFRM":           flip(atAttributes+8, "attributes"),
		"another MISCSELECT":     flip(atMiscSelect, "misc_select"),
		"a configuration":        flip(atConfigID+63, "config_id"),
		"an extended product":    flip(atExtProdID, "isv_ext_prod_id"),
		"a family":               flip(atFamilyID, "isv_family_id"),
		"the debug bit":          policy(func(s *subject) { s.Body[atAttributes] |= 2 }, "debug"),
		"an empty section":       policy(func(s *subject) { s.policy = new(attest.SGXPolicy) }, "mr_enclave mr_signer isv_prod_id attributes misc_select"),
		"no enclave named":       policy(func(s *subject) { s.policy.MREnclave = nil }, "mr_enclave mr_signer isv_prod_id"),
		"a measurement cut":      policy(func(s *subject) { s.policy.MREnclave[0] = s.policy.MREnclave[0][:31] }, "mr_enclave"),
		"no attributes listed":   policy(func(s *subject) { s.policy.Attributes = nil }, "attributes"),
		"no MISCSELECT listed":   policy(func(s *subject) { s.policy.MiscSelect = nil }, "misc_select"),
		"too old a version":      policy(func(s *subject) { s.policy.MinimumISVSVN = 4 }, "isv_svn"),
		"another signer":         signed(func(s *subject) { s.Body[atMRSigner] ^= 1 }, "mr_signer"),
		"another product":        signed(func(s *subject) { s.Body[atProdID] = 8 }, "isv_prod_id"),
		"an older version":       signed(func(s *subject) { s.Body[atSVN] = 2 }, "isv_svn"),
		"no signer listed":       signed(func(s *subject) { s.policy.MRSigner = nil }, "mr_enclave mr_signer"),
		"no product listed":      signed(func(s *subject) { s.policy.ISVProdID = nil }, "isv_prod_id"),
		"a measurement, and not": signed(func(s *subject) { s.policy.MREnclave = list(make([]byte, 32)) }, "mr_enclave"),
		"a TDX quote": {Change: func(f *inteltest.Fake) {
			f.Version, f.TEE, f.Body = 4, 0x81, make([]byte, intel.TD10Size)
		}, Claims: "quote", Says: "TEE type 0x81"},
	}
}

// Products appraise with Intel's root alone, and not without a time or a policy.
func TestAppraise(t *testing.T) {
	s := right()
	e := s.Evidence(attest.SGX)
	if _, err := s.appraise(e); err != nil {
		t.Fatal(err)
	}
	_, err := Appraise(t.Context(), e, s.want, s.policy, s.at)
	inteltest.Failed(t, err, "sgx.chain")
	_, err = Appraise(t.Context(), e, s.want, nil, s.at)
	inteltest.Failed(t, err, "sgx.section")
	if r, err := Appraise(t.Context(), e, s.want, s.policy, time.Time{}); err == nil || r.Accepted || !strings.Contains(err.Error(), "no time") {
		t.Errorf("without a time: %v", err)
	}
}
