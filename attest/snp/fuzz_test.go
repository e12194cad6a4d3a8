package snp

import (
	"bytes"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

// Whatever is read is written the same.
func FuzzReport(f *testing.F) {
	for version := uint32(MinVersion); version <= MaxVersion; version++ {
		s := right(Milan, VCEK)
		if s.report.Version = version; version < 3 {
			s.report.CPUIDFamily, s.report.CPUIDModel = 0, 0
		}
		f.Add(s.made().Report)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(Marshal(r), b) {
			t.Errorf("%x is written otherwise", b)
		}
	})
}

func FuzzCertTable(f *testing.F) {
	f.Add(table(entry{0, []byte("x")}))
	f.Add(table(entry{0, fakes()[Milan].ask.Raw}, entry{0, crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0))}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseCertTable(b)
		if err != nil && len(e.Certificates)+len(e.CRLs) > 0 {
			t.Error("an error, and certificates")
		}
		for _, der := range append(e.Certificates, e.CRLs...) {
			if len(der) > len(b) {
				t.Errorf("%d bytes out of %d", len(der), len(b))
			}
		}
	})
}

// Nothing that is fuzzed in a certificate makes evidence good, and nothing in it
// makes the appraisal fall over.
func FuzzCertificate(f *testing.F) {
	good := right(Milan, VCEK)
	evidence, vendors := good.made(), fakeVendors()
	f.Add(evidence.Endorsements.Certificates[0])
	provider := right(Milan, VLEK).made()
	f.Add(provider.Endorsements.Certificates[0])
	f.Fuzz(func(t *testing.T, der []byte) {
		e := evidence
		e.Endorsements.Certificates = [][]byte{der}
		r, err := appraise(e, good.want, good.policy, good.at, vendors)
		if (err == nil) != r.Accepted {
			t.Errorf("%+v, %v", r, err)
		}
		if err == nil && !bytes.Equal(der, evidence.Endorsements.Certificates[0]) {
			// Only ECDSA's own freedom would do that, and what is signed is the same.
			c, d := must(parseLeaf(der)), must(parseLeaf(evidence.Endorsements.Certificates[0]))
			if !bytes.Equal(c.RawTBSCertificate, d.RawTBSCertificate) {
				t.Errorf("accepted by another certificate: %x", der)
			}
		}
	})
}

// What a report says of itself, with its signature left out of the picture.
func FuzzAppraise(f *testing.F) {
	s := right(Turin, VCEK)
	e, vendors := s.made(), fakeVendors()
	f.Add(e.Report)
	f.Fuzz(func(t *testing.T, report []byte) {
		fuzzed := e
		fuzzed.Report = report
		r, err := appraise(fuzzed, s.want, s.policy, s.at, vendors)
		if (err == nil) != r.Accepted || r.Accepted && !bytes.Equal(report[:SignedSize], e.Report[:SignedSize]) {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := LineOf(attest.Evidence{Report: report}); err != nil {
			return
		}
		if p, err := Parse(report); err == nil {
			_, _ = VCEKPath(p, s.line)
		}
	})
}
