// Package tdx appraises TDX quotes: version 4, and version 5 with a TD report of
// TDX 1.0 or 1.5 (Intel, "TDX DCAP Quoting Library API", appendix 3; "TDX Module
// Base Architecture Specification", TD_REPORT). Who signed a quote, and what
// Intel says of the platform, is attest/intel's to judge.
//
// Invariants:
//   - A quote's sizes fit. Bytes may follow it, as quoting services hand out
//     buffers larger than the quote; no signature covers them and nothing looks
//     at them, so a quote's digest names nothing.
//   - Appraise looks at every field of a TD report that can weaken a TD. What the
//     policy does not list is refused, and each claim is in the result, refused
//     or not.
//   - A TD that its host can debug is refused twice: by its attributes, which are
//     accepted exactly, and by the bits that make it untrusted.
package tdx

import (
	"fmt"

	"github.com/ultravioletrs/cocos/attest/intel"
)

// Quote is a TDX quote, read. Bytes are as they stand in it.
type Quote struct {
	Version uint16
	// Trailing is how many bytes follow the quote, not looked at.
	Trailing int
	// TEETCBSVN are the security versions when the TD was launched: module, its
	// major version, platform.
	TEETCBSVN      [16]byte
	MRSEAM         [48]byte
	MRSignerSEAM   [48]byte
	SEAMAttributes [8]byte
	Attributes     [8]byte
	XFAM           [8]byte
	MRTD           [48]byte
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMR           [4][48]byte
	ReportData     [64]byte
	// TDX15: the report has the members below, which are zero elsewhere.
	TDX15 bool
	// TEETCBSVN2 are the security versions now: a module can be updated under a TD.
	TEETCBSVN2  [16]byte
	MRServiceTD [48]byte

	frame *intel.Quote
}

// Parse reads a quote of version 4 or 5. That it is well-formed says nothing of
// who made it.
func Parse(b []byte) (*Quote, error) {
	frame, err := intel.ParseQuote(b)
	if err != nil {
		return nil, fmt.Errorf("the quote %w", err)
	}
	if frame.TEE != intel.TEETDX {
		return nil, fmt.Errorf("the quote is of TEE type %#x; expected %#x (TDX)", frame.TEE, intel.TEETDX)
	}
	q := &Quote{Version: frame.Version, Trailing: frame.Trailing, TDX15: len(frame.Body) == intel.TD15Size, frame: frame}
	rest := frame.Body
	for _, field := range [][]byte{
		q.TEETCBSVN[:], q.MRSEAM[:], q.MRSignerSEAM[:], q.SEAMAttributes[:], q.Attributes[:], q.XFAM[:],
		q.MRTD[:], q.MRConfigID[:], q.MROwner[:], q.MROwnerConfig[:],
		q.RTMR[0][:], q.RTMR[1][:], q.RTMR[2][:], q.RTMR[3][:], q.ReportData[:],
		q.TEETCBSVN2[:], q.MRServiceTD[:], // where rest has them
	} {
		rest = rest[copy(field, rest):]
	}
	return q, nil
}
