package explain

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/tdx"
	"github.com/ultravioletrs/cocos/hal/measure"
)

// candidates are the inputs, with command lines that are easily mistaken for each
// other, and launches that leave something out.
func (x *explanation) candidates() (measure.Candidates, []CommandLine) {
	lines := slices.Clone(x.in.CommandLines)
	for _, l := range x.in.CommandLines {
		for _, v := range []CommandLine{
			{l.Name + ", with a space behind it", l.Text + " "},
			{l.Name + ", with a line break behind it", l.Text + "\n"},
			{l.Name + ", without the spaces around it", strings.TrimSpace(l.Text)},
		} {
			if !slices.ContainsFunc(lines, func(o CommandLine) bool { return o.Text == v.Text }) {
				lines = append(lines, v)
			}
		}
	}
	if len(lines) > 0 {
		lines = append(lines, CommandLine{"none at all", ""})
	}
	c := measure.Candidates{}
	for _, l := range lines {
		c.CommandLines = append(c.CommandLines, l.Text)
	}
	for _, f := range x.in.Firmwares {
		c.Firmwares = append(c.Firmwares, f.Content)
	}
	for _, f := range x.in.Kernels {
		c.Kernels = append(c.Kernels, f.Content)
	}
	for _, f := range x.in.Initrds {
		c.Initrds = append(c.Initrds, f.Content)
	}
	if len(c.Initrds) > 0 {
		c.Initrds = append(c.Initrds, nil)
	}
	if x.in.VCPUType != "" {
		c.VCPUTypes = []string{x.in.VCPUType}
	}
	if x.in.GuestFeatures != 0 {
		c.GuestFeatures = []uint64{x.in.GuestFeatures}
	}
	return c, lines
}

// amdMeasurement is for SEV-SNP and the simulated TEE.
func (x *explanation) amdMeasurement(t attest.Type, measurement [48]byte) {
	name, find, needed := "snp.measurement", measure.Candidates.FindSNP, "--image, --firmware"
	if t == attest.Sim {
		name, find, needed = "sim.measurement", measure.Candidates.FindSimulated, "--image"
	}
	_, failed := x.failed(name)
	c, lines := x.candidates()
	if len(c.Kernels) == 0 || len(c.Initrds) == 0 || len(c.CommandLines) == 0 || t == attest.SNP && len(c.Firmwares) == 0 {
		if failed {
			x.say("the measurement is not one of the policy's; give what you expected to run (%s), and it is recomputed to find what differs", needed)
		}
		return
	}
	got, found := find(c, measurement)
	if !failed {
		if found {
			x.say("the measurement is that of %s", x.whole(t, got, lines))
		}
		return
	}
	want, wanted := x.expected(t, func(d [48]byte) (measure.Found, bool) { return find(c, d) })
	switch {
	case found && wanted:
		with, expects := x.differences(t, got, want, lines)
		x.say("the measurement is that of this image with %s; the policy expects %s", with, expects)
	case found:
		if with, expects := x.differences(t, got, x.first(got), lines); with != "" {
			x.say("the measurement is that of this image with %s; you expected %s, and the policy lists none that these files give", with, expects)
			return
		}
		x.say("the measurement is that of %s, as you expected; the policy lists another, which these files do not give: it was made for another build or shape of VM", x.whole(t, got, lines))
	case wanted:
		parts := "kernel or initial RAM disk"
		if t == attest.SNP {
			parts = "kernel, initial RAM disk or firmware"
		}
		x.say("the policy's measurement is that of %s; the VM's is none that these files give, with any of 1 to %d vCPUs, models of CPU and command lines that are known: another %s was launched, or a command line of somebody's own", x.whole(t, want, lines), measure.SearchVCPUs, parts)
	default:
		x.say("neither the VM's measurement nor the policy's follows from these files: they are another build than both")
	}
}

// expected looks for what the policy's measurements follow from.
func (x *explanation) expected(t attest.Type, find func([48]byte) (measure.Found, bool)) (measure.Found, bool) {
	var accepted []attest.Hex
	switch p := x.in.Policy; {
	case p != nil && t == attest.SNP && p.SNP != nil:
		accepted = p.SNP.Measurements
	case p != nil && t == attest.Sim && p.Simulated != nil:
		accepted = p.Simulated.Measurements
	}
	for _, m := range accepted {
		if len(m) != 48 {
			continue
		}
		if f, ok := find([48]byte(m)); ok {
			return f, true
		}
	}
	return measure.Found{}, false
}

// first is what the caller expected, where it said so.
func (x *explanation) first(got measure.Found) measure.Found {
	want := measure.Found{VCPUs: got.VCPUs, VCPUType: got.VCPUType, GuestFeatures: got.GuestFeatures}
	if x.in.VCPUs != 0 {
		want.VCPUs = x.in.VCPUs
	}
	if x.in.VCPUType != "" {
		want.VCPUType = x.in.VCPUType
	}
	if x.in.GuestFeatures != 0 {
		want.GuestFeatures = x.in.GuestFeatures
	}
	return want
}

// differences words where two launches differ.
func (x *explanation) differences(t attest.Type, got, want measure.Found, lines []CommandLine) (with, expects string) {
	var a, b []string
	g, w := x.words(t, got, lines), x.words(t, want, lines)
	for i := range g {
		if g[i] != w[i] {
			a, b = append(a, g[i]), append(b, w[i])
		}
	}
	return and(a), and(b)
}

// whole words all of a launch.
func (x *explanation) whole(t attest.Type, f measure.Found, lines []CommandLine) string {
	return and(x.words(t, f, lines))
}

