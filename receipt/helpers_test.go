package receipt_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// at is when the tests' receipts are verified.
var at = time.Now().Add(time.Minute).UTC()

var imageDigest = [48]byte(bytes.Repeat([]byte{7}, 48))

// world is a run that ended, and who looks at its receipt.
type world struct {
	t         testing.TB
	authority *sim.Authority
	instance  keys.Private
	approver  keys.Private
	manifest  manifest.Frozen
	policy    attest.SimPolicy
}

func newKey(t testing.TB) keys.Private {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB) *world {
	t.Helper()
	a, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	_, root := a.Root()
	w := &world{
		t: t, authority: a, instance: newKey(t), approver: newKey(t),
		policy: attest.SimPolicy{Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{imageDigest[:]}},
	}
	w.manifest = w.freeze(1)
	return w
}

// freeze makes one of several manifests that differ in their nonce alone.
func (w *world) freeze(nonce byte) manifest.Frozen { return w.freezeFor(nonce, manifest.TEESim) }

func (w *world) freezeFor(nonce byte, tee manifest.TEE) manifest.Frozen {
	w.t.Helper()
	f, err := manifest.Freeze(manifest.Manifest{
		Version: 1, ID: "c1", Name: "A test", Nonce: manifest.Nonce{nonce}, TEE: tee, AttestedTLS: tee != manifest.TEENone,
		Approvals: []keys.Public{w.approver.Public()},
		Algorithm: manifest.Algorithm{
			Type: manifest.Python, SHA256: manifest.Sum([]byte("algorithm")), Size: 9, Provider: w.approver.Public(),
			Files: []manifest.File{
				{Name: "model", SHA256: manifest.Sum([]byte("model")), Size: 5},
				{Name: "wheels", SHA256: manifest.Sum([]byte("wheels")), Size: 6, UnpackedMax: 6},
			},
		},
		Datasets: []manifest.Dataset{
			{Name: "iris", Provider: w.approver.Public(), SHA256: manifest.Sum([]byte("iris")), Size: 4},
			{Name: "more", Provider: w.approver.Public(), SHA256: manifest.Sum([]byte("more")), Size: 4},
		},
		Consumers: []keys.Public{w.approver.Public()},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// request is that of a success.
func (w *world) request() receipt.Request {
	w.t.Helper()
	approval, err := w.manifest.Approve(w.approver)
	if err != nil {
		w.t.Fatal(err)
	}
	zero := 0
	return receipt.Request{
		Attester: w.authority.Attester(imageDigest, w.manifest.Digest), Instance: w.instance,
		Manifest: w.manifest, Approvals: []manifest.Approval{approval}, Run: "0b8ad9ad-6dbb-4d8a-9c31-b2b4b8a7f1f0",
		Outcome: receipt.Succeeded, ExitStatus: &zero,
		Result:  &receipt.Result{SHA256: manifest.Sum([]byte("result")), Size: 6},
		Started: time.Unix(1_800_000_000, 5), Finished: time.Unix(1_800_000_060, 0),
	}
}

func (w *world) make(req receipt.Request) []byte {
	w.t.Helper()
	raw, err := receipt.Make(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// options are those of somebody who approved the manifest.
func (w *world) options() receipt.Options {
	return receipt.Options{Verifier: verifier{w.policy}, Launch: attest.LaunchDigestsOf(w.manifest.Raw), Manifest: &w.manifest, At: at}
}

// verifier appraises simulated evidence alone.
type verifier struct{ policy attest.SimPolicy }

func (v verifier) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	return sim.Appraise(ctx, e, want, &v.policy, want.At)
}

// wire is a receipt's JSON, for those who change it.
type wire struct {
	Version  int `json:"version"`
	Envelope struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   []byte `json:"sig"`
		} `json:"signatures"`
	} `json:"envelope"`
	Evidence attest.Evidence `json:"evidence"`
}

func open(t testing.TB, raw []byte) *wire {
	t.Helper()
	var w wire
	if err := json.Unmarshal(raw, &w); err != nil {
		t.Fatal(err)
	}
	return &w
}

func (w *wire) raw(t testing.TB) []byte {
	t.Helper()
	b, err := json.Marshal(w, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sign makes the signature again, by a key of the host's choice.
func (w *wire) sign(t testing.TB, k keys.Private) {
	t.Helper()
	sig, err := k.SignPayload(keys.Payload{Type: w.Envelope.PayloadType, Body: w.Envelope.Payload})
	if err != nil {
		t.Fatal(err)
	}
	w.Envelope.Signatures[0].KeyID, w.Envelope.Signatures[0].Sig = k.Public().Fingerprint(), sig
}

// attest makes a simulated report anew, for a statement as it stands.
func (w *wire) attest(t testing.TB, a *sim.Authority, label attest.Label, digest manifest.Digest, instance keys.Public) {
	t.Helper()
	data := attest.Binding{Label: label, Manifest: digest, Instance: instance.SPKI(), Root: sha256.Sum256(w.Envelope.Payload)}.ReportData()
	e, err := a.Report(data, imageDigest, digest)
	if err != nil {
		t.Fatal(err)
	}
	w.Evidence = e
}
