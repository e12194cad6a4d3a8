package ovmf

import "encoding/hex"

// The digests (SHA-256) of the firmware that this version was tried with.
const (
	// AmdSevSHA256 is that of OVMF.amdsev.fd in Debian's ovmf-amdsev
	// 2026.08+ds-2, which verifies the hashes of kernel, initial RAM disk and
	// command line: an end-to-end test shows that a wrong one does not boot.
	AmdSevSHA256 = "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f"
	// TDXSHA256 is that of OVMF.fd in Debian's ovmf 2025.02-8+deb13u1, which TDX
	// can launch, and which has the driver that measures what it boots (TdTcg2Dxe).
	// Debian 12's has the metadata and not the driver: there RTMRs stay zero.
	TDXSHA256 = "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db"
)

var (
	verifying = map[string]bool{AmdSevSHA256: true}
	measuring = map[string]bool{TDXSHA256: true}
)

// KnownVerifying tells whether the firmware with this SHA-256 is known to refuse
// a kernel, initial RAM disk or command line that differs from its table of
// hashes. Tables can't tell that.
func KnownVerifying(sha256 [32]byte) bool { return verifying[hex.EncodeToString(sha256[:])] }

// KnownMeasuring tells whether the firmware with this SHA-256 is known to measure
// kernel, command line and initial RAM disk into a TD's RTMR1 and RTMR2, in the
// order that hal/measure computes. Its tables can't tell.
func KnownMeasuring(sha256 [32]byte) bool { return measuring[hex.EncodeToString(sha256[:])] }
