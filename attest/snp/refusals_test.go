package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
)

// refusal changes one thing of what is right; claims are those that fail for it.
type refusal struct {
	change func(s *subject)
	claims string // with spaces between
}

func refusals() map[string]refusal {
	all := map[string]refusal{
		"evidence of the simulated TEE": {func(s *subject) { s.evidence.Type = attest.Sim }, "snp.type"},
		"no type":                       {func(s *subject) { s.evidence.Type = "" }, "snp.type"},
		"no section":                    {func(s *subject) { s.policy = nil }, "snp.section"},
		"an empty section":              {func(s *subject) { s.policy = new(attest.SNPPolicy) }, "snp.signer snp.product snp.tcb.current snp.tcb.reported snp.tcb.committed snp.tcb.launch snp.revocation snp.chip_id snp.measurement snp.policy.smt"},
		"a short report":                {func(s *subject) { s.last = func(e *attest.Evidence) { e.Report = e.Report[1:] } }, "snp.report"},
		"a long report":                 {func(s *subject) { s.last = func(e *attest.Evidence) { e.Report = append(e.Report, 0) } }, "snp.report"},
		"no report":                     {func(s *subject) { s.last = func(e *attest.Evidence) { e.Report = nil } }, "snp.report"},
		"version 6":                     {func(s *subject) { s.report.Version = 6 }, "snp.report"},
		"version 1":                     {func(s *subject) { s.report.Version = 1 }, "snp.report"},

		"a signer that is not listed": {func(s *subject) { s.policy.Signers = []string{"vlek"} }, "snp.signer"},
		"signed by no endorsed key":   {func(s *subject) { s.report.Signer = Unsigned }, "snp.signer snp.certificate"},
		"no key, and one lists it":    {func(s *subject) { s.report.Signer = Unsigned; s.policy.Signers = []string{"key 7"} }, "snp.signer snp.certificate"},
		"another algorithm":           {func(s *subject) { s.report.SignatureAlgo = 2 }, "snp.signature_algorithm snp.signature"},
		"an unknown processor":        {func(s *subject) { s.report.CPUIDModel = 0x50 }, "snp.product"},
		"a product not listed":        {func(s *subject) { s.policy.Products = []string{"Genoa"} }, "snp.product"},

		"issued by a stranger": {func(s *subject) { s.leaf.parent = strangers().ask }, "snp.chain"},
		"a chain that it brings": {func(s *subject) {
			p := strangers()
			s.leaf.parent = p.ask
			s.evidence.Endorsements.Certificates = [][]byte{p.ask.Raw, p.ark.Raw}
			s.evidence.Endorsements.CRLs = append(s.evidence.Endorsements.CRLs, crl(p.ark, noon, noon.AddDate(1, 0, 0)))
		}, "snp.chain"},
		"issued by the providers' key": {func(s *subject) { s.leaf.parent = fakes()[Milan].asvk }, "snp.chain"},
		"issued by the root":           {func(s *subject) { s.leaf.parent = fakes()[Milan].ark }, "snp.chain"},
		"issued by another line's":     {func(s *subject) { s.leaf.parent = fakes()[Genoa].ask }, "snp.chain"},
		"before the certificate":       {func(s *subject) { s.leaf.from = noon.Add(time.Second) }, "snp.dates"},
		"after the certificate":        {func(s *subject) { s.leaf.to = noon.Add(-time.Second) }, "snp.dates"},
		"another product":              {func(s *subject) { s.leaf.extensions[[2]int{arcProduct}] = ia5("Genoa") }, "snp.certificate.product"},
		"another chip":                 {func(s *subject) { s.leaf.extensions[[2]int{arcChipID}] = make([]byte, 64) }, "snp.certificate.chip_id"},
		"a chip that hides itself":     {func(s *subject) { s.report.ChipID = [64]byte{} }, "snp.certificate.chip_id snp.chip_id"},
		"one such with any":            {func(s *subject) { s.report.ChipID = [64]byte{}; s.policy.ChipIDs = []string{attest.AnyID} }, "snp.certificate.chip_id snp.chip_id"},
		"one such, listed":             {func(s *subject) { s.report.ChipID = [64]byte{}; s.policy.ChipIDs = []string{strings.Repeat("0", 128)} }, "snp.certificate.chip_id snp.chip_id"},
		"a chip not listed":            {func(s *subject) { s.policy.ChipIDs = []string{strings.Repeat("c2", 64)} }, "snp.chip_id"},
		"no chip listed":               {func(s *subject) { s.policy.ChipIDs = nil }, "snp.chip_id"},
		"changed after signing":        {func(s *subject) { s.last = func(e *attest.Evidence) { e.Report[0x04]++ } }, "snp.signature"},
		"another key":                  {func(s *subject) { s.key = newKey() }, "snp.signature"},
		"no signature":                 {func(s *subject) { s.last = func(e *attest.Evidence) { clear(e.Report[SignedSize : SignedSize+144]) } }, "snp.signature"},
		"no word on revocation":        {func(s *subject) { s.policy.Revocation = "" }, "snp.revocation"},
		"no list":                      {func(s *subject) { s.evidence.Endorsements.CRLs = nil }, "snp.revocation"},
		"a list that is none":          {lists([]byte("x")), "snp.revocation"},
		"another line's list":          {lists(crl(fakes()[Genoa].ark, noon, noon.AddDate(1, 0, 0))), "snp.revocation"},
		"a stranger's list":            {lists(crl(strangers().ark, noon, noon.AddDate(1, 0, 0))), "snp.revocation"},
		"a list of the endorsing key":  {lists(crl(fakes()[Milan].ask, noon, noon.AddDate(1, 0, 0))), "snp.revocation"},
		"an expired list":              {lists(crl(fakes()[Milan].ark, noon.AddDate(-1, 0, 0), noon.Add(-time.Second))), "snp.revocation"},
		"a list of tomorrow":           {lists(crl(fakes()[Milan].ark, noon.AddDate(0, 0, 1), noon.AddDate(1, 0, 0))), "snp.revocation"},
		"the endorsing key revoked":    {lists(crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0), 2)), "snp.revocation"},
		"revoked by an old list": {func(s *subject) {
			s.evidence.Endorsements.CRLs = append(s.evidence.Endorsements.CRLs, crl(fakes()[Milan].ark, noon.AddDate(-1, 0, 0), noon.AddDate(0, -1, 0), 2))
		}, "snp.revocation"},
		"too many lists":          {lists(slices.Repeat([][]byte{crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0))}, maxCertificates+1)...), "snp.revocation"},
		"a huge list":             {lists(make([]byte, maxCRL+1)), "snp.revocation"},
		"another measurement":     {func(s *subject) { s.report.Measurement[47]++ }, "snp.measurement"},
		"no measurement listed":   {func(s *subject) { s.policy.Measurements = nil }, "snp.measurement"},
		"a measurement cut":       {func(s *subject) { s.policy.Measurements[0] = s.policy.Measurements[0][:47] }, "snp.measurement"},
		"an empty measurement":    {func(s *subject) { s.policy.Measurements = []attest.Hex{nil, make([]byte, 48)} }, "snp.measurement"},
		"other report data":       {func(s *subject) { s.want.ReportData[63]++ }, "snp.report_data"},
		"another manifest":        {func(s *subject) { d := attest.LaunchDigestsOf([]byte("other")); s.want.Launch = &d }, "snp.host_data"},
		"no manifest":             {func(s *subject) { s.want.Launch = nil }, "snp.host_data"},
		"a policy's launch field": {func(s *subject) { s.want.Launch = nil; s.policy.HostData = []attest.Hex{make([]byte, 32)} }, "snp.host_data"},
		"a manifest, the policy's field": {func(s *subject) {
			s.policy.HostData = []attest.Hex{s.report.HostData[:]}
			s.want.Launch = new(attest.LaunchDigests)
		}, "snp.host_data"},
		"another VMPL":             {func(s *subject) { s.report.VMPL = 1 }, "snp.vmpl"},
		"a VMPL below the guest's": {func(s *subject) { s.policy.VMPL = 1 }, "snp.vmpl"},
		"an ID key":                {func(s *subject) { s.report.IDKeyDigest[0] = 1 }, "snp.id_key_digest"},
		"another ID key": {func(s *subject) {
			s.report.IDKeyDigest[0] = 1
			s.policy.IDKeyDigests = []attest.Hex{slices.Repeat([]byte{1}, 48)}
		}, "snp.id_key_digest"},
		"an author key":                       {func(s *subject) { s.report.AuthorKeyDigest[47] = 1 }, "snp.author_key_digest"},
		"a migration agent":                   {func(s *subject) { s.report.ReportIDMA[31] = 0xfe }, "snp.report_id_ma"},
		"a migration agent of zeros":          {func(s *subject) { s.report.ReportIDMA = [32]byte{} }, "snp.report_id_ma"},
		"debug":                               {func(s *subject) { s.report.Policy |= bitDebug }, "snp.policy.debug"},
		"migration allowed":                   {func(s *subject) { s.report.Policy |= bitMigrationAgent }, "snp.policy.migration_agent"},
		"SMT":                                 {func(s *subject) { s.policy.Guest.AllowSMT = false }, "snp.policy.smt"},
		"CXL":                                 {func(s *subject) { s.report.Policy |= bitCXL }, "snp.policy.cxl"},
		"several sockets":                     {func(s *subject) { s.policy.Guest.RequireSingleSocket = true }, "snp.policy.single_socket"},
		"bit 17 not set":                      {func(s *subject) { s.report.Policy &^= bitMustBeOne }, "snp.policy.reserved"},
		"bit 26":                              {func(s *subject) { s.report.Policy |= 1 << 26 }, "snp.policy.reserved"},
		"bit 63":                              {func(s *subject) { s.report.Policy |= 1 << 63 }, "snp.policy.reserved"},
		"a bit of the host that is not known": {func(s *subject) { s.report.PlatformInfo |= 1 << 6 }, "snp.platform_info.reserved"},
		"its last bit":                        {func(s *subject) { s.report.PlatformInfo |= 1 << 63 }, "snp.platform_info.reserved"},
		"an older ABI":                        {func(s *subject) { s.report.Policy-- }, "snp.policy.abi"},
		"an ABI that is none":                 {func(s *subject) { s.policy.Guest.MinimumABI = "1" }, "snp.policy.abi"},
		"no minimum for the line":             {func(s *subject) { s.policy.MinimumTCB = nil }, "snp.tcb.current snp.tcb.reported snp.tcb.committed snp.tcb.launch"},
		"a reserved byte of the TCB":          {func(s *subject) { s.report.LaunchTCB[3] = 1 }, "snp.tcb.launch"},
		"a key's certificate that is not":     {func(s *subject) { s.leaf.name = "SEV-VLEK" }, "snp.certificate"},
		"no certificate":                      {func(s *subject) { s.last = func(e *attest.Evidence) { e.Endorsements.Certificates = nil } }, "snp.certificate"},
		"too many certificates": {func(s *subject) {
			s.evidence.Endorsements.Certificates = slices.Repeat([][]byte{fakes()[Milan].ask.Raw}, maxCertificates)
		}, "snp.certificate"},
		"a huge certificate": {func(s *subject) { s.evidence.Endorsements.Certificates = [][]byte{make([]byte, maxCertificate+1)} }, "snp.certificate"},
		"an authority's":     {func(s *subject) { s.leaf.ca = true }, "snp.certificate"},
		"a key on P-256": {func(s *subject) {
			s.leaf.key = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public()
		}, "snp.certificate"},
		"an unknown critical extension": {func(s *subject) {
			s.leaf.more = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, "snp.certificate"},
	}
	// What the policy asks of the host: each bit the other way, the rest right.
	for _, b := range platformBits {
		all["the host's "+b.name] = refusal{func(s *subject) { s.report.PlatformInfo ^= b.bit }, b.name}
	}
	for i, bit := range []uint64{1 << 0, 1 << 1} {
		all[fmt.Sprintf("mitigation %d not there at launch", i)] = refusal{func(s *subject) { s.report.LaunchMitigations &^= bit }, "snp.mitigations.launch"}
		all[fmt.Sprintf("mitigation %d not there now", i)] = refusal{func(s *subject) { s.report.CurrentMitigations &^= bit }, "snp.mitigations.current"}
	}
	all["mitigations that others have"] = refusal{func(s *subject) { s.policy.RequireMitigations = 1 << 63 }, "snp.mitigations.launch snp.mitigations.current"}
	all["a version without mitigations"] = refusal{func(s *subject) { s.report.Version = 4 }, "snp.mitigations.launch snp.mitigations.current"}
	// Extensions of AMD's: each there, known and well-formed.
	for name, change := range map[string]func(x extensions){
		"no version":              func(x extensions) { delete(x, [2]int{arcVersion}) },
		"version 2":               func(x extensions) { x[[2]int{arcVersion}] = integer(2) },
		"a version that is none":  func(x extensions) { x[[2]int{arcVersion}] = ia5("1") },
		"no product":              func(x extensions) { delete(x, [2]int{arcProduct}) },
		"an unknown product":      func(x extensions) { x[[2]int{arcProduct}] = ia5("Rome") },
		"a product that is none":  func(x extensions) { x[[2]int{arcProduct}] = integer(1) },
		"no security version":     func(x extensions) { delete(x, tcbArc(8)) },
		"a version of 256":        func(x extensions) { x[tcbArc(8)] = integer(256) },
		"a version below zero":    func(x extensions) { x[tcbArc(8)] = integer(-1) },
		"bytes behind a version":  func(x extensions) { x[tcbArc(8)] = append(integer(219), 0) },
		"a version of Turin's":    func(x extensions) { x[tcbArc(9)] = integer(1) },
		"an unknown extension":    func(x extensions) { x[[2]int{9}] = integer(1) },
		"an unknown version":      func(x extensions) { x[tcbArc(10)] = integer(0) },
		"no chip":                 func(x extensions) { delete(x, [2]int{arcChipID}) },
		"a short chip":            func(x extensions) { x[[2]int{arcChipID}] = make([]byte, 63) },
		"a chip and a provider":   func(x extensions) { x[[2]int{arcCSP}] = ia5("provider") },
		"a provider, and no chip": func(x extensions) { delete(x, [2]int{arcChipID}); x[[2]int{arcCSP}] = ia5("provider") },
	} {
		all["certificate: "+name] = refusal{func(s *subject) { change(s.leaf.extensions) }, "snp.certificate"}
	}
	// The reported TCB, byte by byte, against the certificate: fewer would be an
	// older firmware that has newer one's certificate, more the other way round.
	for i, part := range layout(Milan) {
		all[fmt.Sprintf("byte %d of the certificate's TCB", i)] = refusal{func(s *subject) {
			s.leaf.extensions[tcbArc(part.arc)] = integer(int(s.report.ReportedTCB[i] + 1))
		}, "snp.certificate.tcb"}
	}
	for name, field := range map[string]func(r *Report) *TCB{
		"current":   func(r *Report) *TCB { return &r.CurrentTCB },
		"committed": func(r *Report) *TCB { return &r.CommittedTCB },
		"launch":    func(r *Report) *TCB { return &r.LaunchTCB },
		"reported":  func(r *Report) *TCB { return &r.ReportedTCB },
	} {
		for i, part := range layout(Milan) {
			if part.name == "" {
				continue
			}
			all[name+" "+part.name] = refusal{func(s *subject) {
				field(s.report)[i]--
				if name == "reported" { // and its certificate
					s.leaf.extensions[tcbArc(part.arc)] = integer(int(s.report.ReportedTCB[i]))
				}
			}, "snp.tcb." + name}
		}
	}
	return all
}

