package sgx

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
)

// Whatever Parse takes, it has read where it lies.
func FuzzParse(f *testing.F) {
	s := right()
	s.CertData = []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n\x00")
	f.Add(s.Evidence(attest.SGX).Report)
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := Parse(b)
		if err != nil {
			return
		}
		body, r := b[intel.HeaderSize:], q.Report
		for at, field := range map[int][]byte{
			0: r.CPUSVN[:], atMiscSelect: r.MiscSelect[:], atExtProdID: r.ISVExtProdID[:], atAttributes: r.Attributes[:],
			atMREnclave: r.MREnclave[:], atMRSigner: r.MRSigner[:], atConfigID: r.ConfigID[:],
			atProdID: binary.LittleEndian.AppendUint16(nil, r.ISVProdID), atSVN: binary.LittleEndian.AppendUint16(nil, r.ISVSVN),
			260: binary.LittleEndian.AppendUint16(nil, r.ConfigSVN), atFamilyID: r.ISVFamilyID[:], atReportData: r.ReportData[:],
		} {
			if !bytes.Equal(field, body[at:][:len(field)]) {
				t.Errorf("at %d: read %x of %x", at, field, body[at:][:len(field)])
			}
		}
	})
}

// BenchmarkVerify is a whole appraisal with all collateral at hand.
func BenchmarkVerify(b *testing.B) {
	s := right()
	e := s.Evidence(attest.SGX)
	for b.Loop() {
		if _, err := s.appraise(e); err != nil {
			b.Fatal(err)
		}
	}
}
