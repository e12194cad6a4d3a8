package attest

import (
	"bytes"
	"strings"
	"testing"
)

func rightSNP() *SNPPolicy {
	return &SNPPolicy{
		Measurements: []Hex{sevens(48)}, Products: []string{"Milan", "Turin"}, ChipIDs: []string{strings.Repeat("07", 64)}, Signers: []string{"vcek", "vlek"},
		MinimumTCB: map[string]SNPTCB{"Milan": {Bootloader: 4, SNP: 27, Microcode: 219}, "Turin": {FMC: 1}}, Revocation: CheckRequired,
	}
}

func rightSim() *SimPolicy {
	return &SimPolicy{Accept: SimConsent, Roots: []Hex{sevens(32)}, Measurements: []Hex{sevens(48)}}
}

func TestSNPPolicy(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(p *SNPPolicy)
		want   string // empty: no fault; else the only one
	}{
		"right": {func(*SNPPolicy) {}, ""},
		"all that may be there": {func(p *SNPPolicy) {
			p.HostData, p.IDKeyDigests, p.AuthorKeyDigests, p.VMPL = []Hex{sevens(32)}, p.Measurements, p.Measurements, 3
			p.Guest = SNPGuestPolicy{true, true, true, true, true, "1.55"}
			p.Platform, p.RequireMitigations = SNPPlatform{true, true, true, true, true, true, true, true}, 1<<64-1
		}, ""},
		"any chip":                    {func(p *SNPPolicy) { p.ChipIDs = []string{AnyID} }, ""},
		"revocation unchecked":        {func(p *SNPPolicy) { p.Revocation = CheckNot }, ""},
		"no measurement":              {func(p *SNPPolicy) { p.Measurements = nil }, "/snp/measurements is empty"},
		"a short measurement":         {func(p *SNPPolicy) { p.Measurements[0] = sevens(32) }, "/snp/measurements/0 has 32 bytes; expected 48"},
		"an empty measurement":        {func(p *SNPPolicy) { p.Measurements[0] = Hex{} }, "/snp/measurements/0 has 0 bytes"},
		"a launch field of TDX":       {func(p *SNPPolicy) { p.HostData = []Hex{sevens(48)} }, "/snp/host_data/0 has 48 bytes; expected 32"},
		"no product":                  {func(p *SNPPolicy) { p.Products, p.MinimumTCB = nil, nil }, "/snp/products is empty"},
		"an unknown product":          {func(p *SNPPolicy) { p.Products[0] = "Rome"; p.MinimumTCB = map[string]SNPTCB{"Rome": {}, "Turin": {}} }, `/snp/products/0 is "Rome"`},
		"a product without a minimum": {func(p *SNPPolicy) { delete(p.MinimumTCB, "Turin") }, "/snp/minimum_tcb/Turin is not there"},
		"a minimum without a product": {func(p *SNPPolicy) { p.MinimumTCB["Genoa"] = SNPTCB{} }, "/snp/minimum_tcb/Genoa is for a product"},
		"an FMC on Milan":             {func(p *SNPPolicy) { p.MinimumTCB["Milan"] = SNPTCB{FMC: 1} }, "/snp/minimum_tcb/Milan/fmc is 1"},
		"no chip":                     {func(p *SNPPolicy) { p.ChipIDs = nil }, "/snp/chip_ids is empty"},
		"any and a chip":              {func(p *SNPPolicy) { p.ChipIDs = append(p.ChipIDs, AnyID) }, `/snp/chip_ids has "any" beside others`},
		"a short chip":                {func(p *SNPPolicy) { p.ChipIDs[0] = "07" }, "/snp/chip_ids/0"},
		"a chip in upper case":        {func(p *SNPPolicy) { p.ChipIDs[0] = strings.Repeat("AB", 64) }, "/snp/chip_ids/0"},
		"no signer":                   {func(p *SNPPolicy) { p.Signers = nil }, "/snp/signers is empty"},
		"an unknown signer":           {func(p *SNPPolicy) { p.Signers[0] = "VCEK" }, `/snp/signers/0 is "VCEK"`},
		"no word on revocation":       {func(p *SNPPolicy) { p.Revocation = "" }, `/snp/revocation is ""`},
		"another word on it":          {func(p *SNPPolicy) { p.Revocation = "optional" }, "/snp/revocation"},
		"an ABI that is none":         {func(p *SNPPolicy) { p.Guest.MinimumABI = "1" }, "/snp/guest_policy/minimum_abi"},
		"an ABI out of bounds":        {func(p *SNPPolicy) { p.Guest.MinimumABI = "1.256" }, "/snp/guest_policy/minimum_abi"},
		"a VMPL out of bounds":        {func(p *SNPPolicy) { p.VMPL = 4 }, "/snp/vmpl is 4"},
		"a short ID key":              {func(p *SNPPolicy) { p.IDKeyDigests = []Hex{sevens(47)} }, "/snp/id_key_digests/0"},
		"a short author key":          {func(p *SNPPolicy) { p.AuthorKeyDigests = []Hex{sevens(47)} }, "/snp/author_key_digests/0"},
	} {
		p := rightSNP()
		tt.change(p)
		oneFault(t, name, intelFaults(t, Policy{SNP: p}), tt.want)
	}
	got := intelFaults(t, Policy{SNP: &SNPPolicy{}})
	for _, member := range []string{"measurements", "products", "chip_ids", "signers", "revocation"} {
		if !strings.Contains(got, "policy/snp/"+member+" ") {
			t.Errorf("an empty section: %q does not name %s", got, member)
		}
	}
}

