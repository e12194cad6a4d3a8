package snp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// authority is a key of a PKI that is AMD's in all but its keys.
type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// pki is such a PKI, for one product line.
type pki struct{ ark, ask, asvk authority }

func (p pki) vendor() vendor {
	return vendor{root: p.ark.Certificate, keys: map[Signer]*x509.Certificate{VCEK: p.ask.Certificate, VLEK: p.asvk.Certificate}}
}

// noon is the time of all appraisals here.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) }

func newAuthority(name string, serial int64, parent *authority) authority {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: noon.AddDate(-5, 0, 0), NotAfter: noon.AddDate(20, 0, 0),
	}
	key := newKey()
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.Certificate, parent.key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey))
	return authority{must(x509.ParseCertificate(der)), key}
}

func newPKI(line Line) pki {
	ark := newAuthority("ARK-"+string(line), 1, nil)
	return pki{ark, newAuthority("SEV-"+string(line), 2, &ark), newAuthority("SEV-VLEK-"+string(line), 3, &ark)}
}

// fakes are made once: keys take time.
var fakes = sync.OnceValue(func() map[Line]pki {
	all := make(map[Line]pki)
	for _, l := range Lines() {
		all[l] = newPKI(l)
	}
	return all
})

// current are the lines' revocation lists.
var current = sync.OnceValue(func() map[Line][]byte {
	all := make(map[Line][]byte)
	for l, p := range fakes() {
		all[l] = crl(p.ark, noon.AddDate(0, -1, 0), noon.AddDate(0, 6, 0))
	}
	return all
})

// strangers is another PKI with the same names.
var strangers = sync.OnceValue(func() pki { return newPKI(Milan) })

func fakeVendors() map[Line]vendor {
	vendors := make(map[Line]vendor)
	for l, p := range fakes() {
		vendors[l] = p.vendor()
	}
	return vendors
}

// extensions are AMD's, by the rest of their identifier.
type extensions map[[2]int][]byte

func integer(v int) []byte  { return must(asn1.Marshal(v)) }
func ia5(s string) []byte   { return must(asn1.MarshalWithParams(s, "ia5")) }
func tcbArc(arc int) [2]int { return [2]int{arcTCB, arc} }

// leaf is a VCEK's or VLEK's certificate in the making.
type leaf struct {
	name       string
	serial     int64
	parent     authority
	key        crypto.PublicKey
	extensions extensions
	more       []pkix.Extension
	from, to   time.Time
	ca         bool
}

// leaves are those that were made: the same need not be made twice.
var leaves sync.Map

func (l leaf) der() []byte {
	id := fmt.Sprint(l.name, l.serial, l.parent.SerialNumber, l.parent.Subject, fmt.Sprintf("%p %p", l.parent.key, l.key), l.extensions, l.more, l.from, l.to, l.ca)
	if der, ok := leaves.Load(id); ok {
		return der.([]byte)
	}
	der := l.issue()
	leaves.Store(id, der)
	return der
}

func (l leaf) issue() []byte {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(l.serial), Subject: pkix.Name{CommonName: l.name}, NotBefore: l.from, NotAfter: l.to,
		IsCA: l.ca, BasicConstraintsValid: l.ca, ExtraExtensions: l.more,
	}
	for arcs, value := range l.extensions {
		id := append(amdExtensions[:len(amdExtensions):len(amdExtensions)], arcs[0])
		if arcs[1] != 0 {
			id = append(id, arcs[1])
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: value})
	}
	return must(x509.CreateCertificate(rand.Reader, c, l.parent.Certificate, l.key, l.parent.key))
}

func crl(issuer authority, from, to time.Time, serials ...int64) []byte {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: to}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: from})
	}
	return must(x509.CreateRevocationList(rand.Reader, list, issuer.Certificate, issuer.key))
}

// subject is evidence, and everything it is judged by: all right until a test
// changes one thing.
type subject struct {
	line     Line
	report   *Report // signed by key, and the certificate made of leaf, in appraise
	key      *ecdsa.PrivateKey
	leaf     leaf
	evidence attest.Evidence // Certificates are put behind the leaf's
	want     attest.Expected
	policy   *attest.SNPPolicy
	at       time.Time
	// last changes the evidence when all is made.
	last func(*attest.Evidence)
}

var signingKey = sync.OnceValue(newKey)

// versions of the firmware, each component another; byte by byte as on the line.
func tcbOf(l Line) (TCB, attest.SNPTCB) {
	if l == Turin {
		return TCB{9, 4, 2, 27, 0, 0, 0, 219}, attest.SNPTCB{FMC: 9, Bootloader: 4, TEE: 2, SNP: 27, Microcode: 219}
	}
	return TCB{4, 2, 0, 0, 0, 0, 27, 219}, attest.SNPTCB{Bootloader: 4, TEE: 2, SNP: 27, Microcode: 219}
}