// words has each part of a launch in its place.
func (x *explanation) words(t attest.Type, f measure.Found, lines []CommandLine) []string {
	disk := "no initial RAM disk"
	if f.Initrd < len(x.in.Initrds) {
		disk = "the initial RAM disk " + x.in.Initrds[f.Initrd].Name
	}
	cpus := fmt.Sprintf("%d vCPUs", f.VCPUs)
	if f.VCPUs == 1 {
		cpus = "1 vCPU"
	}
	words := []string{"the kernel " + x.in.Kernels[f.Kernel].Name, disk, "the command line of " + lines[f.CommandLine].Name, cpus}
	if t == attest.SNP {
		words = append(words, "the vCPU type "+f.VCPUType, fmt.Sprintf("guest features %#x", f.GuestFeatures), "the firmware "+x.in.Firmwares[f.Firmware].Name)
	}
	return words
}

func and(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// td explains a TD's registers one by one: each names what is measured in it.
func (x *explanation) td(e attest.Evidence) {
	q, err := tdx.Parse(e.Report)
	if err != nil {
		return
	}
	x.launchField(string(attest.TDX), q.MRConfigID[:])
	c, lines := x.candidates()
	x.mrtd(c, q.MRTD)
	x.register("rtmr1", "kernel", q.RTMR[1], len(c.Kernels) > 0, func() (string, bool, bool) {
		k, ok := c.FindRTMR1(q.RTMR[1])
		if !ok {
			return "", false, false
		}
		return "the kernel " + x.in.Kernels[k].Name, k == 0, true
	})
	x.register("rtmr2", "command line or initial RAM disk", q.RTMR[2], len(c.Initrds) > 0 && len(lines) > 0, func() (string, bool, bool) {
		l, i, first, ok := c.FindRTMR2(q.RTMR[2])
		if !ok {
			return "", false, false
		}
		disk := "no initial RAM disk"
		if i < len(x.in.Initrds) {
			disk = "the initial RAM disk " + x.in.Initrds[i].Name
		}
		text := "the command line of " + lines[l].Name + " and " + disk
		if first {
			text += ", by firmware that puts initrd=initrd first (--initrd-first)"
		}
		return text, l == 0 && i == 0 && !first, true
	})
	if c, failed := x.failed("tdx.rtmr0"); failed {
		x.say("RTMR0 is %s: it follows from the host's ACPI tables, the memory and the number of vCPUs, and can't be computed from an image; take it from evidence of a VM of that shape which you trust", c.Found)
	}
}

func (x *explanation) mrtd(c measure.Candidates, mrtd [48]byte) {
	_, failed := x.failed("tdx.mrtd")
	if len(c.Firmwares) == 0 {
		if failed {
			x.say("MRTD is not one of the policy's: another firmware was launched; give the one that you expected (--firmware), and it is recomputed")
		}
		return
	}
	i, order, ok := c.FindMRTD(mrtd)
	switch {
	case ok && !failed, ok && i > 0:
		x.say("MRTD is that of the firmware %s, %s", x.in.Firmwares[i].Name, order)
	case ok:
		x.say("MRTD is that of the firmware %s, %s; the policy lists another: for a host that adds pages in another order (--page-order), or for another build", x.in.Firmwares[i].Name, order)
	case failed:
		x.say("MRTD is not that of %s in either order of pages: another firmware was launched", x.in.Firmwares[0].Name)
	}
}

// register explains RTMR1 and RTMR2. find says what it follows from, and whether
// that is what was expected.
func (x *explanation) register(name, what string, value [48]byte, recompute bool, find func() (text string, expected, ok bool)) {
	_, failed := x.failed("tdx." + name)
	upper := strings.ToUpper(name)
	if value == ([48]byte{}) {
		if failed {
			x.say("%s is zero: the firmware does not measure what it boots; Debian 12's OVMF.fd does not, Debian 13's does", upper)
		}
		return
	}
	if !recompute {
		if failed {
			x.say("%s is not one of the policy's: another %s was booted; give what you expected (--image), and it is recomputed", upper, what)
		}
		return
	}
	text, expected, ok := find()
	switch {
	case ok && !failed:
		x.say("%s is that of %s", upper, text)
	case ok && expected:
		x.say("%s is that of %s, as you expected; the policy lists another: it was made for another build", upper, text)
	case ok:
		x.say("%s is that of %s; the policy expects %s", upper, text, x.expects(name))
	case failed:
		x.say("%s follows from none of the files given: another %s was booted, or by firmware that measures in another order", upper, what)
	}
}

// expects names what the policy's registers follow from.
func (x *explanation) expects(name string) string {
	c, lines := x.candidates()
	if x.in.Policy == nil || x.in.Policy.TDX == nil {
		return "another"
	}
	switch name {
	case "rtmr1":
		for _, v := range x.in.Policy.TDX.RTMR1 {
			if len(v) != 48 {
				continue
			}
			if k, ok := c.FindRTMR1([48]byte(v)); ok {
				return "the kernel " + x.in.Kernels[k].Name
			}
		}
	case "rtmr2":
		for _, v := range x.in.Policy.TDX.RTMR2 {
			if len(v) != 48 {
				continue
			}
			if l, i, _, ok := c.FindRTMR2([48]byte(v)); ok {
				disk := "no initial RAM disk"
				if i < len(x.in.Initrds) {
					disk = "the initial RAM disk " + x.in.Initrds[i].Name
				}
				return "the command line of " + lines[l].Name + " and " + disk
			}
		}
	}
	return "another, which none of the files given has"
}

// zeroOr words a field that is often zero.
func zeroOr(b []byte, zero string) string {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return zero
	}
	return hex.EncodeToString(b)
}
