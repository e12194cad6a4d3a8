package keys

import "encoding/binary"

// Purpose says what a signature is for. Every signed text begins with it.
type Purpose string

// Purposes of signatures.
const (
	// PurposeApproval: fields are the manifest digest, the signer's roles and its
	// SPKI.
	PurposeApproval Purpose = "cocos/v1/approval"
	// PurposeCall: fields are the manifest digest, the role, the signer's SPKI,
	// the SPKI of the VM's instance key and the TLS connection's exporter value.
	PurposeCall Purpose = "cocos/v1/call"
	// PurposeConnection: a VM's instance key signs, under a cached report, the
	// leaf of one connection (atls).
	PurposeConnection Purpose = "cocos/v1/connection"
)

// Text is what a signature covers: a purpose and its fields in fixed order.
type Text struct {
	Purpose Purpose
	Fields  [][]byte
}

// bytes is the purpose and each field, each after its length as a 32-bit
// big-endian number: no two texts have the same bytes.
func (t Text) bytes() []byte {
	b := appendField(nil, []byte(t.Purpose))
	for _, f := range t.Fields {
		b = appendField(b, f)
	}
	return b
}

func appendField(b, f []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
	return append(b, f...)
}
