// Package explain says in plain words what evidence says, and, where it was
// refused, what most likely happened.
//
// Causes are found by recomputing: a measurement that another number of vCPUs,
// another command line or another kernel of those at hand would give names what
// was launched. Nothing here is a check, and nothing is accepted because of it.
//
// Invariants:
//   - Evidence is untrusted: whatever is said of it is what its bytes say, whoever
//     made them. Texts in it are quoted.
//   - A cause that was recomputed is certain and says so; a guess says that it is
//     one, or says what to try.
package explain

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// Inputs are what causes are looked for among. The first of each list is what was
// expected to run; further ones are what may have run instead.
type Inputs struct {
	Firmwares, Kernels, Initrds []File
	CommandLines                []CommandLine
	// VCPUs, VCPUType and GuestFeatures are those that were expected; zero: not
	// known.
	VCPUs         int
	VCPUType      string
	GuestFeatures uint64
	// Manifests begin with the one that this side approved.
	Manifests []Manifest
	// Policy by which the evidence was appraised; may be nil.
	Policy *attest.Policy
}

// File is a part of a launch.
type File struct {
	Name    string
	Content []byte
}

// CommandLine is a kernel's; Name says whose, such as "plain guests".
type CommandLine struct{ Name, Text string }

// Manifest is a frozen one that was at hand.
type Manifest struct {
	Name    string
	Digests attest.LaunchDigests
}

// Explain returns the causes of a refusal in plain words, the most likely first.
// For evidence that was accepted, or not appraised at all (the zero Result), it
// says what the measurements follow from, as far as the inputs tell.
func Explain(r attest.Result, e attest.Evidence, in Inputs) []string {
	x := &explanation{result: r, in: in, done: map[string]bool{}}
	x.kind(e)
	x.debug()
	x.origin()
	switch e.Type {
	case attest.SNP, attest.Sim:
		if report, err := snp.Parse(e.Report); err == nil {
			x.launchField(string(e.Type), report.HostData[:])
			x.amdMeasurement(e.Type, report.Measurement)
			x.amdTCB(e, report)
		}
	case attest.TDX:
		x.td(e)
	}
	x.others()
	return x.causes
}

// explanation is one in the making.
type explanation struct {
	result attest.Result
	in     Inputs
	causes []string
	done   map[string]bool // claims that a cause speaks of
}

func (x *explanation) say(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(x.causes, s) {
		x.causes = append(x.causes, s)
	}
}

// failed tells whether the claim failed, and takes it as explained.
func (x *explanation) failed(name string) (attest.Claim, bool) {
	for _, c := range x.result.Claims {
		if c.Name == name {
			x.done[name] = true
			return c, c.Verdict == attest.Failed
		}
	}
	return attest.Claim{}, false
}

// appraised tells whether there is a verdict to explain.
func (x *explanation) appraised() bool { return len(x.result.Claims) > 0 }

// kind looks for evidence of another TEE than the policy speaks of.
func (x *explanation) kind(e attest.Evidence) {
	if !x.appraised() {
		return
	}
	report, err := snp.Parse(e.Report)
	marked := err == nil && bytes.HasPrefix(report.FamilyID[:], []byte(sim.Mark))
	switch {
	case e.Type == attest.Sim && x.in.Policy != nil && x.in.Policy.Simulated == nil:
		x.done["sim.consent"] = true
		x.say("this is SIMULATED evidence, which protects nothing, and the policy does not accept simulation: the VM runs on a host without a TEE")
	case e.Type == attest.SNP && marked:
		for _, c := range x.result.Failed() {
			if strings.HasPrefix(c.Name, "snp.chain") || strings.HasPrefix(c.Name, "snp.certificate") || c.Name == "snp.signature" {
				x.done[c.Name] = true
			}
		}
		x.say("this is a report of the simulated TEE that passes for SEV-SNP's: its family id says %s, and no key of AMD's signed it", sim.Mark)
	}
	for _, t := range attest.Types() {
		name := strings.ReplaceAll(string(t), "sev-", "") + ".section"
		if _, failed := x.failed(name); failed {
			x.say("the policy has no section for %s, so none of its evidence is accepted", t)
		}
	}
}

func (x *explanation) debug() {
	for _, name := range []string{"snp.policy.debug", "tdx.debug", "sgx.debug"} {
		if c, failed := x.failed(name); failed {
			x.say("debugging is %s: the host can read and change the memory. It was launched so; never accept that outside of tests", c.Found)
			x.done["tdx.attributes"] = x.done["tdx.attributes"] || name == "tdx.debug" // which hold the bit
		}
	}
	if c, failed := x.failed("sim.guest_policy"); failed {
		x.say("the guest policy is %s, which no shim sets", c.Found)
	}
}

// origin is about who signed: where that fails, all else is anybody's word.
func (x *explanation) origin() {
	for _, c := range x.result.Failed() {
		name := c.Name[strings.IndexByte(c.Name, '.')+1:]
		if (name == "signature" || name == "chain") && !x.done[c.Name] {
			x.done[c.Name] = true
			hint := c.Hint
			if hint == "" {
				hint = "the evidence was changed, or somebody else made it"
			}
			x.say("%s: %s. Nothing else in the evidence means anything", c.Name, hint)
		}
	}
	if _, failed := x.failed("sim.chain"); failed {
		x.say("the report is signed under the root of another host: compare the policy's root with the host's sim/root.pem")
	}
}

// launchField compares with the manifests at hand; kind is as claims have it.
func (x *explanation) launchField(kind string, field []byte) {
	name := strings.TrimPrefix(kind, "sev-") + ".host_data"
	if kind == string(attest.TDX) {
		name = "tdx.mr_config_id"
	}
	c, failed := x.failed(name)
	if !failed {
		return
	}
	for i, m := range x.in.Manifests {
		if bytes.Equal(m.Digests.Field(attest.Type(kind)), field) {
			if i == 0 {
				x.say("the launch field is the digest of %s, which the policy does not list and this appraisal was not told of: give the manifest", m.Name)
			} else {
				x.say("the VM was launched for another manifest: the launch field is the digest of %s, not of %s", m.Name, x.in.Manifests[0].Name)
			}
			return
		}
	}
	switch {
	case len(bytes.Trim(field, "\x00")) == 0:
		x.say("the launch field is zero: the VM was launched for no manifest at all")
	case strings.Contains(c.Expected, "it lists none"):
		x.say("neither was a manifest given, nor does the policy list launch fields: give the manifest that you approved (--manifest)")
	default:
		x.say("the VM was launched for another manifest than yours: the launch field is %x; a copy of a manifest has another nonce, and so another digest", field)
	}
}

// others passes on the verifier's own hints.
func (x *explanation) others() {
	for _, c := range x.result.Failed() {
		if x.done[c.Name] {
			continue
		}
		if c.Hint != "" {
			x.say("%s: %s (expected %s, found %s)", c.Name, c.Hint, c.Expected, c.Found)
		} else {
			x.say("%s: expected %s, found %s", c.Name, c.Expected, c.Found)
		}
	}
}
