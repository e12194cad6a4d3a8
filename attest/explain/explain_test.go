package explain_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/explain"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/hal/measure/measuretest"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
)

// What was expected to run, with what may run instead of it.
func inputs() explain.Inputs {
	old := ovmftest.Default()
	old.ResetEIP += 4
	old.TDX[2].Size += 0x1000
	return explain.Inputs{
		Firmwares:    []explain.File{{"new.fd", ovmftest.Default().Make().Bytes}, {"old.fd", old.Make().Bytes}},
		Kernels:      []explain.File{{"new/bzImage", measuretest.Kernel("new")}, {"old/bzImage", measuretest.Kernel("old")}},
		Initrds:      []explain.File{{"new/rootfs", []byte("new")}, {"old/rootfs", []byte("old")}},
		CommandLines: []explain.CommandLine{{"attested guests", "console=null"}, {"plain guests", "console=ttyS0"}},
		VCPUs:        4, VCPUType: "EPYC-v4", GuestFeatures: 1,
		Manifests: []explain.Manifest{{"mine.json", attest.LaunchDigestsOf([]byte("mine"))}, {"other.json", attest.LaunchDigestsOf([]byte("other"))}},
	}
}

// launch is the one that is expected.
func launch(in explain.Inputs) measure.Launch {
	return measure.Launch{
		Firmware: in.Firmwares[0].Content, Kernel: in.Kernels[0].Content, Initrd: in.Initrds[0].Content,
		CommandLine: in.CommandLines[0].Text, VCPUs: in.VCPUs, VCPUType: in.VCPUType, GuestFeatures: in.GuestFeatures,
	}
}

// report is a Milan's, of the launch.
func report(t *testing.T, l measure.Launch) *snp.Report {
	t.Helper()
	m, err := measure.SNP(l)
	if err != nil {
		t.Fatal(err)
	}
	tcb := snp.TCB{4, 0, 0, 0, 0, 0, 24, 219}
	r := &snp.Report{
		Version: 3, Policy: 0x30000, SignatureAlgo: snp.SignatureECDSAP384, Measurement: m,
		HostData: attest.LaunchDigestsOf([]byte("mine")).SHA256, CPUIDFamily: 0x19, CPUIDModel: 1,
		CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb, ChipID: [64]byte{1},
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff
	}
	return r
}

func explainSNP(t *testing.T, in explain.Inputs, r *snp.Report, change func(*attest.SNPPolicy)) []string {
	t.Helper()
	m, err := measure.SNP(launch(inputs()))
	if err != nil {
		t.Fatal(err)
	}
	p := &attest.SNPPolicy{
		Measurements: []attest.Hex{m[:]}, Products: []string{"Milan"}, ChipIDs: []string{attest.AnyID}, Signers: []string{"vcek"},
		MinimumTCB: map[string]attest.SNPTCB{"Milan": {Bootloader: 4, SNP: 24, Microcode: 219}}, Revocation: attest.CheckNot,
		Guest: attest.SNPGuestPolicy{AllowSMT: true},
	}
	if change != nil {
		change(p)
	}
	in.Policy = &attest.Policy{Version: attest.PolicyVersion, SNP: p}
	e := attest.Evidence{Type: attest.SNP, Report: snp.Marshal(r)}
	digests := in.Manifests[0].Digests
	res, err := snp.Appraise(t.Context(), e, attest.Expected{Launch: &digests, ReportData: r.ReportData}, p, time.Now())
	if err == nil {
		t.Fatal("accepted without a certificate")
	}
	return explain.Explain(res, e, in)
}

