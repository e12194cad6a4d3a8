package measure

import (
	"crypto/sha512"
	"encoding/binary"

	"github.com/ultravioletrs/cocos/hal/ovmf"
)

// Types of pages (56860, table 67).
const (
	pageNormal  = 1
	pageVMSA    = 2
	pageZero    = 3
	pageSecrets = 5
	pageCPUID   = 6
)

// vmsaAddress is where every save area counts as lying: the highest page of 48
// bits.
const vmsaAddress = 0xfffffffff000

// chain is the launch digest while pages are added. It begins with zeros.
type chain struct{ digest [48]byte }

// add extends the digest by PAGE_INFO (56860, section 8.17.2): what is so far,
// the page's own digest, and where it lies as what.
func (c *chain) add(kind byte, address uint64, contents [48]byte) {
	const size = 0x70
	b := make([]byte, 0, size)
	b = append(b, c.digest[:]...)
	b = append(b, contents[:]...)
	b = binary.LittleEndian.AppendUint16(b, size)
	b = append(b, kind, 0, 0, 0, 0, 0) // no IMI page, no rights for lower VMPLs
	b = binary.LittleEndian.AppendUint64(b, address)
	c.digest = sha512.Sum384(b)
}

// normal adds whole pages with their content.
func (c *chain) normal(address uint64, b []byte) {
	for i := 0; i < len(b); i += ovmf.PageSize {
		c.add(pageNormal, address+uint64(i), sha512.Sum384(b[i:i+ovmf.PageSize]))
	}
}

// unread adds pages of which only the place and the kind count.
func (c *chain) unread(kind byte, r ovmf.Range) {
	for at := uint64(0); at < uint64(r.Size); at += ovmf.PageSize {
		c.add(kind, uint64(r.Base)+at, [48]byte{})
	}
}

// vcpus adds one save area each: the first vCPU starts at the reset vector, the
// others where the firmware says.
func (c *chain) vcpus(n int, others, signature uint32, features uint64) {
	c.add(pageVMSA, vmsaAddress, sha512.Sum384(vmsa(resetVector, signature, features)))
	if n == 1 {
		return
	}
	contents := sha512.Sum384(vmsa(others, signature, features))
	for range n - 1 {
		c.add(pageVMSA, vmsaAddress, contents)
	}
}
