package tdx

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
)

// Where fields of a TD report lie.
const (
	atModule        = 0 // TEE_TCB_SVN
	atMRSEAM        = 16
	atMRSignerSEAM  = 64
	atSEAMAttribute = 112
	atAttributes    = 120
	atXFAM          = 128
	atMRTD          = 136
	atMRConfigID    = 184
	atMROwner       = 232
	atMROwnerConfig = 280
	atRTMR          = 328
	atReportData    = 520
	atCurrent       = 584 // TEE_TCB_SVN_2
	atMRServiceTD   = 600
)

var manifest = attest.LaunchDigestsOf([]byte("manifest"))

// subject is a fake's quote, and everything that it is judged by.
type subject struct {
	*inteltest.Fake
	policy *attest.TDXPolicy
	want   attest.Expected
	at     time.Time
}

// body is a TD report of so many bytes, with each measurement another.
func body(size int) []byte {
	b := make([]byte, size)
	copy(b[atModule:], []byte{6, 1, 3})
	for i, at := range []int{atMRSEAM, atMRTD, atRTMR, atRTMR + 48, atRTMR + 96} {
		copy(b[at:], bytes.Repeat([]byte{byte(0xa0 + i)}, 48))
	}
	copy(b[atMRConfigID:], manifest.SHA384[:])
	b[atAttributes+3] = 0x10
	copy(b[atXFAM:], []byte{0xe7, 0x02, 0x06})
	copy(b[atReportData:], bytes.Repeat([]byte{0xda}, 64))
	if size == intel.TD15Size {
		copy(b[atCurrent:], []byte{7, 1, 3})
	}
	return b
}

func right(size int) *subject {
	s := &subject{
		Fake: inteltest.New(attest.TDX, body(size)),
		want: attest.Expected{ReportData: attest.ReportData(bytes.Repeat([]byte{0xda}, 64)), Launch: &manifest},
		at:   inteltest.Now,
	}
	b := s.Body
	s.policy = &attest.TDXPolicy{
		MRTD: list(b[atMRTD:][:48]), RTMR0: list(b[atRTMR:][:48]), RTMR1: list(b[atRTMR+48:][:48]), RTMR2: list(b[atRTMR+96:][:48]),
		MRSEAM: list(b[atMRSEAM:][:48]), Attributes: list(b[atAttributes:][:8]), XFAM: list(b[atXFAM:][:8]),
	}
	return s
}

func (s *subject) appraise(e attest.Evidence) (attest.Result, error) {
	s.policy.TCB = s.Policy
	return appraise(e, s.want, s.policy, s.at, s.Root.Certificate)
}

