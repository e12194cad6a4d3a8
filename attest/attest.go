// Package attest has the words of RFC 9334 as Go types: what an Attester hands
// out and what a Verifier says of it.
//
// It is a seam: the kinds of evidence and the appraisal policy live in packages
// of their own and implement these interfaces. Whatever is absent refuses: a
// Verifier that is not there accepts nothing.
package attest

import "context"

// ReportDataSize is what a report of every TEE binds at the Attester's wish, in
// bytes.
const ReportDataSize = 64

// ReportData is bound by Evidence; never chosen by a caller on the network.
type ReportData [ReportDataSize]byte

// Type names a kind of Evidence.
type Type string

// Evidence is what a TEE signs, in its vendor's own format, with what came
// beside it. Every byte is untrusted until a Verifier accepted it.
type Evidence struct {
	Type Type
	// Report is the vendor's raw report or quote.
	Report []byte
	// Endorsements came with it, such as a certificate table; may be empty.
	Endorsements []byte
}

// Attester obtains Evidence about the machine that it runs on.
type Attester interface {
	// Attest returns fresh Evidence that binds data.
	Attest(ctx context.Context, data ReportData) (Evidence, error)
}

// Expected is what Evidence must say beside the verifier's own policy. There is
// no appraisal without it.
type Expected struct {
	ReportData ReportData
	// ManifestDigest is the SHA-256 that the TEE's launch field must carry.
	ManifestDigest [32]byte
}

// Verifier appraises Evidence against a policy of its own.
type Verifier interface {
	// Verify returns nil only if everything was there and agreed.
	Verify(ctx context.Context, e Evidence, want Expected) error
}
