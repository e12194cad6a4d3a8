package keybroker_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/appraisal"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/manifest"
)

// foreseeing is a verifier that is told what evidence was launched for, or also what
// it binds: it stands in for a VM that was started for the manifest, as evidence of
// others' VMs was not.
type foreseeing struct {
	attest.Verifier
	launch [32]byte
	data   *attest.ReportData
}

func (f foreseeing) Verify(ctx context.Context, e attest.Evidence, want attest.Expected) (attest.Result, error) {
	want.Launch = &attest.LaunchDigests{SHA256: f.launch}
	if f.data != nil {
		want.ReportData = *f.data
	}
	return f.Verifier.Verify(ctx, e, want)
}

// Evidence that AMD's hardware signed, which the policy accepts in all else, gets
// nothing: it was made for somebody else's request.
func TestRealEvidenceOfAnotherRequest(t *testing.T) {
	dir := os.Getenv("COCOS_EVIDENCE")
	if dir == "" {
		t.Log("COCOS_EVIDENCE names no folder: reports of hardware are not looked at, only self-made ones in genuine format")
		return
	}
	report, err := os.ReadFile(filepath.Join(dir, "snp-milan-v2-vcek", "report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "snp-milan-v2-vcek", "vcek.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	r, err := snp.Parse(report)
	if block == nil || err != nil {
		t.Fatal(err)
	}
	least, err := r.LaunchTCB.Versions(snp.Milan)
	if err != nil {
		t.Fatal(err)
	}
	p := attest.Policy{Version: attest.PolicyVersion, SNP: &attest.SNPPolicy{
		Measurements: []attest.Hex{r.Measurement[:]}, Products: []string{string(snp.Milan)}, ChipIDs: []string{hex.EncodeToString(r.ChipID[:])},
		Signers: []string{"vcek"}, MinimumTCB: map[string]attest.SNPTCB{string(snp.Milan): least}, Revocation: attest.CheckNot,
		Guest: attest.SNPGuestPolicy{AllowSMT: true, AllowDebug: true}, VMPL: r.VMPL,
		IDKeyDigests: []attest.Hex{r.IDKeyDigest[:]}, AuthorKeyDigests: []attest.Hex{r.AuthorKeyDigest[:]},
	}}
	evidence, err := json.Marshal(attest.Evidence{Type: attest.SNP, Report: report, Endorsements: attest.Endorsements{Certificates: [][]byte{block.Bytes}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data   *attest.ReportData
		flip   bool
		status int
		failed string
	}{
		"bound":             {data: (*attest.ReportData)(&r.ReportData), status: 200},
		"bound, but bent":   {data: (*attest.ReportData)(&r.ReportData), flip: true, status: 401, failed: "snp."},
		"of other requests": {status: 401, failed: "(snp.report_data)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "", func(w *world) {
				w.manifest = computation(t, "study", w.url, ownResource, w.owner.Public(), func(m *manifest.Manifest) { m.TEE = manifest.TEESNP })
				w.cfg.Manifests[0] = w.manifest
				w.cfg.Verifier = foreseeing{appraisal.New(p, appraisal.Options{}), r.HostData, tt.data}
			})
			h := w.begin()
			var nonce any
			h.cookie, nonce = authFor(w, "snp")
			h.runtime["nonce"] = nonce
			h.prove()
			var e map[string]any
			if err := json.Unmarshal(evidence, &e); err != nil {
				t.Fatal(err)
			}
			if tt.flip {
				flip(e, "report", 0x188) // the signature covers it
			}
			h.primary["evidence"] = e
			a := h.attest()
			if a.status != tt.status {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if a.status != 200 {
				if _, detail := a.refusal(t); !strings.Contains(detail, tt.failed) {
					t.Errorf("refused with %s", detail)
				}
			}
		})
	}
}
