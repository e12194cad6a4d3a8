package ovmf

import (
	"encoding/binary"
	"fmt"
)

// maxSections bounds a metadata block; known ones have about ten.
const maxSections = 64

// maxMemory bounds what all sections of a firmware add to a launch, in bytes.
const maxMemory = 256 << 20

func snpSections(firmware []byte, offset uint32) ([]SNPSection, error) {
	const item = 12
	b, err := descriptor(firmware, offset, "ASEV", item)
	if err != nil {
		return nil, err
	}
	var all []SNPSection
	var total uint64
	for i := 0; len(b) > 0; i, b = i+1, b[item:] {
		s := SNPSection{Range: readRange(b), Type: SNPType(binary.LittleEndian.Uint32(b[8:]))}
		switch s.Type {
		case SNPSecMem, SNPSecrets, SNPCPUID, SNPSVSMCAA, SNPKernelHashes:
		default:
			return nil, fmt.Errorf("section %d: has type %#x, which is not known", i, uint32(s.Type))
		}
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("section %d: %w", i, err)
		}
		if s.Size == 0 || s.Base%PageSize != 0 || s.Size%PageSize != 0 {
			return nil, fmt.Errorf("section %d: %d bytes at %#x are not whole pages", i, s.Size, s.Base)
		}
		if single := s.Type == SNPSecrets || s.Type == SNPCPUID || s.Type == SNPKernelHashes; single && s.Size != PageSize {
			return nil, fmt.Errorf("section %d: has %d bytes; expected one page", i, s.Size)
		}
		if total += uint64(s.Size); total > maxMemory {
			return nil, fmt.Errorf("section %d: all have more than %d bytes", i, maxMemory)
		}
		all = append(all, s)
	}
	return all, nil
}

func tdxSections(firmware []byte, offset uint32) ([]TDXSection, error) {
	const item = 32
	b, err := descriptor(firmware, offset, "TDVF", item)
	if err != nil {
		return nil, err
	}
	var all []TDXSection
	var total uint64
	for i := 0; len(b) > 0; i, b = i+1, b[item:] {
		le := binary.LittleEndian
		s := TDXSection{
			Offset: le.Uint32(b), RawSize: le.Uint32(b[4:]), Base: le.Uint64(b[8:]), Size: le.Uint64(b[16:]),
			Type: TDXType(le.Uint32(b[24:])), Attributes: le.Uint32(b[28:]),
		}
		switch {
		case s.Type > TDXPayloadParams:
			return nil, fmt.Errorf("section %d: has type %d, which is not known", i, s.Type)
		case s.Attributes&^(TDXExtend|TDXAug) != 0:
			return nil, fmt.Errorf("section %d: has attributes %#x, which are not known", i, s.Attributes)
		case uint64(s.Offset)+uint64(s.RawSize) > uint64(len(firmware)):
			return nil, fmt.Errorf("section %d: %d bytes at %#x reach beyond the file's end", i, s.RawSize, s.Offset)
		case s.Base%PageSize != 0 || s.Size%PageSize != 0 || s.Size == 0:
			return nil, fmt.Errorf("section %d: %d bytes at %#x are not whole pages", i, s.Size, s.Base)
		case s.Size > maxMemory || s.Base > 1<<32-s.Size:
			return nil, fmt.Errorf("section %d: %d bytes at %#x reach beyond 4 GiB or are more than %d", i, s.Size, s.Base, maxMemory)
		case uint64(s.RawSize) > s.Size:
			return nil, fmt.Errorf("section %d: %d bytes of content in %d of memory", i, s.RawSize, s.Size)
		case s.Type <= TDXConfigVolume && s.RawSize == 0:
			return nil, fmt.Errorf("section %d: a volume without content", i)
		}
		if total += s.Size; total > maxMemory {
			return nil, fmt.Errorf("section %d: all have more than %d bytes", i, maxMemory)
		}
		all = append(all, s)
	}
	return all, nil
}
