package guest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

type anAttester struct{}

func (anAttester) Attest(context.Context, attest.ReportData) (attest.Evidence, error) {
	return attest.Evidence{}, nil
}

func newKey(t *testing.T) keys.Private {
	t.Helper()
	k, err := keys.Generate(keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func frozen(t *testing.T, change func(*manifest.Manifest)) manifest.Frozen {
	t.Helper()
	k := newKey(t).Public()
	m := manifest.Manifest{
		Version: manifest.Version, ID: "c", Name: "c", Nonce: manifest.Nonce{1}, TEE: manifest.TEENone,
		Algorithm: manifest.Algorithm{Type: manifest.Binary, SHA256: manifest.Sum(nil), Size: 1, Provider: k},
		Consumers: []keys.Public{k},
	}
	change(&m)
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestVerifyLaunch(t *testing.T) {
	plain := frozen(t, func(*manifest.Manifest) {})
	if err := VerifyLaunch(&plain, nil); err != nil {
		t.Errorf("a plain manifest in a plain VM: %v", err)
	}
	refused := func(name string, m manifest.Frozen, a attest.Attester, want string) {
		t.Helper()
		if err := VerifyLaunch(&m, a); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want a refusal with %q", name, err, want)
		}
	}
	for _, tee := range manifest.TEEs() {
		if tee == manifest.TEENone {
			continue
		}
		m := frozen(t, func(m *manifest.Manifest) { m.TEE = tee })
		refused(string(tee)+" in a plain VM", m, nil, "/tee")
		refused(string(tee)+" in a TEE", m, anAttester{}, "launch field")
	}
	refused("a plain manifest in a TEE", plain, anAttester{}, "launch field")
	// Validate does not let this pass; here it is refused all the same.
	attested := plain
	attested.AttestedTLS = true
	refused("attested TLS in a plain VM", attested, nil, "/attested_tls")
	refused("no manifest at all", manifest.Frozen{}, nil, "/tee")
}

func TestCheckApprovals(t *testing.T) {
	alice, bob := newKey(t), newKey(t)
	m := frozen(t, func(m *manifest.Manifest) { m.Approvals = []keys.Public{alice.Public(), bob.Public()} })
	other := frozen(t, func(m *manifest.Manifest) { m.Approvals = m.Consumers })
	sign := func(d manifest.Digest, k keys.Private) manifest.Approval {
		a, err := manifest.Approve(d, k)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, b := sign(m.Digest, alice), sign(m.Digest, bob)
	if err := CheckApprovals(&m, []manifest.Approval{b, a}); err != nil {
		t.Errorf("all approvals: %v", err)
	}
	for name, list := range map[string][]manifest.Approval{
		"none":             nil,
		"one is missing":   {a},
		"a stranger's too": {a, b, sign(m.Digest, newKey(t))},
		"another digest":   {a, sign(other.Digest, bob)},
		"another's key":    {a, {PublicKey: bob.Public(), Signature: a.Signature}},
	} {
		if err := CheckApprovals(&m, list); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v; want a refusal", name, err)
		}
	}
}
