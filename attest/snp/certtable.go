package snp

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"

	"github.com/ultravioletrs/cocos/attest"
)

// A certificate table (AMD 56421, 4.1.8.1): entries of a GUID, an offset and a
// size, ended by one of zeros, then what they point to.
const (
	tableEntrySize = 24
	maxTable       = 64 << 10 // bytes
)

// ParseCertTable reads the certificates and revocation lists that a host gives
// its guests for their reports. GUIDs are not looked at: what an entry is shows
// in its content, and whether it is good in its signature. Entries that are
// neither certificates nor lists are left out. An empty table has nothing.
func ParseCertTable(b []byte) (attest.Endorsements, error) {
	var e attest.Endorsements
	if len(b) == 0 {
		return e, nil
	}
	if len(b) > maxTable {
		return e, fmt.Errorf("certificate table has %d bytes; at most %d are taken", len(b), maxTable)
	}
	for i := 0; ; i++ {
		if i == maxCertificates {
			return attest.Endorsements{}, fmt.Errorf("certificate table has more than %d entries", maxCertificates)
		}
		if len(b) < (i+1)*tableEntrySize {
			return attest.Endorsements{}, fmt.Errorf("certificate table has no end after %d entries", i)
		}
		entry := [tableEntrySize]byte(b[i*tableEntrySize:])
		if entry == [tableEntrySize]byte{} {
			return e, nil
		}
		offset, size := uint64(binary.LittleEndian.Uint32(entry[16:])), uint64(binary.LittleEndian.Uint32(entry[20:]))
		if offset+size > uint64(len(b)) {
			return attest.Endorsements{}, fmt.Errorf("certificate table's entry %d ends at byte %d of %d", i, offset+size, len(b))
		}
		take(&e, b[offset:offset+size])
	}
}

// take adds what b is, DER or PEM.
func take(e *attest.Endorsements, b []byte) {
	ders := [][]byte{b}
	if block, rest := pem.Decode(b); block != nil {
		ders = nil
		for ; block != nil && len(ders) < maxCertificates; block, rest = pem.Decode(rest) {
			ders = append(ders, block.Bytes)
		}
	}
	for _, der := range ders {
		if _, err := x509.ParseCertificate(der); err == nil {
			e.Certificates = append(e.Certificates, der)
		} else if _, err := x509.ParseRevocationList(der); err == nil {
			e.CRLs = append(e.CRLs, der)
		}
	}
}
