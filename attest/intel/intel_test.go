package intel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
)

// The root is Intel's, to the byte.
func TestRoot(t *testing.T) {
	c, err := readRoot()
	if err != nil {
		t.Fatal(err)
	}
	const want = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
	if sum := sha256.Sum256(c.Raw); hex.EncodeToString(sum[:]) != want || c.Subject.CommonName != "Intel SGX Root CA" {
		t.Errorf("%s with SHA-256 %x; want %s", c.Subject, sum, want)
	}
	if Root() == nil || !c.Equal(Root()) {
		t.Error("Root is another")
	}
}

// Every claim that can fail has a hint, and no hint is for a claim that is not
// made: refusals in attest/tdx and attest/sgx show the former, and this how many.
func TestHints(t *testing.T) {
	r := attest.Result{Type: attest.TDX}
	for name := range hints {
		r.Add(false, "tdx."+name, "x", "y")
	}
	r.Add(false, "tdx.own", "x", "y")
	r.Add(true, "tdx.chain", "x", "x")
	Hint(&r, map[string]string{"own": "ours"})
	for i, c := range r.Claims {
		if (c.Hint == "") != (c.Verdict == attest.Passed) {
			t.Errorf("%d: %+v", i, c)
		}
	}
	if c := inteltest.Claim(r, "tdx.own"); c.Hint != "ours" {
		t.Errorf("%+v", c)
	}
}

func td() []byte {
	b := make([]byte, TD10Size)
	copy(b, []byte{6, 1, 3})
	return b
}

