package manifest_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestRoles(t *testing.T) {
	p := everybody()
	m := full()
	for _, tt := range []struct {
		name string
		key  keys.Public
		want []manifest.Role
	}{
		{"algorithm's provider", p.algo.Public(), []manifest.Role{manifest.AlgorithmProvider}},
		{"provider and approver", p.data.Public(), []manifest.Role{manifest.DatasetProvider, manifest.Approver}},
		{"consumer", p.consumer.Public(), []manifest.Role{manifest.Consumer}},
		{"approver", p.approver.Public(), []manifest.Role{manifest.Approver}},
		{"stranger", p.stranger.Public(), nil},
		{"no key", keys.Public{}, nil},
	} {
		if got := m.RolesOf(tt.key); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		for _, r := range append(manifest.Roles(), "", "owner", "Consumer") {
			if got := m.HasRole(tt.key, r); got != slices.Contains(tt.want, r) {
				t.Errorf("%s as %q: %t", tt.name, r, got)
			}
		}
	}
	// A manifest without keys gives the zero key nothing.
	var empty manifest.Manifest
	empty.Consumers, empty.Approvals, empty.Datasets = []keys.Public{{}}, []keys.Public{{}}, []manifest.Dataset{{}}
	if got := empty.RolesOf(keys.Public{}); len(got) != 0 {
		t.Errorf("the zero key has %q", got)
	}
}

func TestDatasetByName(t *testing.T) {
	m := full()
	if d, ok := m.Dataset("two"); !ok || d.UnpackedMax != 100 {
		t.Errorf("%+v %t", d, ok)
	}
	for _, name := range []string{"", "Two", "three", "two/"} {
		if d, ok := m.Dataset(name); ok {
			t.Errorf("%q: %+v", name, d)
		}
	}
}

