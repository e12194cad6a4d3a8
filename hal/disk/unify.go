package disk

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// section is one that is added to the stub.
type section struct {
	name    string
	data    []byte
	virtual int // bytes in memory, at least len(data)
}

// Unify returns the unified kernel image (UAPI group specification "Unified
// Kernel Image"): the stub with sections for the parts.
func Unify(p Parts) ([]byte, error) {
	for name, empty := range map[string]bool{
		"initial RAM disk": len(p.Initrd) == 0, "command line": p.CommandLine == "", "kernel version": p.KernelVersion == "",
	} {
		if empty {
			return nil, fmt.Errorf("making the unified kernel image: no %s", name)
		}
	}
	if strings.ContainsAny(p.CommandLine+p.KernelVersion, "\x00\n\"\\") {
		return nil, fmt.Errorf("making the unified kernel image: command line %q or kernel version %q: a NUL, line break, quote or backslash in it", p.CommandLine, p.KernelVersion)
	}
	kernel, err := readPE(p.Kernel)
	if err != nil {
		return nil, fmt.Errorf("making the unified kernel image: reading the kernel: %w", err)
	}
	osrel := "ID=cocos\nNAME=Cocos\nPRETTY_NAME=\"Cocos guest, Linux " + p.KernelVersion + "\"\n"
	unified, err := addSections(p.Stub, []section{
		{name: ".osrel", data: []byte(osrel)},
		{name: ".cmdline", data: []byte(p.CommandLine)},
		{name: ".uname", data: []byte(p.KernelVersion)},
		{name: ".initrd", data: p.Initrd},
		// Last, and with room behind it: the kernel may be run in its place.
		{name: ".linux", data: p.Kernel, virtual: int(kernel.SizeOfImage)},
	})
	if err != nil {
		return nil, fmt.Errorf("making the unified kernel image: %w", err)
	}
	return unified, nil
}

// Offsets in a PE32+ file (Microsoft's PE format, "COFF File Header" and
// following), from the beginning of the named header.
const (
	peOffset = 0x3c // of the file: where "PE\0\0" is

	coffSections     = 2
	coffOptionalSize = 16
	coffSize         = 20

	optInitialized = 8
	optSizeOfImage = 56
	optCheckSum    = 64

	headerOfSection = 40 // bytes
	maxAlignment    = 1 << 16
)

// readable marks a section of initialised data that is only read.
const readable = pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ

type header struct {
	*pe.OptionalHeader64
	sections []*pe.Section
	symbols  uint32
	coff     int // offset of the COFF header in the file
}

// readPE reads the headers of an EFI application for this architecture.
func readPE(b []byte) (header, error) {
	if !bytes.HasPrefix(b, []byte("MZ")) {
		return header{}, errors.New("not a PE file")
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return header{}, fmt.Errorf("not a PE file: %w", err)
	}
	h, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	switch {
	case f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || !ok:
		return header{}, fmt.Errorf("machine %#x: want a program for x86-64", f.Machine)
	case h.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION:
		return header{}, fmt.Errorf("subsystem %d: want an EFI application", h.Subsystem)
	case h.SizeOfImage == 0 || h.SizeOfImage > math.MaxInt32:
		return header{}, fmt.Errorf("SizeOfImage %d", h.SizeOfImage)
	}
	for name, a := range map[string]uint32{"FileAlignment": h.FileAlignment, "SectionAlignment": h.SectionAlignment} {
		if a < 512 || a > maxAlignment || a&(a-1) != 0 {
			return header{}, fmt.Errorf("%s %d: want a power of two from 512 to %d", name, a, maxAlignment)
		}
	}
	return header{h, f.Sections, f.PointerToSymbolTable, int(binary.LittleEndian.Uint32(b[peOffset:])) + 4}, nil
}

// addSections appends sections to an EFI application, each in its own pages
// behind all others in memory and in the file.
func addSections(stub []byte, add []section) ([]byte, error) {
	h, err := readPE(stub)
	if err != nil {
		return nil, fmt.Errorf("reading the stub: %w", err)
	}
	table := h.coff + coffSize + int(binary.LittleEndian.Uint16(stub[h.coff+coffOptionalSize:])) + headerOfSection*len(h.sections)
	if err := h.extensible(stub, table, add); err != nil {
		return nil, fmt.Errorf("adding sections to the stub: %w", err)
	}
	out := slices.Clone(stub)
	memory := align(int(h.SizeOfImage), h.SectionAlignment)
	initialised := int(h.SizeOfInitializedData)
	for i, s := range add {
		out = pad(out, h.FileAlignment)
		file := align(len(s.data), h.FileAlignment)
		s.virtual = max(s.virtual, len(s.data))
		entry := out[table+i*headerOfSection:][:headerOfSection]
		copy(entry, s.name)
		for at, v := range map[int]int{8: s.virtual, 12: memory, 16: file, 20: len(out), 36: readable} {
			binary.LittleEndian.PutUint32(entry[at:], uint32(v))
		}
		out = append(out, s.data...)
		memory += align(s.virtual, h.SectionAlignment)
		initialised += file
		if max(memory, len(out)) > math.MaxInt32 {
			return nil, errors.New("the parts are larger than 2 GiB together")
		}
	}
	out = pad(out, h.FileAlignment)
	opt := h.coff + coffSize
	binary.LittleEndian.PutUint16(out[h.coff+coffSections:], uint16(len(h.sections)+len(add)))
	binary.LittleEndian.PutUint32(out[opt+optInitialized:], uint32(initialised))
	binary.LittleEndian.PutUint32(out[opt+optSizeOfImage:], uint32(memory))
	binary.LittleEndian.PutUint32(out[opt+optCheckSum:], 0) // 0: none, which EFI allows
	return out, nil
}

// extensible refuses a stub that sections can't simply be appended to.
func (h header) extensible(stub []byte, table int, add []section) error {
	end := table + headerOfSection*len(add)
	switch {
	case end > int(h.SizeOfHeaders) || end > len(stub):
		return fmt.Errorf("its headers have no room for %d more sections", len(add))
	case bytes.Count(stub[table:end], []byte{0}) != end-table:
		return errors.New("something lies behind its section headers")
	case h.symbols != 0:
		return errors.New("it has a symbol table")
	case h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size != 0:
		return errors.New("it is signed: the signature would be broken")
	}
	for _, s := range h.sections {
		if s.VirtualAddress+s.VirtualSize > h.SizeOfImage {
			return fmt.Errorf("its section %s ends behind its SizeOfImage", s.Name)
		}
		if int64(s.Offset)+int64(s.Size) > int64(len(stub)) {
			return fmt.Errorf("its section %s ends behind the file's end", s.Name)
		}
		if slices.ContainsFunc(add, func(a section) bool { return a.name == s.Name }) {
			return fmt.Errorf("it has a section %s already", s.Name)
		}
	}
	return nil
}

func align(n int, unit uint32) int { return (n + int(unit) - 1) / int(unit) * int(unit) }

func pad(b []byte, unit uint32) []byte { return append(b, make([]byte, align(len(b), unit)-len(b))...) }
