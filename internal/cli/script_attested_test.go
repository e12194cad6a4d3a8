package cli_test

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sim"
	"github.com/ultravioletrs/cocos/hal/measure"
)

// measured is what a simulated VM measures, if nothing else is said.
const measured = 7

// simulation parses measured=N or image=DIR:VCPUS: what a simulated VM measures;
// and host=NAME: the authority of its host, which is made if it is not there.
// Other arguments are handed to other.
func simulation(ts *testscript.TestScript, args []string, other func(what, value string) bool) (*sim.Authority, [48]byte) {
	measurement, host := [48]byte(bytes.Repeat([]byte{measured}, 48)), "host"
	for _, part := range args {
		what, value, _ := strings.Cut(part, "=")
		switch {
		case what == "measured":
			n, err := strconv.ParseUint(value, 10, 8)
			ts.Check(err)
			measurement = [48]byte(bytes.Repeat([]byte{byte(n)}, 48))
		case what == "image":
			dir, vcpus, _ := strings.Cut(value, ":")
			n, err := strconv.Atoi(vcpus)
			ts.Check(err)
			f, err := measure.ReadFiles(ts.MkAbs(dir))
			ts.Check(err)
			measurement, err = measure.Simulated(measure.Launch{
				Kernel: f.Kernel, Initrd: f.Initrd, CommandLine: f.Image.CommandLine.Attested, VCPUs: n,
			})
			ts.Check(err)
		case what == "host":
			host = value
		case !other(what, value):
			ts.Fatalf("unknown part %q", part)
		}
	}
	a, err := sim.LoadOrCreate(ts.MkAbs(host))
	ts.Check(err)
	return a, measurement
}

// policy OUT [simulated|production] [measured=N] [host=NAME] writes a policy.
func cmdPolicy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: policy OUT [production] [measured=N] [host=NAME]")
	}
	production := false
	host, measurement := simulation(ts, args[1:], func(what, _ string) bool {
		production = production || what == "production"
		return what == "production"
	})
	_, root := host.Root()
	p := attest.Policy{Version: attest.PolicyVersion, Simulated: &attest.SimPolicy{
		Accept: attest.SimConsent, Roots: []attest.Hex{root[:]}, Measurements: []attest.Hex{measurement[:]},
	}}
	if production {
		p.Simulated, p.SNP = nil, &attest.SNPPolicy{
			Measurements: []attest.Hex{measurement[:]}, Products: []string{"Milan"}, ChipIDs: []string{attest.AnyID},
			Signers: []string{"vcek"}, MinimumTCB: map[string]attest.SNPTCB{"Milan": {}}, Revocation: attest.CheckRequired,
		}
	}
	b, err := p.Bytes()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// bend FILE MEMBER changes the first bits of a member's base64 in a JSON file.
func cmdBend(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: bend FILE MEMBER")
	}
	text, mark := ts.ReadFile(args[0]), `"`+args[1]+`": "`
	i := strings.Index(text, mark)
	if i < 0 {
		ts.Fatalf("%s has no member %q", args[0], args[1])
	}
	b := []byte(text)
	first := &b[i+len(mark)]
	if *first == 'A' {
		*first = 'B'
	} else {
		*first = 'A'
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}