func lists(ders ...[]byte) func(*subject) {
	return func(s *subject) { s.evidence.Endorsements.CRLs = ders }
}

func TestRefused(t *testing.T) {
	seen := map[string]bool{}
	for name, tt := range refusals() {
		s := right(Milan, VCEK)
		tt.change(s)
		wantRefusal(t, name, s, tt.claims, seen)
	}
	// Every claim that an accepted result has, and each that has a hint.
	r, err := right(Milan, VCEK).appraise()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, c := range r.Claims {
		names = append(names, c.Name)
	}
	for name := range hints {
		names = append(names, name)
	}
	for _, name := range names {
		if !seen[name] {
			t.Errorf("no test has %s fail", name)
		}
	}
}

func wantRefusal(t *testing.T, name string, s *subject, claims string, seen map[string]bool) {
	t.Helper()
	r, err := s.appraise()
	var refused *attest.Refusal
	if !errors.As(err, &refused) || r.Accepted || refused.Result.Accepted {
		t.Errorf("%s: %+v, %v", name, r, err)
		return
	}
	var failed []string
	for _, c := range refused.Result.Failed() {
		failed = append(failed, c.Name)
		seen[c.Name] = true
		if c.Expected == "" || c.Found == "" || c.Hint != hints[c.Name] {
			t.Errorf("%s: %+v", name, c)
		}
	}
	want := strings.Fields(claims)
	slices.Sort(failed)
	slices.Sort(want)
	if !slices.Equal(failed, want) {
		t.Errorf("%s: failed %v; want %v\n%v", name, failed, want, err)
	}
	if !r.NotBefore.IsZero() || !r.NotAfter.IsZero() {
		t.Errorf("%s: a refusal has dates: %+v", name, r)
	}
}

