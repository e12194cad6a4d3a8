// Package intel appraises what SGX and TDX quotes have in common: Intel's
// "Data Center Attestation Primitives" (DCAP). Who signed a quote, on which
// platform, and what Intel says of that platform and of its quoting enclave
// ("Intel TDX DCAP Quoting Library API", appendix 3; "Intel SGX PCK Certificate
// and Certificate Revocation List Profile Specification"; the documentation of
// Intel's Provisioning Certification Service, v4).
//
// Packages attest/tdx and attest/sgx read what a quote says of a guest or an
// enclave, and ask Judge for the rest.
//
// Invariants:
//   - The one root is Intel's, embedded here. A root among evidence or
//     endorsements is never looked at.
//   - What a certificate may be used for follows from its name, its issuer and
//     what it says of itself: an authority for platforms' keys signs no TCB
//     information, and a platform's key is no authority.
//   - Intel's JSON counts only as the bytes that Intel signed; what those lack is
//     an error, and an unknown status or version too.
//   - TCB information, identity of the quoting enclave and revocation lists must
//     be there and good at the time of the appraisal, or the policy says in so
//     many words that they go unchecked. Even then the quoting enclave must be
//     Intel's: the platform's key certifies enclaves of others as well.
//   - A status is put together as Intel does, from the platform's level, the TDX
//     module's and the quoting enclave's; it is never better than the worst.
package intel

import (
	"crypto/x509"
	"embed"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Intel's own certificate, "Intel SGX Root CA", as its provisioning service
// publishes it. SHA-256 of the DER:
// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
//
//go:embed roots/sgx.pem
var pinned embed.FS

const rootFile = "roots/sgx.pem"

// Root is Intel's certificate, the only one that products pass to Judge.
var Root = sync.OnceValue(func() *x509.Certificate {
	c, err := readRoot()
	if err != nil {
		panic(fmt.Sprintf("intel: embedded %s: %v", rootFile, err)) // a test reads it
	}
	return c
})

func readRoot() (*x509.Certificate, error) {
	b, err := pinned.ReadFile(rootFile)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || len(rest) > 0 {
		return nil, errors.New("is not one PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Window is a span of time; a zero end is open.
type Window struct{ From, To time.Time }

// within narrows w.
func (w Window) within(from, to time.Time) Window {
	if from.After(w.From) {
		w.From = from
	}
	if w.To.IsZero() || to.Before(w.To) {
		w.To = to
	}
	return w
}

func (w Window) contains(t time.Time) bool { return !t.Before(w.From) && !t.After(w.To) }

func (w Window) String() string {
	return w.From.UTC().Format(time.RFC3339) + " to " + w.To.UTC().Format(time.RFC3339)
}
