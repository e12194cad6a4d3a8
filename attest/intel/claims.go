package intel

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
)

// Listed adds the claim that got is one of the accepted values; with none, it
// fails.
func Listed(r *attest.Result, name string, accepted []attest.Hex, got []byte) {
	texts := make([]string, len(accepted))
	for i, v := range accepted {
		texts[i] = v.String()
	}
	ok := slices.ContainsFunc(accepted, func(v attest.Hex) bool { return bytes.Equal(v, got) })
	r.Add(ok, name, either(texts), hex.EncodeToString(got))
}

// NoneOr accepts zeros, beside what is listed.
func NoneOr(r *attest.Result, name string, accepted []attest.Hex, got []byte) {
	Listed(r, name, append([]attest.Hex{make([]byte, len(got))}, accepted...), got)
}

// Hint says of each failed claim what most likely happened, by the hints of the
// caller's own claims and of those that Judge adds.
func Hint(r *attest.Result, own map[string]string) {
	for i, c := range r.Claims {
		if c.Verdict != attest.Failed {
			continue
		}
		name := strings.TrimPrefix(c.Name, string(r.Type)+".")
		if h, ok := own[name]; ok {
			r.Claims[i].Hint = h
		} else {
			r.Claims[i].Hint = hints[name]
		}
	}
}

func either(values []string) string {
	if len(values) == 0 {
		return "a value that the policy lists; it lists none"
	}
	return strings.Join(values, " or ")
}

func found(err error, ok string) string {
	if err != nil {
		return err.Error()
	}
	return ok
}

func foundOr(err error, ok fmt.Stringer) string {
	if err != nil {
		return err.Error()
	}
	return ok.String()
}

func verdict(ok bool) string {
	if ok {
		return "it"
	}
	return "one that does not verify"
}

func onOff(set bool) string {
	if set {
		return "on"
	}
	return "off"
}

// hints say what most likely happened where a claim fails, and what to do.
var hints = map[string]string{
	"certificate":               "the quote names its platform only; give the platform's PCK certificate beside it",
	"chain":                     "the certificates are forged, or the one of the platform's authority (Intel SGX PCK Platform CA or Processor CA) is missing",
	"dates":                     "a certificate is not valid at that time; state the time at which the evidence was made",
	"signature.quoting_enclave": "the quote was changed, or its certificate is another platform's",
	"signature.key":             "the quote was put together from parts of others",
	"signature":                 "the quote was changed after it was signed",
	"fmspc":                     "the platform is of a kind that the policy does not list in tcb/fmspcs",
	"ppid":                      "the platform is one that the policy does not list in tcb/ppids",
	"collateral":                "say in the policy's tcb/collateral whether Intel's collateral is required",
	"tcb_info":                  "get the TCB info of the platform's FMSPC, with the chain beside it, from Intel's provisioning service or a cache of it",
	"tcb_info.dates":            "get newer TCB info, or state the time at which the evidence was made",
	"tcb_info.evaluation":       "the TCB info is older than the policy asks for; get the current one",
	"tcb_info.fmspc":            "the TCB info is for another kind of platform",
	"tcb_info.pce_id":           "the TCB info is for another kind of platform",
	"tcb_info.id":               "the TCB info is for the other kind of TEE; Intel's service has one for each",
	"qe_identity":               "get the identity of the quoting enclave, with the chain beside it, from Intel's provisioning service or a cache of it",
	"qe_identity.dates":         "get a newer identity of the quoting enclave, or state the time at which the evidence was made",
	"qe_identity.evaluation":    "the identity of the quoting enclave is older than the policy asks for; get the current one",
	"qe_identity.id":            "the identity is of another of Intel's enclaves; TDX has its own",
	"qe.mr_signer":              "the quote was made by an enclave that is not Intel's: trust nothing that this platform signed",
	"qe.isv_prod_id":            "the quote was made by another of Intel's enclaves",
	"qe.attributes":             "the quoting enclave can be debugged, or has attributes that Intel's has not",
	"qe.misc_select":            "the quoting enclave reports more than Intel's does",
	"module.mr_signer":          "the TDX module is not Intel's",
	"module.attributes":         "the TDX module has attributes that Intel's has not",
	"revocation.root":           "get Intel's current root revocation list; if it names a certificate, trust nothing under it",
	"revocation.pck":            "get the current revocation list of the platform's authority; if it names the platform, trust nothing that it signed",
	"tcb.status":                "the platform's firmware, microcode, TDX module or quoting enclave is older than the policy asks for, or set up otherwise; update the host",
	"tcb.advisories":            "Intel's advisories say what this platform is exposed to; list those you accept in the policy's tcb/advisories",
}
