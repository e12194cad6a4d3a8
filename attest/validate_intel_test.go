package attest

import (
	"bytes"
	"strings"
	"testing"
)

func sevens(n int) Hex { return bytes.Repeat([]byte{7}, n) }

func rightTCB() IntelTCB {
	return IntelTCB{
		Collateral: CheckRequired, Status: []string{"UpToDate"}, MinimumEvaluation: 17,
		FMSPCs: []string{"b0c06f000000"}, PPIDs: []string{AnyID},
	}
}

func rightTDX() *TDXPolicy {
	return &TDXPolicy{
		MRTD: []Hex{sevens(48)}, RTMR0: []Hex{sevens(48)}, RTMR1: []Hex{sevens(48)}, RTMR2: []Hex{sevens(48)}, MRSEAM: []Hex{sevens(48)},
		Attributes: []Hex{{0, 0, 0, 0x10, 0, 0, 0, 0}}, XFAM: []Hex{sevens(8)}, TCB: rightTCB(),
	}
}

func rightSGX() *SGXPolicy {
	return &SGXPolicy{MREnclave: []Hex{sevens(32)}, Attributes: []Hex{append(Hex{5}, sevens(15)...)}, MiscSelect: []Hex{sevens(4)}, TCB: rightTCB()}
}

// intelFaults validates a policy with the sections, and has its text read again.
func intelFaults(t *testing.T, p Policy) string {
	t.Helper()
	p.Version = PolicyVersion
	b, err := p.Bytes()
	if err != nil {
		return err.Error()
	}
	again, err := ParsePolicy(b)
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	if c, err := again.Bytes(); err != nil || !bytes.Equal(b, c) {
		t.Errorf("%s reads as %s, %v", b, c, err)
	}
	return ""
}

func TestTDXPolicy(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(p *TDXPolicy)
		want   string // empty: no fault; else the only one
	}{
		"right":                    {func(*TDXPolicy) {}, ""},
		"all that may be there":    {func(p *TDXPolicy) { p.RTMR3, p.MRConfigID, p.MRServiceTD = p.MRTD, p.MRTD, p.MRTD }, ""},
		"no mrtd":                  {func(p *TDXPolicy) { p.MRTD = nil }, "/tdx/mrtd is empty"},
		"no rtmr0":                 {func(p *TDXPolicy) { p.RTMR0 = nil }, "/tdx/rtmr0 is empty"},
		"no rtmr1":                 {func(p *TDXPolicy) { p.RTMR1 = nil }, "/tdx/rtmr1 is empty"},
		"no rtmr2":                 {func(p *TDXPolicy) { p.RTMR2 = nil }, "/tdx/rtmr2 is empty"},
		"no mr_seam":               {func(p *TDXPolicy) { p.MRSEAM = nil }, "/tdx/mr_seam is empty"},
		"no attributes":            {func(p *TDXPolicy) { p.Attributes = nil }, "/tdx/attributes is empty"},
		"no xfam":                  {func(p *TDXPolicy) { p.XFAM = nil }, "/tdx/xfam is empty"},
		"a short mrtd":             {func(p *TDXPolicy) { p.MRTD[0] = sevens(32) }, "/tdx/mrtd/0 has 32 bytes; expected 48"},
		"a short rtmr3":            {func(p *TDXPolicy) { p.RTMR3 = []Hex{sevens(47)} }, "/tdx/rtmr3/0 has 47 bytes"},
		"a launch field of SNP":    {func(p *TDXPolicy) { p.MRConfigID = []Hex{sevens(32)} }, "/tdx/mr_config_id/0 has 32 bytes"},
		"a long mr_service_td":     {func(p *TDXPolicy) { p.MRServiceTD = []Hex{sevens(49)} }, "/tdx/mr_service_td/0 has 49 bytes"},
		"a short xfam":             {func(p *TDXPolicy) { p.XFAM[0] = nil }, "/tdx/xfam/0 has 0 bytes"},
		"debug":                    {func(p *TDXPolicy) { p.Attributes[0][0] = 1 }, "/tdx/attributes/0 lets the host into the TD"},
		"another untrusted bit":    {func(p *TDXPolicy) { p.Attributes[0][0] = 0x80 }, "/tdx/attributes/0 lets the host into the TD"},
		"debug, allowed":           {func(p *TDXPolicy) { p.Attributes[0][0], p.AllowDebug = 1, true }, ""},
		"no word on collateral":    {func(p *TDXPolicy) { p.TCB.Collateral = "" }, "/tdx/tcb/collateral"},
		"collateral unchecked":     {func(p *TDXPolicy) { p.TCB.Collateral, p.TCB.Status, p.TCB.MinimumEvaluation = CheckNot, nil, 0 }, ""},
		"no status":                {func(p *TDXPolicy) { p.TCB.Status = nil }, "/tdx/tcb/status is empty"},
		"an unknown status":        {func(p *TDXPolicy) { p.TCB.Status[0] = "uptodate" }, "/tdx/tcb/status/0"},
		"revoked":                  {func(p *TDXPolicy) { p.TCB.Status[0] = "Revoked" }, "/tdx/tcb/status/0"},
		"every status":             {func(p *TDXPolicy) { p.TCB.Status = IntelStatuses() }, ""},
		"no minimum":               {func(p *TDXPolicy) { p.TCB.MinimumEvaluation = 0 }, "/tdx/tcb/minimum_evaluation is 0"},
		"a minimum below none":     {func(p *TDXPolicy) { p.TCB.MinimumEvaluation = -1 }, "/tdx/tcb/minimum_evaluation is -1"},
		"an advisory":              {func(p *TDXPolicy) { p.TCB.Advisories = []string{"INTEL-SA-00615"} }, ""},
		"any advisory":             {func(p *TDXPolicy) { p.TCB.Advisories = []string{AnyID} }, ""},
		"any and an advisory":      {func(p *TDXPolicy) { p.TCB.Advisories = []string{"INTEL-SA-00615", AnyID} }, "/tdx/tcb/advisories has \"any\" beside others"},
		"an advisory misspelt":     {func(p *TDXPolicy) { p.TCB.Advisories = []string{"INTEL-SA-615"} }, "/tdx/tcb/advisories/0"},
		"no fmspcs":                {func(p *TDXPolicy) { p.TCB.FMSPCs = nil }, "/tdx/tcb/fmspcs is empty"},
		"an fmspc in upper case":   {func(p *TDXPolicy) { p.TCB.FMSPCs[0] = "B0C06F000000" }, "/tdx/tcb/fmspcs/0"},
		"no ppids":                 {func(p *TDXPolicy) { p.TCB.PPIDs = nil }, "/tdx/tcb/ppids is empty"},
		"a short ppid":             {func(p *TDXPolicy) { p.TCB.PPIDs = []string{"11"} }, "/tdx/tcb/ppids/0"},
		"any and a ppid":           {func(p *TDXPolicy) { p.TCB.PPIDs = []string{AnyID, strings.Repeat("11", 16)} }, "/tdx/tcb/ppids has \"any\" beside others"},
		"an empty text for an id":  {func(p *TDXPolicy) { p.TCB.PPIDs = []string{""} }, "/tdx/tcb/ppids/0"},
		"an unknown word on check": {func(p *TDXPolicy) { p.TCB.Collateral = "optional" }, "/tdx/tcb/collateral"},
	} {
		p := rightTDX()
		tt.change(p)
		oneFault(t, name, intelFaults(t, Policy{TDX: p}), tt.want)
	}
	// All at once, each with its path.
	got := intelFaults(t, Policy{TDX: &TDXPolicy{}})
	for _, member := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "mr_seam", "attributes", "xfam", "tcb/collateral", "tcb/fmspcs", "tcb/ppids"} {
		if !strings.Contains(got, "policy/tdx/"+member+" ") {
			t.Errorf("an empty section: %q does not name %s", got, member)
		}
	}
}

