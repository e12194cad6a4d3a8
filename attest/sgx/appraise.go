package sgx

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
)

// flagDebug of ATTRIBUTES, in its first byte.
const flagDebug = 0x02

// Appraise judges evidence for the time at, by the policy's section for SGX and
// by Intel's pinned root. A nil section refuses. want.Launch is not asked for, as
// an enclave has no launch field. The error of a refusal is an *attest.Refusal
// with every claim.
func Appraise(_ context.Context, e attest.Evidence, want attest.Expected, p *attest.SGXPolicy, at time.Time) (attest.Result, error) {
	return appraise(e, want, p, at, intel.Root())
}

func appraise(e attest.Evidence, want attest.Expected, p *attest.SGXPolicy, at time.Time, root *x509.Certificate) (attest.Result, error) {
	if at.IsZero() {
		return attest.Result{}, errors.New("appraising SGX evidence: no time is given by which dates would be judged")
	}
	r := attest.Result{Type: attest.SGX, At: at}
	good := judge(&r, e, want, p, root)
	intel.Hint(&r, hints)
	if err := r.Conclude(); err != nil {
		return r, err
	}
	r.NotBefore, r.NotAfter = good.From, good.To
	return r, nil
}

// judge adds the claims, up to one that leaves nothing to look further at.
func judge(r *attest.Result, e attest.Evidence, want attest.Expected, p *attest.SGXPolicy, root *x509.Certificate) intel.Window {
	if !r.Add(e.Type == attest.SGX, "sgx.type", string(attest.SGX), fmt.Sprintf("%q", e.Type)) {
		return intel.Window{}
	}
	if p == nil {
		r.Add(false, "sgx.section", "a policy with the section sgx", "none")
		return intel.Window{}
	}
	q, err := Parse(e.Report)
	if err != nil {
		r.Add(false, "sgx.quote", "an SGX quote of version 3", err.Error())
		return intel.Window{}
	}
	r.Add(true, "sgx.quote", "an SGX quote of version 3", q.frame.Found())
	good := intel.Judge(r, q.frame, nil, e.Endorsements, &p.TCB, root)
	identity(r, &q.Report, p)
	content(r, &q.Report, want, p)
	return good
}

// identity judges which enclave it is: by its measurement, or by who signed it.
func identity(r *attest.Result, q *intel.Enclave, p *attest.SGXPolicy) {
	byMeasurement := len(p.MREnclave) > 0
	if byMeasurement || len(p.MRSigner) == 0 {
		intel.Listed(r, "sgx.mr_enclave", p.MREnclave, q.MREnclave[:])
	} else {
		r.Skip("sgx.mr_enclave", hex.EncodeToString(q.MREnclave[:]))
	}
	if !byMeasurement || len(p.MRSigner) > 0 {
		intel.Listed(r, "sgx.mr_signer", p.MRSigner, q.MRSigner[:])
	} else {
		r.Skip("sgx.mr_signer", hex.EncodeToString(q.MRSigner[:]))
	}
	if !byMeasurement || len(p.ISVProdID) > 0 {
		r.Add(slices.Contains(p.ISVProdID, q.ISVProdID), "sgx.isv_prod_id", products(p.ISVProdID), fmt.Sprint(q.ISVProdID))
	} else {
		r.Skip("sgx.isv_prod_id", fmt.Sprint(q.ISVProdID))
	}
	r.Add(q.ISVSVN >= p.MinimumISVSVN, "sgx.isv_svn", fmt.Sprintf("at least %d", p.MinimumISVSVN), fmt.Sprint(q.ISVSVN))
	intel.NoneOr(r, "sgx.isv_ext_prod_id", p.ISVExtProdID, q.ISVExtProdID[:])
	intel.NoneOr(r, "sgx.isv_family_id", p.ISVFamilyID, q.ISVFamilyID[:])
	intel.NoneOr(r, "sgx.config_id", p.ConfigID, q.ConfigID[:])
}

// content judges what else the quote says of the enclave.
func content(r *attest.Result, q *intel.Enclave, want attest.Expected, p *attest.SGXPolicy) {
	r.Add(q.ReportData == want.ReportData, "sgx.report_data", hex.EncodeToString(want.ReportData[:]), hex.EncodeToString(q.ReportData[:]))
	attributes := q.Attributes
	debug := attributes[0]&flagDebug != 0
	attributes[0] &^= flagDebug
	intel.Listed(r, "sgx.attributes", p.Attributes, attributes[:])
	expected := "off"
	if p.AllowDebug {
		expected = "off or on"
	}
	r.Add(!debug || p.AllowDebug, "sgx.debug", expected, map[bool]string{false: "off", true: "on"}[debug])
	intel.Listed(r, "sgx.misc_select", p.MiscSelect, q.MiscSelect[:])
}

func products(ids []uint16) string {
	if len(ids) == 0 {
		return "a value that the policy lists; it lists none"
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = fmt.Sprint(id)
	}
	return strings.Join(texts, " or ")
}

// hints say what most likely happened where a claim fails, and what to do.
var hints = map[string]string{
	"type":            "this is other evidence than an SGX quote",
	"section":         "add a section sgx to the policy if you want to accept SGX",
	"quote":           "give the raw quote as the quoting library writes it, of version 3",
	"mr_enclave":      "another enclave runs, or another version of it",
	"mr_signer":       "the enclave is signed by another key",
	"isv_prod_id":     "the enclave is another product of the same signer",
	"isv_svn":         "the enclave is older than the policy asks for",
	"isv_ext_prod_id": "the enclave has an extended product identity; list it in /sgx/isv_ext_prod_id if you accept it",
	"isv_family_id":   "the enclave has a family identity; list it in /sgx/isv_family_id if you accept it",
	"config_id":       "the host gave the enclave a configuration; list its identity in /sgx/config_id if you accept it",
	"report_data":     "the evidence was made for another connection, manifest or purpose: it may be replayed",
	"attributes":      "the enclave runs with other attributes or CPU features; list them in /sgx/attributes if you accept them",
	"debug":           "the host can read and change the enclave's memory: never accept this outside of tests",
	"misc_select":     "the enclave reports other things to its host; list the value in /sgx/misc_select if you accept it",
}
