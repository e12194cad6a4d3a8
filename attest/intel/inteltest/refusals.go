package inteltest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
)

// Claim of the name, or the zero value.
func Claim(r attest.Result, name string) attest.Claim {
	for _, c := range r.Claims {
		if c.Name == name {
			return c
		}
	}
	return attest.Claim{}
}

// Failed wants a refusal with these claims and no others failed, each of which
// explains itself.
func Failed(t *testing.T, err error, names ...string) {
	t.Helper()
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) {
		t.Errorf("not refused: %v", err)
		return
	}
	r := refusal.Result
	if r.Accepted || !r.NotBefore.IsZero() || !r.NotAfter.IsZero() {
		t.Errorf("a refusal that says otherwise: %+v", r)
	}
	var got []string
	for _, c := range r.Failed() {
		got = append(got, c.Name)
		if c.Expected == "" || c.Found == "" || c.Hint == "" {
			t.Errorf("a claim that does not explain itself: %+v", c)
		}
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("failed %v; want %v (%v)", got, names, err)
	}
}

// Refusal is evidence that is right in all but one thing.
type Refusal struct {
	// Change happens before everything is signed, Forge after it.
	Change func(f *Fake)
	Forge  func(f *Fake, e *attest.Evidence)
	// Claims fail, and no others; names without the type's.
	Claims string
	// Says is in the text of the refusal; may be empty.
	Says string
}

// RunRefusals runs those that SGX and TDX have in common, and more.
func RunRefusals(t *testing.T, typ attest.Type, fresh func() *Fake, appraise func(*Fake, attest.Evidence) (attest.Result, error), more map[string]Refusal) {
	t.Helper()
	all := refusals(typ)
	for name, r := range more {
		if _, twice := all[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		all[name] = r
	}
	for name, tt := range all {
		t.Run(name, func(t *testing.T) {
			f := fresh()
			if tt.Change != nil {
				tt.Change(f)
			}
			e := f.Evidence(typ)
			if tt.Forge != nil {
				tt.Forge(f, &e)
			}
			_, err := appraise(f, e)
			var names []string
			for _, name := range strings.Fields(tt.Claims) {
				names = append(names, string(typ)+"."+name)
			}
			Failed(t, err, names...)
			if err != nil && !strings.Contains(err.Error(), tt.Says) {
				t.Errorf("%q does not say %q", err, tt.Says)
			}
		})
	}
}

// level is the newest of TCB info, that the platform reaches.
func level(o Object) Object { return o["tcbLevels"].([]any)[0].(Object) }

// swap replaces a text in a signed object's bytes, so that they are no longer
// those signed.
func swap(b *[]byte, from, to string) {
	if !strings.Contains(string(*b), from) {
		panic("inteltest: no " + from)
	}
	*b = []byte(strings.Replace(string(*b), from, to, 1))
}

// critical is an extension that nobody knows.
var critical = pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}

// leaf makes the platform's certificate with template changed.
func leaf(change func(*x509.Certificate)) func(f *Fake) {
	return func(f *Fake) { f.LeafTemplate = change }
}

func refusals(typ attest.Type) map[string]Refusal {
	all := make(map[string]Refusal)
	for _, group := range []map[string]Refusal{frames(typ), origins(), platforms(), lists(), texts(typ), levels()} {
		for name, r := range group {
			all[name] = r
		}
	}
	return all
}

