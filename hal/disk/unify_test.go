package disk

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

const (
	peAt  = 0x40
	optAt = peAt + 4 + coffSize
)

// application returns an EFI application with one section, and room in its
// headers for ten more.
func application(t *testing.T, change func(*pe.FileHeader, *pe.OptionalHeader64)) []byte {
	t.Helper()
	coff := pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: 240}
	opt := pe.OptionalHeader64{
		Magic: 0x20b, AddressOfEntryPoint: 0x1010, SizeOfInitializedData: 0x200, ImageBase: 1 << 32,
		SectionAlignment: 0x1000, FileAlignment: 0x200, SizeOfImage: 0x1234, SizeOfHeaders: 0x400, CheckSum: 7,
		Subsystem: pe.IMAGE_SUBSYSTEM_EFI_APPLICATION, NumberOfRvaAndSizes: 16,
	}
	if change != nil {
		change(&coff, &opt)
	}
	var b bytes.Buffer
	b.WriteString("MZ")
	b.Write(make([]byte, peOffset-2))
	for _, v := range []any{uint32(peAt), []byte("PE\x00\x00"), coff, opt, pe.SectionHeader32{
		Name: [8]byte([]byte(".text\x00\x00\x00")), VirtualSize: 0x234, VirtualAddress: 0x1000, SizeOfRawData: 0x200, PointerToRawData: 0x400,
		Characteristics: pe.IMAGE_SCN_CNT_CODE | pe.IMAGE_SCN_MEM_EXECUTE | pe.IMAGE_SCN_MEM_READ,
	}} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(make([]byte, 0x400-b.Len()))
	b.Write(bytes.Repeat([]byte{0xcc}, 0x200))
	return b.Bytes()
}

func parts(t *testing.T) Parts {
	return Parts{
		Stub: application(t, nil),
		Kernel: application(t, func(_ *pe.FileHeader, o *pe.OptionalHeader64) {
			o.SizeOfImage = 0x5000
		}),
		Initrd: bytes.Repeat([]byte("initrd"), 1000), CommandLine: "console=ttyS0 quiet", KernelVersion: "6.12.1-x",
	}
}