func TestAccepted(t *testing.T) {
	for name, change := range map[string]func(s *subject){
		"as it is":                  func(*subject) {},
		"with 70 zeros after it":    func(s *subject) { s.Trailing = make([]byte, 70) },
		"with other bytes after it": func(s *subject) { s.Trailing = []byte("extra") },
		"with zeros within it":      func(s *subject) { s.OuterPad, s.InnerPad = make([]byte, 5), make([]byte, 6) },
		"a launch field listed":     func(s *subject) { s.want.Launch = nil; s.policy.MRConfigID = list(manifest.SHA384[:]) },
		"RTMR3 listed":              func(s *subject) { s.Body[atRTMR+144] = 1; s.policy.RTMR3 = list(s.Body[atRTMR+144:][:48]) },
		"any platform":              func(s *subject) { s.Policy.FMSPCs, s.Policy.PPIDs = []string{"any"}, []string{"any"} },
		"a module without versions": func(s *subject) { copy(s.Body[atModule:], []byte{5, 0, 3}) },
		"module TDX_03": func(s *subject) {
			copy(s.Body[atModule:], []byte{3, 3, 3})
			if len(s.Body) == intel.TD15Size {
				copy(s.Body[atCurrent:], []byte{4, 3, 3})
			}
		},
		"certificates beside it": func(s *subject) {
			s.Evidence(attest.TDX) // makes the leaf
			s.CertType, s.CertData = 3, make([]byte, 404)
			s.Certificates = []*inteltest.Cert{s.Root, s.Leaf, s.Signer, s.Authority}
		},
		"a processor's authority": func(s *subject) {
			s.Authority = inteltest.Issue(inteltest.Template("Intel SGX PCK Processor CA", true), s.Root)
			s.PCK.Platform = false
		},
		"unchecked, without collateral": func(s *subject) {
			s.Policy = attest.IntelTCB{Collateral: attest.CheckNot, FMSPCs: []string{"any"}, PPIDs: []string{"any"}}
			s.TCBInfo, s.QEIdentity, s.RootList, s.PCKList = nil, nil, nil, nil
		},
		"hardening accepted": func(s *subject) {
			l := s.TCBInfo["tcbLevels"].([]any)[0].(inteltest.Object)
			l["tcbStatus"], l["advisoryIDs"] = "SWHardeningNeeded", []string{"INTEL-SA-00615"}
			s.Policy.Status = []string{"UpToDate", "SWHardeningNeeded"}
			s.Policy.Advisories = []string{"INTEL-SA-00615"}
		},
		"any advisory": func(s *subject) {
			s.TCBInfo["tcbLevels"].([]any)[0].(inteltest.Object)["advisoryIDs"] = []string{"INTEL-SA-00615"}
			s.Policy.Advisories = []string{"any"}
		},
		"debugged, allowed": func(s *subject) {
			s.Body[atAttributes] = 1
			s.policy.AllowDebug, s.policy.Attributes = true, list(s.Body[atAttributes:][:8])
		},
	} {
		for _, size := range []int{intel.TD10Size, intel.TD15Size} {
			s := right(size)
			change(s)
			r, err := s.appraise(s.Evidence(attest.TDX))
			if err != nil || !r.Accepted || r.Type != attest.TDX {
				t.Errorf("%s, %d bytes: %v", name, size, err)
				continue
			}
			if r.NotBefore.After(s.at) || !r.NotAfter.After(s.at) {
				t.Errorf("%s: from %v to %v", name, r.NotBefore, r.NotAfter)
			}
		}
	}
}

// A report of TDX 1.0, which version 4 has and version 5 may have, does not state a
// service TD: the result says so, and neither refuses nor vouches.
func TestServiceTDUnstated(t *testing.T) {
	for version, want := range map[uint16]string{4: "not stated by version 4", 5: "not stated by version 5 with a report of TDX 1.0"} {
		for _, listed := range [][]attest.Hex{nil, list(bytes.Repeat([]byte{1}, 48))} {
			s := right(intel.TD10Size)
			if s.Version = version; version == 5 {
				s.BodyType = 2
			}
			s.policy.MRServiceTD = listed
			r, err := s.appraise(s.Evidence(attest.TDX))
			if err != nil {
				t.Errorf("version %d: %v", version, err)
			}
			if c := inteltest.Claim(r, "tdx.mr_service_td"); c.Verdict != attest.Unchecked || c.Found != want {
				t.Errorf("version %d: %+v; want unchecked, %q", version, c, want)
			}
		}
	}
	// One that is stated is judged.
	s := right(intel.TD15Size)
	r, err := s.appraise(s.Evidence(attest.TDX))
	if c := inteltest.Claim(r, "tdx.mr_service_td"); err != nil || c.Verdict != attest.Passed {
		t.Errorf("%+v, %v", c, err)
	}
}