// A vector of bits is a number in one form only, and none that asks for nothing.
func TestBits(t *testing.T) {
	for text, want := range map[string]Bits{`"0x1"`: 1, `"0xa3"`: 0xa3, `"0x8000000000000000"`: 1 << 63, `"0xffffffffffffffff"`: 1<<64 - 1} {
		p, err := ParsePolicy(withMitigations(t, text))
		if err != nil || p.SNP.RequireMitigations != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		`"0x0"`: "has no bit set", `""`: "not a hexadecimal number", `"1"`: "not a hexadecimal number", `"0x01"`: "not a hexadecimal number", `"0xA3"`: "not a hexadecimal number",
		`"0X1"`: "not a hexadecimal number", `"0x"`: "not a hexadecimal number", `"0x+1"`: "not a hexadecimal number", `"0x1_0"`: "not a hexadecimal number",
		`"0x10000000000000000"`: "not a hexadecimal number", `"-0x1"`: "not a hexadecimal number", `1`: "require_mitigations", `["0x1"]`: "require_mitigations", `null`: "/snp/require_mitigations is null",
	} {
		if _, err := ParsePolicy(withMitigations(t, text)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "require_mitigations") {
			t.Errorf("%s: %v; want %q and the member's name", text, err, want)
		}
	}
}

func withMitigations(t *testing.T, value string) []byte {
	t.Helper()
	p := rightSNP()
	p.RequireMitigations = 0xdead
	b, err := Policy{Version: PolicyVersion, SNP: p}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(b), `"0xdead"`, value, 1)
	if changed == string(b) {
		t.Fatalf("no mitigations in %s", b)
	}
	return []byte(changed)
}

func TestSimPolicy(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(p *SimPolicy)
		want   string
	}{
		"right":               {func(*SimPolicy) {}, ""},
		"a launch field":      {func(p *SimPolicy) { p.HostData = []Hex{sevens(32)} }, ""},
		"no consent":          {func(p *SimPolicy) { p.Accept = "" }, "/simulated/accept"},
		"almost consent":      {func(p *SimPolicy) { p.Accept = strings.ToLower(SimConsent) }, "/simulated/accept"},
		"no root":             {func(p *SimPolicy) { p.Roots = nil }, "/simulated/roots is empty"},
		"a short root":        {func(p *SimPolicy) { p.Roots[0] = sevens(20) }, "/simulated/roots/0"},
		"no measurement":      {func(p *SimPolicy) { p.Measurements = nil }, "/simulated/measurements is empty"},
		"a short measurement": {func(p *SimPolicy) { p.Measurements[0] = sevens(32) }, "/simulated/measurements/0"},
		"a long launch field": {func(p *SimPolicy) { p.HostData = []Hex{sevens(48)} }, "/simulated/host_data/0"},
	} {
		p := rightSim()
		tt.change(p)
		oneFault(t, name, intelFaults(t, Policy{Simulated: p}), tt.want)
	}
}