func TestCausesOfSNP(t *testing.T) {
	const other = "another kernel, initial RAM disk or firmware was launched"
	for name, tt := range map[string]struct {
		launch func(explain.Inputs, *measure.Launch)
		report func(*snp.Report)
		policy func(*attest.SNPPolicy)
		inputs func(*explain.Inputs)
		want   string
	}{
		"fewer vCPUs":  {launch: func(_ explain.Inputs, l *measure.Launch) { l.VCPUs = 2 }, want: "the measurement is that of this image with 2 vCPUs; the policy expects 4 vCPUs"},
		"one vCPU":     {launch: func(_ explain.Inputs, l *measure.Launch) { l.VCPUs = 1 }, want: "with 1 vCPU; the policy expects 4 vCPUs"},
		"64 vCPUs":     {launch: func(_ explain.Inputs, l *measure.Launch) { l.VCPUs = 64 }, want: "with 64 vCPUs; the policy expects 4 vCPUs"},
		"model":        {launch: func(_ explain.Inputs, l *measure.Launch) { l.VCPUType = "EPYC-Genoa" }, want: "with the vCPU type EPYC-Genoa; the policy expects the vCPU type EPYC-v4"},
		"features":     {launch: func(_ explain.Inputs, l *measure.Launch) { l.GuestFeatures = 0x21 }, want: "with guest features 0x21; the policy expects guest features 0x1"},
		"plain":        {launch: func(in explain.Inputs, l *measure.Launch) { l.CommandLine = in.CommandLines[1].Text }, want: "with the command line of plain guests; the policy expects the command line of attested guests"},
		"a space":      {launch: func(_ explain.Inputs, l *measure.Launch) { l.CommandLine += " " }, want: "the command line of attested guests, with a space behind it;"},
		"a line break": {launch: func(_ explain.Inputs, l *measure.Launch) { l.CommandLine += "\n" }, want: "with a line break behind it;"},
		"no line":      {launch: func(_ explain.Inputs, l *measure.Launch) { l.CommandLine = "" }, want: "with the command line of none at all;"},
		"kernel":       {launch: func(in explain.Inputs, l *measure.Launch) { l.Kernel = in.Kernels[1].Content }, want: "with the kernel old/bzImage; the policy expects the kernel new/bzImage"},
		"initrd":       {launch: func(in explain.Inputs, l *measure.Launch) { l.Initrd = in.Initrds[1].Content }, want: "with the initial RAM disk old/rootfs; the policy expects the initial RAM disk new/rootfs"},
		"no initrd":    {launch: func(_ explain.Inputs, l *measure.Launch) { l.Initrd = nil }, want: "with no initial RAM disk; the policy expects"},
		"firmware":     {launch: func(in explain.Inputs, l *measure.Launch) { l.Firmware = in.Firmwares[1].Content }, want: "with the firmware old.fd; the policy expects the firmware new.fd"},
		"two at once": {launch: func(in explain.Inputs, l *measure.Launch) { l.Kernel, l.VCPUs = in.Kernels[1].Content, 3 },
			want: "with the kernel old/bzImage and 3 vCPUs; the policy expects the kernel new/bzImage and 4 vCPUs"},
		"an unknown kernel": {launch: func(_ explain.Inputs, l *measure.Launch) { l.Kernel = []byte("x") }, want: other},
		"an unknown line":   {launch: func(_ explain.Inputs, l *measure.Launch) { l.CommandLine = "init=/bin/sh" }, want: "or a command line of somebody's own"},
		"a policy of another build": {policy: func(p *attest.SNPPolicy) { p.Measurements = []attest.Hex{bytes.Repeat([]byte{1}, 48)} },
			want: "as you expected; the policy lists another"},
		"that, and vCPUs": {launch: func(_ explain.Inputs, l *measure.Launch) { l.VCPUs = 2 }, policy: func(p *attest.SNPPolicy) { p.Measurements = []attest.Hex{bytes.Repeat([]byte{1}, 48)} },
			want: "with 2 vCPUs; you expected 4 vCPUs"},
		"nothing fits": {report: func(r *snp.Report) { r.Measurement[0] ^= 1 }, policy: func(p *attest.SNPPolicy) { p.Measurements = []attest.Hex{bytes.Repeat([]byte{1}, 48)} },
			want: "neither the VM's measurement nor the policy's follows from these files"},
		"no files":      {report: func(r *snp.Report) { r.Measurement[0] ^= 1 }, inputs: func(in *explain.Inputs) { in.Kernels = nil }, want: "give what you expected to run (--image, --firmware)"},
		"debug":         {report: func(r *snp.Report) { r.Policy |= 1 << 19 }, want: "debugging is on: the host can read and change the memory"},
		"manifest":      {report: func(r *snp.Report) { r.HostData = attest.LaunchDigestsOf([]byte("other")).SHA256 }, want: "the launch field is the digest of other.json, not of mine.json"},
		"no manifest":   {report: func(r *snp.Report) { r.HostData = [32]byte{} }, want: "the launch field is zero: the VM was launched for no manifest at all"},
		"a third one":   {report: func(r *snp.Report) { r.HostData[0] ^= 1 }, want: "launched for another manifest than yours: the launch field is"},
		"current TCB":   {report: func(r *snp.Report) { r.CurrentTCB[7] = 200 }, want: "the TCB is stale: the host runs microcode 200 (the policy asks for 219): its operator has to update"},
		"reported TCB":  {report: func(r *snp.Report) { r.ReportedTCB[6], r.ReportedTCB[0] = 23, 3 }, want: "the host reports bootloader 3 (the policy asks for 4), snp 23 (the policy asks for 24)"},
		"committed TCB": {report: func(r *snp.Report) { r.CommittedTCB[7] = 1 }, want: "the host can be rolled back to microcode 1"},
		"launch TCB":    {report: func(r *snp.Report) { r.LaunchTCB[7] = 1 }, want: "it has to be started again"},
		"simulated":     {report: func(r *snp.Report) { copy(r.FamilyID[:], sim.Mark) }, want: "a report of the simulated TEE that passes for SEV-SNP's"},
		"privilege":     {report: func(r *snp.Report) { r.VMPL = 1 }, want: "snp.vmpl: "},
		"aliases":       {policy: func(p *attest.SNPPolicy) { p.Platform.RequireAliasCheck = true }, want: "snp.platform_info.alias_check: the host's firmware is too old to look for memory that answers at two addresses"},
		"mitigations":   {policy: func(p *attest.SNPPolicy) { p.RequireMitigations = 1 }, want: "snp.mitigations.current: the host's firmware has not mended that, or does not state it"},
	} {
		t.Run(name, func(t *testing.T) {
			in := inputs()
			l := launch(in)
			if tt.launch != nil {
				tt.launch(in, &l)
			}
			r := report(t, l)
			if tt.report != nil {
				tt.report(r)
			}
			if tt.inputs != nil {
				tt.inputs(&in)
			}
			got := strings.Join(explainSNP(t, in, r, tt.policy), "\n")
			if !strings.Contains(got, tt.want) {
				t.Errorf("got:\n%s\nwant %q in it", got, tt.want)
			}
			// What is as it should be is not blamed.
			for part, word := range map[string]bool{"the launch field": strings.Contains(name, "manifest") || name == "a third one", "debugging": name == "debug", "the TCB is stale": strings.Contains(name, "TCB")} {
				if strings.Contains(got, part) != word {
					t.Errorf("it speaks of %s: %v; want %v:\n%s", part, !word, word, got)
				}
			}
		})
	}
}

