package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// anAttester has a launch field of the test's choice.
type anAttester struct {
	kind  attest.Type
	field []byte
	err   error
}

func (anAttester) Attest(context.Context, attest.ReportData) (attest.Evidence, error) {
	return attest.Evidence{}, errors.New("not asked for")
}

func (a anAttester) Type() attest.Type { return a.kind }

func (a anAttester) LaunchField(context.Context) ([]byte, error) { return a.field, a.err }

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

// refused wants a refusal with this word for the host and this text for others.
func refused(t *testing.T, name string, err error, why vm.Refusal, text string) {
	t.Helper()
	var r *vm.Refused
	if !errors.As(err, &r) || r.Why != why || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want the refusal %q with %q", name, err, why, text)
	}
}

func TestVerifyLaunchInAPlainVM(t *testing.T) {
	plain := frozen(t, func(*manifest.Manifest) {})
	if err := VerifyLaunch(t.Context(), &plain, nil); err != nil {
		t.Errorf("a plain manifest: %v", err)
	}
	for _, tee := range manifest.TEEs() {
		if tee != manifest.TEENone {
			m := frozen(t, func(m *manifest.Manifest) { m.TEE = tee })
			refused(t, string(tee), VerifyLaunch(t.Context(), &m, nil), vm.RefusedTEE, "/tee")
		}
	}
	// Validate does not let this pass; here it is refused all the same.
	attested := plain
	attested.AttestedTLS = true
	refused(t, "attested TLS", VerifyLaunch(t.Context(), &attested, nil), vm.RefusedTEE, "/attested_tls")
	refused(t, "no manifest at all", VerifyLaunch(t.Context(), &manifest.Frozen{}, nil), vm.RefusedTEE, "/tee")
}

func TestVerifyLaunchInATEE(t *testing.T) {
	other := frozen(t, func(m *manifest.Manifest) { m.ID = "other" })
	for _, kind := range []attest.Type{attest.SNP, attest.TDX, attest.Sim} {
		m := frozen(t, func(m *manifest.Manifest) { m.TEE, m.AttestedTLS = manifest.TEE(kind), true })
		digests := attest.LaunchDigestsOf(m.Raw)
		right := anAttester{kind: kind, field: digests.Field(kind)}
		if err := VerifyLaunch(t.Context(), &m, right); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		// One thing differs in each.
		check := func(name string, m manifest.Frozen, change func(*anAttester), why vm.Refusal, text string) {
			t.Helper()
			a := right
			a.field = bytes.Clone(right.field)
			change(&a)
			refused(t, fmt.Sprintf("%s, %s", kind, name), VerifyLaunch(t.Context(), &m, a), why, text)
		}
		check("another manifest", other, func(*anAttester) {}, vm.RefusedManifest, other.Digest.String())
		check("one bit", m, func(a *anAttester) { a.field[len(a.field)-1] ^= 1 }, vm.RefusedManifest, "launched for")
		check("cut", m, func(a *anAttester) { a.field = a.field[:len(a.field)-1] }, vm.RefusedManifest, "launched for")
		check("longer", m, func(a *anAttester) { a.field = append(a.field, 0) }, vm.RefusedManifest, "launched for")
		check("empty", m, func(a *anAttester) { a.field = nil }, vm.RefusedManifest, "launched for")
		check("no report", m, func(a *anAttester) { a.err = errors.New("the firmware is busy") }, vm.RefusedReport, "the firmware is busy")
		for _, tee := range manifest.TEEs() {
			if tee != manifest.TEENone && attest.Type(tee) != kind {
				m := frozen(t, func(m *manifest.Manifest) { m.TEE = tee })
				field := attest.LaunchDigestsOf(m.Raw).Field(kind)
				check("manifest of "+string(tee), m, func(a *anAttester) { a.field = field }, vm.RefusedTEE, "/tee")
			}
		}
		// A manifest that asks for nothing is compared all the same.
		plain := frozen(t, func(*manifest.Manifest) {})
		if err := VerifyLaunch(t.Context(), &plain, anAttester{kind: kind, field: attest.LaunchDigestsOf(plain.Raw).Field(kind)}); err != nil {
			t.Errorf("%s, a plain manifest: %v", kind, err)
		}
		check("another plain manifest", plain, func(*anAttester) {}, vm.RefusedManifest, "launched for")
	}
}

func TestVerifyLaunchInAnEnclave(t *testing.T) {
	m := frozen(t, func(m *manifest.Manifest) { m.TEE = manifest.TEESGX })
	if err := VerifyLaunch(t.Context(), &m, anAttester{kind: attest.SGX}); err != nil {
		t.Errorf("an enclave: %v", err)
	}
	refused(t, "a TEE that is not known", VerifyLaunch(t.Context(), &manifest.Frozen{Manifest: manifest.Manifest{TEE: manifest.TEENone}}, anAttester{kind: "other"}), vm.RefusedTEE, "other")
}

func TestCheckGuest(t *testing.T) {
	plain := frozen(t, func(*manifest.Manifest) {})
	attested := frozen(t, func(m *manifest.Manifest) { m.TEE = manifest.TEESim })
	closed := &Machine{CommandLine: CommandLine{Attested: true}}
	for name, err := range map[string]error{
		"plain in plain":       new(Machine).CheckGuest(&plain),
		"plain in attested":    closed.CheckGuest(&plain),
		"attested in attested": closed.CheckGuest(&attested),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused(t, "attested in plain", new(Machine).CheckGuest(&attested), vm.RefusedGuest, "console=null")
}

func TestCheckApprovals(t *testing.T) {
	alice, bob := newKey(t), newKey(t)
	m := frozen(t, func(m *manifest.Manifest) { m.Approvals = []keys.Public{alice.Public(), bob.Public()} })
	other := frozen(t, func(m *manifest.Manifest) { m.Approvals = m.Consumers })
	sign := func(m manifest.Frozen, k keys.Private) manifest.Approval {
		a, err := m.Approve(k)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, b := sign(m, alice), sign(m, bob)
	if err := CheckApprovals(&m, []manifest.Approval{b, a}); err != nil {
		t.Errorf("all approvals: %v", err)
	}
	for name, list := range map[string][]manifest.Approval{
		"none":             nil,
		"one is missing":   {a},
		"a stranger's too": {a, b, sign(m, newKey(t))},
		"another digest":   {a, sign(other, bob)},
		"another's key":    {a, {PublicKey: bob.Public(), Signature: a.Signature}},
	} {
		refused(t, name, CheckApprovals(&m, list), vm.RefusedApprovals, "/approvals")
	}
}
