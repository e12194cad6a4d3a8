package tsm

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"fmt"

	"github.com/ultravioletrs/cocos/attest"
)

// TDREPORT_STRUCT (Intel TDX Module ABI, "TD Measurement and Attestation"):
// where its parts lie, in bytes.
const (
	tdReportSize   = 1024
	tdReportType   = 0   // 0x81: a TD's
	tdInfoHash     = 80  // SHA-384 of TDINFO
	tdReportData   = 128 // 64 bytes
	tdInfo         = 512 // TDINFO_STRUCT, to the end
	tdMRConfigID   = tdInfo + 64
	tdTypeOfReport = 0x81
)

// mrConfigID reads MRCONFIGID (48 bytes) of a TDREPORT about data.
func mrConfigID(b []byte, data attest.ReportData) ([]byte, error) {
	if len(b) != tdReportSize {
		return nil, fmt.Errorf("has %d bytes; expected %d", len(b), tdReportSize)
	}
	if b[tdReportType] != tdTypeOfReport {
		return nil, fmt.Errorf("has type %#x; expected %#x, a TD's", b[tdReportType], tdTypeOfReport)
	}
	if !bytes.Equal(b[tdReportData:][:len(data)], data[:]) {
		return nil, errOtherData
	}
	if sum := sha512.Sum384(b[tdInfo:]); !bytes.Equal(sum[:], b[tdInfoHash:][:len(sum)]) {
		return nil, errors.New("its digest of TDINFO is not that of its TDINFO")
	}
	return bytes.Clone(b[tdMRConfigID:][:sha512.Size384]), nil
}