// frames are quotes of other forms.
func frames(typ attest.Type) map[string]Refusal {
	report := func(change func(b []byte) []byte) func(*Fake, *attest.Evidence) {
		return func(_ *Fake, e *attest.Evidence) { e.Report = change(slices.Clone(e.Report)) }
	}
	all := map[string]Refusal{
		"another type":                  {Forge: func(_ *Fake, e *attest.Evidence) { e.Type = attest.SNP }, Claims: "type"},
		"no quote":                      {Forge: report(func([]byte) []byte { return nil }), Claims: "quote"},
		"cut by a byte":                 {Forge: report(func(b []byte) []byte { return b[:len(b)-1] }), Claims: "quote", Says: "ends within"},
		"cut in the header":             {Forge: report(func(b []byte) []byte { return b[:47] }), Claims: "quote", Says: "header"},
		"cut in the body":               {Forge: report(func(b []byte) []byte { return b[:300] }), Claims: "quote", Says: "body"},
		"a byte after the certificates": {Change: func(f *Fake) { f.InnerPad = []byte{0, 1} }, Claims: "quote", Says: "not all zero"},
		"longer than allowed":           {Change: func(f *Fake) { f.Trailing = make([]byte, 64<<10) }, Claims: "quote", Says: "at most 65536"},
		"version 2":                     {Change: func(f *Fake) { f.Version = 2 }, Claims: "quote", Says: "version 2"},
		"version 6":                     {Change: func(f *Fake) { f.Version = 6 }, Claims: "quote", Says: "version 6"},
		"another TEE":                   {Change: func(f *Fake) { f.TEE ^= 0x81 }, Claims: "quote"},
		"an unknown TEE":                {Change: func(f *Fake) { f.TEE = 1 }, Claims: "quote"},
		"another kind of key":           {Change: func(f *Fake) { f.KeyType = 3 }, Claims: "quote", Says: "attestation key of type 3"},
		"another vendor":                {Change: func(f *Fake) { f.Vendor = fill(16, 9) }, Claims: "quote", Says: "vendor"},
		"certification data of type 0":  {Change: func(f *Fake) { f.CertType = 0 }, Claims: "quote", Says: "type 0"},
		"certification data of type 7":  {Change: func(f *Fake) { f.CertType = 7 }, Claims: "quote", Says: "type 7"},
	}
	if typ == attest.TDX {
		all["a byte after the outer certification data"] = Refusal{Change: func(f *Fake) { f.OuterPad = []byte{0, 1} }, Claims: "quote", Says: "not all zero"}
		all["outer certification data of type 5"] = Refusal{Change: func(f *Fake) { f.OuterType = 5 }, Claims: "quote", Says: "expected 6"}
	}
	return all
}

