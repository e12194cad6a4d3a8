package collateral

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

func file(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// certTable is one of SEV-SNP with one entry.
func certTable(der []byte) []byte {
	b := append(bytes.Repeat([]byte{9}, 16), 48, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(der)))
	return append(append(b, make([]byte, 24)...), der...)
}

// toolsBundle is a collateral.json.
func toolsBundle(e attest.Endorsements) map[string]string {
	var tcb, qe struct {
		TCBInfo    json.RawMessage `json:"tcbInfo"`
		QEIdentity json.RawMessage `json:"enclaveIdentity"`
		Signature  string          `json:"signature"`
	}
	if err := errors.Join(json.Unmarshal(e.TCBInfo, &tcb), json.Unmarshal(e.QEIdentity, &qe)); err != nil {
		panic(err)
	}
	return map[string]string{
		"root_ca_crl": hex.EncodeToString(e.CRLs[0]), "pck_crl": hex.EncodeToString(e.CRLs[1]), "pck_crl_issuer_chain": string(e.TCBInfoChain),
		"tcb_info": string(tcb.TCBInfo), "tcb_info_signature": tcb.Signature, "tcb_info_issuer_chain": string(e.TCBInfoChain),
		"qe_identity": string(qe.QEIdentity), "qe_identity_signature": qe.Signature, "qe_identity_issuer_chain": string(e.QEIdentityChain),
	}
}

