package receipt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/sgx"
	"github.com/ultravioletrs/cocos/attest/snp"
	"github.com/ultravioletrs/cocos/attest/tdx"
)

// measured is what evidence says was measured, under the names that policies
// have for it.
func measured(e attest.Evidence) (map[string]attest.Hex, error) {
	switch e.Type {
	case attest.SNP, attest.Sim:
		r, err := snp.Parse(e.Report)
		if err != nil {
			return nil, err
		}
		return map[string]attest.Hex{"measurement": r.Measurement[:]}, nil
	case attest.TDX:
		q, err := tdx.Parse(e.Report)
		if err != nil {
			return nil, err
		}
		return map[string]attest.Hex{
			"mrtd": q.MRTD[:], "rtmr0": q.RTMR[0][:], "rtmr1": q.RTMR[1][:], "rtmr2": q.RTMR[2][:], "rtmr3": q.RTMR[3][:],
		}, nil
	case attest.SGX:
		q, err := sgx.Parse(e.Report)
		if err != nil {
			return nil, err
		}
		return map[string]attest.Hex{"mr_enclave": q.Report.MREnclave[:], "mr_signer": q.Report.MRSigner[:]}, nil
	}
	return nil, fmt.Errorf("evidence of type %q is not known", e.Type)
}

// registers is measurement as text, in a fixed order.
func registers(measurement map[string]attest.Hex) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(measurement)) {
		parts = append(parts, name+" "+measurement[name].String())
	}
	return strings.Join(parts, ", ")
}
