package receipt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Request is what a receipt is to say. All but Approvals, Reason, ExitStatus,
// Signal, Limit and Result or Results is required.
type Request struct {
	Attester attest.Attester
	Instance keys.Private
	Manifest manifest.Frozen
	// Approvals on which the agent began.
	Approvals []manifest.Approval
	Run       string
	// Outcome and what follows are as in Predicate.
	Outcome       Outcome
	Reason        Reason
	ExitStatus    *int
	Signal, Limit string
	Result        *Result
	Results       []Share
	// Started and Finished are when the algorithm ran, by the host's clock.
	Started, Finished time.Time
}

// Make makes the receipt of one run whose inputs all arrived as the manifest
// names them. It asks the TEE twice: for what it measured, and for the report
// that commits to the statement.
func Make(ctx context.Context, req Request) ([]byte, error) {
	r, err := assemble(ctx, &req)
	if err != nil {
		return nil, fmt.Errorf("making the receipt: %w", err)
	}
	return r.Bytes()
}

func assemble(ctx context.Context, req *Request) (*Receipt, error) {
	if req.Attester == nil || req.Instance.Public().IsZero() || req.Manifest.Digest == (manifest.Digest{}) {
		return nil, errors.New("the request is incomplete")
	}
	p, err := req.predicate(ctx)
	if err != nil {
		return nil, err
	}
	s := p.statement()
	if err := s.validate(); err != nil {
		return nil, err
	}
	body, err := s.bytes()
	if err != nil {
		return nil, err
	}
	e := envelope{PayloadType: payloadType, Payload: body}
	sig, err := req.Instance.SignPayload(e.payload())
	if err != nil {
		return nil, err
	}
	e.Signatures = []signature{{KeyID: req.Instance.Public().Fingerprint(), Sig: sig}}
	evidence, err := req.Attester.Attest(ctx, binding(&p, body).ReportData())
	if err != nil {
		return nil, err
	}
	r := &Receipt{Statement: s, Evidence: evidence, envelope: e}
	return r, r.checkMeasurement()
}

// binding is what the evidence commits to.
func binding(p *Predicate, body []byte) attest.Binding {
	return attest.Binding{Label: attest.ForReceipt, Manifest: p.Manifest, Instance: p.Instance.SPKI(), Root: sha256.Sum256(body)}
}

func (req *Request) predicate(ctx context.Context) (Predicate, error) {
	m := &req.Manifest
	own, err := req.Attester.Attest(ctx, attest.Binding{Label: attest.ForLaunch, Manifest: m.Digest}.ReportData())
	if err != nil {
		return Predicate{}, err
	}
	measurement, err := measured(own)
	if err != nil {
		return Predicate{}, fmt.Errorf("the TEE's own evidence: %w", err)
	}
	p := Predicate{
		Run: req.Run, Manifest: m.Digest, Instance: req.Instance.Public(),
		TEE: own.Type, Simulated: own.Type == attest.Sim, Measurement: measurement,
		Algorithm: m.Algorithm.SHA256, AlgorithmCommitment: m.Algorithm.Commitment,
		Files: filesOf(m), Datasets: datasetsOf(m),
		Outcome: req.Outcome, Reason: req.Reason, ExitStatus: req.ExitStatus, Signal: req.Signal, Limit: req.Limit,
		Result: req.Result, Results: req.Results,
		HostClock: HostClock{Started: seconds(req.Started), Finished: seconds(req.Finished)},
	}
	_, _ = rand.Read(p.Nonce[:]) // never fails
	for _, a := range req.Approvals {
		p.Approvals = append(p.Approvals, Approval{Key: a.PublicKey.Fingerprint(), Signature: a.Signature})
	}
	return p, nil
}

func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
