package cli_test

import (
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/intel/inteltest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/hal"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/hal/measure/measuretest"
	"github.com/ultravioletrs/cocos/hal/ovmf/ovmftest"
)

// image DIR KERNEL INITRD makes an image whose kernel and initial RAM disk have
// these texts in them.
func cmdImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: image DIR KERNEL INITRD")
	}
	img, err := measuretest.Image(ts.MkAbs(args[0]), measuretest.Kernel(args[1]), []byte(args[2]))
	ts.Check(err)
	ts.Setenv("ATTESTED", img.CommandLine.Attested)
	ts.Setenv("PLAIN", img.CommandLine.Plain)
}

// firmware FILE [RESET] makes a firmware with all tables; RESET is where further
// vCPUs start.
func cmdFirmware(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: firmware FILE [RESET]")
	}
	l := ovmftest.Default()
	if len(args) == 2 {
		n, err := strconv.ParseUint(args[1], 0, 32)
		ts.Check(err)
		l.ResetEIP = uint32(n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), l.Make().Bytes, 0o600))
}

// evidence TYPE OUT image=DIR [firmware=FILE] [kernel=FILE] [initrd=FILE]
// [append=TEXT] [vcpus=N] [model=TYPE] [manifest=FILE] [debug=true] writes
// evidence of that launch: raw for a name ending in .bin, JSON otherwise.
// Simulated evidence is signed under sim/root.pem; nobody signs the others.
func cmdEvidence(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: evidence TYPE OUT image=DIR ...")
	}
	v := map[string]string{"vcpus": "4", "model": "EPYC-v4"}
	for _, arg := range args[2:] {
		name, value, _ := strings.Cut(arg, "=")
		v[name] = value
	}
	dir := ts.MkAbs(v["image"])
	img, err := hal.Load(dir)
	ts.Check(err)
	n, err := strconv.Atoi(v["vcpus"])
	ts.Check(err)
	l := measure.Launch{CommandLine: img.CommandLine.Attested, VCPUs: n, VCPUType: v["model"], GuestFeatures: 1}
	read := func(name, fallback string) []byte {
		if v[name] != "" {
			fallback = ts.MkAbs(v[name])
		}
		if fallback == "" {
			return nil
		}
		b, err := os.ReadFile(fallback)
		ts.Check(err)
		return b
	}
	l.Kernel, l.Initrd, l.Firmware = read("kernel", filepath.Join(dir, hal.KernelFile)), read("initrd", filepath.Join(dir, hal.InitrdFile)), read("firmware", "")
	if line, ok := v["append"]; ok {
		l.CommandLine = line
	}
	var digests attest.LaunchDigests
	if v["manifest"] != "" {
		digests = attest.LaunchDigestsOf(read("manifest", ""))
	}
	e, err := evidence(ts, attest.Type(args[0]), l, digests, v["debug"] == "true")
	ts.Check(err)
	b := e.Report
	if !strings.HasSuffix(args[1], ".bin") {
		b, err = json.Marshal(e)
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

func evidence(ts *testscript.TestScript, t attest.Type, l measure.Launch, digests attest.LaunchDigests, debug bool) (attest.Evidence, error) {
	switch t {
	case attest.Sim:
		a, err := sim.LoadOrCreate(ts.MkAbs("sim"))
		if err != nil {
			return attest.Evidence{}, err
		}
		m, err := measure.Simulated(l)
		if err != nil {
			return attest.Evidence{}, err
		}
		return a.Report(attest.ReportData{1}, m, digests.SHA256)
	case attest.TDX:
		td, err := measure.TDX(l)
		body := make([]byte, 584)
		body[120+3] = 0x10 // SEPT_VE_DISABLE
		if debug {
			body[120] = 1
		}
		copy(body[136:], td.MRTD[:])
		copy(body[184:], digests.SHA384[:])
		copy(body[376:], td.RTMR1[:])
		copy(body[424:], td.RTMR2[:])
		return inteltest.New(attest.TDX, body).Evidence(attest.TDX), err
	}
	m, err := measure.SNP(l)
	tcb := snp.TCB{4, 0, 0, 0, 0, 0, 24, 219}
	r := &snp.Report{
		Version: 3, Policy: 0x30000, SignatureAlgo: snp.SignatureECDSAP384, Measurement: m, HostData: digests.SHA256,
		CPUIDFamily: 0x19, CPUIDModel: 1, CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb, ChipID: [64]byte{1},
	}
	if debug {
		r.Policy |= 1 << 19
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff
	}
	return attest.Evidence{Type: attest.SNP, Report: snp.Marshal(r)}, err
}

// simroot makes the simulated TEE's keys in sim/, with a copy of the root beside.
func cmdSimRoot(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: simroot")
	}
	a, err := sim.LoadOrCreate(ts.MkAbs("sim"))
	ts.Check(err)
	der, _ := a.Root()
	ts.Check(os.WriteFile(ts.MkAbs("root.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}
