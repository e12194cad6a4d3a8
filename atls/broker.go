package atls

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/keys"
)

// BrokerEvidence is evidence for one request to a key broker: a report that may
// cover others, too, and what leads from it to the request. Every byte is
// untrusted until Appraisal.JudgeBroker accepted it. In JSON, byte strings are
// standard base64.
type BrokerEvidence struct {
	// Instance is the DER SubjectPublicKeyInfo of the VM's instance key.
	Instance []byte `json:"instance_key"`
	// Path and Siblings lead from the request's leaf to the root that the report
	// binds, as in attested TLS: bit i of Path says whether sibling i is on the
	// left. At most 10 siblings of 32 bytes.
	Path     uint32   `json:"path"`
	Siblings [][]byte `json:"siblings,omitzero"`
	// Report is the JSON of an attest.Evidence, at most 512 KiB.
	Report jsontext.Value `json:"evidence"`
}

// brokerLabel keeps requests to brokers and connections apart under one root.
const brokerLabel = "cocos/v1/atls/broker"

// brokerLeaf is what an attester says of a request to a key broker: its role, the
// broker's address as the manifest has it, and the SHA-512 of the runtime data,
// which has the broker's nonce and the key to which it is to encrypt.
func brokerLeaf(broker string, data [sha512.Size]byte) hash {
	b := []byte{leafTag}
	for _, f := range [][]byte{[]byte(brokerLabel), {byte(brokerClient)}, []byte(broker), data[:]} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return sha256.Sum256(b)
}

// ForBroker returns fresh evidence for a request to the broker with this address,
// as the manifest has it. data is the SHA-512 of the request's runtime data, which
// the caller made. It waits for a report like a connection does, and shares it
// with those that wait.
func (p *Prover) ForBroker(ctx context.Context, broker string, data [sha512.Size]byte) (BrokerEvidence, error) {
	e, err := p.prove(ctx, brokerLeaf(broker, data), false)
	if err != nil {
		return BrokerEvidence{}, err
	}
	b := BrokerEvidence{Instance: e.instance, Path: e.proof.path, Report: e.report}
	for _, s := range e.proof.siblings {
		b.Siblings = append(b.Siblings, s[:])
	}
	return b, nil
}

// JudgeBroker appraises evidence for a request to the broker with this address,
// whose runtime data has this SHA-512. Errors are like those of a connection: an
// *EvidenceError has evidence that was understood and not accepted. AcceptCached
// is of no meaning here: such evidence is always fresh.
func (a *Appraisal) JudgeBroker(ctx context.Context, b BrokerEvidence, broker string, data [sha512.Size]byte) (Attestation, error) {
	switch {
	case a.Verifier == nil:
		return Attestation{}, errors.New("appraisal: there is no verifier, and nothing accepts evidence without one")
	case a.Launch.SHA256 == [sha256.Size]byte{}:
		return Attestation{}, errors.New("appraisal: there are no digests of an approved manifest")
	}
	e := evidence{instance: b.Instance, report: b.Report, proof: proof{path: b.Path}}
	switch n := len(b.Siblings); {
	case len(b.Instance) == 0 || len(b.Instance) > maxKey:
		return Attestation{}, fmt.Errorf("instance_key has %d bytes; expected 1 to %d", len(b.Instance), maxKey)
	case n > maxDepth:
		return Attestation{}, fmt.Errorf("siblings has %d entries; at most %d are taken", n, maxDepth)
	case b.Path>>n != 0:
		return Attestation{}, fmt.Errorf("path is %#x, which has more than the %d steps of siblings", b.Path, n)
	case len(b.Report) == 0 || len(b.Report) > maxEvidence:
		return Attestation{}, fmt.Errorf("evidence has %d bytes; expected 1 to %d", len(b.Report), maxEvidence)
	}
	for i, s := range b.Siblings {
		if len(s) != len(hash{}) {
			return Attestation{}, fmt.Errorf("siblings/%d has %d bytes; expected %d", i, len(s), len(hash{}))
		}
		e.proof.siblings = append(e.proof.siblings, hash(s))
	}
	if _, err := keys.ParsePublic(b.Instance); err != nil {
		return Attestation{}, fmt.Errorf("instance_key: %w", err)
	}
	return a.judge(ctx, new(shared), e, brokerLeaf(broker, data))
}