func TestUnify(t *testing.T) {
	p := parts(t)
	// What lies in the file behind the last section stays, and is not mapped.
	p.Stub = append(p.Stub, 1, 2, 3)
	got, err := Unify(p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	want := []struct {
		name, data string
		virtual    uint32
	}{
		{".text", strings.Repeat("\xcc", 0x200), 0x234},
		{".osrel", "ID=cocos\nNAME=Cocos\nPRETTY_NAME=\"Cocos guest, Linux 6.12.1-x\"\n", 62},
		{".cmdline", p.CommandLine, 19},
		{".uname", p.KernelVersion, 8},
		{".initrd", string(p.Initrd), 6000},
		{".linux", string(p.Kernel), 0x5000},
	}
	if len(f.Sections) != len(want) {
		t.Fatalf("%d sections, want %d", len(f.Sections), len(want))
	}
	memory, file := uint32(0x1000), uint32(0x400)
	initialised := uint32(0)
	for i, s := range f.Sections {
		w := want[i]
		data, err := io.ReadAll(s.Open())
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != w.name || !bytes.HasPrefix(data, []byte(w.data)) || len(bytes.Trim(data[len(w.data):], "\x00")) > 0 {
			t.Errorf("section %d is %s with %q; want %s with %q", i, s.Name, data, w.name, w.data)
		}
		if s.VirtualSize != w.virtual {
			t.Errorf("%s: %d bytes in memory, want %d", s.Name, s.VirtualSize, w.virtual)
		}
		if s.VirtualAddress%h.SectionAlignment != 0 || s.VirtualAddress < memory {
			t.Errorf("%s: at %#x in memory, the last one ended at %#x", s.Name, s.VirtualAddress, memory)
		}
		if s.Offset%h.FileAlignment != 0 || s.Size%h.FileAlignment != 0 || s.Offset < file {
			t.Errorf("%s: at %#x+%#x in the file, the last one ended at %#x", s.Name, s.Offset, s.Size, file)
		}
		memory, file = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
		if i > 0 {
			if s.Characteristics != 0x40000040 {
				t.Errorf("%s: characteristics %#x", s.Name, s.Characteristics)
			}
			initialised += s.Size
		}
	}
	if uint32(len(got)) != file {
		t.Errorf("%d bytes, the last section ends at %d", len(got), file)
	}
	if h.SizeOfImage < memory || h.SizeOfImage%h.SectionAlignment != 0 || h.SizeOfImage-memory >= h.SectionAlignment {
		t.Errorf("SizeOfImage %#x, the last section ends at %#x", h.SizeOfImage, memory)
	}
	if h.SizeOfInitializedData != 0x200+initialised || h.CheckSum != 0 || h.AddressOfEntryPoint != 0x1010 {
		t.Errorf("headers %+v", h)
	}
	// Everything else of the stub is as it was.
	for _, at := range []int{peAt + 4 + coffSections, optAt + optInitialized, optAt + optInitialized + 1, optAt + optInitialized + 2,
		optAt + optSizeOfImage, optAt + optSizeOfImage + 1, optAt + optCheckSum} {
		got[at] = p.Stub[at]
	}
	table := optAt + 240 + headerOfSection
	clear(got[table : table+5*headerOfSection])
	if !bytes.HasPrefix(got, p.Stub) {
		t.Error("the stub itself was changed")
	}
}

func TestUnifyRefuses(t *testing.T) {
	stub := func(change func(*pe.FileHeader, *pe.OptionalHeader64)) func(*testing.T, *Parts) {
		return func(t *testing.T, p *Parts) { p.Stub = application(t, change) }
	}
	bytesOf := func(edit func([]byte) []byte) func(*testing.T, *Parts) {
		return func(_ *testing.T, p *Parts) { p.Stub = edit(p.Stub) }
	}
	for name, tc := range map[string]struct {
		change func(*testing.T, *Parts)
		want   string
	}{
		"no initial RAM disk":    {func(_ *testing.T, p *Parts) { p.Initrd = nil }, "no initial RAM disk"},
		"no command line":        {func(_ *testing.T, p *Parts) { p.CommandLine = "" }, "no command line"},
		"no kernel version":      {func(_ *testing.T, p *Parts) { p.KernelVersion = "" }, "no kernel version"},
		"NUL in command line":    {func(_ *testing.T, p *Parts) { p.CommandLine = "a\x00b" }, "NUL"},
		"line break in version":  {func(_ *testing.T, p *Parts) { p.KernelVersion = "6\nID=x" }, "line break"},
		"kernel without EFI":     {func(_ *testing.T, p *Parts) { p.Kernel = []byte("bzImage") }, "reading the kernel: not a PE file"},
		"no stub":                {func(_ *testing.T, p *Parts) { p.Stub = nil }, "reading the stub: not a PE file"},
		"stub cut off":           {bytesOf(func(b []byte) []byte { return b[:100] }), "reading the stub: not a PE file"},
		"stub without its code":  {bytesOf(func(b []byte) []byte { return b[:0x500] }), ".text ends behind the file's end"},
		"stub of another CPU":    {stub(func(f *pe.FileHeader, _ *pe.OptionalHeader64) { f.Machine = pe.IMAGE_FILE_MACHINE_ARM64 }), "machine 0xaa64"},
		"stub for Windows":       {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.Subsystem = 3 }), "subsystem 3"},
		"file alignment":         {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.FileAlignment = 513 }), "FileAlignment 513"},
		"section alignment":      {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.SectionAlignment = 1 << 17 }), "SectionAlignment 131072"},
		"no size":                {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.SizeOfImage = 0 }), "SizeOfImage 0"},
		"size too small":         {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.SizeOfImage = 0x1200 }), ".text ends behind its SizeOfImage"},
		"symbols":                {stub(func(f *pe.FileHeader, _ *pe.OptionalHeader64) { f.PointerToSymbolTable = 0x3f0 }), "symbol table"},
		"signed":                 {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.DataDirectory[4].Size = 8 }), "signed"},
		"no room in its headers": {stub(func(_ *pe.FileHeader, o *pe.OptionalHeader64) { o.SizeOfHeaders = 0x1f0 }), "no room for 5"},
		"something in the room":  {bytesOf(func(b []byte) []byte { b[optAt+240+headerOfSection+50] = 1; return b }), "behind its section headers"},
		"a section twice":        {bytesOf(func(b []byte) []byte { copy(b[optAt+240:], ".linux\x00"); return b }), "has a section .linux already"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parts(t)
			tc.change(t, &p)
			if _, err := Unify(p); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