func TestCausesOfSimulation(t *testing.T) {
	a, err := sim.LoadOrCreate(filepath.Join(t.TempDir(), "sim"))
	if err != nil {
		t.Fatal(err)
	}
	_, root := a.Root()
	in := inputs()
	want, err := measure.Simulated(launch(in))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		launch func(*measure.Launch)
		policy func(*attest.Policy)
		want   string
		none   bool
	}{
		"accepted":        {want: "the measurement is that of the kernel new/bzImage, the initial RAM disk new/rootfs, the command line of attested guests and 4 vCPUs"},
		"vCPUs":           {launch: func(l *measure.Launch) { l.VCPUs = 2 }, want: "the measurement is that of this image with 2 vCPUs; the policy expects 4 vCPUs"},
		"kernel":          {launch: func(l *measure.Launch) { l.Kernel = in.Kernels[1].Content }, want: "with the kernel old/bzImage; the policy expects the kernel new/bzImage"},
		"unknown kernel":  {launch: func(l *measure.Launch) { l.Kernel = nil }, want: "another kernel or initial RAM disk was launched"},
		"no simulation":   {policy: func(p *attest.Policy) { p.Simulated = nil }, want: "this is SIMULATED evidence, which protects nothing, and the policy does not accept simulation"},
		"another host's":  {policy: func(p *attest.Policy) { p.Simulated.Roots = []attest.Hex{make([]byte, 32)} }, want: "sim.chain: "},
		"another consent": {policy: func(p *attest.Policy) { p.Simulated.Accept = "yes" }, want: "sim.consent: expected"},
	} {
		t.Run(name, func(t *testing.T) {
			p := attest.Policy{Version: 1, Simulated: &attest.SimPolicy{Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{want[:]}}}
			if tt.policy != nil {
				tt.policy(&p)
			}
			l := launch(in)
			if tt.launch != nil {
				tt.launch(&l)
			}
			m, err := measure.Simulated(l)
			if err != nil {
				t.Fatal(err)
			}
			digests := in.Manifests[0].Digests
			e, err := a.Report(attest.ReportData{1}, m, digests.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			res, err := sim.Appraise(t.Context(), e, attest.Expected{ReportData: attest.ReportData{1}, Launch: &digests}, p.Simulated, time.Now())
			if (err == nil) != (name == "accepted") {
				t.Fatal(err)
			}
			in := in
			in.Policy = &p
			if got := strings.Join(explain.Explain(res, e, in), "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("got:\n%s\nwant %q in it", got, tt.want)
			}
		})
	}
}