// Dates narrow to the shortest of everything that was gone by.
func TestWindow(t *testing.T) {
	soon, late := inteltest.Now.Add(-time.Minute), inteltest.Now.Add(time.Minute)
	for name, change := range map[string]func(s *subject){
		"TCB info": func(s *subject) {
			s.TCBInfo["issueDate"], s.TCBInfo["nextUpdate"] = soon.Format(time.RFC3339), late.Format(time.RFC3339)
		},
		"QE identity": func(s *subject) {
			s.QEIdentity["issueDate"], s.QEIdentity["nextUpdate"] = soon.Format(time.RFC3339), late.Format(time.RFC3339)
		},
		"root's list":      func(s *subject) { s.RootList.ThisUpdate, s.RootList.NextUpdate = soon, late },
		"authority's list": func(s *subject) { s.PCKList.ThisUpdate, s.PCKList.NextUpdate = soon, late },
		"platform's certificate": func(s *subject) {
			s.LeafTemplate = func(c *x509.Certificate) { c.NotBefore, c.NotAfter = soon, late }
		},
		"signer": func(s *subject) {
			c := inteltest.Template("Intel SGX TCB Signing", false)
			c.NotBefore, c.NotAfter = soon, late
			s.Signer = inteltest.Issue(c, s.Root)
		},
		"authority": func(s *subject) {
			c := inteltest.Template("Intel SGX PCK Platform CA", true)
			c.NotBefore, c.NotAfter = soon, late
			s.Authority = inteltest.Issue(c, s.Root)
		},
	} {
		s := right(intel.TD10Size)
		change(s)
		r, err := s.appraise(s.Evidence(attest.TDX))
		if err != nil || !r.NotBefore.Equal(soon) || !r.NotAfter.Equal(late) {
			t.Errorf("%s: from %v to %v, %v", name, r.NotBefore, r.NotAfter, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, size := range []int{intel.TD10Size, intel.TD15Size} {
		var s *subject
		fresh := func() *inteltest.Fake { s = right(size); return s.Fake }
		inteltest.RunRefusals(t, attest.TDX, fresh, func(_ *inteltest.Fake, e attest.Evidence) (attest.Result, error) { return s.appraise(e) }, fields(&s))
	}
}

// fields are TDX's own refusals.
func fields(s **subject) map[string]inteltest.Refusal {
	flip := func(at int, claims string) inteltest.Refusal {
		return inteltest.Refusal{Change: func(f *inteltest.Fake) { f.Body[at] ^= 1 }, Claims: claims}
	}
	policy := func(change func(p *attest.TDXPolicy), claims string) inteltest.Refusal {
		return inteltest.Refusal{Change: func(*inteltest.Fake) { change((*s).policy) }, Claims: claims}
	}
	return map[string]inteltest.Refusal{
		"another MRTD":          flip(atMRTD+47, "mrtd"),
		"another RTMR0":         flip(atRTMR, "rtmr0"),
		"another RTMR1":         flip(atRTMR+48, "rtmr1"),
		"another RTMR2":         flip(atRTMR+96, "rtmr2"),
		"RTMR3 not zero":        flip(atRTMR+144, "rtmr3"),
		"another MRCONFIGID":    flip(atMRConfigID, "mr_config_id"),
		"an owner":              flip(atMROwner, "mr_owner"),
		"an owner's config":     flip(atMROwnerConfig, "mr_owner_config"),
		"another module":        flip(atMRSEAM, "mr_seam"),
		"another module's key":  flip(atMRSignerSEAM, "mr_signer_seam module.mr_signer"),
		"a module's attribute":  flip(atSEAMAttribute, "seam_attributes module.attributes"),
		"another attribute":     flip(atAttributes+3, "attributes"),
		"a migratable TD":       {Change: func(f *inteltest.Fake) { f.Body[atAttributes+3] |= 0x20 }, Claims: "attributes"},
		"the debug bit":         flip(atAttributes, "attributes debug"),
		"another untrusted bit": {Change: func(f *inteltest.Fake) { f.Body[atAttributes] = 0x20 }, Claims: "attributes debug"},
		"another XFAM":          flip(atXFAM, "xfam"),
		"another report data":   flip(atReportData+63, "report_data"),
		"the debug bit, listed": {Change: func(f *inteltest.Fake) {
			f.Body[atAttributes] = 1
			(*s).policy.Attributes = list(f.Body[atAttributes:][:8])
		}, Claims: "debug"},
		"the debug bit, allowed": {Change: func(f *inteltest.Fake) { f.Body[atAttributes] = 1; (*s).policy.AllowDebug = true }, Claims: "attributes"},
		"an empty section":       {Change: func(*inteltest.Fake) { (*s).policy = new(attest.TDXPolicy) }, Claims: "mrtd rtmr0 rtmr1 rtmr2 mr_seam attributes xfam"},
		"no MRTD listed":         policy(func(p *attest.TDXPolicy) { p.MRTD = nil }, "mrtd"),
		"no RTMR0 listed":        policy(func(p *attest.TDXPolicy) { p.RTMR0 = nil }, "rtmr0"),
		"no RTMR1 listed":        policy(func(p *attest.TDXPolicy) { p.RTMR1 = nil }, "rtmr1"),
		"no RTMR2 listed":        policy(func(p *attest.TDXPolicy) { p.RTMR2 = nil }, "rtmr2"),
		"another RTMR3 listed":   policy(func(p *attest.TDXPolicy) { p.RTMR3 = list(bytes.Repeat([]byte{1}, 48)) }, "rtmr3"),
		"no MRSEAM listed":       policy(func(p *attest.TDXPolicy) { p.MRSEAM = nil }, "mr_seam"),
		"no attributes listed":   policy(func(p *attest.TDXPolicy) { p.Attributes = nil }, "attributes"),
		"no XFAM listed":         policy(func(p *attest.TDXPolicy) { p.XFAM = nil }, "xfam"),
		"an MRTD cut":            policy(func(p *attest.TDXPolicy) { p.MRTD[0] = p.MRTD[0][:47] }, "mrtd"),
		"another manifest": {Change: func(*inteltest.Fake) {
			l := attest.LaunchDigestsOf([]byte("other"))
			(*s).want.Launch = &l
			(*s).policy.MRConfigID = list(manifest.SHA384[:])
		}, Claims: "mr_config_id"},
		"no manifest at all": {Change: func(*inteltest.Fake) { (*s).want.Launch = nil }, Claims: "mr_config_id"},
		"a module that Intel does not know": {Change: func(f *inteltest.Fake) {
			copy(f.Body, []byte{6, 2, 3})
		}, Claims: "tcb.status", Says: "TDX_02"},
		"an old module": {Change: func(f *inteltest.Fake) {
			copy(f.Body, []byte{3, 1, 3})
		}, Claims: "tcb.status", Says: "TDX module OutOfDate"},
		"a module that is too old": {Change: func(f *inteltest.Fake) {
			copy(f.Body, []byte{1, 1, 3})
		}, Claims: "tcb.status"},
		"an old module without versions": {Change: func(f *inteltest.Fake) {
			copy(f.Body, []byte{4, 0, 3})
		}, Claims: "tcb.status tcb.advisories", Says: "platform OutOfDate"},
		"an old TDX component": {Change: func(f *inteltest.Fake) {
			copy(f.Body, []byte{6, 1, 2})
		}, Claims: "tcb.status tcb.advisories", Says: "platform OutOfDate"},
		"a module revoked": {Change: func(f *inteltest.Fake) {
			f.TCBInfo["tdxModuleIdentities"].([]any)[1].(inteltest.Object)["tcbLevels"].([]any)[0].(inteltest.Object)["tcbStatus"] = "Revoked"
		}, Claims: "tcb.status", Says: "Revoked"},
		"TCB info without a module": {Change: func(f *inteltest.Fake) { delete(f.TCBInfo, "tdxModule") }, Claims: "tcb_info"},
		"a level without TDX components": {Change: func(f *inteltest.Fake) {
			delete(f.TCBInfo["tcbLevels"].([]any)[1].(inteltest.Object)["tcb"].(inteltest.Object), "tdxtcbcomponents")
		}, Claims: "tcb_info"},
		"an SGX quote": {Change: func(f *inteltest.Fake) {
			f.Version, f.TEE, f.Body = 3, 0, make([]byte, intel.EnclaveSize)
		}, Claims: "quote", Says: "TEE type 0"},
	}
}

// What version 5 quotes and TDX 1.5 reports have beside the above.
func TestRefusedTDX15(t *testing.T) {
	for name, tt := range map[string]inteltest.Refusal{
		"a service TD":        {Change: func(f *inteltest.Fake) { f.Body[atMRServiceTD] = 1 }, Claims: "tdx.mr_service_td"},
		"a module worse now":  {Change: func(f *inteltest.Fake) { f.Body[atCurrent] = 3 }, Claims: "tdx.tcb.status", Says: "current TDX module OutOfDate"},
		"a module unknown":    {Change: func(f *inteltest.Fake) { f.Body[atCurrent+1] = 9 }, Claims: "tdx.tcb.status", Says: "TDX_09"},
		"a component old now": {Change: func(f *inteltest.Fake) { f.Body[atCurrent+2] = 1 }, Claims: "tdx.tcb.status", Says: "older than each level"},
		"no current versions": {Change: func(f *inteltest.Fake) { clear(f.Body[atCurrent:][:16]) }, Claims: "tdx.tcb.status"},
		"type 2 for 1.5":      {Change: func(f *inteltest.Fake) { f.BodyType = 2 }, Claims: "tdx.quote", Says: "expected 584"},
		"type 1, an enclave":  {Change: func(f *inteltest.Fake) { f.BodyType = 1 }, Claims: "tdx.quote", Says: "type 1"},
		"type 4":              {Change: func(f *inteltest.Fake) { f.BodyType = 4 }, Claims: "tdx.quote", Says: "type 4"},
		"a larger body":       {Change: func(f *inteltest.Fake) { f.BodySize = 649 }, Claims: "tdx.quote", Says: "649"},
		"a huge body":         {Change: func(f *inteltest.Fake) { f.BodySize = 1<<32 - 1 }, Claims: "tdx.quote"},
	} {
		t.Run(name, func(t *testing.T) {
			s := right(intel.TD15Size)
			tt.Change(s.Fake)
			_, err := s.appraise(s.Evidence(attest.TDX))
			inteltest.Failed(t, err, tt.Claims)
			if err != nil && !strings.Contains(err.Error(), tt.Says) {
				t.Errorf("%q does not say %q", err, tt.Says)
			}
		})
	}
	s := right(intel.TD15Size)
	s.Body[atMRServiceTD] = 1
	s.policy.MRServiceTD = list(s.Body[atMRServiceTD:][:48])
	if _, err := s.appraise(s.Evidence(attest.TDX)); err != nil {
		t.Errorf("a service TD that is listed: %v", err)
	}
}

// A status is that of the worst, and no policy makes one better.
func TestStatuses(t *testing.T) {
	for _, tt := range []struct{ platform, module, enclave, want string }{
		{"UpToDate", "UpToDate", "UpToDate", "UpToDate"},
		{"UpToDate", "OutOfDate", "UpToDate", "OutOfDate"},
		{"UpToDate", "UpToDate", "OutOfDate", "OutOfDate"},
		{"SWHardeningNeeded", "UpToDate", "UpToDate", "SWHardeningNeeded"},
		{"SWHardeningNeeded", "OutOfDate", "UpToDate", "OutOfDate"},
		{"SWHardeningNeeded", "UpToDate", "OutOfDate", "OutOfDate"},
		{"ConfigurationNeeded", "UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"ConfigurationNeeded", "OutOfDate", "UpToDate", "OutOfDateConfigurationNeeded"},
		{"ConfigurationAndSWHardeningNeeded", "UpToDate", "UpToDate", "ConfigurationAndSWHardeningNeeded"},
		{"ConfigurationAndSWHardeningNeeded", "UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"OutOfDate", "OutOfDate", "OutOfDate", "OutOfDate"},
		{"OutOfDateConfigurationNeeded", "UpToDate", "UpToDate", "OutOfDateConfigurationNeeded"},
		{"UpToDate", "Revoked", "UpToDate", "Revoked"},
		{"OutOfDateConfigurationNeeded", "UpToDate", "Revoked", "Revoked"},
		{"Revoked", "UpToDate", "UpToDate", "Revoked"},
	} {
		s := right(intel.TD10Size)
		set := func(o inteltest.Object, status string) {
			o["tcbLevels"].([]any)[0].(inteltest.Object)["tcbStatus"] = status
		}
		set(s.TCBInfo, tt.platform)
		set(s.TCBInfo["tdxModuleIdentities"].([]any)[1].(inteltest.Object), tt.module)
		set(s.QEIdentity, tt.enclave)
		s.Policy.Status = attest.IntelStatuses()
		e := s.Evidence(attest.TDX)
		r, err := s.appraise(e)
		if c := inteltest.Claim(r, "tdx.tcb.status"); !strings.HasPrefix(c.Found, tt.want+" ") || (err == nil) != (tt.want != "Revoked") {
			t.Errorf("%+v: %q, %v", tt, c.Found, err)
		}
		s.Policy.Status = slices.DeleteFunc(attest.IntelStatuses(), func(w string) bool { return w == tt.want })
		_, err = s.appraise(e)
		inteltest.Failed(t, err, "tdx.tcb.status")
	}
}

// Products appraise with Intel's root alone, and not without a time or a policy.
func TestAppraise(t *testing.T) {
	s := right(intel.TD10Size)
	e := s.Evidence(attest.TDX)
	if _, err := s.appraise(e); err != nil {
		t.Fatal(err)
	}
	_, err := Appraise(t.Context(), e, s.want, s.policy, s.at)
	inteltest.Failed(t, err, "tdx.chain")
	_, err = Appraise(t.Context(), e, s.want, nil, s.at)
	inteltest.Failed(t, err, "tdx.section")
	if r, err := Appraise(t.Context(), e, s.want, s.policy, time.Time{}); err == nil || r.Accepted || !strings.Contains(err.Error(), "no time") {
		t.Errorf("without a time: %v", err)
	}
}
