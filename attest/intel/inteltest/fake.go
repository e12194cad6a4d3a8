package inteltest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/ultravioletrs/cocos/attest"
)

// QESVN is the security version of the fake's quoting enclave.
const QESVN = 6

// Object is JSON that Intel signs.
type Object = map[string]any

// Fake is one platform, what Intel says of it, and one quote of it.
type Fake struct {
	// Intel's keys.
	Root, Authority, Signer *Cert
	// The platform's certificate: Leaf, or made of PCK by Evidence.
	PCK  PCK
	Leaf *Cert
	// LeafTemplate may change Leaf before it is issued.
	LeafTemplate func(*x509.Certificate)
	// QESigner signs the quoting enclave's report; nil: the platform's key.
	QESigner *ecdsa.PrivateKey
	// Header of the quote.
	Version, KeyType uint16
	TEE              uint32
	Vendor           []byte
	// BodyType and BodySize of a version 5 quote; size 0: the true one.
	BodyType uint16
	BodySize uint32
	// Body is the report of the TD or enclave.
	Body []byte
	// QE is the quoting enclave's report. Evidence puts the key's digest in.
	QE   []byte
	Auth []byte
	// KeyDigest replaces that digest.
	KeyDigest []byte
	// Certification data: the outer type of versions 4 and 5, the inner one and
	// its content; nil: platform's certificate, authority's and root's.
	OuterType, CertType uint16
	CertData            []byte
	// Trailing bytes after the quote, after the outer certification data of
	// versions 4 and 5, and after the inner.
	Trailing, OuterPad, InnerPad []byte
	// Collateral; what is nil is left out.
	TCBInfo, QEIdentity Object
	RootList, PCKList   *x509.RevocationList
	// JSONSigner signs TCB info and QE identity; nil: Signer.
	JSONSigner *Cert
	// Certificates come beside the quote.
	Certificates []*Cert
	// Policy that accepts all this.
	Policy attest.IntelTCB
}

// New makes a platform of the type, with body quoted: an enclave's report in a
// version 3 quote, a TD report of TDX 1.0 in a version 4 quote, or one of TDX 1.5
// in a version 5 quote.
func New(t attest.Type, body []byte) *Fake {
	root := Issue(Template("Intel SGX Root CA", true), nil)
	f := &Fake{
		Root:      root,
		Authority: Issue(Template("Intel SGX PCK Platform CA", true), root),
		Signer:    Issue(Template("Intel SGX TCB Signing", false), root),
		PCK: PCK{
			PPID: fill(16, 0x11), Components: [16]uint8{3, 3, 2, 2, 4, 1, 0, 5}, PCESVN: 11,
			PCEID: make([]byte, 2), FMSPC: []byte{0xb0, 0xc0, 0x6f, 0, 0, 0}, Platform: true,
		},
		KeyType: 2, Vendor: unhex("939a7233f79c4ca9940a0db3957f0607"),
		Body: body, Auth: fill(32, 0x22), OuterType: 6, CertType: 5,
		RootList: ListTemplate(), PCKList: ListTemplate(),
		Policy: attest.IntelTCB{
			Collateral: attest.CheckRequired, Status: []string{"UpToDate"}, MinimumEvaluation: 17,
			FMSPCs: []string{"b0c06f000000"}, PPIDs: []string{hex.EncodeToString(fill(16, 0x11))},
		},
	}
	signer, product, id := "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", uint16(1), "QE"
	switch {
	case t == attest.SGX:
		f.Version = 3
	case len(body) == 584:
		f.Version, f.TEE = 4, 0x81
	default:
		f.Version, f.TEE, f.BodyType = 5, 0x81, 3
	}
	if t == attest.TDX {
		signer, product, id = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", 2, "TD_QE"
	}
	f.QE = Enclave(unhex(signer), product, QESVN)
	f.TCBInfo = tcbInfo(t)
	f.QEIdentity = Object{
		"id": id, "version": 2, "issueDate": stamp(-1), "nextUpdate": stamp(29), "tcbEvaluationDataNumber": 17,
		"miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": signer, "isvprodid": product,
		"tcbLevels": []any{isvLevel(QESVN, "UpToDate"), isvLevel(QESVN-2, "OutOfDate", "INTEL-SA-00615")},
	}
	return f
}

// Enclave is an enclave's report as Intel's quoting enclaves have it.
func Enclave(signer []byte, product, svn uint16) []byte {
	b := make([]byte, 384)
	b[48], b[56] = 0x15, 0xe7 // INIT, MODE64BIT, PROVISIONKEY; XFRM
	copy(b[128:], signer)
	binary.LittleEndian.PutUint16(b[256:], product)
	binary.LittleEndian.PutUint16(b[258:], svn)
	return b
}

func tcbInfo(t attest.Type) Object {
	zeros := hex.EncodeToString(make([]byte, 48))
	module := func(id string, levels ...any) Object {
		return Object{"id": id, "mrsigner": zeros, "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF", "tcbLevels": levels}
	}
	o := Object{
		"id": "SGX", "version": 3, "issueDate": stamp(-1), "nextUpdate": stamp(29), "fmspc": "B0C06F000000", "pceId": "0000",
		"tcbType": 0, "tcbEvaluationDataNumber": 17,
		"tcbLevels": []any{
			Level([16]uint8{3, 3, 2, 2, 4, 1, 0, 5}, 11, [16]uint8{5, 0, 3}, "UpToDate"),
			Level([16]uint8{2, 2, 2, 2, 3, 1, 0, 5}, 5, [16]uint8{4, 0, 2}, "OutOfDate", "INTEL-SA-00837"),
		},
	}
	if t == attest.TDX {
		o["id"] = "TDX"
		o["tdxModule"] = Object{"mrsigner": zeros, "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"}
		o["tdxModuleIdentities"] = []any{
			module("TDX_03", isvLevel(3, "UpToDate")),
			module("TDX_01", isvLevel(4, "UpToDate"), isvLevel(2, "OutOfDate")),
		}
	}
	return o
}

