package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestConclude(t *testing.T) {
	claim := func(v Verdict) Claim {
		return Claim{Name: "x." + string(v), Expected: "a", Found: "b", Verdict: v}
	}
	for name, tt := range map[string]struct {
		claims   []Claim
		accepted bool
	}{
		"one passed":            {[]Claim{claim(Passed)}, true},
		"passed and unchecked":  {[]Claim{claim(Unchecked), claim(Passed)}, true},
		"nothing":               {nil, false},
		"unchecked alone":       {[]Claim{claim(Unchecked)}, false},
		"one failed":            {[]Claim{claim(Passed), claim(Failed)}, false},
		"no verdict":            {[]Claim{claim(Passed), claim("")}, false},
		"an unknown verdict":    {[]Claim{claim(Passed), claim("fine")}, false},
		"failed, the first one": {[]Claim{claim(Failed), claim(Passed)}, false},
	} {
		r := Result{Type: SNP, Claims: tt.claims}
		err := r.Conclude()
		var refusal *Refusal
		if r.Accepted != tt.accepted || (err == nil) != tt.accepted || err != nil && !errors.As(err, &refusal) {
			t.Errorf("%s: accepted %t, %v", name, r.Accepted, err)
		}
		if refusal != nil && (refusal.Result.Accepted || len(refusal.Result.Claims) != len(tt.claims)) {
			t.Errorf("%s: %+v", name, refusal.Result)
		}
	}
}

func TestRefusalNamesWhatFailed(t *testing.T) {
	r := Result{Type: TDX}
	if !r.Add(true, "tdx.mrtd", "aa", "aa") || r.Add(false, "tdx.xfam", "e7", "ff") || r.Add(false, "tdx.debug", "off", "on") {
		t.Error("Add does not return whether the claim passed")
	}
	r.Skip("tdx.tcb", "old")
	r.Unstated("tdx.mr_service_td", "not there")
	err := r.Conclude()
	if got := err.Error(); got != "tdx evidence is refused: tdx.xfam: expected e7, found ff; tdx.debug: expected off, found on" {
		t.Error(got)
	}
	if f := r.Failed(); len(f) != 2 || f[0].Name != "tdx.xfam" {
		t.Errorf("%+v", f)
	}
	for i, found := range []string{"old", "not there"} {
		if c := r.Claims[3+i]; c.Verdict != Unchecked || c.Expected == "" || c.Found != found {
			t.Errorf("%+v", c)
		}
	}
	if got := (&Refusal{Result{Type: Sim}}).Error(); !strings.Contains(got, "nothing was shown") {
		t.Error(got)
	}
}

// Whatever differs in a binding gives other report data: also where one field's
// end could be taken for the next one's beginning.
func TestBinding(t *testing.T) {
	base := Binding{Label: ForConnections, Manifest: [32]byte{1}, Instance: []byte("key"), Root: [32]byte{2}}
	seen := map[ReportData]string{}
	for name, change := range map[string]func(b *Binding){
		"nothing":            func(*Binding) {},
		"the label":          func(b *Binding) { b.Label = ForReceipt },
		"the launch label":   func(b *Binding) { b.Label = ForLaunch },
		"the manifest":       func(b *Binding) { b.Manifest[31] = 1 },
		"the instance":       func(b *Binding) { b.Instance = []byte("kez") },
		"no instance":        func(b *Binding) { b.Instance = nil },
		"a longer instance":  func(b *Binding) { b.Instance = append(b.Instance, 0) },
		"the root":           func(b *Binding) { b.Root[0] = 3 },
		"label and manifest": func(b *Binding) { b.Label += "\x00"; copy(b.Manifest[:], b.Manifest[1:]) },
		"moved by a byte":    func(b *Binding) { b.Instance = append(b.Instance, b.Root[0]); copy(b.Root[:], b.Root[1:]) },
	} {
		b := base
		b.Instance = slices.Clone(base.Instance)
		change(&b)
		d := b.ReportData()
		if other, twice := seen[d]; twice {
			t.Errorf("%s and %s give the same", name, other)
		}
		seen[d] = name
	}
	// The layout is a promise to those who check receipts of long ago.
	h := sha512.New()
	for _, f := range [][]byte{[]byte("cocos/v1/report/connections"), base.Manifest[:], []byte("key"), base.Root[:]} {
		h.Write([]byte{0, 0, 0, 0, 0, 0, 0, byte(len(f))})
		h.Write(f)
	}
	if d := base.ReportData(); !bytes.Equal(d[:], h.Sum(nil)) {
		t.Errorf("%x", d)
	}
}

func TestLaunchDigests(t *testing.T) {
	raw := []byte("manifest")
	d := LaunchDigestsOf(raw)
	if d.SHA256 != sha256.Sum256(raw) || d.SHA384 != sha512.Sum384(raw) {
		t.Errorf("%x", d)
	}
	for kind, want := range map[Type][]byte{SNP: d.SHA256[:], Sim: d.SHA256[:], TDX: d.SHA384[:], SGX: nil, "": nil, "other": nil} {
		if got := d.Field(kind); !bytes.Equal(got, want) {
			t.Errorf("%q: %x", kind, got)
		}
	}
	if len(Types()) != 4 {
		t.Errorf("%v", Types())
	}
}

func TestEndorsementsWith(t *testing.T) {
	one := make([][]byte, 1, 4)
	one[0] = []byte("1")
	a := Endorsements{Certificates: one, TCBInfo: []byte("a"), TCBInfoChain: []byte("a")}
	b := Endorsements{Certificates: [][]byte{[]byte("2")}, CRLs: [][]byte{[]byte("3")}, TCBInfo: []byte("b"), TCBInfoChain: []byte("b"), QEIdentity: []byte("b"), QEIdentityChain: []byte("b")}
	got := a.With(b)
	if len(got.Certificates) != 2 || len(got.CRLs) != 1 || string(got.TCBInfo) != "a" || string(got.TCBInfoChain) != "a" || string(got.QEIdentity) != "b" || string(got.QEIdentityChain) != "b" {
		t.Errorf("%q", got)
	}
	// Neither is written into.
	_ = a.With(Endorsements{Certificates: [][]byte{[]byte("4")}})
	if string(got.Certificates[1]) != "2" || len(a.Certificates) != 1 {
		t.Errorf("%q, %q", got, a)
	}
}

// Evidence in JSON has the names that files keep.
func TestEvidenceJSON(t *testing.T) {
	b, err := json.Marshal(Evidence{Type: SNP, Report: []byte{1}, Endorsements: Endorsements{Certificates: [][]byte{{2}}}})
	if err != nil || string(b) != `{"type":"sev-snp","report":"AQ==","endorsements":{"certificates":["Ag=="]}}` {
		t.Errorf("%s, %v", b, err)
	}
}
