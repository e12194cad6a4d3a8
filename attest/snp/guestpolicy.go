package snp

import (
	"fmt"
	"strconv"
	"strings"
)

// The bits of a guest policy (56860, table 9). Those from 22 to 25 only forbid
// the host something, and may be set.
const (
	bitSMT            = 1 << 16
	bitMustBeOne      = 1 << 17
	bitMigrationAgent = 1 << 18
	bitDebug          = 1 << 19
	bitSingleSocket   = 1 << 20
	bitCXL            = 1 << 21
	knownPolicyBits   = 1<<26 - 1
)

// guestPolicy judges what the guest was launched to allow its host.
func (a *appraisal) guestPolicy() {
	bits, p := a.report.Policy, a.policy.Guest
	for _, b := range []struct {
		name    string
		bit     uint64
		allowed bool
	}{
		{"snp.policy.debug", bitDebug, p.AllowDebug},
		{"snp.policy.migration_agent", bitMigrationAgent, p.AllowMigrationAgent},
		{"snp.policy.smt", bitSMT, p.AllowSMT},
		{"snp.policy.cxl", bitCXL, p.AllowCXL},
	} {
		expected := "off"
		if b.allowed {
			expected = "off or on"
		}
		a.Add(bits&b.bit == 0 || b.allowed, b.name, expected, onOff(bits&b.bit != 0))
	}
	expected := "off or on"
	if p.RequireSingleSocket {
		expected = "on"
	}
	a.Add(bits&bitSingleSocket != 0 || !p.RequireSingleSocket, "snp.policy.single_socket", expected, onOff(bits&bitSingleSocket != 0))
	a.Add(bits&bitMustBeOne != 0 && bits&^knownPolicyBits == 0, "snp.policy.reserved", "bit 17 set, no bit above 25", fmt.Sprintf("%#x", bits))
	a.abi(uint8(bits>>8), uint8(bits))
}

// abi judges the firmware's least version that the guest asks for.
func (a *appraisal) abi(major, minor uint8) {
	got := fmt.Sprintf("%d.%d", major, minor)
	least := a.policy.Guest.MinimumABI
	if least == "" {
		a.Skip("snp.policy.abi", got)
		return
	}
	wantMajor, wantMinor, ok := parseABI(least)
	if !ok {
		a.Add(false, "snp.policy.abi", "a version such as 1.55 in the policy", fmt.Sprintf("%q", least))
		return
	}
	a.Add(major > wantMajor || major == wantMajor && minor >= wantMinor, "snp.policy.abi", "at least "+least, got)
}

func parseABI(s string) (major, minor uint8, ok bool) {
	first, second, dotted := strings.Cut(s, ".")
	a, errA := strconv.ParseUint(first, 10, 8)
	b, errB := strconv.ParseUint(second, 10, 8)
	return uint8(a), uint8(b), dotted && errA == nil && errB == nil
}

func onOff(set bool) string {
	if set {
		return "on"
	}
	return "off"
}

// hints say what most likely happened where a claim fails, and what to do.
var hints = map[string]string{
	"snp.type":                   "this is other evidence than a SEV-SNP report",
	"snp.section":                "add a section snp to the policy if you want to accept SEV-SNP",
	"snp.report":                 "give the raw report as the firmware writes it",
	"snp.signer":                 "list the signer in /snp/signers if you accept it: a VLEK is a cloud provider's key, a VCEK a chip's",
	"snp.certificate":            "give the VCEK's or VLEK's certificate; AMD's key distribution service has that of a VCEK",
	"snp.product":                "list the product line in /snp/products if you accept it",
	"snp.chain":                  "the certificate is forged, or of another product line",
	"snp.dates":                  "the certificate is not valid at that time; ask for a newer one, or state the time at which the evidence was made",
	"snp.revocation":             "get AMD's current revocation list for the product line; if it names the key, trust nothing it signed",
	"snp.certificate.product":    "the certificate is of another machine",
	"snp.certificate.tcb":        "the certificate is for another firmware version; get the one for the version that the report states",
	"snp.certificate.chip_id":    "the certificate is of another chip, or the host hides the chip's identity",
	"snp.signature":              "the report was changed, is signed by another key, or is not signed at all (MASK_CHIP_KEY)",
	"snp.chip_id":                "the VM runs on a chip that the policy does not list",
	"snp.tcb.current":            "the host's firmware or microcode is older than the policy asks for; it must be updated",
	"snp.tcb.reported":           "the host's firmware or microcode is older than the policy asks for, or reports an older version",
	"snp.tcb.committed":          "the host's firmware can still be rolled back to a version older than the policy asks for",
	"snp.tcb.launch":             "the VM was launched, or migrated to, before the host's firmware was updated; start it again",
	"snp.measurement":            "another image, firmware, command line, number or model of vCPUs was booted; explain recomputes which",
	"snp.report_data":            "the evidence was made for another connection, manifest or purpose: it may be replayed",
	"snp.host_data":              "the VM was launched for another manifest than yours",
	"snp.vmpl":                   "the report was asked for at another privilege level than the guest's",
	"snp.id_key_digest":          "the VM was launched with an ID block; list its key's digest in /snp/id_key_digests if you accept it",
	"snp.author_key_digest":      "the VM was launched with an author key; list its digest in /snp/author_key_digests if you accept it",
	"snp.report_id_ma":           "a migration agent is bound to the VM",
	"snp.policy.debug":           "the host can read and change the VM's memory: never accept this outside of tests",
	"snp.policy.migration_agent": "the VM may be moved by a migration agent",
	"snp.policy.smt":             "the VM may share cores with others: /snp/guest_policy/allow_smt accepts it",
	"snp.policy.cxl":             "the VM's memory may lie on CXL devices",
	"snp.policy.single_socket":   "the VM may run on more than one socket",
	"snp.policy.abi":             "the VM allows older firmware than the policy asks for",

	"snp.platform_info.smt":               "the host's cores run two threads each, which share caches: its operator can switch that off in the firmware's setup",
	"snp.platform_info.tsme":              "the host does not encrypt all of its memory: its operator can switch that on in the firmware's setup",
	"snp.platform_info.ecc":               "the host's memory does not correct errors",
	"snp.platform_info.rapl_disabled":     "the host can measure what power the VM draws, and with that what it computes",
	"snp.platform_info.ciphertext_hiding": "the host can read the VM's encrypted memory, and watch what changes in it; older processors can't prevent that",
	"snp.platform_info.alias_check":       "the host's firmware is too old to look for memory that answers at two addresses (BadRAM), or found some",
	"snp.platform_info.tio":               "the host can offer the VM devices that reach into its private memory",
	"snp.platform_info.reserved":          "the host's firmware states what this program does not know; a newer one may",
	"snp.mitigations.launch":              "the VM was launched before the host's firmware mended that, or on firmware that does not state it; start it again",
	"snp.mitigations.current":             "the host's firmware has not mended that, or does not state it; it must be updated",
}