// origins are quotes that others signed, wholly or in part.
func origins() map[string]Refusal {
	return map[string]Refusal{
		"no certificates":          {Change: func(f *Fake) { f.CertData = []byte("nothing") }, Claims: "certificate"},
		"the platform's name only": {Change: func(f *Fake) { f.CertType, f.CertData = 3, make([]byte, 404) }, Claims: "certificate"},
		"its own root": {Change: func(f *Fake) {
			root := Issue(Template("Intel SGX Root CA", true), nil)
			f.Authority = Issue(Template("Intel SGX PCK Platform CA", true), root)
			leaf := Template("Intel SGX PCK Certificate", false)
			leaf.ExtraExtensions = []pkix.Extension{f.PCK.Extension()}
			f.Leaf = Issue(leaf, f.Authority)
			f.CertData = PEM(f.Leaf, f.Authority, root)
		}, Claims: "chain"},
		"no authority": {Forge: nil, Change: func(f *Fake) {
			f.Leaf = pckOf(f)
			f.CertData = PEM(f.Leaf, f.Root)
		}, Claims: "chain", Says: "no certificate of Intel SGX PCK Platform CA"},
		"an authority of another name": {Change: func(f *Fake) {
			f.Authority = Issue(Template("Intel SGX PCK Other CA", true), f.Root)
		}, Claims: "chain"},
		"an authority that is none": {Change: func(f *Fake) {
			f.Authority = Issue(Template("Intel SGX PCK Platform CA", false), f.Root)
			f.PCKList = nil
		}, Claims: "chain"},
		"an authority that the root's key issued under another name": {Change: func(f *Fake) {
			other := IssueFor(Template("Intel SGX Root CA 2", true), nil, f.Root.Key)
			f.Authority = Issue(Template("Intel SGX PCK Platform CA", true), other)
		}, Claims: "chain"},
		"issued by the signer of JSON": {Change: func(f *Fake) { f.Authority = f.Signer; f.PCKList = nil }, Claims: "chain"},
		"an authority with an unknown extension": {Change: func(f *Fake) {
			c := Template("Intel SGX PCK Platform CA", true)
			c.ExtraExtensions = []pkix.Extension{critical}
			f.Authority = Issue(c, f.Root)
		}, Claims: "chain"},
		"a platform's certificate with an unknown extension": {
			Change: leaf(func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, critical) }), Claims: "chain"},
		"a platform's certificate of another name": {
			Change: leaf(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX TCB Signing" }), Claims: "certificate"},
		"a platform's certificate of an authority": {
			Change: leaf(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }), Claims: "certificate"},
		"a platform's certificate without extensions": {
			Change: leaf(func(c *x509.Certificate) { c.ExtraExtensions = nil }), Claims: "certificate"},
		"a platform without PPID":  {Change: func(f *Fake) { f.PCK.Without = 1 }, Claims: "certificate"},
		"a platform without TCB":   {Change: func(f *Fake) { f.PCK.Without = 2 }, Claims: "certificate"},
		"a platform without PCEID": {Change: func(f *Fake) { f.PCK.Without = 3 }, Claims: "certificate"},
		"a platform without FMSPC": {Change: func(f *Fake) { f.PCK.Without = 4 }, Claims: "certificate"},
		"a PPID of 15 bytes":       {Change: func(f *Fake) { f.PCK.PPID = fill(15, 0x11) }, Claims: "certificate"},
		"an FMSPC of 7 bytes":      {Change: func(f *Fake) { f.PCK.FMSPC = fill(7, 1) }, Claims: "certificate"},
		"a PCE's version too high": {Change: func(f *Fake) { f.PCK.PCESVN = 70000 }, Claims: "certificate"},
		"a platform's certificate expired": {
			Change: leaf(func(c *x509.Certificate) { c.NotAfter = Now.AddDate(0, 0, -1) }), Claims: "dates"},
		"a platform's certificate of tomorrow": {
			Change: leaf(func(c *x509.Certificate) { c.NotBefore = Now.AddDate(0, 0, 1) }), Claims: "dates"},
		"an authority expired": {Change: func(f *Fake) {
			c := Template("Intel SGX PCK Platform CA", true)
			c.NotAfter = Now.AddDate(0, 0, -1)
			f.Authority = Issue(c, f.Root)
		}, Claims: "dates"},
		"another platform's key": {Change: func(f *Fake) { f.QESigner = NewKey() }, Claims: "signature.quoting_enclave"},
		"another platform's certificate": {Change: func(f *Fake) {
			f.Leaf = pckOf(f)
			f.CertData = PEM(pckOf(f), f.Authority, f.Root)
		}, Claims: "signature.quoting_enclave"},
		"another attestation key":     {Change: func(f *Fake) { f.KeyDigest = fill(32, 7) }, Claims: "signature.key"},
		"a longer digest of the key":  {Change: func(f *Fake) { f.QE[320+63] = 1 }, Claims: "signature.key"},
		"changed after it was signed": {Forge: func(f *Fake, e *attest.Evidence) { e.Report[45] ^= 1 }, Claims: "signature"},
	}
}

func pckOf(f *Fake) *Cert {
	c := Template("Intel SGX PCK Certificate", false)
	c.ExtraExtensions = []pkix.Extension{f.PCK.Extension()}
	return Issue(c, f.Authority)
}

// platforms are those that the policy does not list.
func platforms() map[string]Refusal {
	return map[string]Refusal{
		"no FMSPC listed":            {Change: func(f *Fake) { f.Policy.FMSPCs = nil }, Claims: "fmspc"},
		"another FMSPC listed":       {Change: func(f *Fake) { f.Policy.FMSPCs = []string{"b0c06f000001"} }, Claims: "fmspc"},
		"no PPID listed":             {Change: func(f *Fake) { f.Policy.PPIDs = nil }, Claims: "ppid"},
		"another PPID listed":        {Change: func(f *Fake) { f.Policy.PPIDs = []string{"11"} }, Claims: "ppid"},
		"nothing said of collateral": {Change: func(f *Fake) { f.Policy.Collateral = "" }, Claims: "collateral"},
	}
}

