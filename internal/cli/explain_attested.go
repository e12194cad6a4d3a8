package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/ultravioletrs/cocos/atls"
	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/explain"
)

// refused explains why what answered did not pass as the VM that the manifest
// asks for; nil if that is not why.
func (p *peer) refused(doing string, cause error) error {
	var (
		own      *problem
		second   *secondInstance
		other    *otherTEE
		refusal  *attest.Refusal
		evidence *atls.EvidenceError
	)
	switch {
	case errors.As(cause, &own): // of this person's own files
		q := *own
		q.err = fmt.Errorf("%s: %w", doing, cause)
		return &q
	case errors.As(cause, &second):
		return &problem{reason: reasonSecondInstance, field: "instance", err: fmt.Errorf("%s: %w", doing, second),
			hint: "nothing was sent. A host that runs two VMs can show some participants one and the others another. If you know that the first VM has ended and the computation was started anew: --new-instance"}
	case errors.As(cause, &other):
		return &problem{reason: reasonRefused, field: "tee", err: fmt.Errorf("%s: %w", doing, other),
			hint: "nothing was sent. Your policy accepts this TEE, but the manifest was approved for another one"}
	case errors.As(cause, &evidence) && errors.As(evidence.Err, &refusal):
		return p.refusedEvidence(doing, evidence.Evidence, refusal.Result)
	case errors.As(cause, &evidence):
		return &problem{reason: reasonRefused, err: fmt.Errorf("%s: the evidence of the VM at %s could not be appraised: %w", doing, p.address, evidence.Err),
			hint: "nothing was sent. cocos-cli attestation get fetches the evidence to look at"}
	case cause == nil, broken(cause):
		return nil
	}
	return &problem{reason: reasonNotAttested, err: fmt.Errorf("%s: whoever answers at %s does not prove itself as the manifest asks: %w", doing, p.address, cause),
		hint: "nothing was sent. The manifest says /attested_tls: true, and this is not an agent that enforces it: check --agent; if it is right, the host runs something else there"}
}

// broken tells whether cause is a connection that could not be made, or ended.
func broken(cause error) bool {
	var (
		record tls.RecordHeaderError
		op     *net.OpError
	)
	switch {
	case errors.As(cause, &record), isEOF(cause), errors.Is(cause, atls.ErrLater), errors.Is(cause, net.ErrClosed),
		errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, context.Canceled):
		return true
	case errors.As(cause, &op):
		return op.Op != "remote error" // which is an alert of TLS
	}
	return false
}

// refusedEvidence names each claim that failed, and the most likely causes.
func (p *peer) refusedEvidence(doing string, e attest.Evidence, r attest.Result) error {
	failed := r.Failed()
	names := make([]string, len(failed))
	for i := range failed {
		names[i] = failed[i].Name
	}
	kind := string(r.Type)
	if r.Simulated {
		kind = simulatedMark
	}
	known, err := p.known()
	causes := explain.Explain(r, e, known)
	if err != nil {
		causes = append(causes, fmt.Sprintf("not all that you named could be read to find out more: %v", err))
	}
	q := &problem{reason: reasonRefused, claims: failed, causes: causes,
		err:  fmt.Errorf("%s: the %s evidence of the VM at %s is refused: %s", doing, kind, p.address, strings.Join(names, ", ")),
		hint: "nothing was sent. To look further: --image and --firmware, or cocos-cli attestation get, then attestation explain with all that you expect to run"}
	if len(names) > 0 {
		q.field = names[0]
	}
	return q
}
