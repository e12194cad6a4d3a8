package atls

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
)

// Appraisal judges a peer's evidence. Verifier and Launch are required.
type Appraisal struct {
	Verifier attest.Verifier
	// Launch are the digests of the manifest that this side approved.
	Launch attest.LaunchDigests
	// AcceptCached takes evidence that is older than the connection, where the
	// peer has some. Nothing secret is for such a connection.
	AcceptCached bool
	// CheckInstance judges the instance key, and what else it likes, after the
	// evidence was accepted; nil: any.
	CheckInstance func(instance []byte, a Attestation) error
}

// Attestation is evidence of a peer, with what was made of it.
type Attestation struct {
	Evidence attest.Evidence
	// ReportData is what it had to bind.
	ReportData attest.ReportData
	Result     attest.Result
	// Instance is the DER SubjectPublicKeyInfo of the peer's instance key, which
	// ReportData covers.
	Instance []byte
	// Cached: the evidence is older than the connection.
	Cached bool
}

// EvidenceError says that a peer's evidence was not accepted, and has it.
type EvidenceError struct {
	Attestation
	Err error
}

// Error says why.
func (e *EvidenceError) Error() string { return "the peer's evidence: " + e.Err.Error() }

// Unwrap leads to the *attest.Refusal, if the verifier refused.
func (e *EvidenceError) Unwrap() error { return e.Err }

// judge appraises evidence for a connection, which leaf names: what the attester
// must have said of it, as this side sees it.
func (a *Appraisal) judge(ctx context.Context, s *shared, e evidence, leaf hash) (Attestation, error) {
	instance, err := keys.ParsePublic(e.instance)
	if err != nil {
		return Attestation{}, fmt.Errorf("the peer's instance key: %w", err)
	}
	report, err := decode(e.report)
	if err != nil {
		return Attestation{}, fmt.Errorf("the peer's %w", err)
	}
	root := cachedRoot
	if !e.cached {
		root = e.proof.root(leaf)
	}
	binding := attest.Binding{Label: attest.ForConnections, Manifest: a.Launch.SHA256, Instance: e.instance, Root: root}
	at := Attestation{Evidence: report, ReportData: binding.ReportData(), Instance: e.instance, Cached: e.cached}
	if err := a.accept(ctx, s, &at, e, instance, leaf); err != nil {
		return Attestation{}, &EvidenceError{Attestation: at, Err: err}
	}
	return at, nil
}

func (a *Appraisal) accept(ctx context.Context, s *shared, at *Attestation, e evidence, instance keys.Public, leaf hash) (err error) {
	if at.Cached {
		if !a.AcceptCached {
			return errors.New("it is older than the connection, which was not asked for")
		}
		if err := instance.Verify(connectionText(leaf), e.signature); err != nil {
			return fmt.Errorf("it is older than the connection, for which the instance key did not sign: %w", err)
		}
	}
	launch := a.Launch
	at.Result, err = s.verify(ctx, a.Verifier, e.report, at.Evidence, attest.Expected{ReportData: at.ReportData, Launch: &launch})
	switch {
	case err != nil:
		return err
	case !at.Result.Accepted:
		return errors.New("the verifier did not accept it, and did not say why")
	case zeros(launch.Field(at.Evidence.Type)):
		// A VM that was launched for nothing has zeros there, too.
		return fmt.Errorf("the digest that a launch field of the type %q carries is not known here: give the manifest, not its digest alone", at.Evidence.Type)
	case a.CheckInstance != nil:
		return a.CheckInstance(at.Instance, *at)
	}
	return nil
}

// zeros tells whether b has bytes, and all of them are zero.
func zeros(b []byte) bool { return len(b) > 0 && bytes.Count(b, []byte{0}) == len(b) }
