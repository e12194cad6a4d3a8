package attest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// SNPPolicy appraises SEV-SNP reports. Field names follow AMD's "SEV Secure
// Nested Paging Firmware ABI Specification" (publication 56860), table 23.
type SNPPolicy struct {
	// Measurements are the launch digests accepted, 48 bytes each.
	Measurements []Hex `json:"measurements"`
	// HostData are the launch fields accepted, 32 bytes each, where the caller
	// brings no manifest of its own; may be empty.
	HostData []Hex `json:"host_data,omitzero"`
	// Products are AMD's product lines accepted: "Milan", "Genoa", "Turin".
	// Bergamo and Siena are "Genoa", whose keys they have.
	Products []string `json:"products"`
	// ChipIDs are the CHIP_IDs accepted, 64 bytes each, or "any" alone.
	ChipIDs []string `json:"chip_ids"`
	// Signers are the keys accepted: "vcek", "vlek".
	Signers []string `json:"signers"`
	// MinimumTCB per product line: current, reported, committed and launch TCB
	// must each reach it, component by component.
	MinimumTCB map[string]SNPTCB `json:"minimum_tcb"`
	// Revocation: AMD's revocation list must be there and valid.
	Revocation Check          `json:"revocation"`
	Guest      SNPGuestPolicy `json:"guest_policy"`
	// Platform is what the host must be like, as the firmware states it.
	Platform SNPPlatform `json:"platform,omitzero"`
	// RequireMitigations are bits of LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR that
	// must be set in both; zero: they are shown alone. AMD's bulletins say what a
	// bit stands for. Reports before version 5 have no vectors and are refused.
	RequireMitigations Bits `json:"require_mitigations,omitzero"`
	// VMPL of the report; design default 0.
	VMPL uint32 `json:"vmpl"`
	// IDKeyDigests and AuthorKeyDigests, 48 bytes each, are accepted beside none
	// at all (zeros); empty: only zeros.
	IDKeyDigests     []Hex `json:"id_key_digests,omitzero"`
	AuthorKeyDigests []Hex `json:"author_key_digests,omitzero"`
}

// SNPTCB are the security versions of a TCB_VERSION; FMC is Turin's alone.
type SNPTCB struct {
	FMC        uint8 `json:"fmc,omitzero"`
	Bootloader uint8 `json:"bootloader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

// SNPGuestPolicy says which bits of the guest policy (56860, table 9) may be
// set; the zero value is the strictest. A report must set what Require says.
type SNPGuestPolicy struct {
	AllowDebug          bool `json:"allow_debug,omitzero"`
	AllowMigrationAgent bool `json:"allow_migration_agent,omitzero"`
	AllowSMT            bool `json:"allow_smt,omitzero"`
	AllowCXL            bool `json:"allow_cxl,omitzero"`
	RequireSingleSocket bool `json:"require_single_socket,omitzero"`
	// MinimumABI is the least ABI version that the policy may ask for, "1.55";
	// empty: any.
	MinimumABI string `json:"minimum_abi,omitzero"`
}

// SNPPlatform says which bits of PLATFORM_INFO (56860, table 24) a report must
// have set or not. A bit that nothing is said of is shown and not judged: hosts
// differ in them, and most of what they say is no fault.
type SNPPlatform struct {
	// ForbidSMT: hosts with simultaneous multithreading are refused.
	ForbidSMT bool `json:"forbid_smt,omitzero"`
	// RequireTSME: all memory is encrypted, the host's own too.
	RequireTSME bool `json:"require_tsme,omitzero"`
	// RequireECC: the memory corrects errors.
	RequireECC bool `json:"require_ecc,omitzero"`
	// RequireRAPLDisabled: the host can't measure the power that a guest draws.
	RequireRAPLDisabled bool `json:"require_rapl_disabled,omitzero"`
	// RequireCiphertextHiding: the host can't read a guest's ciphertext in memory.
	RequireCiphertextHiding bool `json:"require_ciphertext_hiding,omitzero"`
	// RequireAliasCheck: the firmware looked for memory that answers at two
	// addresses since the last boot, and found none ("BadRAM").
	RequireAliasCheck bool `json:"require_alias_check,omitzero"`
	// ForbidTIO: hosts with trusted devices (SEV-TIO) are refused.
	ForbidTIO bool `json:"forbid_tio,omitzero"`
	// ForbidReserved: a bit that this program does not know is refused.
	ForbidReserved bool `json:"forbid_reserved,omitzero"`
}

// Bits is a vector of 64 bits, as text a hexadecimal number such as "0x3".
type Bits uint64

func (b Bits) String() string { return fmt.Sprintf("%#x", uint64(b)) }

// MarshalText is String.
func (b Bits) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText takes what String writes, and no vector without a bit: whoever
// requires nothing leaves the member out.
func (b *Bits) UnmarshalText(text []byte) error {
	digits, prefixed := strings.CutPrefix(string(text), "0x")
	n, err := strconv.ParseUint(digits, 16, 64)
	if !prefixed || err != nil || Bits(n).String() != string(text) {
		return errors.New(`is not a hexadecimal number of at most 64 bits such as "0x3"`)
	}
	if n == 0 {
		return errors.New("has no bit set: leave it out to require nothing")
	}
	*b = Bits(n)
	return nil
}

// SimPolicy appraises evidence of the simulated TEE. Its reports are SNP's, but
// no vendor stands behind them.
type SimPolicy struct {
	// Accept must be the text SimConsent.
	Accept string `json:"accept"`
	// Roots are the SHA-256 of the DER root certificates accepted, 32 bytes each:
	// the host's own, printed by it.
	Roots []Hex `json:"roots"`
	// Measurements are the launch digests accepted, 48 bytes each.
	Measurements []Hex `json:"measurements"`
	// HostData as in SNPPolicy.
	HostData []Hex `json:"host_data,omitzero"`
}

// SimConsent is what a policy that accepts simulated evidence says.
const SimConsent = "SIMULATED evidence, which protects nothing"