// everything that a policy can ask of a host.
var everything = attest.SNPPlatform{
	ForbidSMT: true, RequireTSME: true, RequireECC: true, RequireRAPLDisabled: true, RequireCiphertextHiding: true,
	RequireAliasCheck: true, ForbidTIO: true, ForbidReserved: true,
}

func right(l Line, signer Signer) *subject {
	tcb, least := tcbOf(l)
	launch := attest.LaunchDigestsOf([]byte("manifest"))
	r := &Report{
		Version: 5, SignatureAlgo: SignatureECDSAP384, Signer: signer, Policy: bitMustBeOne | bitSMT | 1<<8 | 55,
		CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb,
		PlatformInfo: platformTSME | platformECC | platformRAPLDisabled | platformCiphertextHiding | platformAliasCheck, LaunchMitigations: 0x7, CurrentMitigations: 0xb,
		CPUIDFamily: 0x19, CPUIDModel: 1, ReportData: [64]byte{1, 2, 3}, HostData: launch.SHA256,
		Measurement: [48]byte(bytes.Repeat([]byte{7}, 48)), ReportIDMA: [32]byte(bytes.Repeat([]byte{0xff}, 32)),
	}
	switch l {
	case Genoa:
		r.CPUIDModel = 0x11
	case Turin:
		r.CPUIDFamily, r.CPUIDModel = 0x1a, 2
	}
	copy(r.ChipID[:chipIDSize(l)], bytes.Repeat([]byte{0xc1}, 64))
	s := &subject{
		line: l, report: r, key: signingKey(), at: noon,
		evidence: attest.Evidence{Type: attest.SNP},
		want:     attest.Expected{ReportData: r.ReportData, Launch: &launch},
		policy: &attest.SNPPolicy{
			Measurements: []attest.Hex{bytes.Clone(r.Measurement[:])}, Products: []string{string(l)}, ChipIDs: []string{hex.EncodeToString(r.ChipID[:])},
			Signers: []string{"vcek"}, MinimumTCB: map[string]attest.SNPTCB{string(l): least}, Revocation: attest.CheckRequired,
			Guest:              attest.SNPGuestPolicy{AllowSMT: true, MinimumABI: "1.55"},
			Platform:           everything,
			RequireMitigations: 0x3,
		},
	}
	p := fakes()[l]
	s.leaf = leaf{
		name: "SEV-VCEK", serial: 0, parent: p.ask, key: s.key.Public(), from: noon.AddDate(-1, 0, 0), to: noon.AddDate(1, 0, 0),
		extensions: extensions{{arcVersion}: integer(1), {arcProduct}: ia5(string(l) + "-B0"), {arcChipID}: bytes.Clone(r.ChipID[:chipIDSize(l)])},
	}
	for i, part := range layout(l) {
		s.leaf.extensions[tcbArc(part.arc)] = integer(int(tcb[i]))
	}
	if signer == VLEK {
		s.policy.Signers = []string{"vlek"}
		s.leaf.name, s.leaf.parent, s.leaf.serial = "SEV-VLEK", p.asvk, 77
		delete(s.leaf.extensions, [2]int{arcChipID})
		s.leaf.extensions[[2]int{arcCSP}] = ia5("provider")
	}
	s.evidence.Endorsements.CRLs = [][]byte{current()[l]}
	return s
}

// made is the evidence, signed.
func (s *subject) made() attest.Evidence {
	e := s.evidence
	e.Report = Marshal(s.report)
	if err := Sign(e.Report, s.key); err != nil {
		panic(err)
	}
	e.Endorsements.Certificates = append([][]byte{s.leaf.der()}, e.Endorsements.Certificates...)
	if s.last != nil {
		s.last(&e)
	}
	return e
}

func (s *subject) appraise() (attest.Result, error) {
	return appraise(s.made(), s.want, s.policy, s.at, fakeVendors())
}

func TestAccepted(t *testing.T) {
	for _, l := range Lines() {
		for _, signer := range []Signer{VCEK, VLEK} {
			for version := uint32(MinVersion); version <= MaxVersion; version++ {
				s := right(l, signer)
				if s.report.Version = version; version < 3 {
					s.report.CPUIDFamily, s.report.CPUIDModel = 0, 0 // the certificate then names the line
				}
				if version < 5 {
					s.policy.RequireMitigations = 0 // which such a report can't state
				}
				r, err := s.appraise()
				if err != nil || !r.Accepted || r.Simulated || r.Type != attest.SNP {
					t.Fatalf("%s, signer %d, version %d: %+v, %v", l, signer, version, r, err)
				}
				if !r.At.Equal(noon) || !r.NotBefore.Equal(noon.AddDate(0, -1, 0)) || !r.NotAfter.Equal(noon.AddDate(0, 6, 0)) {
					t.Errorf("dates %v, %v to %v; want the revocation list's", r.At, r.NotBefore, r.NotAfter)
				}
				s.at = r.NotAfter
				if _, err := s.appraise(); err != nil {
					t.Errorf("at the end of its window: %v", err)
				}
				s.at = r.NotAfter.Add(time.Second)
				if _, err := s.appraise(); err == nil {
					t.Error("accepted after its window")
				}
			}
		}
	}
}