func TestRefusedOnTurinAndOfProviders(t *testing.T) {
	seen := map[string]bool{}
	for i, part := range layout(Turin) {
		s := right(Turin, VCEK)
		s.leaf.extensions[tcbArc(part.arc)] = integer(int(s.report.ReportedTCB[i] + 1))
		wantRefusal(t, fmt.Sprintf("Turin, byte %d of the certificate's TCB", i), s, "snp.certificate.tcb", seen)
		if part.name == "" {
			continue
		}
		s = right(Turin, VCEK)
		s.report.CommittedTCB[i]--
		wantRefusal(t, "Turin, committed "+part.name, s, "snp.tcb.committed", seen)
	}
	for name, tt := range map[string]refusal{
		"revoked":                    {lists(crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0), 77)), "snp.revocation"},
		"its endorsing key revoked":  {lists(crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0), 3)), "snp.revocation"},
		"issued by the chips' key":   {func(s *subject) { s.leaf.parent = fakes()[Milan].ask }, "snp.chain"},
		"not listed":                 {func(s *subject) { s.policy.Signers = []string{"vcek"} }, "snp.signer"},
		"no provider":                {func(s *subject) { delete(s.leaf.extensions, [2]int{arcCSP}) }, "snp.certificate"},
		"a chip":                     {func(s *subject) { s.leaf.extensions[[2]int{arcChipID}] = make([]byte, 64) }, "snp.certificate"},
		"a chip's certificate":       {func(s *subject) { s.leaf.name = "SEV-VCEK" }, "snp.certificate"},
		"a hidden chip, some listed": {func(s *subject) { s.report.ChipID = [64]byte{} }, "snp.chip_id"},
	} {
		s := right(Milan, VLEK)
		tt.change(s)
		wantRefusal(t, "VLEK: "+name, s, tt.claims, seen)
	}
	// The list of the chips' endorsing key does not revoke a provider's.
	s := right(Milan, VLEK)
	lists(crl(fakes()[Milan].ark, noon, noon.AddDate(1, 0, 0), 2))(s)
	if _, err := s.appraise(); err != nil {
		t.Error(err)
	}
	// A report of version 2 has no processor in it: without a certificate nothing
	// says by which keys it would be judged.
	s = right(Milan, VCEK)
	s.report.Version, s.report.CPUIDFamily, s.report.CPUIDModel = 2, 0, 0
	s.policy.RequireMitigations = 0
	s.last = func(e *attest.Evidence) { e.Endorsements.Certificates = nil }
	wantRefusal(t, "version 2 without a certificate", s, "snp.certificate snp.product", seen)
}

