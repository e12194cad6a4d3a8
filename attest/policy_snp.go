package attest

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