// quote is a TD's; nobody that a verifier trusts has signed it.
func quote(td measure.TD, change func(body []byte)) attest.Evidence {
	body := make([]byte, 584)
	body[120+3] = 0x10 // SEPT_VE_DISABLE
	copy(body[136:], td.MRTD[:])
	field := attest.LaunchDigestsOf([]byte("mine")).SHA384
	copy(body[184:], field[:])
	body[328] = 7 // RTMR0
	copy(body[376:], td.RTMR1[:])
	copy(body[424:], td.RTMR2[:])
	if change != nil {
		change(body)
	}
	return inteltest.New(attest.TDX, body).Evidence(attest.TDX)
}

func TestCausesOfTDX(t *testing.T) {
	in := inputs()
	good, err := measure.TDX(launch(in))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		launch func(*measure.Launch)
		body   func([]byte)
		policy func(*attest.TDXPolicy)
		inputs func(*explain.Inputs)
		want   string
	}{
		"kernel":       {launch: func(l *measure.Launch) { l.Kernel = in.Kernels[1].Content }, want: "RTMR1 is that of the kernel old/bzImage; the policy expects the kernel new/bzImage"},
		"initrd":       {launch: func(l *measure.Launch) { l.Initrd = in.Initrds[1].Content }, want: "RTMR2 is that of the command line of attested guests and the initial RAM disk old/rootfs; the policy expects the command line of attested guests and the initial RAM disk new/rootfs"},
		"command line": {launch: func(l *measure.Launch) { l.CommandLine = in.CommandLines[1].Text }, want: "RTMR2 is that of the command line of plain guests"},
		"initrd first": {launch: func(l *measure.Launch) { l.TDX.InitrdFirst = true }, want: "by firmware that puts initrd=initrd first"},
		"firmware":     {launch: func(l *measure.Launch) { l.Firmware = in.Firmwares[1].Content }, want: "MRTD is that of the firmware old.fd, single-pass"},
		"page order":   {launch: func(l *measure.Launch) { l.TDX.PageOrder = measure.TwoPass }, want: "MRTD is that of the firmware new.fd, two-pass; the policy lists another"},
		"all other":    {body: func(b []byte) { b[136] ^= 1; b[376] ^= 1; b[424] ^= 1 }, want: "MRTD is not that of new.fd in either order"},
		"other kernel": {body: func(b []byte) { b[376] ^= 1 }, want: "RTMR1 follows from none of the files given: another kernel was booted"},
		"other line":   {body: func(b []byte) { b[424] ^= 1 }, want: "RTMR2 follows from none of the files given: another command line or initial RAM disk"},
		"unmeasured":   {body: func(b []byte) { clear(b[376:472]) }, want: "RTMR1 is zero: the firmware does not measure what it boots"},
		"no files":     {body: func(b []byte) { b[376] ^= 1 }, inputs: func(in *explain.Inputs) { in.Kernels, in.Firmwares = nil, nil }, want: "RTMR1 is not one of the policy's: another kernel was booted; give what you expected"},
		"old policy":   {policy: func(p *attest.TDXPolicy) { p.RTMR1 = []attest.Hex{make([]byte, 48)} }, want: "RTMR1 is that of the kernel new/bzImage, as you expected; the policy lists another"},
		"rtmr0":        {body: func(b []byte) { b[328]++ }, want: "it follows from the host's ACPI tables"},
		"debug":        {body: func(b []byte) { b[120] = 1 }, want: "debugging is on"},
		"manifest":     {body: func(b []byte) { d := attest.LaunchDigestsOf([]byte("other")).SHA384; copy(b[184:], d[:]) }, want: "the launch field is the digest of other.json, not of mine.json"},
		"no manifest":  {body: func(b []byte) { clear(b[184:232]) }, want: "the launch field is zero"},
	} {
		t.Run(name, func(t *testing.T) {
			l := launch(in)
			if tt.launch != nil {
				tt.launch(&l)
			}
			td, err := measure.TDX(l)
			if err != nil {
				t.Fatal(err)
			}
			e := quote(td, tt.body)
			rtmr0 := make([]byte, 48)
			rtmr0[0] = 7
			p := &attest.TDXPolicy{
				MRTD: []attest.Hex{good.MRTD[:]}, RTMR0: []attest.Hex{rtmr0}, RTMR1: []attest.Hex{good.RTMR1[:]}, RTMR2: []attest.Hex{good.RTMR2[:]},
				MRSEAM: []attest.Hex{make([]byte, 48)}, Attributes: []attest.Hex{{0, 0, 0, 0x10, 0, 0, 0, 0}}, XFAM: []attest.Hex{make([]byte, 8)},
				TCB: attest.IntelTCB{Collateral: attest.CheckNot},
			}
			if tt.policy != nil {
				tt.policy(p)
			}
			digests := in.Manifests[0].Digests
			res, err := tdx.Appraise(t.Context(), e, attest.Expected{Launch: &digests}, p, time.Now())
			if err == nil {
				t.Fatal("a quote was accepted that nobody signed")
			}
			in := in
			in.Policy = &attest.Policy{Version: 1, TDX: p}
			if tt.inputs != nil {
				tt.inputs(&in)
			}
			if got := strings.Join(explain.Explain(res, e, in), "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("got:\n%s\nwant %q in it", got, tt.want)
			}
		})
	}
}

