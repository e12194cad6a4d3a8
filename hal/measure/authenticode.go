package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// Sizes and places in a PE image ("PE Format", Microsoft).
const (
	peOffsetAt     = 0x3c // in the DOS header
	peHeader       = 4 + 20
	peChecksumAt   = 64 // in the optional header
	peDirectories  = 112
	peSecurity     = 4 // index of the certificate table's directory
	peDirectory    = 8
	peSection      = 40
	maxPESections  = 96 // the loader's limit
	peMagic64      = 0x20b
	peHeadersizeAt = 60
)

// authenticode writes to h what the Authenticode digest of a PE image covers:
// all but its checksum, the entry for its signatures and the signatures. Firmware
// digests so what it starts ("Windows Authenticode Portable Executable Signature
// Format", "Calculating the PE Image Hash"; EDK II, MeasureBootPeCoff.c). A Linux
// kernel with an EFI stub is such an image.
func authenticode(h hash.Hash, b []byte) error {
	le := binary.LittleEndian
	if len(b) < peOffsetAt+4 || b[0] != 'M' || b[1] != 'Z' {
		return errors.New("is no PE image: a kernel without an EFI stub can't be started by firmware")
	}
	at := int64(le.Uint32(b[peOffsetAt:]))
	optional := at + peHeader
	if optional+peDirectories > int64(len(b)) || string(b[at:at+4]) != "PE\x00\x00" {
		return errors.New("has no PE header where its DOS header says")
	}
	if magic := le.Uint16(b[optional:]); magic != peMagic64 {
		return fmt.Errorf("is a PE image of the kind %#x; expected %#x, for 64 bits", magic, peMagic64)
	}
	headers := int64(le.Uint32(b[optional+peHeadersizeAt:]))
	directories := int64(le.Uint32(b[optional+peDirectories-4:]))
	sections := optional + int64(le.Uint16(b[at+4+16:]))
	n := int64(le.Uint16(b[at+4+2:]))
	end := optional + peDirectories // of what precedes the sections' table
	certificates, signatures := end, int64(0)
	if directories > peSecurity {
		certificates = end + peSecurity*peDirectory
		end = certificates + peDirectory
	}
	switch {
	case n > maxPESections:
		return fmt.Errorf("has %d sections; at most %d are known to be started", n, maxPESections)
	case end > int64(len(b)) || end > headers || headers > int64(len(b)) || sections < end || sections+n*peSection > headers:
		return fmt.Errorf("has headers of %d bytes, which its tables do not fit in", headers)
	}
	checksum := optional + peChecksumAt
	h.Write(b[:checksum])
	if directories > peSecurity {
		signatures = int64(le.Uint32(b[certificates+4:]))
		h.Write(b[checksum+4 : certificates])
		h.Write(b[certificates+peDirectory : headers])
	} else {
		h.Write(b[checksum+4 : headers])
	}
	type span struct{ at, size int64 }
	var spans []span
	for s := b[sections : sections+n*peSection]; len(s) > 0; s = s[peSection:] {
		if p := (span{int64(le.Uint32(s[20:])), int64(le.Uint32(s[16:]))}); p.size > 0 {
			spans = append(spans, p)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.at - b.at) })
	sum := headers
	for i, s := range spans {
		// Firmware does not mind gaps; what it then digests is not what the format
		// says. No kernel has them.
		if s.at != sum {
			return fmt.Errorf("has section %d at %#x in the file; expected it at %#x, behind what precedes it", i, s.at, sum)
		}
		if s.at+s.size > int64(len(b)) {
			return fmt.Errorf("has section %d of %d bytes at %#x, which reach beyond the file's end", i, s.size, s.at)
		}
		h.Write(b[s.at : s.at+s.size])
		sum += s.size
	}
	if signatures > int64(len(b))-sum {
		return fmt.Errorf("has signatures of %d bytes, more than follow its sections", signatures)
	}
	h.Write(b[sum : int64(len(b))-signatures])
	return nil
}
