package cli

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sgx"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
	"github.com/ultravioletrs/cocos/manifest"
)

// simulation is evidence of the simulated TEE for a user's manifest, with a
// policy that accepts it.
type simulation struct {
	*user
	evidence attest.Evidence
	policy   attest.Policy
	data     attest.ReportData
}

func simulate(t *testing.T) *simulation {
	t.Helper()
	u := newUser(t)
	u.freeze(func(m *manifest.Manifest) { m.TEE = manifest.TEESim })
	a, err := sim.LoadOrCreate(u.path("sim"))
	if err != nil {
		t.Fatal(err)
	}
	s := &simulation{user: u, data: attest.ReportData{1, 2, 3}}
	if s.evidence, err = a.Report(s.data, [48]byte{7}, [32]byte(u.digest)); err != nil {
		t.Fatal(err)
	}
	_, root := a.Root()
	m := [48]byte{7}
	s.policy = attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{m[:]},
	}}
	return s
}

func (u *user) policyFile(p attest.Policy) string {
	u.t.Helper()
	b, err := p.Bytes()
	if err != nil {
		u.t.Fatal(err)
	}
	return u.file("policy.json", b)
}

func (s *simulation) verify(more ...string) outcome {
	s.t.Helper()
	e, err := json.Marshal(s.evidence)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(s.t.Context(), append([]string{"attestation", "verify", "--evidence", s.file("evidence.json", e), "--policy", s.policyFile(s.policy)}, more...)...)
}

