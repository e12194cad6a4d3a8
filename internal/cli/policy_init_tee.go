package cli

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// maxHost bounds a host's description, in bytes.
const maxHost = 1 << 20

// hostDescription is the member host of what cocos-manager check --json prints.
type hostDescription struct {
	TEE            string `json:"tee"`
	VCPUs          int    `json:"vcpus"`
	VCPUType       string `json:"vcpu_type"`
	FirmwareSHA256 string `json:"firmware_sha256"`
	Product        string `json:"product"`
	ReportedTCB    string `json:"reported_tcb"`
	SimulatedRoot  string `json:"simulated_root"`
}

// readHost reads a description. Members that later versions add are passed over.
func readHost(name string) (hostDescription, error) {
	b, err := readSmall(name, maxHost)
	if err != nil {
		return hostDescription{}, fmt.Errorf("--host: %w", err)
	}
	var d struct {
		Host *hostDescription `json:"host"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return hostDescription{}, advise(fmt.Errorf("--host %s: %w", name, err), "give what cocos-manager check --json printed")
	}
	if d.Host == nil {
		return hostDescription{}, advise(fmt.Errorf("--host %s: %w", name, errNoHost), "run it anew there, or give the flags that it stands for")
	}
	return *d.Host, nil
}

// snpFlags are of policies for SEV-SNP.
type snpFlags struct {
	products, chips, signers, tcb, platform []string
	revocation, mitigations                 string
	strict                                  bool
}

func (s *snpFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&s.products, "product", nil, "AMD's product `LINE`: Milan, Genoa (also Bergamo and Siena) or Turin")
	f.StringSliceVar(&s.chips, "chip-id", nil, "the chips accepted, `HEX` of 64 bytes each, or any")
	f.StringArrayVar(&s.tcb, "minimum-tcb", nil, "least versions, such as bootloader=4,tee=0,snp=24,microcode=219, with fmc= for Turin; `[LINE:]VERSIONS` where there are several lines")
	f.StringSliceVar(&s.signers, "signer", []string{"vcek", "vlek"}, "the `KEYS` that may sign: vcek, vlek")
	f.StringVar(&s.revocation, "revocation", string(attest.CheckRequired), "AMD's revocation list: `required` or unchecked")
	f.BoolVar(&s.strict, "strict", false, "accept no simultaneous multithreading and a single socket only")
	f.StringSliceVar(&s.platform, "platform", nil, "what the host must be like, `WORDS` such as require_alias_check,require_ecc: the policy's members of platform")
	f.StringVar(&s.mitigations, "require-mitigations", "", "the mitigations that the host's firmware must state, a vector of bits in `HEX` such as 0x3")
	complete(cmd, "platform", platformFlags)
	complete(cmd, "product", func() []string { return []string{"Milan", "Genoa", "Turin"} })
}

func (p *policyInit) snpSection() (*attest.SNPPolicy, error) {
	f, h := &p.snp, p.description
	if len(f.products) == 0 && h.Product != "" {
		f.products = []string{h.Product}
	}
	p.wants(p.launch.vcpuType == "", "vcpu-type", "QEMU's model of the virtual CPUs, which is measured")
	p.wants(len(f.products) == 0, "product", "AMD's product line; cocos-manager check --json has it on the host")
	p.wants(len(f.chips) == 0, "chip-id", "the chips that you trust, or any; attestation explain shows a report's")
	s := &attest.SNPPolicy{
		Products: f.products, ChipIDs: f.chips, Signers: f.signers, Revocation: attest.Check(f.revocation),
		MinimumTCB: map[string]attest.SNPTCB{},
		Guest:      attest.SNPGuestPolicy{AllowSMT: !f.strict, RequireSingleSocket: f.strict},
		Platform:   attest.SNPPlatform{ForbidSMT: f.strict},
	}
	if err := f.host(s); err != nil {
		return nil, err
	}
	if p.digests != nil {
		s.HostData = []attest.Hex{p.digests.SHA256[:]}
	}
	for _, text := range f.tcb {
		product, v, err := parseTCB(text, f.products)
		if err != nil {
			return nil, err
		}
		if _, twice := s.MinimumTCB[product]; twice {
			return nil, usagef("give one for each product line", "--minimum-tcb is given twice for %s", product)
		}
		s.MinimumTCB[product] = v
	}
	if len(f.tcb) == 0 && h.ReportedTCB != "" && len(f.products) == 1 {
		raw, err := hex.DecodeString(h.ReportedTCB)
		if err != nil || len(raw) != len(snp.TCB{}) {
			return nil, fmt.Errorf("--host %s: reported_tcb is %q; expected 8 bytes in hexadecimal", p.host, h.ReportedTCB)
		}
		v, err := snp.TCB(raw).Versions(snp.Line(f.products[0]))
		if err != nil {
			return nil, fmt.Errorf("--host %s: reported_tcb: %w", p.host, err)
		}
		s.MinimumTCB[f.products[0]] = v
	}
	for _, product := range f.products {
		if _, ok := s.MinimumTCB[product]; !ok {
			p.wants(true, "minimum-tcb", "the oldest firmware that you trust on "+product+leastTCB)
		}
	}
	p.wants(len(f.products)+len(f.tcb) == 0, "minimum-tcb", "the oldest firmware that you trust"+leastTCB)
	return s, nil
}

// host reads what is asked of it.
func (s *snpFlags) host(to *attest.SNPPolicy) error {
	for _, word := range s.platform {
		i := slices.Index(platformFlags(), word)
		if i < 0 {
			return usagef("docs/policy.md says what each stands for", "--platform %q: expected some of %s", word, strings.Join(platformFlags(), ", "))
		}
		*platformMembers[i].of(&to.Platform) = true
	}
	if s.mitigations == "" {
		return nil
	}
	if err := to.RequireMitigations.UnmarshalText([]byte(s.mitigations)); err != nil {
		return usagef("AMD's security bulletins say what a bit stands for", "--require-mitigations %q %v", s.mitigations, err)
	}
	return nil
}

func platformFlags() []string {
	var words []string
	for _, m := range platformMembers {
		words = append(words, m.flag)
	}
	return words
}

// leastTCB says where to find it.
const leastTCB = ", from AMD's security bulletins; attestation explain shows a report's"

// parseTCB reads "[LINE:]bootloader=4,tee=0,snp=24,microcode=219[,fmc=1]".
func parseTCB(text string, products []string) (product string, v attest.SNPTCB, err error) {
	const hint = "such as bootloader=4,tee=0,snp=24,microcode=219"
	product, versions, named := strings.Cut(text, ":")
	if !named {
		versions = text
		if len(products) != 1 {
			return "", v, usagef("such as Milan:"+hint[8:], "--minimum-tcb %q does not say for which product line it is", text)
		}
		product = products[0]
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(versions, ",") {
		name, value, _ := strings.Cut(part, "=")
		to := map[string]*uint8{"fmc": &v.FMC, "bootloader": &v.Bootloader, "tee": &v.TEE, "snp": &v.SNP, "microcode": &v.Microcode}[name]
		n, err := strconv.ParseUint(value, 10, 8)
		if to == nil || err != nil || seen[name] {
			return "", v, usagef(hint, "--minimum-tcb %q: %q is no version", text, part)
		}
		*to, seen[name] = uint8(n), true
	}
	for _, name := range []string{"bootloader", "tee", "snp", "microcode", "fmc"} {
		if !seen[name] && (name != "fmc" || product == string(snp.Turin)) {
			return "", v, usagef(hint, "--minimum-tcb %q lacks %s", text, name)
		}
	}
	return product, v, nil
}

// tdxFlags are of policies for TDX.
type tdxFlags struct {
	seam, rtmr0, xfam, fmspcs, ppids []string
	evaluation                       int
}

func (t *tdxFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&t.seam, "mr-seam", nil, "the TDX modules accepted, `HEX` of 48 bytes each")
	f.StringSliceVar(&t.rtmr0, "rtmr0", nil, "what the host's ACPI tables measure as, `HEX` of 48 bytes each")
	f.StringSliceVar(&t.xfam, "xfam", nil, "the TD's extended features, `HEX` of 8 bytes as in a quote")
	f.StringSliceVar(&t.fmspcs, "fmspc", nil, "the kinds of platform accepted, `HEX` of 6 bytes each, or any")
	f.StringSliceVar(&t.ppids, "ppid", nil, "the platforms accepted, `HEX` of 16 bytes each, or any")
	f.IntVar(&t.evaluation, "minimum-evaluation", 0, "least `NUMBER` of Intel's TCB evaluation (tcbEvaluationDataNumber)")
}

// tdAttributes is SEPT_VE_DISABLE alone, as it stands in a quote.
var tdAttributes = attest.Hex{0, 0, 0, 0x10, 0, 0, 0, 0}

func (p *policyInit) tdxSection() (*attest.TDXPolicy, error) {
	f := &p.tdx
	const quote = "; attestation explain shows a quote's"
	p.wants(len(f.seam) == 0, "mr-seam", "Intel publishes its modules' digests"+quote)
	p.wants(len(f.rtmr0) == 0, "rtmr0", "it follows from the host's ACPI tables and can't be computed from an image"+quote)
	p.wants(len(f.xfam) == 0, "xfam", "the features that the TD was given"+quote)
	p.wants(len(f.fmspcs) == 0, "fmspc", "the kinds of platform that you trust, or any")
	p.wants(len(f.ppids) == 0, "ppid", "the platforms that you trust, or any")
	p.wants(f.evaluation == 0, "minimum-evaluation", "tcbEvaluationDataNumber of Intel's current TCB info")
	t := &attest.TDXPolicy{
		Attributes: []attest.Hex{tdAttributes},
		TCB: attest.IntelTCB{
			Collateral: attest.CheckRequired, Status: []string{"UpToDate"}, MinimumEvaluation: f.evaluation, FMSPCs: f.fmspcs, PPIDs: f.ppids,
		},
	}
	if p.digests != nil {
		t.MRConfigID = []attest.Hex{p.digests.SHA384[:]}
	}
	for _, l := range []struct {
		flag   string
		values []string
		to     *[]attest.Hex
	}{{"mr-seam", f.seam, &t.MRSEAM}, {"rtmr0", f.rtmr0, &t.RTMR0}, {"xfam", f.xfam, &t.XFAM}} {
		for _, text := range l.values {
			var h attest.Hex
			if err := h.UnmarshalText([]byte(text)); err != nil {
				return nil, usagef("as attestation explain shows it", "--%s %q %v", l.flag, text, err)
			}
			*l.to = append(*l.to, h)
		}
	}
	return t, nil
}
