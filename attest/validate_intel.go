package attest

import (
	"fmt"
	"regexp"
)

// advisoryID is how Intel names its advisories.
var advisoryID = regexp.MustCompile(`^INTEL-SA-[0-9]{5}$`)

// Bits of attributes that make a TD or an enclave untrusted, in the first byte
// as in the quote: all of TD_ATTRIBUTES' TUD group, and DEBUG of ATTRIBUTES.
const (
	tdxUntrusted = 0xff
	sgxDebug     = 0x02
)

func (p *TDXPolicy) validate(f *faults, path string) {
	f.sized(path+"/mrtd", p.MRTD, 48)
	f.sized(path+"/rtmr0", p.RTMR0, 48)
	f.sized(path+"/rtmr1", p.RTMR1, 48)
	f.sized(path+"/rtmr2", p.RTMR2, 48)
	f.sizedOrNone(path+"/rtmr3", p.RTMR3, 48)
	f.sizedOrNone(path+"/mr_config_id", p.MRConfigID, 48)
	f.sized(path+"/mr_seam", p.MRSEAM, 48)
	f.sized(path+"/attributes", p.Attributes, 8)
	f.sized(path+"/xfam", p.XFAM, 8)
	f.sizedOrNone(path+"/mr_service_td", p.MRServiceTD, 48)
	for i, a := range p.Attributes {
		if len(a) == 8 && a[0]&tdxUntrusted != 0 && !p.AllowDebug {
			f.add(fmt.Sprintf("%s/attributes/%d", path, i), "lets the host into the TD (first byte %#02x), and %s/allow_debug is not set", a[0], path)
		}
	}
	p.TCB.validate(f, path+"/tcb")
}

func (p *SGXPolicy) validate(f *faults, path string) {
	f.sizedOrNone(path+"/mr_enclave", p.MREnclave, 32)
	f.sizedOrNone(path+"/mr_signer", p.MRSigner, 32)
	if len(p.MREnclave) == 0 && (len(p.MRSigner) == 0 || len(p.ISVProdID) == 0) {
		f.add(path, "names no enclave: list mr_enclave, or mr_signer and isv_prod_id")
	}
	f.sized(path+"/attributes", p.Attributes, 16)
	f.sized(path+"/misc_select", p.MiscSelect, 4)
	f.sizedOrNone(path+"/config_id", p.ConfigID, 64)
	f.sizedOrNone(path+"/isv_ext_prod_id", p.ISVExtProdID, 16)
	f.sizedOrNone(path+"/isv_family_id", p.ISVFamilyID, 16)
	for i, a := range p.Attributes {
		if len(a) == 16 && a[0]&sgxDebug != 0 {
			f.add(fmt.Sprintf("%s/attributes/%d", path, i), "has the bit DEBUG, which is masked out: %s/allow_debug says whether it is accepted", path)
		}
	}
	p.TCB.validate(f, path+"/tcb")
}

func (p *IntelTCB) validate(f *faults, path string) {
	f.check(path+"/collateral", p.Collateral)
	if p.Collateral == CheckRequired || len(p.Status) > 0 {
		f.words(path+"/status", p.Status, IntelStatuses())
	}
	if p.Collateral == CheckRequired && p.MinimumEvaluation < 1 {
		f.add(path+"/minimum_evaluation", "is %d; expected 1 or more, such as the tcbEvaluationDataNumber of Intel's current TCB info", p.MinimumEvaluation)
	}
	for i, a := range p.Advisories {
		switch {
		case a == AnyID && len(p.Advisories) > 1:
			f.add(path+"/advisories", "has %q beside others: what does it mean?", AnyID)
		case a != AnyID && !advisoryID.MatchString(a):
			f.add(fmt.Sprintf("%s/advisories/%d", path, i), "is %q; expected %q or such as \"INTEL-SA-00615\"", a, AnyID)
		}
	}
	f.ids(path+"/fmspcs", p.FMSPCs, 6)
	f.ids(path+"/ppids", p.PPIDs, 16)
}
