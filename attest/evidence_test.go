package attest

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func TestParseEvidence(t *testing.T) {
	want := Evidence{Type: TDX, Report: []byte{1}, EventLog: []byte{2}, Endorsements: Endorsements{
		Certificates: [][]byte{{3}}, CRLs: [][]byte{{4}}, TCBInfo: []byte("5"), TCBInfoChain: []byte("6"), QEIdentity: []byte("7"), QEIdentityChain: []byte("8"),
	}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseEvidence(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":            {``, "EOF"},
		"a list":             {`[]`, "reading evidence"},
		"no type":            {`{"report":"AQ=="}`, `/type is ""`},
		"an unknown type":    {`{"type":"nitro","report":"AQ=="}`, `/type is "nitro"; expected one of sev-snp, tdx, sgx, sim`},
		"no report":          {`{"type":"tdx"}`, "/report is empty"},
		"an unknown member":  {`{"type":"tdx","report":"AQ==","accepted":true}`, "unknown object member"},
		"one below":          {`{"type":"tdx","report":"AQ==","endorsements":{"root":"AQ=="}}`, "unknown object member"},
		"a member twice":     {`{"type":"sim","type":"tdx","report":"AQ=="}`, "duplicate"},
		"a report of digits": {`{"type":"tdx","report":"0x1"}`, "base64"},
		"more behind it":     {`{"type":"tdx","report":"AQ=="} {}`, "after"},
	} {
		if e, err := ParseEvidence([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) || e.Type != "" {
			t.Errorf("%s: %+v, %v; want %q", name, e, err, tt.want)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"type":"sev-snp","report":"AAAA","endorsements":{"certificates":["AA=="],"tcb_info":"e30="}}`))
	f.Add([]byte(`{"type":"tdx","report":"AAAA","event_log":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvidence(b)
		if err != nil {
			return
		}
		once, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseEvidence(once)
		if err != nil || !bytes.Equal(again.Report, e.Report) || again.Type != e.Type {
			t.Errorf("%q becomes %q, %v", b, once, err)
		}
	})
}