// Without an appraisal it is said what the measurements follow from.
func TestUnappraised(t *testing.T) {
	in := inputs()
	e := attest.Evidence{Type: attest.SNP, Report: snp.Marshal(report(t, launch(in)))}
	got := explain.Explain(attest.Result{}, e, in)
	if len(got) != 1 || !strings.Contains(got[0], "4 vCPUs, the vCPU type EPYC-v4, guest features 0x1 and the firmware new.fd") {
		t.Errorf("got %q", got)
	}
	td, err := measure.TDX(launch(in))
	if err != nil {
		t.Fatal(err)
	}
	if got := explain.Explain(attest.Result{}, quote(td, nil), in); len(got) != 3 {
		t.Errorf("got %q", got)
	}
	if got := explain.Explain(attest.Result{}, attest.Evidence{Type: "x"}, in); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}

func TestSay(t *testing.T) {
	in := inputs()
	r := report(t, launch(in))
	debug := *r
	debug.Policy |= 1 << 19
	debug.HostData, debug.Signer, debug.ChipID = [32]byte{}, snp.VLEK, [64]byte{}
	marked := *r
	copy(marked.FamilyID[:], sim.Mark)
	turin := *r
	turin.CPUIDFamily, turin.CPUIDModel, turin.ReportedTCB = 0x1a, 2, snp.TCB{1, 2, 3, 4, 0, 0, 0, 5}
	turin.Version, turin.PlatformInfo, turin.LaunchMitigations, turin.CurrentMitigations = 5, 0x67, 1, 3
	td, err := measure.TDX(launch(in))
	if err != nil {
		t.Fatal(err)
	}
	snpOf := func(r *snp.Report) attest.Evidence {
		return attest.Evidence{Type: attest.SNP, Report: snp.Marshal(r)}
	}
	for name, tt := range map[string]struct {
		e    attest.Evidence
		want []string
	}{
		"SNP": {snpOf(r), []string{"type: AMD SEV-SNP report, version 3", "signed by: VCEK", "product: Milan", "debug: off", "TCB reported: bootloader 4, tee 0, snp 24, microcode 219", "SMT on", "chip: 01",
			"host: smt off, tsme off, ecc off, rapl_disabled not disabled, ciphertext_hiding off, alias_check not done, tio off\n", "mitigations: not stated by version 3\n"}},
		"debug": {snpOf(&debug), []string{"debug: ON", "launched for no manifest", "VLEK", "chip: hidden"}},
		"Turin": {snpOf(&turin), []string{"product: Turin", "TCB reported: fmc 1, bootloader 2, tee 3, snp 4, microcode 5",
			"host: smt on, tsme on, ecc on, rapl_disabled not disabled, ciphertext_hiding off, alias_check done, tio off, reserved 0x40\n", "mitigations: at launch 0x1, now 0x3\n"}},
		"simulated": {snpOf(&marked), []string{"type: SIMULATED"}},
		"sim":       {attest.Evidence{Type: attest.Sim, Report: snp.Marshal(r)}, []string{"type: SIMULATED"}},
		"TDX":       {quote(td, nil), []string{"Intel TDX quote, version 4", "debug: off", "RTMR3: zero", "MRTD: "}},
		"TDX debug": {quote(td, func(b []byte) { b[120] = 1 }), []string{"debug: ON"}},
	} {
		t.Run(name, func(t *testing.T) {
			facts, err := explain.Say(tt.e)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, f := range facts {
				b.WriteString(f.Name + ": " + f.Text + "\n")
			}
			for _, want := range tt.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("got:\n%s\nwant %q in it", b.String(), want)
				}
			}
		})
	}
	for _, typ := range append(attest.Types(), "sev") {
		if _, err := explain.Say(attest.Evidence{Type: typ, Report: []byte("x")}); err == nil {
			t.Errorf("%s: nonsense says something", typ)
		}
	}
}
