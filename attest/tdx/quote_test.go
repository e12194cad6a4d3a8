package tdx

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
)

// bytesOf are the fields in the order in which a TD report has them.
func bytesOf(q *Quote) []byte {
	b := slices.Concat(q.TEETCBSVN[:], q.MRSEAM[:], q.MRSignerSEAM[:], q.SEAMAttributes[:], q.Attributes[:], q.XFAM[:],
		q.MRTD[:], q.MRConfigID[:], q.MROwner[:], q.MROwnerConfig[:],
		q.RTMR[0][:], q.RTMR[1][:], q.RTMR[2][:], q.RTMR[3][:], q.ReportData[:])
	if q.TDX15 {
		b = slices.Concat(b, q.TEETCBSVN2[:], q.MRServiceTD[:])
	}
	return b
}

func TestParse(t *testing.T) {
	for _, size := range []int{intel.TD10Size, intel.TD15Size} {
		s := right(size)
		for i := range s.Body {
			s.Body[i] = byte(i * 7)
		}
		s.Trailing = make([]byte, 3)
		q, err := Parse(s.Evidence(attest.TDX).Report)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytesOf(q), s.Body) || q.Version != s.Version || q.TDX15 != (size == intel.TD15Size) || q.Trailing != 3 {
			t.Errorf("%d bytes: %+v", size, q)
		}
		if q.MRTD[0] != s.Body[atMRTD] || q.RTMR[2][0] != s.Body[atRTMR+96] || q.ReportData[0] != s.Body[atReportData] {
			t.Errorf("%d bytes: fields lie elsewhere", size)
		}
	}
}

// Whatever Parse takes, it has read wholly.
func FuzzParse(f *testing.F) {
	for _, size := range []int{intel.TD10Size, intel.TD15Size} {
		s := right(size)
		s.CertData = []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n\x00")
		f.Add(s.Evidence(attest.TDX).Report)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := Parse(b)
		if err != nil {
			return
		}
		at := intel.HeaderSize
		if q.Version == 5 {
			at += 6
		}
		if report := bytesOf(q); !bytes.Equal(report, b[at:][:len(report)]) {
			t.Errorf("read %x of %x", report, b[at:])
		}
		if _, err := intel.PlatformOf(attest.Evidence{Type: attest.TDX, Report: b}); err == nil && len(b) < 1000 {
			t.Error("a platform's certificate in less than a thousand bytes")
		}
	})
}

// Nothing but what was signed is accepted, whatever is changed. (Keys are each
// process's own, so inputs are changes and not quotes.)
func FuzzAppraise(f *testing.F) {
	s := right(intel.TD15Size)
	s.PCKList = inteltest.ListTemplate(s.Signer) // one that has an entry
	e := s.Evidence(attest.TDX)
	if _, err := s.appraise(e); err != nil {
		f.Fatal(err)
	}
	signed := intel.HeaderSize + 6 + intel.TD15Size
	f.Add(uint8(0), uint16(0), []byte{})
	f.Add(uint8(0), uint16(atMRTD), []byte{1})
	f.Add(uint8(1), uint16(100), []byte{1})
	f.Fuzz(func(t *testing.T, part uint8, at uint16, change []byte) {
		changed := e
		changed.Endorsements.CRLs = slices.Clone(e.Endorsements.CRLs)
		parts := []*[]byte{&changed.Report, &changed.Endorsements.TCBInfo, &changed.Endorsements.QEIdentity,
			&changed.Endorsements.CRLs[0], &changed.Endorsements.CRLs[1], &changed.Endorsements.TCBInfoChain}
		b := parts[int(part)%len(parts)]
		*b = slices.Clone(*b)
		for i, v := range change {
			if j := int(at) + i; j < len(*b) {
				(*b)[j] ^= v
			}
		}
		r, err := s.appraise(changed)
		if (err == nil) != r.Accepted {
			t.Errorf("accepted %v, %v", r.Accepted, err)
		}
		if r.Accepted && !bytes.Equal(changed.Report[:signed], e.Report[:signed]) {
			t.Errorf("accepted %x", changed.Report)
		}
		if c := inteltest.Claim(r, "tdx.tcb.status"); r.Accepted && !strings.HasPrefix(c.Found, "UpToDate ") {
			t.Errorf("accepted with %+v", c)
		}
	})
}

// BenchmarkVerify is a whole appraisal with all collateral at hand.
func BenchmarkVerify(b *testing.B) {
	s := right(intel.TD15Size)
	// As many revoked platforms as Intel's list had in 2025.
	for range 50 {
		s.PCKList.RevokedCertificateEntries = append(s.PCKList.RevokedCertificateEntries,
			inteltest.ListTemplate(s.Authority).RevokedCertificateEntries...)
	}
	e := s.Evidence(attest.TDX)
	for b.Loop() {
		if _, err := s.appraise(e); err != nil {
			b.Fatal(err)
		}
	}
}