// What a policy allows in so many words is accepted, one thing at a time.
func TestAllowed(t *testing.T) {
	for name, change := range map[string]func(s *subject){
		"a launch field of the policy": func(s *subject) {
			s.want.Launch, s.policy.HostData = nil, []attest.Hex{make([]byte, 32), s.report.HostData[:]}
		},
		"any chip": func(s *subject) { s.policy.ChipIDs = []string{attest.AnyID} },
		"SMT off":  func(s *subject) { s.report.Policy &^= bitSMT },
		"debug":    func(s *subject) { s.report.Policy |= bitDebug; s.policy.Guest.AllowDebug = true },
		"a migration agent": func(s *subject) {
			s.report.Policy |= bitMigrationAgent
			s.report.ReportIDMA[0] = 1
			s.policy.Guest.AllowMigrationAgent = true
		},
		"CXL":                   func(s *subject) { s.report.Policy |= bitCXL; s.policy.Guest.AllowCXL = true },
		"a single socket":       func(s *subject) { s.report.Policy |= bitSingleSocket; s.policy.Guest.RequireSingleSocket = true },
		"what forbids the host": func(s *subject) { s.report.Policy |= 0xf << 22 },
		"any ABI":               func(s *subject) { s.report.Policy &^= 0xffff; s.policy.Guest.MinimumABI = "" },
		"a newer ABI":           func(s *subject) { s.report.Policy = s.report.Policy&^0xffff | 2<<8 },
		"VMPL 1":                func(s *subject) { s.report.VMPL, s.policy.VMPL = 1, 1 },
		"an ID key": func(s *subject) {
			s.report.IDKeyDigest[0] = 1
			s.policy.IDKeyDigests = []attest.Hex{s.report.IDKeyDigest[:]}
		},
		"an author key": func(s *subject) {
			s.report.AuthorKeyDigest[0] = 1
			s.policy.AuthorKeyDigests = []attest.Hex{s.report.AuthorKeyDigest[:]}
		},
		"revocation unchecked": func(s *subject) { s.policy.Revocation = attest.CheckNot; s.evidence.Endorsements.CRLs = nil },
		"newer firmware":       func(s *subject) { s.report.CommittedTCB[7]++ },
		"a chip in octets":     func(s *subject) { s.leaf.extensions[[2]int{arcChipID}] = must(asn1.Marshal(s.report.ChipID[:])) },
		"another line's list": func(s *subject) {
			s.evidence.Endorsements.CRLs = append(s.evidence.Endorsements.CRLs, crl(fakes()[Genoa].ark, noon, noon.AddDate(1, 0, 0), 2))
		},
		"an old list beside": func(s *subject) {
			s.evidence.Endorsements.CRLs = append([][]byte{crl(fakes()[Milan].ark, noon.AddDate(-1, 0, 0), noon.AddDate(0, -1, 0))}, s.evidence.Endorsements.CRLs...)
		},
		"other certificates": func(s *subject) {
			s.evidence.Endorsements.Certificates = [][]byte{fakes()[Milan].ask.Raw, strangers().ark.Raw, []byte("x")}
		},
		"another chip's beside": func(s *subject) {
			other := s.leaf
			other.key = newKey().Public()
			s.last = func(e *attest.Evidence) {
				e.Endorsements.Certificates = append([][]byte{other.der()}, e.Endorsements.Certificates...)
			}
		},
		"a list of other numbers": func(s *subject) {
			s.evidence.Endorsements.CRLs = [][]byte{crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0), 1, 4, 78)}
		},
	} {
		s := right(Milan, VCEK)
		change(s)
		if r, err := s.appraise(); err != nil || !r.Accepted {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A provider's key is on many chips: one that hides its identity needs "any".
	s := right(Milan, VLEK)
	s.report.ChipID, s.policy.ChipIDs = [64]byte{}, []string{attest.AnyID}
	if _, err := s.appraise(); err != nil {
		t.Errorf("VLEK on a chip that hides its identity: %v", err)
	}
}

func TestVerifierWithoutAPolicyRefuses(t *testing.T) {
	v := new(Verifier)
	s := right(Milan, VCEK)
	if r, err := v.Verify(context.Background(), s.made(), s.want); err == nil || r.Accepted {
		t.Errorf("%+v, %v", r, err)
	}
	// A policy that would accept it does not help what AMD did not sign.
	v.Policy, v.Now = s.policy, func() time.Time { return noon }
	r, err := v.Verify(context.Background(), s.made(), s.want)
	if err == nil || r.Accepted || !r.At.Equal(noon) {
		t.Errorf("%+v, %v", r, err)
	}
}