// Level is one of TCB info.
func Level(sgx [16]uint8, pce int, tdx [16]uint8, status string, advisories ...string) Object {
	components := func(svns [16]uint8) []any {
		var cs []any
		for _, v := range svns {
			cs = append(cs, Object{"svn": v})
		}
		return cs
	}
	return Object{
		"tcb":     Object{"sgxtcbcomponents": components(sgx), "pcesvn": pce, "tdxtcbcomponents": components(tdx)},
		"tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories,
	}
}

func isvLevel(svn int, status string, advisories ...string) Object {
	return Object{"tcb": Object{"isvsvn": svn}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories}
}

// stamp is so many days after Now.
func stamp(days int) string { return Now.AddDate(0, 0, days).Format("2006-01-02T15:04:05Z") }

// Evidence signs everything as it stands.
func (f *Fake) Evidence(t attest.Type) attest.Evidence {
	if f.Leaf == nil {
		template := Template("Intel SGX PCK Certificate", false)
		template.ExtraExtensions = append(template.ExtraExtensions, f.PCK.Extension())
		if f.LeafTemplate != nil {
			f.LeafTemplate(template)
		}
		f.Leaf = Issue(template, f.Authority)
	}
	return attest.Evidence{Type: t, Report: f.quote(), Endorsements: f.endorsements()}
}

func (f *Fake) quote() []byte {
	header := make([]byte, 48)
	binary.LittleEndian.PutUint16(header, f.Version)
	binary.LittleEndian.PutUint16(header[2:], f.KeyType)
	binary.LittleEndian.PutUint32(header[4:], f.TEE)
	copy(header[12:], f.Vendor)
	q := header
	if f.Version == 5 {
		size := f.BodySize
		if size == 0 {
			size = uint32(len(f.Body))
		}
		q = binary.LittleEndian.AppendUint16(q, f.BodyType)
		q = binary.LittleEndian.AppendUint32(q, size)
	}
	q = append(q, f.Body...)
	key := NewKey()
	point, err := key.PublicKey.Bytes()
	must(err)
	section := append(Sign(key, q), point[1:]...)
	inner := append(f.certified(point[1:]), f.InnerPad...)
	if f.Version >= 4 {
		section = sized(binary.LittleEndian.AppendUint16(section, f.OuterType), inner)
	} else {
		section = append(section, inner...)
	}
	return append(sized(q, append(section, f.OuterPad...)), f.Trailing...)
}

// certified is the quoting enclave's report about key, and what vouches for it.
func (f *Fake) certified(key []byte) []byte {
	report := slices.Clone(f.QE)
	digest := f.KeyDigest
	if digest == nil {
		sum := sha256.Sum256(append(slices.Clone(key), f.Auth...))
		digest = sum[:]
	}
	copy(report[320:], digest)
	signer := f.QESigner
	if signer == nil {
		signer = f.Leaf.Key
	}
	b := append(slices.Clone(report), Sign(signer, report)...)
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(f.Auth))), f.Auth...)
	data := f.CertData
	if data == nil {
		data = append(PEM(f.Leaf, f.Authority, f.Root), 0)
	}
	return sized(binary.LittleEndian.AppendUint16(b, f.CertType), data)
}

func sized(b, data []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(data))), data...)
}

// Sign is ECDSA with SHA-256, r and s big endian.
func Sign(key *ecdsa.PrivateKey, b []byte) []byte {
	sum := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	must(err)
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

func (f *Fake) endorsements() attest.Endorsements {
	var e attest.Endorsements
	for _, c := range f.Certificates {
		e.Certificates = append(e.Certificates, c.Raw)
	}
	if f.RootList != nil {
		e.CRLs = append(e.CRLs, List(f.Root, f.RootList))
	}
	if f.PCKList != nil {
		e.CRLs = append(e.CRLs, List(f.Authority, f.PCKList))
	}
	signer := f.JSONSigner
	if signer == nil {
		signer = f.Signer
	}
	if f.TCBInfo != nil {
		e.TCBInfo, e.TCBInfoChain = SignJSON("tcbInfo", f.TCBInfo, signer), PEM(signer, f.Root)
	}
	if f.QEIdentity != nil {
		e.QEIdentity, e.QEIdentityChain = SignJSON("enclaveIdentity", f.QEIdentity, signer), PEM(signer, f.Root)
	}
	return e
}

// SignJSON is an object as Intel's service sends it.
func SignJSON(member string, o Object, signer *Cert) []byte {
	raw, err := json.Marshal(o)
	must(err)
	return []byte(`{"` + member + `":` + string(raw) + `,"signature":"` + hex.EncodeToString(Sign(signer.Key, raw)) + `"}`)
}

func fill(n int, v byte) []byte { return slices.Repeat([]byte{v}, n) }

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	must(err)
	return b
}
