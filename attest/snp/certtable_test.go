package snp

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"strings"
	"testing"
)

func parseLeaf(der []byte) (*x509.Certificate, error) { return x509.ParseCertificate(der) }

// entry of a certificate table; add is put to its size.
type entry struct {
	add  int
	data []byte
}

func table(entries ...entry) []byte {
	b := make([]byte, (len(entries)+1)*tableEntrySize)
	for i, e := range entries {
		at := b[i*tableEntrySize:]
		copy(at, bytes.Repeat([]byte{byte(i + 1)}, 16))
		binary.LittleEndian.PutUint32(at[16:], uint32(len(b)))
		binary.LittleEndian.PutUint32(at[20:], uint32(len(e.data)+e.add))
		b = append(b, e.data...)
	}
	return b
}

func TestCertTable(t *testing.T) {
	p := fakes()[Milan]
	ask, ark := p.ask.Raw, p.ark.Raw
	list := crl(p.ark, noon, noon.AddDate(1, 0, 0))
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ask}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ark})...)
	for name, tt := range map[string]struct {
		table        []byte
		certificates [][]byte
		crls         [][]byte
	}{
		"nothing at all":         {nil, nil, nil},
		"an empty table":         {table(), nil, nil},
		"zeros, as kernels give": {make([]byte, 0x4000), nil, nil},
		"certificates":           {table(entry{0, ask}, entry{0, ark}), [][]byte{ask, ark}, nil},
		"a list":                 {table(entry{0, list}, entry{0, ask}), [][]byte{ask}, [][]byte{list}},
		"a chain in PEM":         {table(entry{0, chain}), [][]byte{ask, ark}, nil},
		"something else":         {table(entry{0, []byte("thing")}, entry{0, ask}, entry{}), [][]byte{ask}, nil},
		"room behind":            {append(table(entry{0, ask}), make([]byte, 4096)...), [][]byte{ask}, nil},
	} {
		e, err := ParseCertTable(tt.table)
		if err != nil || !equal(e.Certificates, tt.certificates) || !equal(e.CRLs, tt.crls) {
			t.Errorf("%s: %d certificates, %d lists, %v", name, len(e.Certificates), len(e.CRLs), err)
		}
	}
	many := make([]entry, maxCertificates+1)
	for name, tt := range map[string]struct {
		table []byte
		want  string
	}{
		"no end":                {table(entry{0, ask})[:tableEntrySize], "entry 0 ends at byte"},
		"no end at all":         {bytes.Repeat([]byte{1}, tableEntrySize-1), "no end after 0 entries"},
		"an entry past the end": {table(entry{1, ask}), "entry 0 ends at byte"},
		"one of the largest":    {append(append(bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{0xff}, 8)...), make([]byte, 24)...), "entry 0 ends at byte"},
		"too many":              {table(many...), "more than 32 entries"},
		"too large":             {make([]byte, maxTable+1), "at most"},
	} {
		e, err := ParseCertTable(tt.table)
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(e.Certificates)+len(e.CRLs) > 0 {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

func equal(a, b [][]byte) bool {
	return len(a) == len(b) && bytes.Equal(bytes.Join(a, []byte{0}), bytes.Join(b, []byte{0}))
}

func TestVCEKPath(t *testing.T) {
	for l, want := range map[Line]string{
		Milan: "/vcek/v1/Milan/" + strings.Repeat("c1", 64) + "?blSPL=04&teeSPL=02&snpSPL=27&ucodeSPL=219",
		Turin: "/vcek/v1/Turin/" + strings.Repeat("c1", 8) + "?fmcSPL=09&blSPL=04&teeSPL=02&snpSPL=27&ucodeSPL=219",
	} {
		got, err := VCEKPath(right(l, VCEK).report, l)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", l, got, err)
		}
	}
	for name, change := range map[string]func(r *Report){
		"a provider's key": func(r *Report) { r.Signer = VLEK },
		"a hidden chip":    func(r *Report) { r.ChipID = [64]byte{} },
		"a reserved byte":  func(r *Report) { r.ReportedTCB[3] = 1 },
	} {
		r := right(Milan, VCEK).report
		change(r)
		if got, err := VCEKPath(r, Milan); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := CRLPath(Genoa); got != "/vcek/v1/Genoa/crl" {
		t.Error(got)
	}
}

func TestProcessors(t *testing.T) {
	for _, tt := range []struct {
		family, model uint8
		want          Line
	}{
		{0x19, 0x00, Milan}, {0x19, 0x0f, Milan}, {0x19, 0x10, Genoa}, {0x19, 0x1f, Genoa}, {0x19, 0xa0, Genoa}, {0x19, 0xaf, Genoa},
		{0x1a, 0x00, Turin}, {0x1a, 0x11, Turin}, {0x1a, 0x1f, Turin},
		{0x19, 0x20, ""}, {0x19, 0x9f, ""}, {0x19, 0xb0, ""}, {0x1a, 0x20, ""}, {0x17, 0x31, ""}, {0, 0, ""},
	} {
		if got, err := LineOfCPU(tt.family, tt.model); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("family %#x, model %#x: %q, %v", tt.family, tt.model, got, err)
		}
	}
	for name, want := range map[string]Line{"Milan-B0": Milan, "Milan": Milan, "Genoa": Genoa, "Bergamo": Genoa, "Siena-A1": Genoa, "Turin": Turin, "milan": "", "": "", "Rome": ""} {
		if got, err := lineOfName(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}
