package explain

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sgx"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
)

// Fact is one thing that evidence says of itself.
type Fact struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Say returns what evidence says, whoever made it.
func Say(e attest.Evidence) ([]Fact, error) {
	switch e.Type {
	case attest.SNP, attest.Sim:
		r, err := snp.Parse(e.Report)
		if err != nil {
			return nil, err
		}
		return sayAMD(e, r), nil
	case attest.TDX:
		q, err := tdx.Parse(e.Report)
		if err != nil {
			return nil, err
		}
		return sayTDX(q), nil
	case attest.SGX:
		q, err := sgx.Parse(e.Report)
		if err != nil {
			return nil, err
		}
		return saySGX(q), nil
	}
	return nil, fmt.Errorf("evidence of the type %q is not known; known are %s", e.Type, types())
}

func types() string {
	var names []string
	for _, t := range attest.Types() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

func sayAMD(e attest.Evidence, r *snp.Report) []Fact {
	var facts []Fact
	add := func(name, format string, args ...any) {
		facts = append(facts, Fact{name, fmt.Sprintf(format, args...)})
	}
	if e.Type == attest.Sim || bytes.HasPrefix(r.FamilyID[:], []byte(sim.Mark)) {
		add("type", "SIMULATED: a report in SEV-SNP's format, version %d, that a host signed itself; it protects nothing", r.Version)
	} else {
		add("type", "AMD SEV-SNP report, version %d", r.Version)
		sayOrigin(e, r, add)
	}
	p := r.Policy
	add("debug", "%s", map[bool]string{false: "off", true: "ON: the host can read and change the VM's memory"}[p>>19&1 == 1])
	add("guest policy", "%#x: migration agent %s, SMT %s, CXL %s, single socket %s, firmware ABI at least %d.%d",
		p, onOff(p>>18), onOff(p>>16), onOff(p>>21), onOff(p>>20), uint8(p>>8), uint8(p))
	add("VMPL", "%d", r.VMPL)
	add("measurement", "%x", r.Measurement)
	add("launch field", "%s", zeroOr(r.HostData[:], "zero: launched for no manifest"))
	add("report data", "%s", zeroOr(r.ReportData[:], "zero: bound to nothing"))
	if r.IDKeyDigest != ([48]byte{}) {
		add("ID key", "%x", r.IDKeyDigest)
	}
	if r.AuthorKeyDigest != ([48]byte{}) {
		add("author key", "%x", r.AuthorKeyDigest)
	}
	return facts
}

// sayOrigin is about the platform, which simulation has none of.
func sayOrigin(e attest.Evidence, r *snp.Report, add func(name, format string, args ...any)) {
	signer := map[snp.Signer]string{snp.VCEK: "VCEK, the chip's own key", snp.VLEK: "VLEK, a cloud provider's key", snp.Unsigned: "nobody"}[r.Signer]
	if signer == "" {
		signer = fmt.Sprintf("key %d, which is not known", r.Signer)
	}
	add("signed by", "%s", signer)
	line, err := snp.LineOf(e)
	if err != nil {
		add("product", "not known: %v", err)
	} else {
		add("product", "%s", line)
	}
	for _, t := range []struct {
		name string
		tcb  snp.TCB
	}{{"reported", r.ReportedTCB}, {"current", r.CurrentTCB}, {"committed", r.CommittedTCB}, {"launch", r.LaunchTCB}} {
		if v, err := t.tcb.Versions(line); err == nil {
			fmc := ""
			if line == snp.Turin {
				fmc = fmt.Sprintf("fmc %d, ", v.FMC)
			}
			add("TCB "+t.name, "%sbootloader %d, tee %d, snp %d, microcode %d", fmc, v.Bootloader, v.TEE, v.SNP, v.Microcode)
		} else {
			add("TCB "+t.name, "%x", t.tcb)
		}
	}
	add("chip", "%s", zeroOr(r.ChipID[:], "hidden by the host, or the provider's key is used"))
	var host []string
	for _, f := range r.Platform() {
		host = append(host, f.Name+" "+f.Text)
	}
	add("host", "%s", strings.Join(host, ", "))
	if r.HasMitigations() {
		add("mitigations", "at launch %#x, now %#x", r.LaunchMitigations, r.CurrentMitigations)
	} else {
		add("mitigations", "not stated by version %d", r.Version)
	}
}

func onOff(bit uint64) string {
	if bit&1 == 1 {
		return "on"
	}
	return "off"
}

func sayTDX(q *tdx.Quote) []Fact {
	debug := "off"
	switch {
	case q.Attributes[0]&1 != 0:
		debug = "ON: the host can read and change the TD's memory"
	case q.Attributes[0] != 0:
		debug = fmt.Sprintf("off, but other attributes make the TD untrusted (%#02x)", q.Attributes[0])
	}
	generation := "TDX 1.0"
	if q.TDX15 {
		generation = "TDX 1.5"
	}
	facts := []Fact{
		{"type", fmt.Sprintf("Intel TDX quote, version %d, with a report of %s", q.Version, generation)},
		{"debug", debug},
		{"attributes", fmt.Sprintf("%x", q.Attributes)},
		{"XFAM", fmt.Sprintf("%x", q.XFAM)},
		{"TCB", fmt.Sprintf("security versions at launch %x", q.TEETCBSVN)},
		{"TDX module", fmt.Sprintf("MRSEAM %x", q.MRSEAM)},
		{"MRTD", fmt.Sprintf("%x", q.MRTD)},
	}
	for i, r := range q.RTMR {
		facts = append(facts, Fact{fmt.Sprintf("RTMR%d", i), zeroOr(r[:], "zero: nothing was measured into it")})
	}
	return append(facts,
		Fact{"launch field", zeroOr(q.MRConfigID[:], "zero: launched for no manifest")},
		Fact{"report data", zeroOr(q.ReportData[:], "zero: bound to nothing")})
}

func saySGX(q *sgx.Quote) []Fact {
	r := q.Report
	debug := "off"
	if r.Attributes[0]&2 != 0 {
		debug = "ON: the host can read and change the enclave"
	}
	return []Fact{
		{"type", fmt.Sprintf("Intel SGX quote, version %d", q.Version)},
		{"debug", debug},
		{"MRENCLAVE", fmt.Sprintf("%x", r.MREnclave)},
		{"MRSIGNER", fmt.Sprintf("%x", r.MRSigner)},
		{"product", fmt.Sprintf("ISVPRODID %d, ISVSVN %d", r.ISVProdID, r.ISVSVN)},
		{"attributes", fmt.Sprintf("%x", r.Attributes)},
		{"MISCSELECT", fmt.Sprintf("%x", r.MiscSelect)},
		{"TCB", fmt.Sprintf("CPUSVN %x", r.CPUSVN)},
		{"launch field", "SGX has none"},
		{"report data", zeroOr(r.ReportData[:], "zero: bound to nothing")},
	}
}