func TestVerifySimulated(t *testing.T) {
	s := simulate(t)
	data := hex.EncodeToString(s.data[:])
	right := []string{"--report-data", data, "--manifest", s.manifest}
	o := s.verify(right...)
	o.wants(t, ExitOK, "SIMULATED: no hardware stands behind", "SIMULATED, ACCEPTED: sim evidence", "passed     sim.measurement\n  expected 0700", "found    0700")
	if strings.Contains(o.stdout, "FAILED") || o.stderr != "" {
		t.Errorf("%s%s", o.stdout, o.stderr)
	}
	o = s.verify(append(right, "--json", "--type", "sim")...)
	o.wants(t, ExitOK)
	var r attest.Result
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || !r.Accepted || !r.Simulated || len(r.Claims) < 10 || r.NotAfter.IsZero() {
		t.Errorf("%s: %v", o.stdout, err)
	}
	s.verify("--report-data", data, "--host-data", s.digest.String()).wants(t, ExitOK, "ACCEPTED")

	// The raw report, with its certificates from files.
	raw := s.file("report.bin", s.evidence.Report)
	var certs []byte
	for _, der := range s.evidence.Endorsements.Certificates {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	files := []string{"attestation", "verify", "--evidence", raw, "--certs", s.file("certs.pem", certs), "--policy", s.path("policy.json")}
	s.run(t.Context(), append(files, append(right, "--type", "sim")...)...).wants(t, ExitOK, "SIMULATED, ACCEPTED")
	s.run(t.Context(), append(files, right...)...).wants(t, ExitUsage, "--type is missing")
	// A policy that accepts simulation accepts it under no other name.
	s.run(t.Context(), append(files, append(right, "--type", "snp")...)...).wants(t, ExitFailure, "REFUSED", "snp.section")
}

func TestVerifyRefuses(t *testing.T) {
	data := strings.Repeat("0", 128)
	right := func(s *simulation) []string {
		return []string{"--report-data", hex.EncodeToString(s.data[:]), "--manifest", s.manifest}
	}
	for name, tt := range map[string]struct {
		args  func(s *simulation) []string
		claim string
	}{
		"other report data": {func(s *simulation) []string { return []string{"--report-data", data, "--manifest", s.manifest} }, "sim.report_data"},
		"another TEE in the manifest": {func(s *simulation) []string {
			s.freeze(func(m *manifest.Manifest) { m.TEE = manifest.TEESNP })
			a, err := sim.LoadOrCreate(s.path("sim"))
			if err != nil {
				t.Fatal(err)
			}
			if s.evidence, err = a.Report(s.data, [48]byte{7}, [32]byte(s.digest)); err != nil {
				t.Fatal(err)
			}
			return right(s)
		}, "manifest.tee"},
		"another launch field":  {func(s *simulation) []string { return append(right(s)[:2], "--host-data", data[:64]) }, "sim.host_data"},
		"no launch field":       {func(s *simulation) []string { return right(s)[:2] }, "sim.host_data"},
		"a time long ago":       {func(s *simulation) []string { return append(right(s), "--time", "2001-01-01T00:00:00Z") }, "sim.dates"},
		"another measurement":   {func(s *simulation) []string { s.policy.Simulated.Measurements[0][0]++; return right(s) }, "sim.measurement"},
		"simulation not listed": {func(s *simulation) []string { s.policy.SGX, s.policy.Simulated = anyEnclave(), nil; return right(s) }, "sim.consent"},
		"changed evidence":      {func(s *simulation) []string { s.evidence.Report[4]++; return right(s) }, "sim.signature"},
	} {
		s := simulate(t)
		args := tt.args(s)
		o := s.verify(args...)
		if o.code != ExitFailure || !strings.Contains(o.stdout, "REFUSED") || !strings.Contains(o.stdout, "FAILED     "+tt.claim+"\n") ||
			!strings.Contains(o.stderr, "1 of ") || !strings.Contains(o.stderr, tt.claim) || !strings.Contains(o.stderr, "next: ") {
			t.Errorf("%s: exit status %d\n%s%s", name, o.code, o.stdout, o.stderr)
		}
		o = s.verify(append(args, "--json")...)
		var r attest.Result
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || r.Accepted || len(r.Failed()) != 1 || r.Failed()[0].Name != tt.claim {
			t.Errorf("%s: %s, %v", name, o.stdout, err)
		}
		if _, reason, field, hint := o.failure(t); o.code != ExitFailure || reason != reasonRefused || field != tt.claim || hint == "" {
			t.Errorf("%s: exit status %d, %s", name, o.code, o.stderr)
		}
	}
}

// anyEnclave is a valid section of another type.
func anyEnclave() *attest.SGXPolicy {
	return &attest.SGXPolicy{
		MREnclave: []attest.Hex{make([]byte, 32)}, Attributes: []attest.Hex{make([]byte, 16)}, MiscSelect: []attest.Hex{make([]byte, 4)},
		TCB: attest.IntelTCB{Collateral: attest.CheckNot, FMSPCs: []string{attest.AnyID}, PPIDs: []string{attest.AnyID}},
	}
}

// What is wrong with the command line or a file, each by its name.
func TestVerifyWrongInputs(t *testing.T) {
	s := simulate(t)
	data := hex.EncodeToString(s.data[:])
	e, err := json.Marshal(s.evidence)
	if err != nil {
		t.Fatal(err)
	}
	good, policy := s.file("evidence.json", e), s.policyFile(s.policy)
	rubbish, empty := s.file("rubbish", []byte("rubbish")), s.file("empty", nil)
	base := map[string]string{"--evidence": good, "--policy": policy, "--report-data": data, "--manifest": s.manifest}
	for name, tt := range map[string]struct {
		change map[string]string // empty: left out
		code   int
		want   string
	}{
		"no evidence":            {map[string]string{"--evidence": ""}, ExitUsage, "--evidence is missing"},
		"no policy":              {map[string]string{"--policy": ""}, ExitUsage, "--policy is missing"},
		"no report data":         {map[string]string{"--report-data": ""}, ExitUsage, "--report-data is missing"},
		"short report data":      {map[string]string{"--report-data": data[:64]}, ExitUsage, "--report-data has 32 bytes; expected 64"},
		"long report data":       {map[string]string{"--report-data": data + "00"}, ExitUsage, "--report-data has 65 bytes"},
		"odd report data":        {map[string]string{"--report-data": data[1:]}, ExitUsage, "--report-data is not hexadecimal"},
		"two launch fields":      {map[string]string{"--host-data": data[:64]}, ExitUsage, "exclude each other"},
		"a long launch field":    {map[string]string{"--manifest": "", "--host-data": data[:96]}, ExitUsage, "--host-data is not 32 bytes"},
		"an unknown type":        {map[string]string{"--type": "nitro"}, ExitUsage, `--type "nitro" is not known`},
		"another type":           {map[string]string{"--type": "snp"}, ExitUsage, "--type says sev-snp; the file says that it is of sim"},
		"a time without a zone":  {map[string]string{"--time": "2025-06-01"}, ExitUsage, `--time "2025-06-01"`},
		"a time of none":         {map[string]string{"--time": "0001-01-01T00:00:00Z"}, ExitUsage, "--time"},
		"evidence gone":          {map[string]string{"--evidence": "gone"}, ExitFailure, "reading --evidence: open gone"},
		"empty evidence":         {map[string]string{"--evidence": empty}, ExitFailure, "empty: the file is empty"},
		"evidence of nothing":    {map[string]string{"--evidence": s.file("a", []byte(`{}`))}, ExitFailure, `/type is ""`},
		"evidence of the other":  {map[string]string{"--evidence": s.file("b", []byte(`{"type":"nitro"}`))}, ExitFailure, `/type is "nitro"`},
		"evidence, no report":    {map[string]string{"--evidence": s.file("c", []byte(`{"type":"sim"}`))}, ExitFailure, "/report is empty"},
		"evidence and more":      {map[string]string{"--evidence": s.file("d", []byte(`{"type":"sim","trust":"me"}`))}, ExitFailure, "reading evidence"},
		"evidence twice":         {map[string]string{"--evidence": s.file("e", []byte(`{"type":"sim","type":"tdx"}`))}, ExitFailure, "reading evidence"},
		"a policy gone":          {map[string]string{"--policy": "gone"}, ExitFailure, "reading --policy: open gone"},
		"a policy of rubbish":    {map[string]string{"--policy": rubbish}, ExitFailure, "rubbish is not a policy"},
		"an empty policy":        {map[string]string{"--policy": s.file("f", []byte(`{"version":1}`))}, ExitFailure, "has no section"},
		"a policy without a bit": {map[string]string{"--policy": s.file("g", []byte(`{"version":1,"simulated":{"accept":"yes"}}`))}, ExitFailure, "/simulated/accept"},
		"certificates gone":      {map[string]string{"--certs": "gone"}, ExitFailure, "--certs: open gone"},
		"certificates of none":   {map[string]string{"--certs": rubbish}, ExitFailure, "rubbish: it is none of"},
		"collateral gone":        {map[string]string{"--collateral": "gone"}, ExitFailure, "--collateral: open gone"},
		"collateral of none":     {map[string]string{"--collateral": rubbish}, ExitFailure, "rubbish: it is none of"},
		"a manifest of rubbish":  {map[string]string{"--manifest": rubbish}, ExitFailure, "not a valid manifest"},
	} {
		args := []string{"attestation", "verify"}
		for _, flag := range []string{"--evidence", "--policy", "--report-data", "--manifest", "--host-data", "--type", "--time", "--certs", "--collateral"} {
			value := base[flag]
			if changed, ok := tt.change[flag]; ok {
				value = changed
			}
			if value != "" {
				args = append(args, flag, value)
			}
		}
		o := s.run(t.Context(), args...)
		if o.code != tt.code || !strings.Contains(o.stderr, tt.want) || o.stdout != "" {
			t.Errorf("%s: exit status %d\n%s%s", name, o.code, o.stdout, o.stderr)
		}
	}
	// A launch field is asked for where there is one.
	enclave := s.file("quote", []byte{3, 0})
	o := s.run(t.Context(), "attestation", "verify", "--type", "sgx", "--evidence", enclave, "--policy", policy, "--report-data", data, "--host-data", data[:64])
	o.wants(t, ExitUsage, "sgx evidence has no launch field")
}

// hardware is evidence of real hardware: what must come out, by a policy that
// pins what it says.
var hardware = []struct {
	name, kind string
	at         string // empty: today
	args       []string
	today      int // exit status without a time
}{
	{"snp-milan-v2-vcek", "snp", "", []string{"--certs", "vcek.pem"}, ExitOK},
	{"snp-genoa-v3-vcek", "snp", "", []string{"--certs", "vcek.pem"}, ExitOK},
	{"snp-turin-v5-vcek", "snp", "", []string{"--certs", "vcek.pem"}, ExitOK},
	{"snp-milan-v3-vlek", "snp", "2025-06-01T00:00:00Z", []string{"--certs", "vlek.pem"}, ExitFailure},
	{"tdx-v4", "tdx", "2025-06-20T00:00:00Z", []string{"--collateral", "collateral.json"}, ExitFailure},
	{"sgx-v3", "sgx", "2025-06-20T00:00:00Z", []string{"--collateral", "collateral.json"}, ExitFailure},
	{"tdx-v5", "tdx", "", nil, ExitOK},
	{"tdx-v4-debug", "tdx", "", nil, ExitFailure},
}

func TestVerifyHardware(t *testing.T) {
	dir := os.Getenv("COCOS_EVIDENCE")
	if dir == "" {
		t.Log("COCOS_EVIDENCE names no folder: evidence of hardware is not tried")
		return
	}
	for _, tt := range hardware {
		t.Run(tt.name, func(t *testing.T) {
			u := newUser(t)
			name := filepath.Join(dir, tt.name, "quote.bin")
			if tt.kind == "snp" {
				name = filepath.Join(dir, tt.name, "report.bin")
			}
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			policy, data := pinned(t, tt.kind, raw, slices.Contains(tt.args, "--collateral"))
			args := []string{"attestation", "verify", "--type", tt.kind, "--evidence", name, "--policy", u.policyFile(policy), "--report-data", hex.EncodeToString(data[:])}
			for _, a := range tt.args {
				if !strings.HasPrefix(a, "--") {
					a = filepath.Join(dir, tt.name, a)
				}
				args = append(args, a)
			}
			if o := u.run(t.Context(), args...); o.code != tt.today {
				t.Errorf("today: exit status %d, want %d\n%s", o.code, tt.today, o.stderr)
			}
			if tt.name == "tdx-v4-debug" {
				if o := u.run(t.Context(), args...); !strings.Contains(o.stdout, "FAILED     tdx.debug") {
					t.Errorf("%s", o.stdout)
				}
				return
			}
			if tt.at != "" {
				args = append(args, "--time", tt.at)
			}
			o := u.run(t.Context(), args...)
			o.wants(t, ExitOK, "ACCEPTED")
			if strings.Contains(o.stdout, "SIMULATED") {
				t.Error("genuine evidence is said to be SIMULATED")
			}
			if tt.kind == "snp" && tt.at == "" { // what is missing, and where it is
				policy.SNP.Revocation = attest.CheckRequired
				strict := slices.Clone(args)
				strict[slices.Index(strict, "--policy")+1] = u.policyFile(policy)
				u.run(t.Context(), strict...).wants(t, ExitFailure, "FAILED     snp.revocation", "--fetch asks", "https://kdsintf.amd.com/vcek/v1/", "/crl")
				policy.SNP.Revocation = attest.CheckNot
				u.policyFile(policy)
			}
			// One bit of what was signed.
			raw[0x60] ^= 1
			i := slices.Index(args, name)
			args[i] = u.file("forged", raw)
			u.run(t.Context(), args...).wants(t, ExitFailure, "REFUSED", "signature")
		})
	}
}

// pinned accepts what raw evidence says, and nothing else.
func pinned(t *testing.T, kind string, raw []byte, collateral bool) (attest.Policy, attest.ReportData) {
	t.Helper()
	p := attest.Policy{Version: attest.PolicyVersion}
	tcb := attest.IntelTCB{Collateral: attest.CheckNot, FMSPCs: []string{attest.AnyID}, PPIDs: []string{attest.AnyID}}
	if collateral {
		tcb.Collateral, tcb.Status, tcb.Advisories, tcb.MinimumEvaluation = attest.CheckRequired, []string{"UpToDate", "ConfigurationAndSWHardeningNeeded"}, []string{attest.AnyID}, 1
	}
	one := func(b []byte) []attest.Hex { return []attest.Hex{slices.Clone(b)} }
	switch kind {
	case "snp":
		r, err := snp.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		least := map[string]attest.SNPTCB{}
		var products []string
		for _, l := range snp.Lines() {
			least[string(l)], products = attest.SNPTCB{}, append(products, string(l))
		}
		p.SNP = &attest.SNPPolicy{
			Measurements: one(r.Measurement[:]), HostData: one(r.HostData[:]), Products: products, ChipIDs: []string{attest.AnyID},
			Signers: []string{"vcek", "vlek"}, MinimumTCB: least, Revocation: attest.CheckNot,
			Guest: attest.SNPGuestPolicy{AllowSMT: true, AllowDebug: true}, IDKeyDigests: one(r.IDKeyDigest[:]), AuthorKeyDigests: one(r.AuthorKeyDigest[:]),
		}
		return p, r.ReportData
	case "tdx":
		q, err := tdx.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		attributes := q.Attributes
		attributes[0] = 0 // no debug, whatever the quote says
		p.TDX = &attest.TDXPolicy{
			MRTD: one(q.MRTD[:]), RTMR0: one(q.RTMR[0][:]), RTMR1: one(q.RTMR[1][:]), RTMR2: one(q.RTMR[2][:]), RTMR3: one(q.RTMR[3][:]),
			MRConfigID: one(q.MRConfigID[:]), MRSEAM: one(q.MRSEAM[:]), Attributes: one(attributes[:]), XFAM: one(q.XFAM[:]), TCB: tcb,
		}
		return p, q.ReportData
	}
	q, err := sgx.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	p.SGX = &attest.SGXPolicy{MREnclave: one(q.Report.MREnclave[:]), Attributes: one(q.Report.Attributes[:]), MiscSelect: one(q.Report.MiscSelect[:]), TCB: tcb}
	return p, q.Report.ReportData
}

func FuzzEvidence(f *testing.F) {
	f.Add("", []byte(`{"type":"sev-snp","report":"AAAA","endorsements":{"certificates":["AA=="]}}`))
	f.Add("snp", make([]byte, snp.ReportSize+24))
	f.Add("tdx", []byte{4, 0, 2, 0})
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		known, err := typeOf(kind)
		if err != nil && kind != "" {
			return
		}
		e, err := readEvidence(known, b)
		if err == nil && (len(e.Report) == 0 || !slices.Contains(attest.Types(), e.Type) || known != "" && e.Type != known) {
			t.Errorf("%+v", e)
		}
	})
}