func TestParsePolicy(t *testing.T) {
	snp := rightSNP()
	snp.Platform.RequireECC = true
	b, err := Policy{Version: PolicyVersion, Note: "all", SNP: snp, TDX: rightTDX(), SGX: rightSGX(), Simulated: rightSim()}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePolicy(b); err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for name, tt := range map[string]struct{ from, to, want string }{
		"another version":    {`"version": 1`, `"version": 2`, "/version is 2; this version reads 1"},
		"no version":         {`"version": 1,`, ``, "/version is 0"},
		"an unknown member":  {`"note"`, `"notes"`, "unknown object member"},
		"one in a section":   {`"measurements"`, `"measurement"`, "unknown object member"},
		"one on the host":    {`"require_ecc"`, `"require_ecc_memory"`, "unknown object member"},
		"a bit that is null": {`"require_ecc": true`, `"require_ecc": null`, "policy/snp/platform/require_ecc is null"},
		"a member null":      {`"note": "all"`, `"note": null`, "policy/note is null"},
		"one in a list":      {`"vlek"`, `null`, "policy/snp/signers/1 is null"},
		"a word for a bit":   {`"require_ecc": true`, `"require_ecc": "yes"`, "require_ecc"},
		"one deep in it":     {`"bootloader"`, `"boot_loader"`, "unknown object member"},
		"another case":       {`"vmpl"`, `"VMPL"`, "unknown object member"},
		"a member twice":     {`"version": 1`, `"version": 1, "version": 1`, "duplicate"},
		"one in it twice":    {`"vmpl": 0`, `"vmpl": 0, "vmpl": 0`, "duplicate"},
		"upper case":         {"0707", "0A07", "upper-case"},
		"not hexadecimal":    {"0707", "0g07", "hexadecimal"},
		"half a byte":        {"0707", "707", "hexadecimal"},
		"a number as text":   {`"vmpl": 0`, `"vmpl": "0"`, "vmpl"},
		"a number too large": {`"vmpl": 0`, `"vmpl": 4294967296`, "vmpl"},
		"text behind it":     {"\n}\n", "\n} {}", "after"},
		"cut short":          {"\n}\n", "\n", "EOF"},
	} {
		changed := strings.Replace(text, tt.from, tt.to, 1)
		if changed == text {
			t.Errorf("%s: nothing was changed", name)
		}
		p, err := ParsePolicy([]byte(changed))
		if err == nil || !strings.Contains(err.Error(), tt.want) || p.SNP != nil || p.Simulated != nil {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	for _, empty := range []string{"", "null", "{}", "[]", `{"version":1}`, `{"version":1,"snp":null}`} {
		if _, err := ParsePolicy([]byte(empty)); err == nil {
			t.Errorf("%q is read as a policy", empty)
		}
	}
	if b, err := (Policy{}).Bytes(); err == nil || b != nil {
		t.Errorf("an empty policy is written as %s", b)
	}
	// Every fault at once.
	_, err = ParsePolicy([]byte(`{"version":3,"snp":{},"simulated":{}}`))
	if err == nil || strings.Count(err.Error(), "\n") < 6 {
		t.Errorf("%v", err)
	}
}

func FuzzPolicy(f *testing.F) {
	for _, p := range []Policy{{SNP: rightSNP()}, {TDX: rightTDX(), Simulated: rightSim()}, {SGX: rightSGX()}} {
		p.Version = PolicyVersion
		b, err := p.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err != nil {
			return
		}
		if p.Validate() != nil {
			t.Fatalf("%q is read, and not valid", b)
		}
		once, err := p.Bytes()
		if err != nil {
			t.Fatalf("%q is read, and not written: %v", b, err)
		}
		again, err := ParsePolicy(once)
		if err != nil {
			t.Fatalf("%s, which was written, is not read: %v", once, err)
		}
		if twice, err := again.Bytes(); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s becomes %s, %v", once, twice, err)
		}
	})
}
