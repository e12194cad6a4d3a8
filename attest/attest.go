// Package attest has the words of RFC 9334 as Go types: what an Attester hands
// out, by what policy a Verifier appraises it, and what it says of it.
//
// It is data and a few interfaces. The kinds of Evidence live in packages of
// their own (attest/snp, attest/tdx, attest/sgx, attest/sim), which alone know
// vendors' formats; attest/appraisal puts them together.
//
// Invariants:
//   - Whatever is absent refuses: a policy's empty list accepts nothing, an
//     unknown type of Evidence is a refusal, a Verifier that is not there accepts
//     nothing.
//   - There is no appraisal without the expected binding (Expected).
//   - Evidence and Endorsements are untrusted bytes. What they are judged by,
//     the vendors' roots among it, never comes from them.
//   - Simulated evidence has a type of its own, and roots of its own.
package attest

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"time"
)

// ReportDataSize is what a report of every TEE binds at the Attester's wish, in
// bytes.
const ReportDataSize = 64

// ReportData is bound by Evidence; never chosen by a caller on the network.
type ReportData [ReportDataSize]byte

// Type names a kind of Evidence, in the manifest's words for the TEEs.
type Type string

// The types.
const (
	SNP Type = "sev-snp" // SEV-SNP ATTESTATION_REPORT, AMD 56860 table 23
	TDX Type = "tdx"     // Intel DCAP quote v4 or v5
	SGX Type = "sgx"     // Intel DCAP quote v3
	Sim Type = "sim"     // the simulated TEE: an SNP report under a host's own root
)

// Types lists them in the order in which texts show them.
func Types() []Type { return []Type{SNP, TDX, SGX, Sim} }

// Evidence is what a TEE signs, in its vendor's own format, with what came
// beside it. Every byte is untrusted until a Verifier accepted it.
type Evidence struct {
	Type Type `json:"type"`
	// Report is the vendor's raw report or quote.
	Report []byte `json:"report"`
	// EventLog is the TD's CCEL event log, for those who replay RTMR0; may be
	// empty.
	EventLog []byte `json:"event_log,omitzero"`
	// Endorsements that came with it; may be empty.
	Endorsements Endorsements `json:"endorsements,omitzero"`
}

// Endorsements are what vendors say of a TEE. They prove themselves by their
// signatures alone, wherever they come from.
type Endorsements struct {
	// Certificates, DER, in any order: VCEK, VLEK, ASK, PCK and the like.
	Certificates [][]byte `json:"certificates,omitzero"`
	// CRLs, DER, in any order.
	CRLs [][]byte `json:"crls,omitzero"`
	// TCBInfo is Intel's signed JSON as its service sends it, TCBInfoChain the
	// PEM chain of the header beside it; TDX and SGX only.
	TCBInfo      []byte `json:"tcb_info,omitzero"`
	TCBInfoChain []byte `json:"tcb_info_chain,omitzero"`
	// QEIdentity is Intel's signed identity of the quoting enclave.
	QEIdentity      []byte `json:"qe_identity,omitzero"`
	QEIdentityChain []byte `json:"qe_identity_chain,omitzero"`
}

// With returns e with what more has and e lacks; certificates and lists are
// joined.
func (e Endorsements) With(more Endorsements) Endorsements {
	e.Certificates = append(e.Certificates[:len(e.Certificates):len(e.Certificates)], more.Certificates...)
	e.CRLs = append(e.CRLs[:len(e.CRLs):len(e.CRLs)], more.CRLs...)
	if len(e.TCBInfo) == 0 {
		e.TCBInfo, e.TCBInfoChain = more.TCBInfo, more.TCBInfoChain
	}
	if len(e.QEIdentity) == 0 {
		e.QEIdentity, e.QEIdentityChain = more.QEIdentity, more.QEIdentityChain
	}
	return e
}

// Attester obtains Evidence about the machine that it runs on.
type Attester interface {
	// Type of the Evidence.
	Type() Type
	// Attest returns fresh Evidence that binds data.
	Attest(ctx context.Context, data ReportData) (Evidence, error)
	// LaunchField returns what the VM was launched for, from a source that the
	// host can't forge: HOST_DATA (32 bytes), MRCONFIGID (48 bytes).
	LaunchField(ctx context.Context) ([]byte, error)
}

// LaunchDigests are the two digests of one frozen manifest that launch fields
// carry.
type LaunchDigests struct {
	// SHA256 names the manifest, and is what HOST_DATA carries.
	SHA256 [sha256.Size]byte
	// SHA384 is what MRCONFIGID carries.
	SHA384 [sha512.Size384]byte
}

// LaunchDigestsOf digests a frozen manifest's bytes.
func LaunchDigestsOf(raw []byte) LaunchDigests {
	return LaunchDigests{SHA256: sha256.Sum256(raw), SHA384: sha512.Sum384(raw)}
}

// Field is what the launch field of a TEE must carry; nil for a TEE without one.
func (d LaunchDigests) Field(t Type) []byte {
	switch t {
	case SNP, Sim:
		return d.SHA256[:]
	case TDX:
		return d.SHA384[:]
	}
	return nil
}

// Expected is what Evidence must say beside the verifier's own policy. There is
// no appraisal without it.
type Expected struct {
	ReportData ReportData
	// Launch is what the launch field must carry. Nil: the policy names the
	// values itself, and one that names none refuses.
	Launch *LaunchDigests
	// At is the time of the appraisal; zero means the verifier's clock.
	At time.Time
}

// Verifier appraises Evidence against a policy of its own.
type Verifier interface {
	// Verify returns a Result with Accepted set and a nil error only if
	// everything was there and agreed. A refusal is a *Refusal, which holds the
	// Result; other errors mean that it could not be appraised, and refuse too.
	Verify(ctx context.Context, e Evidence, want Expected) (Result, error)
}

// EndorsementSource finds what Evidence lacks to be appraised: in files, in a
// cache, at the vendor's. It returns what it has; a nil source has nothing.
type EndorsementSource interface {
	Endorse(ctx context.Context, e Evidence) (Endorsements, error)
}
