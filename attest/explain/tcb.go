package explain

import (
	"fmt"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// amdTCB says which component of which TCB version is too old, and whose turn it
// is.
func (x *explanation) amdTCB(e attest.Evidence, report *snp.Report) {
	line, err := snp.LineOf(e)
	if err != nil || x.in.Policy == nil || x.in.Policy.SNP == nil {
		return
	}
	least, ok := x.in.Policy.SNP.MinimumTCB[string(line)]
	if !ok {
		return
	}
	type stale struct{ name, what, then string }
	var order []string
	found := map[string][]stale{}
	for _, t := range []struct {
		name, what, then string
		tcb              snp.TCB
	}{
		{"current", "the host runs", "its operator has to update firmware and microcode", report.CurrentTCB},
		{"reported", "the host reports", "its operator has to update, or to report what it runs", report.ReportedTCB},
		{"committed", "the host can be rolled back to", "its operator has to commit the firmware that it runs", report.CommittedTCB},
		{"launch", "the VM was launched, or migrated to, under", "it has to be started again", report.LaunchTCB},
	} {
		v, err := t.tcb.Versions(line)
		if err != nil {
			continue // the claim says so
		}
		if _, failed := x.failed("snp.tcb." + t.name); !failed {
			continue
		}
		text := older(v, least)
		if found[text] == nil {
			order = append(order, text)
		}
		found[text] = append(found[text], stale{t.name, t.what, t.then})
	}
	// What is too old in the same way has one cause, that of the first.
	for _, text := range order {
		first, also := found[text][0], ""
		var names []string
		for _, s := range found[text][1:] {
			names = append(names, s.name)
		}
		if len(names) > 0 {
			also = "; likewise the TCB of " + and(names)
		}
		x.say("the TCB is stale: %s %s: %s%s", first.what, text, first.then, also)
	}
}

func older(v, least attest.SNPTCB) string {
	var parts []string
	for _, c := range []struct {
		name      string
		got, want uint8
	}{
		{"fmc", v.FMC, least.FMC}, {"bootloader", v.Bootloader, least.Bootloader}, {"tee", v.TEE, least.TEE},
		{"snp", v.SNP, least.SNP}, {"microcode", v.Microcode, least.Microcode},
	} {
		if c.got < c.want {
			parts = append(parts, fmt.Sprintf("%s %d (the policy asks for %d)", c.name, c.got, c.want))
		}
	}
	return strings.Join(parts, ", ")
}
