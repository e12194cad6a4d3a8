package inteltest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ultravioletrs/cocos/attest"
)

// Folder of real evidence, where the environment names one.
func Folder() (string, bool) {
	dir := os.Getenv("COCOS_EVIDENCE")
	return dir, dir != ""
}

// Real reads a quote of real hardware, with Intel's collateral if there is some
// beside it: quote.bin, and collateral.json with DER in hexadecimal and JSON as
// texts without their signatures.
func Real(dir, name string, t attest.Type) (attest.Evidence, error) {
	quote, err := os.ReadFile(filepath.Join(dir, name, "quote.bin"))
	if err != nil {
		return attest.Evidence{}, err
	}
	e := attest.Evidence{Type: t, Report: quote}
	b, err := os.ReadFile(filepath.Join(dir, name, "collateral.json"))
	if os.IsNotExist(err) {
		return e, nil
	}
	var c map[string]string
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return attest.Evidence{}, err
	}
	for _, member := range []string{"root_ca_crl", "pck_crl"} {
		der, err := hex.DecodeString(c[member])
		if err != nil {
			return attest.Evidence{}, fmt.Errorf("%s: %w", member, err)
		}
		e.Endorsements.CRLs = append(e.Endorsements.CRLs, der)
	}
	e.Endorsements.TCBInfo = []byte(`{"tcbInfo":` + c["tcb_info"] + `,"signature":"` + c["tcb_info_signature"] + `"}`)
	e.Endorsements.TCBInfoChain = []byte(c["tcb_info_issuer_chain"])
	e.Endorsements.QEIdentity = []byte(`{"enclaveIdentity":` + c["qe_identity"] + `,"signature":"` + c["qe_identity_signature"] + `"}`)
	e.Endorsements.QEIdentityChain = []byte(c["qe_identity_issuer_chain"])
	return e, nil
}
