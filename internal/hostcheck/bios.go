package hostcheck

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ultravioletrs/cocos/hal/ovmf"
	"github.com/ultravioletrs/cocos/internal/vm"
)

// BIOS is what is known of a firmware that a TEE measures.
type BIOS struct {
	SHA256 [sha256.Size]byte
	Size   int64 // bytes
	// HashTable is where in the guest's memory it looks for the hashes of what it
	// boots; 0 with TDX, where it measures these itself.
	HashTable uint64
}

// maxBIOS is what fits below 4 GiB, in bytes.
const maxBIOS = 16 << 20

// JudgeBIOS reads a firmware and refuses it unless a TEE of the kind that boots
// in it measures kernel, initial RAM disk and command line: by its tables, and
// where these prove nothing, as with SEV, by its digest.
func JudgeBIOS(kind vm.TEEKind, name string) (BIOS, error) {
	content, err := readBIOS(name)
	if err != nil {
		return BIOS{}, err
	}
	tables, err := ovmf.Parse(content)
	if err != nil {
		return BIOS{}, fmt.Errorf("is no firmware for a TEE: %w", err)
	}
	b := BIOS{SHA256: sha256.Sum256(content), Size: int64(len(content))}
	if kind == vm.TDX {
		switch {
		case tables.TDXFault != nil:
			return b, fmt.Errorf("is no firmware for a TEE: its TDX metadata: %w", tables.TDXFault)
		case !tables.TDX():
			return b, errors.New("has no TDX metadata, so that no TD starts in it; use a generic OVMF.fd (package ovmf)")
		}
		return b, nil
	}
	const use = "use OVMF.amdsev.fd (package ovmf-amdsev)"
	switch {
	case kind == vm.SEVSNP && !tables.SNP():
		return b, fmt.Errorf("has no SEV-SNP metadata, so that no guest starts in it; %s", use)
	case !tables.Hashes():
		return b, fmt.Errorf("has no table for the hashes of kernel, initial RAM disk and command line, which would go unmeasured; %s", use)
	case !ovmf.KnownVerifying(b.SHA256):
		return b, fmt.Errorf("has the SHA-256 %x, which is not of a build that is known to compare what it boots with the measured hashes: kernel, initial RAM disk and command line could be exchanged unseen; %s", b.SHA256, use)
	}
	b.HashTable = uint64(tables.HashTable.Base)
	return b, nil
}

func readBIOS(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, errors.New("is not a file")
	case st.Size() > maxBIOS:
		return nil, fmt.Errorf("has %d bytes; a firmware has %d at most", st.Size(), maxBIOS)
	}
	return io.ReadAll(io.LimitReader(f, maxBIOS))
}