func approve(t testing.TB, f manifest.Frozen, k keys.Private) manifest.Approval {
	t.Helper()
	a, err := f.Approve(k)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Each list of approvals is right in all but one thing.
func TestApprovals(t *testing.T) {
	p := everybody()
	f := freeze(t, full()) // asks approver and data
	one, two := approve(t, f, p.approver), approve(t, f, p.data)
	other := f
	other.Digest[31] ^= 1
	// The same key, as if the manifest gave it other roles.
	demoted := f
	demoted.Datasets = nil
	bent := two
	bent.Signature = bytes.Clone(two.Signature)
	bent.Signature[len(bent.Signature)-1] ^= 1
	// The same bytes, signed for another purpose.
	callSig, err := p.data.Sign(manifest.CallText(f.Digest, manifest.Approver, p.data.Public(), nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	list := func(a ...manifest.Approval) []manifest.Approval { return a }
	for _, tt := range []struct {
		name  string
		in    []manifest.Approval
		paths []string
		want  string
	}{
		{"right", list(one, two), nil, ""},
		{"in another order", list(two, one), nil, ""},
		{"none", nil, []string{"/approvals", "/approvals"}, "lack"},
		{"one missing", list(one), []string{"/approvals"}, p.data.Public().Fingerprint()},
		{"one twice", list(one, two, one), []string{"/approvals/2"}, "second"},
		{"one too many", list(one, two, approve(t, f, p.stranger)), []string{"/approvals/2"}, "does not ask"},
		{"a stranger's instead", list(one, approve(t, f, p.stranger)), []string{"/approvals/1", "/approvals"}, "does not ask"},
		{"of another manifest", list(one, approve(t, other, p.data)), []string{"/approvals/1"}, "does not verify"},
		{"for other roles", list(one, approve(t, demoted, p.data)), []string{"/approvals/1"}, "does not verify"},
		{"signature bent", list(one, bent), []string{"/approvals/1"}, "does not verify"},
		{"signature empty", list(one, manifest.Approval{PublicKey: two.PublicKey}), []string{"/approvals/1"}, "does not verify"},
		{"signature of the other", list(one, manifest.Approval{PublicKey: two.PublicKey, Signature: one.Signature}), []string{"/approvals/1"}, "does not verify"},
		{"signature of a call", list(one, manifest.Approval{PublicKey: two.PublicKey, Signature: callSig}), []string{"/approvals/1"}, "does not verify"},
		{"no key", list(one, manifest.Approval{Signature: two.Signature}), []string{"/approvals/1", "/approvals"}, "does not ask"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := f.CheckApprovals(tt.in)
			if paths, text := faultsOf(t, err); !slices.Equal(paths, tt.paths) || !strings.Contains(text, tt.want) {
				t.Errorf("got %v, want faults at %q with %q", err, tt.paths, tt.want)
			}
		})
	}
	// One by one: the same refusals, and nothing about those that are missing.
	for name, tt := range map[string]struct {
		in   manifest.Approval
		want string
	}{
		"right":                  {two, ""},
		"a stranger's":           {approve(t, f, p.stranger), "does not ask"},
		"no key":                 {manifest.Approval{Signature: two.Signature}, "does not ask"},
		"of another manifest":    {approve(t, other, p.data), "does not verify"},
		"for other roles":        {approve(t, demoted, p.data), "does not verify"},
		"signature bent":         {bent, "does not verify"},
		"signature of a call":    {manifest.Approval{PublicKey: two.PublicKey, Signature: callSig}, "does not verify"},
		"no signature":           {manifest.Approval{PublicKey: two.PublicKey}, "does not verify"},
		"signature of the other": {manifest.Approval{PublicKey: two.PublicKey, Signature: one.Signature}, "does not verify"},
	} {
		if err := f.CheckApproval(tt.in); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	m := full()
	m.Approvals = nil
	nobody := freeze(t, m)
	if err := nobody.CheckApprovals(nil); err != nil {
		t.Errorf("nobody is asked: %v", err)
	}
	if err := nobody.CheckApprovals(list(approve(t, nobody, p.algo))); err == nil {
		t.Error("took an approval that nobody asked for")
	}
	if _, err := f.Approve(keys.Private{}); err == nil {
		t.Error("approved without a key")
	}
}

func TestCallTextDependsOnEachPart(t *testing.T) {
	p := everybody()
	exporter := make([]byte, 32)
	sign := func(d manifest.Digest, r manifest.Role, k keys.Public, e []byte) keys.Text {
		return manifest.CallText(d, r, k, []byte("instance"), e)
	}
	text := sign(manifest.Digest{1}, manifest.Consumer, p.algo.Public(), exporter)
	sig, err := p.algo.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]keys.Text{
		"digest":   sign(manifest.Digest{2}, manifest.Consumer, p.algo.Public(), exporter),
		"role":     sign(manifest.Digest{1}, manifest.Approver, p.algo.Public(), exporter),
		"key":      sign(manifest.Digest{1}, manifest.Consumer, p.data.Public(), exporter),
		"exporter": sign(manifest.Digest{1}, manifest.Consumer, p.algo.Public(), append([]byte{1}, exporter[1:]...)),
		"instance": manifest.CallText(manifest.Digest{1}, manifest.Consumer, p.algo.Public(), []byte("another"), exporter),
		"none":     manifest.CallText(manifest.Digest{1}, manifest.Consumer, p.algo.Public(), nil, exporter),
		"length":   sign(manifest.Digest{1}, manifest.Consumer, p.algo.Public(), exporter[:31]),
	} {
		if p.algo.Public().Verify(other, sig) == nil {
			t.Errorf("another %s verifies", name)
		}
	}
}

func TestDigestText(t *testing.T) {
	d := manifest.Sum([]byte("x"))
	for _, s := range []string{d.String(), "sha256:" + d.String()} {
		if got, err := manifest.ParseDigest(s); err != nil || got != d {
			t.Errorf("%s: %s %v", s, got, err)
		}
	}
	for _, s := range []string{"", "sha256:", d.String()[1:], d.String() + "0", strings.ToUpper(d.String()), "sha512:" + d.String(), strings.Repeat("g", 64), "sha256:sha256:" + d.String()} {
		if got, err := manifest.ParseDigest(s); err == nil {
			t.Errorf("%q became %s", s, got)
		}
	}
}
