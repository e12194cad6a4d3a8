package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// ErrSignature says that a report is not signed by this key.
var ErrSignature = errors.New("the report's signature does not verify")

// VerifySignature checks that the key of signer, whose own standing is the
// caller's to judge, signed the report (tables 120 and 121).
func VerifySignature(report []byte, signer *x509.Certificate) error {
	r, err := Parse(report)
	if err != nil {
		return err
	}
	if r.SignatureAlgo != SignatureECDSAP384 {
		return fmt.Errorf("the report is signed by algorithm %d; expected %d (ECDSA P-384 with SHA-384)", r.SignatureAlgo, SignatureECDSAP384)
	}
	key, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return fmt.Errorf("the signer's certificate has a key of kind %T; expected ECDSA P-384", signer.PublicKey)
	}
	sum := sha512.Sum384(report[:SignedSize])
	if !ecdsa.Verify(key, sum[:], number(r.R), number(r.S)) {
		return ErrSignature
	}
	return nil
}

// Sign puts a signature into a report that Marshal wrote: the simulated TEE's,
// or a test's. AMD's keys are in no program.
func Sign(report []byte, key *ecdsa.PrivateKey) error {
	if len(report) != ReportSize {
		return fmt.Errorf("signing an SNP report: has %d bytes; expected %d", len(report), ReportSize)
	}
	if key.Curve != elliptic.P384() {
		return fmt.Errorf("signing an SNP report: the key is on %s; expected P-384", key.Params().Name)
	}
	sum := sha512.Sum384(report[:SignedSize])
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return fmt.Errorf("signing an SNP report: %w", err)
	}
	for i, v := range []*big.Int{r, s} {
		part := report[SignedSize+72*i:][:72]
		v.FillBytes(part)
		slices.Reverse(part)
	}
	return nil
}

func number(littleEndian [72]byte) *big.Int {
	slices.Reverse(littleEndian[:])
	return new(big.Int).SetBytes(littleEndian[:])
}