func TestPlatformOf(t *testing.T) {
	ppid := [16]byte(bytes.Repeat([]byte{0x11}, 16))
	f := inteltest.New(attest.TDX, td())
	got, err := PlatformOf(f.Evidence(attest.TDX))
	if want := (Platform{FMSPC: [6]byte{0xb0, 0xc0, 0x6f}, PPID: ppid, CA: CAPlatform}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	f = inteltest.New(attest.SGX, make([]byte, EnclaveSize))
	f.Authority = inteltest.Issue(inteltest.Template("Intel SGX PCK Processor CA", true), f.Root)
	f.Evidence(attest.SGX) // makes the leaf
	f.CertType, f.CertData = 1, make([]byte, 36)
	f.Certificates = []*inteltest.Cert{f.Authority, f.Leaf}
	got, err = PlatformOf(f.Evidence(attest.SGX))
	if want := (Platform{FMSPC: [6]byte{0xb0, 0xc0, 0x6f}, PPID: ppid, CA: CAProcessor}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for name, tt := range map[string]struct {
		change func(f *inteltest.Fake)
		want   string
	}{
		"no certificate":        {func(f *inteltest.Fake) { f.CertType = 1 }, "none of 0 certificates"},
		"another authority":     {func(f *inteltest.Fake) { f.Authority, f.PCKList = f.Signer, nil }, "is issued by"},
		"no FMSPC":              {func(f *inteltest.Fake) { f.PCK.Without = 4 }, "lacks the extension"},
		"a version not known":   {func(f *inteltest.Fake) { f.Version = 9 }, "version 9"},
		"what is no quote":      {func(f *inteltest.Fake) { f.Body = nil }, "the quote"},
		"a broken certificate":  {func(f *inteltest.Fake) { f.CertData = []byte("-----BEGIN X-----\nAA==\n-----END X-----\n") }, "certificate 0"},
		"too many certificates": {func(f *inteltest.Fake) { f.Certificates = slices.Repeat([]*inteltest.Cert{f.Root}, 33) }, "33 certificates"},
	} {
		f := inteltest.New(attest.TDX, td())
		tt.change(f)
		if got, err := PlatformOf(f.Evidence(attest.TDX)); err == nil || !strings.Contains(err.Error(), tt.want) || got != (Platform{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Where several certificates lie beside a quote, the one whose key signed counts.
func TestFindPCK(t *testing.T) {
	f, other := inteltest.New(attest.TDX, td()), inteltest.New(attest.TDX, td())
	f.Evidence(attest.TDX)
	other.PCK.FMSPC[5] = 9
	other.Evidence(attest.TDX)
	f.CertType, f.CertData = 3, make([]byte, 404)
	for _, certs := range [][]*inteltest.Cert{{f.Leaf, other.Leaf, f.Authority}, {other.Leaf, f.Leaf, f.Authority}} {
		f.Certificates = certs
		if p, err := PlatformOf(f.Evidence(attest.TDX)); err != nil || p.FMSPC[5] != 0 {
			t.Errorf("%+v, %v", p, err)
		}
	}
	// One in the quote is not replaced by one beside it.
	f.CertType, f.CertData = 5, inteltest.PEM(other.Leaf, f.Authority)
	f.Certificates = []*inteltest.Cert{f.Leaf}
	if p, err := PlatformOf(f.Evidence(attest.TDX)); err != nil || p.FMSPC[5] != 9 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestPlatformsFlags(t *testing.T) {
	f := inteltest.New(attest.TDX, td())
	for _, there := range []bool{true, false} {
		f.PCK.Platform, f.Leaf = there, nil
		f.Evidence(attest.TDX)
		p, err := readPCK(f.Leaf.Certificate)
		if err != nil || (p.smt != nil) != there || (p.dynamic != nil) != there || there && !(*p.smt && *p.dynamic) {
			t.Errorf("%v: %+v, %v", there, p, err)
		}
		if p.pceSVN != 11 || p.components != f.PCK.Components || p.ppid[0] != 0x11 {
			t.Errorf("%+v", p)
		}
	}
}

func TestReadSigned(t *testing.T) {
	sig := strings.Repeat("0a", 64)
	s, err := readSigned([]byte("{\n \"tcbInfo\" : {\"b\" : 1,  \"a\":\"\\u0041\"}\n,\"signature\":\""+sig+"\"}\n"), "tcbInfo")
	if err != nil || string(s.raw) != `{"b" : 1,  "a":"\u0041"}` || s.signature[63] != 10 {
		t.Errorf("%q, %v", s.raw, err)
	}
	for name, text := range map[string]string{
		"nothing":           "",
		"a list":            "[]",
		"another member":    `{"enclaveIdentity":{},"signature":"` + sig + `"}`,
		"no signature":      `{"tcbInfo":{}}`,
		"a number":          `{"tcbInfo":{},"signature":1}`,
		"a short signature": `{"tcbInfo":{},"signature":"` + sig[2:] + `"}`,
		"no hexadecimal":    `{"tcbInfo":{},"signature":"` + sig[2:] + `zz"}`,
		"a third member":    `{"tcbInfo":{},"signature":"` + sig + `","x":1}`,
		"two of one name":   `{"tcbInfo":{},"tcbInfo":{},"signature":"` + sig + `"}`,
		"more after it":     `{"tcbInfo":{},"signature":"` + sig + `"}{}`,
		"cut":               `{"tcbInfo":{},"signature":"` + sig,
	} {
		if s, err := readSigned([]byte(text), "tcbInfo"); err == nil {
			t.Errorf("%s: read %q", name, s.raw)
		}
	}
}

// Statuses are sets of shortcomings, and each set has Intel's word.
func TestStatusWords(t *testing.T) {
	for s := range status(16) {
		word := s.String()
		v, known := statuses[word]
		if !known || s&revoked != v&revoked || s&revoked == 0 && s&(outOfDate|needsConfiguration) != v&(outOfDate|needsConfiguration) {
			t.Errorf("%04b is %s", s, word)
		}
		if s != 0 && v == 0 {
			t.Errorf("%04b is %s", s, word)
		}
	}
	for _, word := range attest.IntelStatuses() {
		if _, ok := statuses[word]; !ok {
			t.Errorf("a policy may name %s, which nothing has", word)
		}
	}
	if len(statuses) != len(attest.IntelStatuses())+1 {
		t.Error("a status that policies can't name, beside Revoked")
	}
}

func FuzzCollateral(f *testing.F) {
	for _, typ := range []attest.Type{attest.TDX, attest.SGX} {
		fake := inteltest.New(typ, td())
		e := fake.Evidence(attest.TDX).Endorsements
		f.Add(e.TCBInfo)
		f.Add(e.QEIdentity)
	}
	platform := &pck{components: [16]uint8{3, 3, 3, 3, 3, 3, 3, 3}, pceSVN: 11}
	f.Fuzz(func(t *testing.T, b []byte) {
		raw := b
		for _, member := range []string{"tcbInfo", "enclaveIdentity"} {
			if s, err := readSigned(b, member); err == nil {
				raw = s.raw
				if !strings.Contains(string(b), string(raw)) {
					t.Errorf("%q is not in %q", raw, b)
				}
			}
		}
		if q, err := parseQEIdentity(raw); err == nil {
			_, _ = isvLevel(q.Levels, 5)
		}
		info, err := parseTCBInfo(raw)
		if err != nil {
			return
		}
		for _, td := range []*TD{nil, {}, {TCBSVN: [16]byte{6, 1, 3}, Current: &[16]byte{9, 3}}} {
			if td != nil && info.ID != idOf[attest.TDX] {
				continue // Judge looks at no other
			}
			if s, err := info.standingOf(platform, td, &qeIdentity{}, 6); err == nil {
				t.Errorf("%s without a quoting enclave's level", s)
			}
		}
		if len(info.FMSPC) != 6 || len(info.PCEID) != 2 || info.Version != tcbInfoVersion {
			t.Errorf("%+v", info)
		}
	})
}
