package attest

import (
	"crypto/sha512"
	"encoding/binary"
)

// Label says what a report is made for. Reports of one label prove nothing
// under another.
type Label string

// The labels.
const (
	// ForConnections: the root covers every connection that waits (atls).
	ForConnections Label = "cocos/v1/report/connections"
	// ForReceipt: the root is the SHA-256 of the receipt's statement (receipt).
	ForReceipt Label = "cocos/v1/report/receipt"
	// ForLaunch: the agent reads its own launch field; root and instance empty.
	ForLaunch Label = "cocos/v1/report/launch"
)

// Binding is everything that report data commits to.
type Binding struct {
	Label Label
	// Manifest is the SHA-256 that the agent enforces.
	Manifest [32]byte
	// Instance is the DER SubjectPublicKeyInfo of the VM's instance key.
	Instance []byte
	// Root is what the label says.
	Root [32]byte
}

// ReportData is SHA-512 over the fields, each with its length in eight bytes,
// big endian, before it.
func (b Binding) ReportData() ReportData {
	h := sha512.New()
	for _, f := range [][]byte{[]byte(b.Label), b.Manifest[:], b.Instance, b.Root[:]} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(f))))
		h.Write(f)
	}
	return ReportData(h.Sum(nil))
}
