package attest

// TDXPolicy appraises TDX quotes. Field names follow Intel's "TDX Module Base
// Architecture Specification", TD_REPORT, and "DCAP Quoting Library API".
//
// What no member says is judged all the same: MRSIGNERSEAM, SEAMATTRIBUTES,
// MROWNER and MROWNERCONFIG must be zero, and the report data be what was
// expected. A quote of version 4 does not state MRSERVICETD.
type TDXPolicy struct {
	// MRTD, RTMR0 to RTMR2 are the measurements accepted, 48 bytes each. RTMR0
	// depends on the host's ACPI tables, which can hold code that the guest runs.
	MRTD  []Hex `json:"mrtd"`
	RTMR0 []Hex `json:"rtmr0"`
	RTMR1 []Hex `json:"rtmr1"`
	RTMR2 []Hex `json:"rtmr2"`
	// RTMR3 accepted, 48 bytes each; empty: only zeros.
	RTMR3 []Hex `json:"rtmr3,omitzero"`
	// MRConfigID are the launch fields accepted, 48 bytes each, where the caller
	// brings no manifest of its own; may be empty.
	MRConfigID []Hex `json:"mr_config_id,omitzero"`
	// MRSEAM are the TDX modules accepted, 48 bytes each.
	MRSEAM []Hex `json:"mr_seam"`
	// Attributes are accepted exactly, 8 bytes as in the quote (little endian);
	// design default 0000001000000000 (SEPT_VE_DISABLE). Those with a bit of the
	// first byte set (DEBUG and others that make a TD untrusted) need AllowDebug.
	Attributes []Hex `json:"attributes"`
	// XFAM accepted exactly, 8 bytes as in the quote.
	XFAM []Hex `json:"xfam"`
	// MRServiceTD accepted beside zeros, 48 bytes each (TDX 1.5 reports in version
	// 5 quotes); empty: only zeros.
	MRServiceTD []Hex `json:"mr_service_td,omitzero"`
	// AllowDebug accepts the debug attribute, where Attributes list it. The host
	// can then read and change the TD: never outside of tests.
	AllowDebug bool     `json:"allow_debug,omitzero"`
	TCB        IntelTCB `json:"tcb"`
}

// SGXPolicy appraises SGX quotes of version 3. Field names follow Intel's
// "Software Developer's Manual", volume 3D, REPORT.
type SGXPolicy struct {
	// MREnclave are the enclaves accepted, 32 bytes each; or, where it is empty,
	// MRSigner (32 bytes each), ISVProdID and MinimumISVSVN say which. Where both
	// are given, both must hold.
	MREnclave     []Hex    `json:"mr_enclave,omitzero"`
	MRSigner      []Hex    `json:"mr_signer,omitzero"`
	ISVProdID     []uint16 `json:"isv_prod_id,omitzero"`
	MinimumISVSVN uint16   `json:"minimum_isv_svn,omitzero"`
	// Attributes accepted exactly, 16 bytes as in the quote (flags and XFRM),
	// DEBUG masked out (so listed without it) and judged by AllowDebug.
	Attributes []Hex `json:"attributes"`
	// MiscSelect accepted, 4 bytes.
	MiscSelect []Hex `json:"misc_select"`
	// ConfigID (64 bytes), ISVExtProdID and ISVFamilyID (16 bytes) accepted beside
	// zeros, of enclaves with key separation and sharing; empty: only zeros.
	// The host chooses CONFIGID.
	ConfigID     []Hex `json:"config_id,omitzero"`
	ISVExtProdID []Hex `json:"isv_ext_prod_id,omitzero"`
	ISVFamilyID  []Hex `json:"isv_family_id,omitzero"`
	// AllowDebug accepts enclaves that the host can read and change: never outside
	// of tests.
	AllowDebug bool     `json:"allow_debug,omitzero"`
	TCB        IntelTCB `json:"tcb"`
}

// IntelTCB is what TDX and SGX policies say of the platform.
type IntelTCB struct {
	// Collateral: TCB info, QE identity and revocation lists must be there and
	// valid. Unchecked, only the chain to Intel's root and the signatures are, and
	// that the quoting enclave is Intel's; Status, Advisories and
	// MinimumEvaluation then count for nothing.
	Collateral Check `json:"collateral"`
	// Status are the TCB statuses accepted, of IntelStatuses; the design's default
	// is "UpToDate" alone. What is judged is the status of the platform, its TDX
	// module and its quoting enclave together. Required where Collateral is.
	Status []string `json:"status,omitzero"`
	// Advisories are those accepted where a status brings some, such as
	// "INTEL-SA-00615", or "any" alone; empty: none.
	Advisories []string `json:"advisories,omitzero"`
	// MinimumEvaluation is the least tcbEvaluationDataNumber of both TCB info
	// and QE identity, 1 or more. Required where Collateral is.
	MinimumEvaluation int `json:"minimum_evaluation,omitzero"`
	// FMSPCs are the platforms' kinds accepted, 6 bytes each in lower-case
	// hexadecimal, or "any" alone.
	FMSPCs []string `json:"fmspcs"`
	// PPIDs are the platforms accepted, 16 bytes each in lower-case hexadecimal,
	// or "any" alone.
	PPIDs []string `json:"ppids"`
}

// IntelStatuses are the TCB statuses that a policy may accept, Intel's words. A
// revoked platform is never accepted.
func IntelStatuses() []string {
	return []string{
		"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
		"OutOfDate", "OutOfDateConfigurationNeeded",
	}
}
