package receipt_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// tee signs nothing; where report data lies in what it reports, its verifier
// finds it.
type tee struct {
	kind attest.Type
	made func(data attest.ReportData) []byte
	read func(report []byte) []byte // report data
}

func (t tee) Type() attest.Type                         { return t.kind }
func (tee) LaunchField(context.Context) ([]byte, error) { return nil, errors.New("not asked for here") }
func (t tee) Attest(_ context.Context, d attest.ReportData) (attest.Evidence, error) {
	return attest.Evidence{Type: t.kind, Report: t.made(d)}, nil
}

// Verify accepts what is about the expected report data.
func (t tee) Verify(_ context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	r := attest.Result{Type: e.Type}
	r.Add(bytes.Equal(t.read(e.Report), want.ReportData[:]), "report_data", "this statement's", "another's")
	err := r.Conclude()
	return r, err
}

// A statement has what each kind of TEE measures, under the names of policies,
// and holds for its own evidence alone.
func TestEveryTEE(t *testing.T) {
	const (
		tdReportData, enclaveReportData = 520, 320
		quoteHeader                     = 48
	)
	quote := func(kind attest.Type, body []byte, at int) func(attest.ReportData) []byte {
		fake := inteltest.New(kind, body)
		return func(d attest.ReportData) []byte {
			copy(fake.Body[at:], d[:])
			return fake.Evidence(kind).Report
		}
	}
	tdReport := make([]byte, intel.TD10Size)
	copy(tdReport[136:], bytes.Repeat([]byte{0xa0}, 48))
	for i := range 4 {
		copy(tdReport[328+48*i:], bytes.Repeat([]byte{0xb0 + byte(i)}, 48))
	}
	enclave := inteltest.Enclave(bytes.Repeat([]byte{0xc1}, 32), 1, 1)
	copy(enclave[64:], bytes.Repeat([]byte{0xc0}, 32))
	for _, tt := range []struct {
		tee  tee
		want map[string]string // the first byte, in hexadecimal
	}{
		{tee{attest.SNP, func(d attest.ReportData) []byte {
			return snp.Marshal(&snp.Report{Version: 3, ReportData: d, Measurement: [48]byte(bytes.Repeat([]byte{0xd0}, 48))})
		}, func(b []byte) []byte { return b[0x50:0x90] }}, map[string]string{"measurement": "d0"}},
		{tee{attest.TDX, quote(attest.TDX, tdReport, tdReportData), func(b []byte) []byte { return b[quoteHeader+tdReportData:][:64] }},
			map[string]string{"mrtd": "a0", "rtmr0": "b0", "rtmr1": "b1", "rtmr2": "b2", "rtmr3": "b3"}},
		{tee{attest.SGX, quote(attest.SGX, enclave, enclaveReportData), func(b []byte) []byte { return b[quoteHeader+enclaveReportData:][:64] }},
			map[string]string{"mr_enclave": "c0", "mr_signer": "c1"}},
	} {
		t.Run(string(tt.tee.kind), func(t *testing.T) {
			w := newWorld(t)
			w.manifest = w.freezeFor(1, manifest.TEE(tt.tee.kind))
			req := w.request()
			req.Attester = tt.tee
			raw := w.make(req)
			o := w.options()
			o.Verifier = tt.tee
			r, err := receipt.Verify(t.Context(), raw, o)
			if err != nil {
				t.Fatal(err)
			}
			p := r.Statement.Predicate
			if p.TEE != tt.tee.kind || p.Simulated || r.Statement.Subject[0].Name != "result" || strings.Contains(r.Text(), "SIMULATED") {
				t.Errorf("of no simulation it says %+v\n%s", p, r.Text())
			}
			if got := slices.Sorted(maps.Keys(p.Measurement)); !slices.Equal(got, slices.Sorted(maps.Keys(tt.want))) {
				t.Errorf("it has the registers %v", got)
			}
			for name, first := range tt.want {
				if got := p.Measurement[name].String(); !strings.HasPrefix(got, first+first) || !strings.Contains(r.Text(), name+" "+got) {
					t.Errorf("%s is %s", name, got)
				}
			}
			// Evidence of the same VM for another statement.
			other := open(t, w.make(req))
			f := open(t, raw)
			f.Evidence = other.Evidence
			if _, err := receipt.Verify(t.Context(), f.raw(t), o); err == nil || !strings.Contains(err.Error(), "report_data") {
				t.Errorf("with another's evidence: %v", err)
			}
		})
	}
}