func TestFiles(t *testing.T) {
	c, e := chips(), platforms()[attest.TDX].Endorsements
	for name, tt := range map[string]struct {
		content      []byte
		certificates int
		crls         int
		tcb, qe      bool
	}{
		"a certificate":         {c.vcek, 1, 0, false, false},
		"a list":                {c.list, 0, 1, false, false},
		"a certificate in PEM":  {block("CERTIFICATE", c.vcek), 1, 0, false, false},
		"a list in PEM":         {block("X509 CRL", c.list), 0, 1, false, false},
		"a chain":               {append(append([]byte("a comment\n"), block("CERTIFICATE", c.vcek)...), append(block("CERTIFICATE", c.vcek), block("X509 CRL", c.list)...)...), 2, 1, false, false},
		"a list in hexadecimal": {[]byte(hex.EncodeToString(c.list) + "\n"), 0, 1, false, false},
		"a certificate table":   {certTable(c.vcek), 1, 0, false, false},
		"Intel's TCB info":      {append(e.TCBInfo, '\n'), 0, 0, true, false},
		"Intel's QE identity":   {e.QEIdentity, 0, 0, false, true},
		"what tools keep":       {must(json.MarshalIndent(toolsBundle(e), "", " ")), 2, 2, true, true},
		"a part of it":          {must(json.Marshal(map[string]string{"pck_crl": hex.EncodeToString(e.CRLs[1])})), 0, 1, false, false},
	} {
		got, err := Files(file(t, tt.content))
		if err != nil || len(got.Certificates) != tt.certificates || len(got.CRLs) != tt.crls || (got.TCBInfo != nil) != tt.tcb || (got.QEIdentity != nil) != tt.qe {
			t.Errorf("%s: %d certificates, %d lists, %v", name, len(got.Certificates), len(got.CRLs), err)
		}
		if tt.tcb && !bytes.Equal(got.TCBInfo, e.TCBInfo) || tt.qe && !bytes.Equal(got.QEIdentity, e.QEIdentity) {
			t.Errorf("%s: its bytes, which are signed, were changed", name)
		}
		if tt.tcb && tt.qe && (!bytes.Equal(got.TCBInfoChain, e.TCBInfoChain) || !bytes.Equal(got.QEIdentityChain, e.QEIdentityChain)) {
			t.Errorf("%s: its chains were lost", name)
		}
	}
	got, err := Files(file(t, c.vcek), file(t, e.TCBInfo), file(t, c.list), file(t, e.TCBInfo))
	if err != nil || len(got.Certificates) != 1 || len(got.CRLs) != 1 || got.TCBInfo == nil {
		t.Errorf("several: %+v, %v", got, err)
	}
	if got, err := Files(); err != nil || len(got.Certificates) != 0 {
		t.Errorf("none: %+v, %v", got, err)
	}
	source := Static(got)
	if found, err := source.Endorse(context.Background(), attest.Evidence{}); err != nil || len(found.Certificates) != len(got.Certificates) {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestFilesRefused(t *testing.T) {
	c, e := chips(), platforms()[attest.TDX].Endorsements
	without := func(member, value string) []byte {
		b := toolsBundle(e)
		b[member] = value
		return must(json.Marshal(b))
	}
	for name, tt := range map[string]struct {
		content []byte
		want    string
	}{
		"nothing":                {nil, "it is empty"},
		"blanks":                 {[]byte(" \n"), "it is empty"},
		"rubbish":                {[]byte("rubbish"), "it is none of"},
		"a cut certificate":      {c.vcek[:100], "it is none of"},
		"a damaged block":        {block("CERTIFICATE", c.vcek)[:200], "PEM block 1 is damaged"},
		"a damaged second":       {append(block("CERTIFICATE", c.vcek), block("CERTIFICATE", c.vcek)[:99]...), "PEM block 2 is damaged"},
		"a private key":          {block("PRIVATE KEY", c.vcek), `is "PRIVATE KEY"`},
		"a list as certificate":  {block("CERTIFICATE", c.list), "PEM block 1"},
		"a certificate as list":  {block("X509 CRL", c.vcek), "PEM block 1"},
		"another object":         {[]byte(`{"a":1}`), "it is none of"},
		"half an object":         {[]byte(`{"tcbInfo":`), "not one JSON object"},
		"a member twice":         {[]byte(`{"tcbInfo":{},"tcbInfo":{},"signature":""}`), "not one JSON object"},
		"unsigned TCB info":      {[]byte(`{"tcbInfo":{}}`), "it is none of"},
		"an empty table":         {make([]byte, 48), "it is none of"},
		"no signature":           {without("tcb_info_signature", ""), "/tcb_info_signature"},
		"a signature of letters": {without("qe_identity_signature", "zz"), "/qe_identity_signature"},
		"a list that is none":    {without("pck_crl", "00"), "/pck_crl is not a revocation list"},
		"a list of letters":      {without("root_ca_crl", "zz"), "/root_ca_crl is not hexadecimal"},
		"a chain that is none":   {without("pck_crl_issuer_chain", "x"), "/pck_crl_issuer_chain"},
		"TCB info that is none":  {without("tcb_info", "{"), "/tcb_info is not JSON"},
		"numbers for texts":      {[]byte(`{"tcb_info":1}`), "collateral.json"},
	} {
		f := file(t, tt.content)
		if _, err := Files(f); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), f) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	sgx := platforms()[attest.SGX].Endorsements
	if _, err := Files(file(t, e.TCBInfo), file(t, sgx.TCBInfo)); err == nil || !strings.Contains(err.Error(), "different") {
		t.Errorf("two kinds of TCB info: %v", err)
	}
	if _, err := Files(file(t, e.QEIdentity), file(t, sgx.QEIdentity)); err == nil || !strings.Contains(err.Error(), "different") {
		t.Errorf("two QE identities: %v", err)
	}
	if _, err := Files("gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	large := file(t, nil)
	if err := os.Truncate(large, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Files(large); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}

type failing struct{}

func (failing) Endorse(context.Context, attest.Evidence) (attest.Endorsements, error) {
	return attest.Endorsements{CRLs: [][]byte{{1}}}, errors.New("the rest is away")
}

func TestAll(t *testing.T) {
	got, err := All(Static(attest.Endorsements{TCBInfo: []byte("1")}), failing{}, Static(attest.Endorsements{TCBInfo: []byte("2"), Certificates: [][]byte{{2}}})).
		Endorse(t.Context(), attest.Evidence{})
	if err == nil || string(got.TCBInfo) != "1" || len(got.CRLs) != 1 || len(got.Certificates) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzFiles(f *testing.F) {
	c, e := chips(), platforms()[attest.TDX].Endorsements
	for _, seed := range [][]byte{c.vcek, block("X509 CRL", c.list), certTable([]byte("x")), e.QEIdentity, []byte(`{"tcb_info":"{}","tcb_info_signature":"00"}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parse(b)
		if err == nil && len(e.Certificates)+len(e.CRLs)+len(e.TCBInfo)+len(e.QEIdentity) == 0 && !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
			t.Errorf("%x is read as nothing", b)
		}
		until(e)
	})
}
