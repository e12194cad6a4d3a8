package collateral

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/attest/snp"
)

// Types of PEM blocks.
const (
	pemCertificate = "CERTIFICATE"
	pemCRL         = "X509 CRL"
)

var errUnknown = errors.New("it is none of: certificates or revocation lists in PEM or DER, a certificate table of SEV-SNP, Intel's TCB info or QE identity, a collateral.json")

// parse tells by content what a file is.
func parse(b []byte) (attest.Endorsements, error) {
	trimmed := bytes.TrimSpace(b)
	switch {
	case len(trimmed) == 0:
		return attest.Endorsements{}, errors.New("it is empty")
	case trimmed[0] == '{':
		return parseJSON(trimmed)
	case bytes.Contains(b, []byte("-----BEGIN ")):
		return parsePEM(b)
	}
	if e, err := parseDER(b); err == nil {
		return e, nil
	}
	if der, err := hex.DecodeString(string(trimmed)); err == nil { // as caching services send lists
		return parseDER(der)
	}
	if e, err := snp.ParseCertTable(b); err == nil && len(e.Certificates)+len(e.CRLs) > 0 {
		return e, nil
	}
	return attest.Endorsements{}, errUnknown
}

func parsePEM(b []byte) (attest.Endorsements, error) {
	var e attest.Endorsements
	for i := 0; ; i++ {
		block, rest := pem.Decode(b)
		if block == nil {
			if i == 0 || bytes.Contains(b, []byte("-----BEGIN ")) {
				return attest.Endorsements{}, fmt.Errorf("PEM block %d is damaged", i+1)
			}
			return e, nil
		}
		var err error
		switch block.Type {
		case pemCertificate:
			if _, err = x509.ParseCertificate(block.Bytes); err == nil {
				e.Certificates = append(e.Certificates, block.Bytes)
			}
		case pemCRL:
			if _, err = x509.ParseRevocationList(block.Bytes); err == nil {
				e.CRLs = append(e.CRLs, block.Bytes)
			}
		default:
			err = fmt.Errorf("is %q; expected %q or %q", block.Type, pemCertificate, pemCRL)
		}
		if err != nil {
			return attest.Endorsements{}, fmt.Errorf("PEM block %d: %w", i+1, err)
		}
		b = rest
	}
}

func parseDER(b []byte) (attest.Endorsements, error) {
	if _, err := x509.ParseCertificate(b); err == nil {
		return attest.Endorsements{Certificates: [][]byte{b}}, nil
	}
	if _, err := x509.ParseRevocationList(b); err == nil {
		return attest.Endorsements{CRLs: [][]byte{b}}, nil
	}
	return attest.Endorsements{}, errUnknown
}

// Members of Intel's signed answers.
const (
	memberTCBInfo    = "tcbInfo"
	memberQEIdentity = "enclaveIdentity"
	memberSignature  = "signature"
)

func parseJSON(b []byte) (attest.Endorsements, error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(b, &members); err != nil {
		return attest.Endorsements{}, fmt.Errorf("it is not one JSON object: %w", err)
	}
	switch {
	case members[memberTCBInfo] != nil && members[memberSignature] != nil:
		return attest.Endorsements{TCBInfo: b}, nil
	case members[memberQEIdentity] != nil && members[memberSignature] != nil:
		return attest.Endorsements{QEIdentity: b}, nil
	case members["tcb_info"] != nil || members["qe_identity"] != nil || members["pck_crl"] != nil || members["root_ca_crl"] != nil:
		return parseBundle(b)
	}
	return attest.Endorsements{}, errUnknown
}

// bundle is the layout in which DCAP tools keep everything about one platform:
// lists in hexadecimal, Intel's objects as texts with the signature apart.
type bundle struct {
	PCKCRLChain         string `json:"pck_crl_issuer_chain"`
	RootCRL             string `json:"root_ca_crl"`
	PCKCRL              string `json:"pck_crl"`
	TCBInfoChain        string `json:"tcb_info_issuer_chain"`
	TCBInfo             string `json:"tcb_info"`
	TCBInfoSignature    string `json:"tcb_info_signature"`
	QEIdentityChain     string `json:"qe_identity_issuer_chain"`
	QEIdentity          string `json:"qe_identity"`
	QEIdentitySignature string `json:"qe_identity_signature"`
	PCKChain            string `json:"pck_certificate_chain"`
}

func parseBundle(b []byte) (attest.Endorsements, error) {
	var in bundle
	if err := json.Unmarshal(b, &in); err != nil {
		return attest.Endorsements{}, fmt.Errorf("its members are not those of a collateral.json: %w", err)
	}
	var e attest.Endorsements
	for _, chain := range []struct{ name, text string }{{"pck_crl_issuer_chain", in.PCKCRLChain}, {"pck_certificate_chain", in.PCKChain}} {
		if chain.text == "" {
			continue
		}
		found, err := parsePEM([]byte(chain.text))
		if err != nil {
			return attest.Endorsements{}, fmt.Errorf("/%s: %w", chain.name, err)
		}
		e = e.With(found)
	}
	for _, list := range []struct{ name, text string }{{"root_ca_crl", in.RootCRL}, {"pck_crl", in.PCKCRL}} {
		if list.text == "" {
			continue
		}
		der, err := hex.DecodeString(list.text)
		if err != nil {
			return attest.Endorsements{}, fmt.Errorf("/%s is not hexadecimal", list.name)
		}
		if _, err := x509.ParseRevocationList(der); err != nil {
			return attest.Endorsements{}, fmt.Errorf("/%s is not a revocation list: %w", list.name, err)
		}
		e.CRLs = append(e.CRLs, der)
	}
	e.TCBInfoChain, e.QEIdentityChain = []byte(in.TCBInfoChain), []byte(in.QEIdentityChain)
	var err error
	if e.TCBInfo, err = signed("tcb_info", memberTCBInfo, in.TCBInfo, in.TCBInfoSignature); err != nil {
		return attest.Endorsements{}, err
	}
	if e.QEIdentity, err = signed("qe_identity", memberQEIdentity, in.QEIdentity, in.QEIdentitySignature); err != nil {
		return attest.Endorsements{}, err
	}
	return e, nil
}

// signed puts an object of Intel's and its signature together as Intel's service
// sends them. The object's bytes stay as they are: they are what was signed.
func signed(name, member, object, signature string) ([]byte, error) {
	if object == "" {
		return nil, nil
	}
	if _, err := hex.DecodeString(signature); err != nil || signature == "" {
		return nil, fmt.Errorf("/%s_signature is not there, or not hexadecimal", name)
	}
	if !jsontext.Value(object).IsValid() {
		return nil, fmt.Errorf("/%s is not JSON", name)
	}
	return fmt.Appendf(nil, `{%q:%s,%q:%q}`, member, object, memberSignature, signature), nil
}
