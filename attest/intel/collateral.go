package intel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxCollateral bounds one JSON text of Intel's, and a chain beside it, in bytes.
const maxCollateral = 1 << 20

// Versions of Intel's JSON, and what its members "id" say.
const (
	tcbInfoVersion  = 3
	identityVersion = 2
	idQE            = "QE"
	idTDQE          = "TD_QE"
	tcbTypeKnown    = 0 // by which levels are compared component by component
)

// signedJSON is an object of Intel's with its signature: exactly the bytes that
// were signed, and when they are good.
type signedJSON struct {
	raw       []byte
	signature [64]byte
}

// readSigned takes {"MEMBER": {...}, "signature": "..."} apart, and nothing else.
func readSigned(b []byte, member string) (signedJSON, error) {
	var s signedJSON
	if len(b) == 0 {
		return s, errors.New("none")
	}
	if len(b) > maxCollateral {
		return s, fmt.Errorf("%d bytes; at most %d are taken", len(b), maxCollateral)
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(b, &members); err != nil {
		return s, fmt.Errorf("not Intel's JSON: %w", err)
	}
	if len(members) != 2 || members[member] == nil || members["signature"] == nil {
		return s, fmt.Errorf("not an object with the members %s and signature alone", member)
	}
	var text string
	if err := json.Unmarshal(members["signature"], &text); err != nil {
		return s, errors.New("its signature is not a text")
	}
	signature, err := hex.DecodeString(text)
	if err != nil || len(signature) != len(s.signature) {
		return s, fmt.Errorf("its signature is not %d bytes in hexadecimal", len(s.signature))
	}
	s.raw, s.signature = members[member], [64]byte(signature)
	return s, nil
}

func (s signedJSON) signedBy(signer *x509.Certificate) error {
	key, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || !verify(key, s.raw, s.signature) {
		return fmt.Errorf("not signed by the key of %q", signer.Subject.CommonName)
	}
	return nil
}

// hexBytes are bytes as Intel writes them: hexadecimal digits of either case.
type hexBytes []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *hexBytes) UnmarshalText(b []byte) error {
	d, err := hex.DecodeString(string(b))
	if err != nil {
		return errors.New("is not hexadecimal")
	}
	*h = d
	return nil
}

// tcbInfo is Intel's "TCB Info V3" for SGX or TDX: what it thinks of platforms of
// one kind, from the newest level of their parts to the oldest.
type tcbInfo struct {
	ID         string           `json:"id"`
	Version    int              `json:"version"`
	IssueDate  time.Time        `json:"issueDate"`
	NextUpdate time.Time        `json:"nextUpdate"`
	FMSPC      hexBytes         `json:"fmspc"`
	PCEID      hexBytes         `json:"pceId"`
	Type       *int             `json:"tcbType"`
	Evaluation int              `json:"tcbEvaluationDataNumber"`
	Module     *moduleIdentity  `json:"tdxModule"`
	Modules    []moduleIdentity `json:"tdxModuleIdentities"`
	Levels     []tcbLevel       `json:"tcbLevels"`
}

// moduleIdentity is who signed a TDX module, and its levels where it has its own.
type moduleIdentity struct {
	ID         string     `json:"id"`
	MRSigner   hexBytes   `json:"mrsigner"`
	Attributes hexBytes   `json:"attributes"`
	Mask       hexBytes   `json:"attributesMask"`
	Levels     []tcbLevel `json:"tcbLevels"`
}

type tcbLevel struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		PCESVN *uint16     `json:"pcesvn"`
		TDX    []component `json:"tdxtcbcomponents"`
		ISVSVN *uint16     `json:"isvsvn"` // of modules and quoting enclaves
	} `json:"tcb"`
	Date       time.Time `json:"tcbDate"`
	Status     string    `json:"tcbStatus"`
	Advisories []string  `json:"advisoryIDs"`
}

type component struct {
	SVN *uint8 `json:"svn"`
}

// parseTCBInfo reads the signed object. Members that it does not know may be
// there: Intel adds some, and changes the version where meanings change.
func parseTCBInfo(raw []byte) (*tcbInfo, error) {
	t := new(tcbInfo)
	if err := json.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("reading TCB info: %w", err)
	}
	return t, t.check()
}