func oneFault(t *testing.T, name, got, want string) {
	t.Helper()
	if (want == "") != (got == "") || !strings.Contains(got, want) || strings.Contains(got, "\n") {
		t.Errorf("%s: %q; want %q alone", name, got, want)
	}
}

func TestSGXPolicy(t *testing.T) {
	signed := func(p *SGXPolicy) { p.MREnclave, p.MRSigner, p.ISVProdID = nil, []Hex{sevens(32)}, []uint16{0} }
	for name, tt := range map[string]struct {
		change func(p *SGXPolicy)
		want   string
	}{
		"right":               {func(*SGXPolicy) {}, ""},
		"by its signer":       {signed, ""},
		"by both":             {func(p *SGXPolicy) { signed(p); p.MREnclave = []Hex{sevens(32)} }, ""},
		"no enclave":          {func(p *SGXPolicy) { p.MREnclave = nil }, "/sgx names no enclave"},
		"no signer":           {func(p *SGXPolicy) { signed(p); p.MRSigner = nil }, "/sgx names no enclave"},
		"no product":          {func(p *SGXPolicy) { signed(p); p.ISVProdID = nil }, "/sgx names no enclave"},
		"a short mr_enclave":  {func(p *SGXPolicy) { p.MREnclave[0] = sevens(31) }, "/sgx/mr_enclave/0 has 31 bytes; expected 32"},
		"a long mr_signer":    {func(p *SGXPolicy) { signed(p); p.MRSigner[0] = sevens(48) }, "/sgx/mr_signer/0 has 48 bytes"},
		"no attributes":       {func(p *SGXPolicy) { p.Attributes = nil }, "/sgx/attributes is empty"},
		"short attributes":    {func(p *SGXPolicy) { p.Attributes[0] = sevens(8) }, "/sgx/attributes/0 has 8 bytes"},
		"debug in attributes": {func(p *SGXPolicy) { p.Attributes[0][0] = 7 }, "/sgx/attributes/0 has the bit DEBUG"},
		"debug, allowed":      {func(p *SGXPolicy) { p.AllowDebug = true }, ""},
		"no misc_select":      {func(p *SGXPolicy) { p.MiscSelect = nil }, "/sgx/misc_select is empty"},
		"a short misc_select": {func(p *SGXPolicy) { p.MiscSelect[0] = sevens(3) }, "/sgx/misc_select/0 has 3 bytes"},
		"a short config_id":   {func(p *SGXPolicy) { p.ConfigID = []Hex{sevens(32)} }, "/sgx/config_id/0 has 32 bytes"},
		"a long product":      {func(p *SGXPolicy) { p.ISVExtProdID = []Hex{sevens(17)} }, "/sgx/isv_ext_prod_id/0 has 17 bytes"},
		"a long family":       {func(p *SGXPolicy) { p.ISVFamilyID = []Hex{sevens(17)} }, "/sgx/isv_family_id/0 has 17 bytes"},
		"configured": {func(p *SGXPolicy) {
			p.ConfigID, p.ISVExtProdID, p.ISVFamilyID = []Hex{sevens(64)}, []Hex{sevens(16)}, []Hex{sevens(16)}
		}, ""},
		"no word on check": {func(p *SGXPolicy) { p.TCB.Collateral = "" }, "/sgx/tcb/collateral"},
		"no status":        {func(p *SGXPolicy) { p.TCB.Status = nil }, "/sgx/tcb/status is empty"},
	} {
		p := rightSGX()
		tt.change(p)
		oneFault(t, name, intelFaults(t, Policy{SGX: p}), tt.want)
	}
}