// lists are about revocation.
func lists() map[string]Refusal {
	return map[string]Refusal{
		"no lists":            {Change: func(f *Fake) { f.RootList, f.PCKList = nil, nil }, Claims: "revocation.root revocation.pck"},
		"no root's list":      {Change: func(f *Fake) { f.RootList = nil }, Claims: "revocation.root", Says: "no revocation list of Intel SGX Root CA"},
		"no authority's list": {Change: func(f *Fake) { f.PCKList = nil }, Claims: "revocation.pck", Says: "no revocation list of Intel SGX PCK Platform CA"},
		"a root's list expired": {Change: func(f *Fake) {
			f.RootList.NextUpdate = Now.AddDate(0, 0, -1)
			f.RootList.ThisUpdate = Now.AddDate(0, 0, -9)
		}, Claims: "revocation.root"},
		"an authority's list expired": {Change: func(f *Fake) {
			f.PCKList.NextUpdate = Now.AddDate(0, 0, -1)
			f.PCKList.ThisUpdate = Now.AddDate(0, 0, -9)
		}, Claims: "revocation.pck"},
		"an authority's list of tomorrow": {Change: func(f *Fake) { f.PCKList.ThisUpdate = Now.AddDate(0, 0, 1) }, Claims: "revocation.pck"},
		"a platform revoked":              {Change: func(f *Fake) { f.Leaf = pckOf(f); f.PCKList = ListTemplate(f.Leaf) }, Claims: "revocation.pck", Says: "is revoked"},
		"an authority revoked":            {Change: func(f *Fake) { f.RootList = ListTemplate(f.Authority) }, Claims: "revocation.root", Says: "is revoked"},
		"a signer of JSON revoked":        {Change: func(f *Fake) { f.RootList = ListTemplate(f.Signer) }, Claims: "revocation.root", Says: "is revoked"},
		"a platform revoked by an old list, beside a good one": {Change: func(f *Fake) { f.Leaf = pckOf(f) }, Forge: func(f *Fake, e *attest.Evidence) {
			old := ListTemplate(f.Leaf)
			old.ThisUpdate, old.NextUpdate = Now.AddDate(0, -3, 0), Now.AddDate(0, -2, 0)
			e.Endorsements.CRLs = append(e.Endorsements.CRLs, List(f.Authority, old))
		}, Claims: "revocation.pck", Says: "is revoked"},
		"an authority's list of another key": {Forge: func(f *Fake, e *attest.Evidence) {
			other := Issue(Template("Intel SGX PCK Platform CA", true), f.Root)
			e.Endorsements.CRLs[1] = List(other, ListTemplate())
		}, Claims: "revocation.pck", Says: "not signed by"},
		"a root's list of another key": {Forge: func(f *Fake, e *attest.Evidence) {
			other := Issue(Template("Intel SGX Root CA", true), nil)
			e.Endorsements.CRLs[0] = List(other, ListTemplate())
		}, Claims: "revocation.root", Says: "not signed by"},
		"a list with an unknown extension": {Change: func(f *Fake) { f.PCKList.ExtraExtensions = []pkix.Extension{critical} }, Claims: "revocation.pck"},
		"too large lists": {Forge: func(f *Fake, e *attest.Evidence) {
			e.Endorsements.CRLs = append(e.Endorsements.CRLs, make([]byte, 8<<20))
		}, Claims: "revocation.root revocation.pck"},
		"too many lists": {Forge: func(f *Fake, e *attest.Evidence) {
			e.Endorsements.CRLs = append(e.Endorsements.CRLs, make([][]byte, 40)...)
		}, Claims: "revocation.root revocation.pck"},
	}
}
