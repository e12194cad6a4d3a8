package tdx

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
)

// Appraise judges evidence for the time at, by the policy's section for TDX and
// by Intel's pinned root. A nil section refuses. The error of a refusal is an
// *attest.Refusal with every claim.
func Appraise(_ context.Context, e attest.Evidence, want attest.Expected, p *attest.TDXPolicy, at time.Time) (attest.Result, error) {
	return appraise(e, want, p, at, intel.Root())
}

func appraise(e attest.Evidence, want attest.Expected, p *attest.TDXPolicy, at time.Time, root *x509.Certificate) (attest.Result, error) {
	if at.IsZero() {
		return attest.Result{}, errors.New("appraising TDX evidence: no time is given by which dates would be judged")
	}
	r := attest.Result{Type: attest.TDX, At: at}
	good := judge(&r, e, want, p, root)
	intel.Hint(&r, hints)
	if err := r.Conclude(); err != nil {
		return r, err
	}
	r.NotBefore, r.NotAfter = good.From, good.To
	return r, nil
}

// judge adds the claims, up to one that leaves nothing to look further at.
func judge(r *attest.Result, e attest.Evidence, want attest.Expected, p *attest.TDXPolicy, root *x509.Certificate) intel.Window {
	if !r.Add(e.Type == attest.TDX, "tdx.type", string(attest.TDX), fmt.Sprintf("%q", e.Type)) {
		return intel.Window{}
	}
	if p == nil {
		r.Add(false, "tdx.section", "a policy with the section tdx", "none")
		return intel.Window{}
	}
	q, err := Parse(e.Report)
	if err != nil {
		r.Add(false, "tdx.quote", "a TDX quote of version 4 or 5", err.Error())
		return intel.Window{}
	}
	r.Add(true, "tdx.quote", "a TDX quote of version 4 or 5", q.frame.Found())
	td := &intel.TD{TCBSVN: q.TEETCBSVN, MRSignerSEAM: q.MRSignerSEAM, SEAMAttributes: q.SEAMAttributes}
	if q.TDX15 {
		td.Current = &q.TEETCBSVN2
	}
	good := intel.Judge(r, q.frame, td, e.Endorsements, &p.TCB, root)
	content(r, q, want, p)
	return good
}

// content judges what the quote says of the TD.
func content(r *attest.Result, q *Quote, want attest.Expected, p *attest.TDXPolicy) {
	intel.Listed(r, "tdx.mrtd", p.MRTD, q.MRTD[:])
	intel.Listed(r, "tdx.rtmr0", p.RTMR0, q.RTMR[0][:])
	intel.Listed(r, "tdx.rtmr1", p.RTMR1, q.RTMR[1][:])
	intel.Listed(r, "tdx.rtmr2", p.RTMR2, q.RTMR[2][:])
	if len(p.RTMR3) > 0 {
		intel.Listed(r, "tdx.rtmr3", p.RTMR3, q.RTMR[3][:])
	} else {
		intel.NoneOr(r, "tdx.rtmr3", nil, q.RTMR[3][:])
	}
	r.Add(q.ReportData == want.ReportData, "tdx.report_data", hex.EncodeToString(want.ReportData[:]), hex.EncodeToString(q.ReportData[:]))
	launch := p.MRConfigID
	if want.Launch != nil {
		launch = []attest.Hex{want.Launch.SHA384[:]}
	}
	intel.Listed(r, "tdx.mr_config_id", launch, q.MRConfigID[:])
	intel.NoneOr(r, "tdx.mr_owner", nil, q.MROwner[:])
	intel.NoneOr(r, "tdx.mr_owner_config", nil, q.MROwnerConfig[:])
	intel.Listed(r, "tdx.attributes", p.Attributes, q.Attributes[:])
	r.Add(q.Attributes[0] == 0 || p.AllowDebug, "tdx.debug", debugText(p.AllowDebug, 0), debugText(false, q.Attributes[0]))
	intel.Listed(r, "tdx.xfam", p.XFAM, q.XFAM[:])
	intel.Listed(r, "tdx.mr_seam", p.MRSEAM, q.MRSEAM[:])
	intel.NoneOr(r, "tdx.mr_signer_seam", nil, q.MRSignerSEAM[:])
	intel.NoneOr(r, "tdx.seam_attributes", nil, q.SEAMAttributes[:])
	if q.TDX15 {
		intel.NoneOr(r, "tdx.mr_service_td", p.MRServiceTD, q.MRServiceTD[:])
	} else {
		// Who reads the result is to know that nobody could look. That a TD can be
		// migrated shows in its attributes, which are accepted exactly.
		r.Unstated("tdx.mr_service_td", unstated(q.Version))
	}
}

// unstated words what a report of TDX 1.0 lacks.
func unstated(version uint16) string {
	if version > 4 {
		return fmt.Sprintf("not stated by version %d with a report of TDX 1.0", version)
	}
	return fmt.Sprintf("not stated by version %d", version)
}

// debugText words the first byte of attributes, the group TUD.
func debugText(allowed bool, bits byte) string {
	switch {
	case allowed:
		return "off or on"
	case bits == 0:
		return "off"
	case bits&1 == 0:
		return fmt.Sprintf("off, but the TD is untrusted (bits %#02x)", bits)
	}
	return "on"
}

// hints say what most likely happened where a claim fails, and what to do.
var hints = map[string]string{
	"type":            "this is other evidence than a TDX quote",
	"section":         "add a section tdx to the policy if you want to accept TDX",
	"quote":           "give the raw quote as the quoting service writes it",
	"mrtd":            "the TD was started with another firmware; explain recomputes which",
	"rtmr0":           "the firmware was given another configuration: other ACPI tables, memory size, number of vCPUs or variables",
	"rtmr1":           "another kernel was booted; explain recomputes which",
	"rtmr2":           "another command line or initrd was booted; explain recomputes which",
	"rtmr3":           "software in the TD extended RTMR3; list the value in /tdx/rtmr3 if you accept it",
	"report_data":     "the evidence was made for another connection, manifest or purpose: it may be replayed",
	"mr_config_id":    "the TD was launched for another manifest than yours",
	"mr_owner":        "the TD was launched with an owner's identity, which is not accepted",
	"mr_owner_config": "the TD was launched with an owner's configuration, which is not accepted",
	"attributes":      "the TD was launched with other attributes; list them in /tdx/attributes if you accept them",
	"debug":           "the host can read and change the TD's memory: never accept this outside of tests",
	"xfam":            "the TD was launched with other CPU features; list them in /tdx/xfam if you accept them",
	"mr_seam":         "the host runs another TDX module; list it in /tdx/mr_seam if you accept it",
	"mr_signer_seam":  "the TDX module is not Intel's",
	"seam_attributes": "the TDX module has attributes, which Intel's has not",
	"mr_service_td":   "a service TD, such as one for migration, is bound to the TD; list it in /tdx/mr_service_td if you accept it",
}
