// Package sgx appraises SGX quotes of version 3 (Intel, "SGX ECDSA QuoteLibReference
// DCAP API"; the report is that of the Software Developer's Manual, volume 3D).
// Who signed a quote, and what Intel says of the platform, is attest/intel's to
// judge.
//
// Invariants:
//   - A quote's sizes fit. Bytes may follow it; no signature covers them and
//     nothing looks at them, so a quote's digest names nothing.
//   - Appraise looks at every field of an enclave's report that can weaken it.
//     What the policy does not list is refused, and each claim is in the result,
//     refused or not.
//   - An enclave has no launch field: the manifest that it serves shows in report
//     data alone, by the word of the measured enclave.
package sgx

import (
	"fmt"

	"github.com/ultravioletrs/cocos/attest/intel"
)

// Quote is an SGX quote, read.
type Quote struct {
	Version uint16
	// Trailing is how many bytes follow the quote, not looked at.
	Trailing int
	// Report of the enclave that is quoted.
	Report intel.Enclave

	frame *intel.Quote
}

// Parse reads a quote of version 3. That it is well-formed says nothing of who
// made it.
func Parse(b []byte) (*Quote, error) {
	frame, err := intel.ParseQuote(b)
	if err != nil {
		return nil, fmt.Errorf("the quote %w", err)
	}
	if frame.TEE != intel.TEESGX {
		return nil, fmt.Errorf("the quote is of TEE type %#x; expected %#x (SGX)", frame.TEE, intel.TEESGX)
	}
	report, err := intel.ParseEnclave(frame.Body)
	if err != nil {
		return nil, err
	}
	return &Quote{Version: frame.Version, Trailing: frame.Trailing, Report: *report, frame: frame}, nil
}