func (t *tcbInfo) check() error {
	switch {
	case t.Version != tcbInfoVersion:
		return fmt.Errorf("TCB info has version %d; expected %d", t.Version, tcbInfoVersion)
	case t.Type == nil || *t.Type != tcbTypeKnown:
		return fmt.Errorf("TCB info has another tcbType than %d", tcbTypeKnown)
	case len(t.FMSPC) != 6 || len(t.PCEID) != 2:
		return errors.New("TCB info lacks fmspc or pceId")
	case t.IssueDate.IsZero() || t.NextUpdate.IsZero():
		return errors.New("TCB info lacks issueDate or nextUpdate")
	case len(t.Levels) == 0:
		return errors.New("TCB info lacks tcbLevels")
	}
	tdx := t.ID == idOf["tdx"]
	for i, l := range t.Levels {
		if l.TCB.PCESVN == nil || !complete(l.TCB.SGX) || tdx && !complete(l.TCB.TDX) {
			return fmt.Errorf("TCB info's tcbLevels/%d lacks a security version", i)
		}
	}
	if !tdx {
		return nil
	}
	if t.Module == nil {
		return errors.New("TCB info lacks tdxModule")
	}
	for _, m := range append([]moduleIdentity{*t.Module}, t.Modules...) {
		if len(m.MRSigner) != 48 || len(m.Attributes) != 8 || len(m.Mask) != 8 {
			return fmt.Errorf("TCB info's TDX module %q lacks mrsigner, attributes or attributesMask", m.ID)
		}
		if err := haveSVN(m.Levels); err != nil {
			return fmt.Errorf("TCB info's TDX module %q: %w", m.ID, err)
		}
	}
	return nil
}

func complete(cs []component) bool {
	for _, c := range cs {
		if c.SVN == nil {
			return false
		}
	}
	return len(cs) == 16
}

func haveSVN(levels []tcbLevel) error {
	for i, l := range levels {
		if l.TCB.ISVSVN == nil {
			return fmt.Errorf("tcbLevels/%d lacks isvsvn", i)
		}
	}
	return nil
}

// qeIdentity is Intel's "Enclave Identity V2": which quoting enclaves are its own.
type qeIdentity struct {
	ID             string     `json:"id"`
	Version        int        `json:"version"`
	IssueDate      time.Time  `json:"issueDate"`
	NextUpdate     time.Time  `json:"nextUpdate"`
	Evaluation     int        `json:"tcbEvaluationDataNumber"`
	MiscSelect     hexBytes   `json:"miscselect"`
	MiscMask       hexBytes   `json:"miscselectMask"`
	Attributes     hexBytes   `json:"attributes"`
	AttributesMask hexBytes   `json:"attributesMask"`
	MRSigner       hexBytes   `json:"mrsigner"`
	ISVProdID      *uint16    `json:"isvprodid"`
	Levels         []tcbLevel `json:"tcbLevels"`
}

func parseQEIdentity(raw []byte) (*qeIdentity, error) {
	q := new(qeIdentity)
	if err := json.Unmarshal(raw, q); err != nil {
		return nil, fmt.Errorf("reading QE identity: %w", err)
	}
	switch {
	case q.Version != identityVersion:
		return nil, fmt.Errorf("QE identity has version %d; expected %d", q.Version, identityVersion)
	case q.IssueDate.IsZero() || q.NextUpdate.IsZero():
		return nil, errors.New("QE identity lacks issueDate or nextUpdate")
	case len(q.MiscSelect) != 4 || len(q.MiscMask) != 4 || len(q.Attributes) != 16 || len(q.AttributesMask) != 16 ||
		len(q.MRSigner) != 32 || q.ISVProdID == nil:
		return nil, errors.New("QE identity lacks a member, or one has another size")
	case len(q.Levels) == 0:
		return nil, errors.New("QE identity lacks tcbLevels")
	}
	if err := haveSVN(q.Levels); err != nil {
		return nil, fmt.Errorf("QE identity's %w", err)
	}
	return q, nil
}
