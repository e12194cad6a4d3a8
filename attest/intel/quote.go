package intel

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// MaxQuote bounds a quote, in bytes; the largest known have some 8,000.
const MaxQuote = 64 << 10

// TEEs as a quote's header names them.
const (
	TEESGX uint32 = 0
	TEETDX uint32 = 0x81
)

// Sizes of a quote's parts, in bytes.
const (
	HeaderSize  = 48
	EnclaveSize = 384 // body of an SGX quote: an enclave's report
	TD10Size    = 584 // body of a TDX quote: TD report of TDX 1.0
	TD15Size    = 648 // TD report of TDX 1.5
)

// What a version 5 quote calls its body.
const (
	bodyTD10 = 2
	bodyTD15 = 3
)

// keyTypeP256 is the one type of attestation keys: ECDSA P-256 with SHA-256.
const keyTypeP256 = 2

// vendorID is Intel's, of the quoting enclave.
var vendorID = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Quote is a quote's frame: whatever does not depend on who is quoted.
type Quote struct {
	Version uint16
	TEE     uint32
	// Body is the report of the enclave or TD.
	Body []byte
	// Signed is what Signature is over: header and body.
	Signed    []byte
	Signature Signature
	// Trailing is how many bytes follow the quote. No signature covers them, and
	// nothing looks at them.
	Trailing int
}

// ParseQuote reads the frame of a quote: SGX version 3, TDX versions 4 and 5.
// Sizes within it must fit, with nothing but zeros left over. Whatever follows is
// passed over, up to MaxQuote, as Intel's library does: quoting services hand out
// buffers that are larger than the quote.
func ParseQuote(b []byte) (*Quote, error) {
	if len(b) > MaxQuote {
		return nil, fmt.Errorf("has %d bytes; at most %d are taken", len(b), MaxQuote)
	}
	c := cursor{b: b}
	header := c.take(HeaderSize, "header")
	if c.fault != nil {
		return nil, c.fault
	}
	q := &Quote{Version: binary.LittleEndian.Uint16(header), TEE: binary.LittleEndian.Uint32(header[4:])}
	size, err := q.bodySize(&c)
	if err != nil {
		return nil, err
	}
	if t := binary.LittleEndian.Uint16(header[2:]); t != keyTypeP256 {
		return nil, fmt.Errorf("has an attestation key of type %d; expected %d (ECDSA P-256)", t, keyTypeP256)
	}
	if vendor := [16]byte(header[12:]); vendor != vendorID {
		return nil, fmt.Errorf("is of the quoting enclave of vendor %x; expected Intel's, %x", vendor, vendorID)
	}
	q.Body = c.take(size, "body")
	q.Signed = b[:len(b)-len(c.b)]
	section := c.sized32("signature section")
	if c.fault != nil {
		return nil, c.fault
	}
	if q.Signature, err = parseSignature(section, q.Version); err != nil {
		return nil, err
	}
	q.Trailing = len(c.b)
	return q, nil
}

// bodySize tells the size of what follows, by version and TEE; a version 5 quote
// says it, too.
func (q *Quote) bodySize(c *cursor) (int, error) {
	switch {
	case q.Version == 3 && q.TEE == TEESGX:
		return EnclaveSize, nil
	case q.Version == 4 && q.TEE == TEETDX:
		return TD10Size, nil
	case q.Version == 5 && q.TEE == TEETDX:
		kind, size := c.u16("type of body"), c.u32("size of body")
		if c.fault != nil {
			return 0, c.fault
		}
		want := map[uint16]int{bodyTD10: TD10Size, bodyTD15: TD15Size}[kind]
		if want == 0 {
			return 0, fmt.Errorf("has a body of type %d; expected %d or %d, a TD's", kind, bodyTD10, bodyTD15)
		}
		if int64(size) != int64(want) {
			return 0, fmt.Errorf("has a body of type %d with %d bytes; expected %d", kind, size, want)
		}
		return want, nil
	case q.Version < 3 || q.Version > 5:
		return 0, fmt.Errorf("has version %d; expected 3 (SGX), 4 or 5 (TDX)", q.Version)
	}
	return 0, fmt.Errorf("has version %d and TEE type %#x; expected version 3 with 0 (SGX), or 4 or 5 with 0x81 (TDX)", q.Version, q.TEE)
}

// Enclave is an SGX REPORT's body (Intel SDM volume 3D, "REPORT"): that of an
// SGX quote, and the quoting enclave's own.
type Enclave struct {
	CPUSVN       [16]byte
	MiscSelect   [4]byte
	ISVExtProdID [16]byte
	Attributes   [16]byte // flags and XFRM
	MREnclave    [32]byte
	MRSigner     [32]byte
	ConfigID     [64]byte
	ISVProdID    uint16
	ISVSVN       uint16
	ConfigSVN    uint16
	ISVFamilyID  [16]byte
	ReportData   [64]byte
}

// ParseEnclave reads one of EnclaveSize bytes.
func ParseEnclave(b []byte) (*Enclave, error) {
	if len(b) != EnclaveSize {
		return nil, fmt.Errorf("an enclave's report has %d bytes; expected %d", len(b), EnclaveSize)
	}
	return &Enclave{
		CPUSVN:       [16]byte(b),
		MiscSelect:   [4]byte(b[16:]),
		ISVExtProdID: [16]byte(b[32:]),
		Attributes:   [16]byte(b[48:]),
		MREnclave:    [32]byte(b[64:]),
		MRSigner:     [32]byte(b[128:]),
		ConfigID:     [64]byte(b[192:]),
		ISVProdID:    binary.LittleEndian.Uint16(b[256:]),
		ISVSVN:       binary.LittleEndian.Uint16(b[258:]),
		ConfigSVN:    binary.LittleEndian.Uint16(b[260:]),
		ISVFamilyID:  [16]byte(b[304:]),
		ReportData:   [64]byte(b[320:]),
	}, nil
}

// cursor walks through bytes, and remembers the first fault.
type cursor struct {
	b     []byte
	fault error
}

func (c *cursor) take(n int, what string) []byte {
	if c.fault == nil && n > len(c.b) {
		c.fault = fmt.Errorf("ends within its %s: %d bytes are there, %d needed", what, len(c.b), n)
	}
	if c.fault != nil {
		return nil
	}
	taken := c.b[:n:n]
	c.b = c.b[n:]
	return taken
}

func (c *cursor) u16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// sized32 takes what has its size in four bytes before it.
func (c *cursor) sized32(what string) []byte {
	n := c.u32("size of the " + what)
	if c.fault == nil && n > MaxQuote {
		c.fault = fmt.Errorf("states %d bytes for its %s; at most %d are taken", n, what, MaxQuote)
	}
	return c.take(int(n), what)
}

// Found words the quote for a claim.
func (q *Quote) Found() string {
	if q.Trailing > 0 {
		return fmt.Sprintf("version %d, and %d bytes after it, which are not looked at", q.Version, q.Trailing)
	}
	return fmt.Sprintf("version %d", q.Version)
}

func zeros(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }
