package keys

import "fmt"

// Payload is a document with its media type, signed as DSSE says (Dead Simple
// Signing Envelope 1.0.2), so that the tools of others can check it too.
type Payload struct {
	Type string
	Body []byte
}

// bytes is DSSE's pre-authentication encoding (PAE). It begins with "DSSEv1 ",
// where a Text has the upper byte of a small number, zero.
func (p Payload) bytes() []byte {
	b := fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(p.Type), p.Type, len(p.Body))
	return append(b, p.Body...)
}

// SignPayload signs d with the scheme of the key's kind.
func (p Private) SignPayload(d Payload) ([]byte, error) { return p.sign(d.bytes()) }

// VerifyPayload returns ErrSignature unless sig is p's signature over d.
func (p Public) VerifyPayload(d Payload, sig []byte) error { return p.verify(d.bytes(), sig) }
