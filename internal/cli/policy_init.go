package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/hal/measure"
	"github.com/ultravioletrs/cocos/manifest"
)

// policyInit is what a policy is made of.
type policyInit struct {
	tee, image, manifest, host string
	launch                     launchFlags
	snp                        snpFlags
	tdx                        tdxFlags
	simRoot, accept            string

	description hostDescription
	digests     *attest.LaunchDigests
	// missing are flags without which nobody knows what to write, with why.
	missing []string
}

func (a *app) policyInitCmd() *cobra.Command {
	var p policyInit
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Print a policy for an image on a host",
		Long: `Print a policy that accepts an image, as it measures on a host, and nothing else, with
the strictest defaults. What is not known is asked for by the name of its flag, never
made up. With --manifest the policy accepts VMs launched for it alone.

--host is what cocos-manager check --json printed there. It is the host's word: compare
product line, TCB and the simulated root with what you know from elsewhere.`,
		Example: `  cocos-cli policy init --tee sev-snp --image cmd/manager/img --firmware OVMF.amdsev.fd --vcpus 4 \
    --vcpu-type EPYC-v4 --product Milan --chip-id any \
    --minimum-tcb bootloader=4,tee=0,snp=24,microcode=219 > policy.json
  cocos-cli policy init --tee sim --image cmd/manager/img --vcpus 1 --sim-root root.pem \
    --accept-simulation "SIMULATED evidence, which protects nothing" > policy.json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			policy, err := a.initPolicy(cmd, &p)
			if err != nil {
				return err
			}
			return a.printPolicy(policy)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.tee, "tee", "", "the `TEE`: sev-snp, tdx or sim; else the manifest's or the host's")
	f.StringVar(&p.image, "image", "", "the built image, a `DIR`")
	f.StringVar(&p.manifest, "manifest", "", "the frozen manifest to pin the launch field to, a `FILE`; without it each appraisal names one")
	f.StringVar(&p.host, "host", "", "what cocos-manager check --json printed on the host, a `FILE`")
	f.StringVar(&p.launch.firmware, "firmware", "", "the firmware that the TEE measures, a `FILE`")
	p.launch.flags(cmd)
	p.launch.tdx(cmd)
	p.snp.add(cmd)
	p.tdx.add(cmd)
	f.StringVar(&p.simRoot, "sim-root", "", "the root of the host's simulated TEE (sim/root.pem in its state directory), a `FILE`")
	f.StringVar(&p.accept, "accept-simulation", "", fmt.Sprintf("consent to simulation, the `TEXT` %q", attest.SimConsent))
	complete(cmd, "tee", func() []string { return policyTEEs })
	return cmd
}

// policyTEEs are those that an image is measured in.
var policyTEEs = []string{string(attest.SNP), string(attest.TDX), string(attest.Sim)}

// initPolicy puts together what is known, and asks for the rest at once.
func (a *app) initPolicy(cmd *cobra.Command, p *policyInit) (attest.Policy, error) {
	none := attest.Policy{}
	if err := p.read(); err != nil {
		return none, err
	}
	tee, err := p.kind()
	if err != nil {
		return none, err
	}
	p.wants(p.image == "", "image", "what is to run: the folder that make hal built")
	if p.launch.vcpus == 0 && !cmd.Flags().Changed("vcpus") {
		p.launch.vcpus = p.description.VCPUs
	}
	if p.launch.vcpuType == "" {
		p.launch.vcpuType = p.description.VCPUType
	}
	if tee != attest.TDX {
		p.wants(p.launch.vcpus == 0 && !cmd.Flags().Changed("vcpus"), "vcpus", "how many virtual CPUs the VM has, which is measured")
	}
	if tee != attest.Sim {
		p.wants(p.launch.firmware == "", "firmware", "the firmware, which is measured")
	}
	policy := attest.Policy{Version: attest.PolicyVersion}
	switch tee {
	case attest.SNP:
		policy.SNP, err = p.snpSection()
	case attest.TDX:
		policy.TDX, err = p.tdxSection()
	case attest.Sim:
		policy.Simulated, err = p.simSection()
	}
	if err != nil {
		return none, err
	}
	if len(p.missing) > 0 {
		return none, usagef("give each; nothing of it is made up", "not known for a policy of %s: %s", tee, strings.Join(p.missing, "; "))
	}
	if err := a.pinMeasurements(cmd, p, &policy); err != nil {
		return none, err
	}
	if p.digests == nil {
		a.out.hint("the policy names no launch field: each appraisal has to name the manifest. --manifest pins one")
	}
	if p.host != "" {
		a.out.hint("what came from %s is the host's own word: compare it with what you know from elsewhere", clean(p.host))
	}
	return policy, nil
}

// wants notes a flag that is missing.
func (p *policyInit) wants(missing bool, flag, why string) {
	if missing {
		p.missing = append(p.missing, "--"+flag+" ("+why+")")
	}
}

// read reads manifest and host description.
func (p *policyInit) read() error {
	if p.manifest != "" {
		f, err := readManifest(p.manifest)
		if err != nil {
			return err
		}
		d := attest.LaunchDigestsOf(f.Raw)
		p.digests = &d
		if f.TEE == manifest.TEENone {
			return fmt.Errorf("%s asks for no TEE: there is nothing to appraise", p.manifest)
		}
		if p.tee == "" {
			p.tee = string(f.TEE)
		} else if given, err := typeOf(p.tee); err == nil && string(given) != string(f.TEE) {
			return fmt.Errorf("%s asks for the TEE %s, and --tee says %s: a policy for both accepts nothing", p.manifest, f.TEE, p.tee)
		}
	}
	if p.host == "" {
		return nil
	}
	var err error
	p.description, err = readHost(p.host)
	return err
}

// kind decides for which TEE the policy is.
func (p *policyInit) kind() (attest.Type, error) {
	word := p.tee
	if word == "" {
		word = p.description.TEE
	}
	if word == "" {
		return "", usagef("the manifest's member tee says it, and the host's operator", "--tee is missing: %s", strings.Join(policyTEEs, ", "))
	}
	t, err := typeOf(word)
	if err != nil || !slices.Contains(policyTEEs, string(t)) {
		return "", usagef("SEV and SEV-ES count as plain, and an enclave's policy is written by hand: docs/measure.md", "--tee %q: expected one of %s", word, strings.Join(policyTEEs, ", "))
	}
	if h := p.description.TEE; h != "" && h != string(t) {
		return "", fmt.Errorf("%s says that the host's VMs have %s, not %s", p.host, h, t)
	}
	return t, nil
}

// pinMeasurements measures the image as the policy's TEE does.
func (a *app) pinMeasurements(cmd *cobra.Command, p *policyInit, policy *attest.Policy) error {
	o := measure.ImageOptions{}
	var err error
	if o.GuestFeatures, err = p.launch.number(); err != nil {
		return err
	}
	if o.TDX, err = p.launch.tdxOptions(cmd); err != nil {
		return err
	}
	var fw []byte
	if p.launch.firmware != "" {
		if fw, err = readSmall(p.launch.firmware, maxFirmware); err != nil {
			return fmt.Errorf("--firmware: %w", err)
		}
		sum := sha256.Sum256(fw)
		if h := p.description.FirmwareSHA256; h != "" && h != hex.EncodeToString(sum[:]) {
			return fmt.Errorf("--firmware %s has the SHA-256 %x; the host says that its VMs start in %s", p.launch.firmware, sum, h)
		}
	}
	if policy.TDX == nil {
		if err := p.launch.check(); err != nil {
			return err
		}
		o.VCPUs = []int{p.launch.vcpus}
	}
	if policy.SNP != nil {
		if err := p.launch.checkModel(); err != nil {
			return err
		}
		o.VCPUTypes, o.SNPFirmware = []string{p.launch.vcpuType}, fw
	}
	if policy.TDX != nil {
		o.TDXFirmware = fw
	}
	img, err := measure.MeasureImage(p.image, o)
	if err != nil {
		return err
	}
	switch {
	case policy.SNP != nil:
		a.unknownVerifier(p.launch.firmware, fw)
		policy.SNP.Measurements = []attest.Hex{img.SNP[0].Measurement[:]}
	case policy.TDX != nil:
		a.unknownMeasurer(p.launch.firmware, fw)
		policy.TDX.MRTD, policy.TDX.RTMR1, policy.TDX.RTMR2 = []attest.Hex{img.TDX.MRTD[:]}, []attest.Hex{img.TDX.RTMR1[:]}, []attest.Hex{img.TDX.RTMR2[:]}
	default:
		policy.Simulated.Measurements = []attest.Hex{img.Simulated[0].Measurement[:]}
	}
	return nil
}

func (p *policyInit) simSection() (*attest.SimPolicy, error) {
	p.wants(p.accept == "", "accept-simulation", fmt.Sprintf("your consent, %q", attest.SimConsent))
	p.wants(p.simRoot == "", "sim-root", "the root of that host's simulated TEE, sim/root.pem")
	if p.accept != "" && p.accept != attest.SimConsent {
		return nil, usagef("it is meant to be read", "--accept-simulation is %q; whoever accepts simulation says %q", p.accept, attest.SimConsent)
	}
	s := &attest.SimPolicy{Accept: p.accept}
	if p.simRoot != "" {
		sum, err := readSimRoot(p.simRoot)
		if err != nil {
			return nil, err
		}
		if h := p.description.SimulatedRoot; h != "" && h != hex.EncodeToString(sum[:]) {
			return nil, fmt.Errorf("--sim-root %s has the SHA-256 %x; the host says that its root has %s", p.simRoot, sum, h)
		}
		s.Roots = []attest.Hex{sum[:]}
	}
	if p.digests != nil {
		s.HostData = []attest.Hex{p.digests.SHA256[:]}
	}
	return s, nil
}

// readSimRoot digests a root certificate's DER.
func readSimRoot(name string) (sum [32]byte, err error) {
	b, err := readSmall(name, 64<<10)
	if err != nil {
		return sum, fmt.Errorf("--sim-root: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) > 0 {
		return sum, advise(fmt.Errorf("--sim-root %s is not one PEM block \"CERTIFICATE\"", name), "the host has it as sim/root.pem in its state directory")
	}
	return sha256.Sum256(block.Bytes), nil
}

var errNoHost = errors.New("the host's description has no member host: it is not what this version's cocos-manager check --json prints")
