// Package receipt is the computation receipt: a statement of what was computed,
// made and signed inside the VM, with evidence of the VM that commits to it.
//
// The statement is an in-toto Statement (version 1) in a DSSE envelope, signed by
// the VM's instance key. One report of the TEE, made under a label of its own
// (attest.ForReceipt), binds the statement's SHA-256, the instance key and the
// manifest digest. What endorses the evidence is enclosed.
//
// Invariants:
//   - A receipt has at most MaxSize bytes and its statement one form, canonical
//     JSON (RFC 8785); a member that is not known, given twice or missing is
//     refused.
//   - Verify believes nothing that the receipt says of itself: the key counts
//     because the report binds it, the report because the caller's own verifier
//     accepts it for the manifest that the caller approved.
//   - Nothing in a receipt tells what the algorithm printed or left, beyond size
//     and digest. A nonce hides even these from whoever sees the report data, as
//     a host does.
//   - Simulated evidence makes a receipt that says SIMULATED, in what is signed.
package receipt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
)

// MaxSize bounds a receipt, in bytes.
const MaxSize = 1 << 20

// Version of the receipt's format.
const Version = 1

// Receipt is a receipt that was read. What it says counts after Verify alone.
type Receipt struct {
	Statement Statement
	Evidence  attest.Evidence
	// Appraisal is what the verifier said of Evidence; set by Verify.
	Appraisal attest.Result

	envelope envelope
}

// file is the receipt's JSON.
type file struct {
	Version  int             `json:"version"`
	Envelope envelope        `json:"envelope"`
	Evidence attest.Evidence `json:"evidence"`
}

// envelope is DSSE's, version 1.0.2.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	// KeyID is the instance key's fingerprint.
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// payloadType is in-toto's.
const payloadType = "application/vnd.in-toto+json"

// payload is what the signature covers.
func (e *envelope) payload() keys.Payload {
	return keys.Payload{Type: e.PayloadType, Body: e.Payload}
}

// Parse reads a receipt. That it can be read says nothing of who made it.
func Parse(raw []byte) (*Receipt, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("the receipt has %d bytes; at most %d are read", len(raw), MaxSize)
	}
	var f file
	if err := json.Unmarshal(raw, &f, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("the receipt can't be read: %w", plain(err))
	}
	switch {
	case f.Version != Version:
		return nil, fmt.Errorf("receipt /version is %d; this software reads version %d", f.Version, Version)
	case f.Envelope.PayloadType != payloadType:
		return nil, fmt.Errorf("receipt /envelope/payloadType is %q; expected %q", f.Envelope.PayloadType, payloadType)
	case len(f.Envelope.Signatures) != 1:
		return nil, fmt.Errorf("receipt /envelope/signatures has %d; expected one, by the instance key", len(f.Envelope.Signatures))
	case !slices.Contains(attest.Types(), f.Evidence.Type):
		return nil, fmt.Errorf("receipt /evidence/type is %q; expected one of %q", f.Evidence.Type, attest.Types())
	}
	s, err := parseStatement(f.Envelope.Payload)
	if err != nil {
		return nil, err
	}
	return &Receipt{Statement: s, Evidence: f.Evidence, envelope: f.Envelope}, nil
}

// Bytes returns the receipt's JSON. A receipt that would be too large is an
// error.
func (r *Receipt) Bytes() ([]byte, error) {
	b, err := json.Marshal(file{Version: Version, Envelope: r.envelope, Evidence: r.Evidence},
		json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return nil, fmt.Errorf("writing the receipt: %w", err)
	}
	if b = append(b, '\n'); len(b) > MaxSize {
		return nil, fmt.Errorf("the receipt would have %d bytes; at most %d are read", len(b), MaxSize)
	}
	return b, nil
}

// Payload is the statement's JSON, as it was signed; it must not be changed.
func (r *Receipt) Payload() []byte { return r.envelope.Payload }

// Enclose adds endorsements, so that the receipt can be verified without them
// later. The statement and its evidence stay as they are.
func (r *Receipt) Enclose(more attest.Endorsements) {
	e := r.Evidence.Endorsements.With(more)
	e.Certificates, e.CRLs = distinct(e.Certificates), distinct(e.CRLs)
	r.Evidence.Endorsements = e
}

// Same tells whether both are the same receipt, whatever endorsements are
// enclosed.
func (r *Receipt) Same(other *Receipt) bool {
	return bytes.Equal(r.envelope.Payload, other.envelope.Payload)
}

func distinct(all [][]byte) [][]byte {
	var kept [][]byte
	for _, b := range all {
		if !slices.ContainsFunc(kept, func(k []byte) bool { return bytes.Equal(k, b) }) {
			kept = append(kept, b)
		}
	}
	return kept
}

// plain is an error of reading JSON, with the pointer to its place and without
// Go's types.
func plain(err error) error {
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return fmt.Errorf("%s is given twice", syntactic.JSONPointer)
		}
		return fmt.Errorf("%s is not valid JSON: %w", orWhole(syntactic.JSONPointer), syntactic.Err)
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		at := orWhole(semantic.JSONPointer)
		switch {
		case errors.Is(err, json.ErrUnknownName):
			return fmt.Errorf("%s is not a known member", at)
		case semantic.Err != nil:
			return fmt.Errorf("%s: %w", at, semantic.Err)
		}
		return fmt.Errorf("%s is of the wrong type", at)
	}
	return err
}

func orWhole(p jsontext.Pointer) string {
	if p == "" {
		return "it"
	}
	return strings.ToValidUTF8(string(p), "�")
}