// Of AMD's own, nothing passes that these tests' keys signed.
func TestPinnedKeysAlone(t *testing.T) {
	s := right(Milan, VCEK)
	r, err := appraise(s.made(), s.want, s.policy, s.at, amd())
	if err == nil || r.Accepted {
		t.Fatalf("%+v, %v", r, err)
	}
	var failed []string
	for _, c := range r.Failed() {
		failed = append(failed, c.Name)
	}
	if !slices.Equal(failed, []string{"snp.chain", "snp.revocation"}) {
		t.Errorf("failed %v", failed)
	}
	for l, v := range amd() {
		if err := v.root.CheckSignatureFrom(v.root); err != nil {
			t.Errorf("%s: %v", l, err)
		}
		for signer, c := range v.keys {
			if err := c.CheckSignatureFrom(v.root); err != nil || !strings.Contains(c.Subject.CommonName, string(l)) {
				t.Errorf("%s, signer %d: %q, %v", l, signer, c.Subject.CommonName, err)
			}
		}
		if !strings.HasSuffix(v.root.Subject.CommonName, string(l)) || hex.EncodeToString(v.keys[VCEK].RawIssuer) != hex.EncodeToString(v.root.RawSubject) {
			t.Errorf("%s: root %q", l, v.root.Subject.CommonName)
		}
	}
}
