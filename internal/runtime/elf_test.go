package runtime

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

// anELF is a header with one program header of the type, and a loader's path.
func anELF(change func(b []byte)) []byte {
	b := make([]byte, 256)
	le := binary.LittleEndian
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], elfDyn)
	le.PutUint16(b[18:], elfX8664)
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[54:], elfProgramSize)
	le.PutUint16(b[56:], 1)
	p := b[elfHeaderSize:]
	le.PutUint32(p, elfInterp)
	le.PutUint64(p[8:], 128)
	le.PutUint64(p[32:], 8)
	copy(b[128:], "/lib/ld\x00")
	change(b)
	return b
}

func TestLoaderOf(t *testing.T) {
	le := binary.LittleEndian
	const first = elfHeaderSize // program header
	tests := []struct {
		name   string
		file   []byte
		loader string
		err    string
	}{
		{"dynamic", anELF(func([]byte) {}), "/lib/ld", ""},
		{"static", anELF(func(b []byte) { le.PutUint32(b[first:], 1) }), "", ""},
		{"empty", nil, "", "too short"},
		{"script", []byte("#!/bin/sh\n" + strings.Repeat(" ", 64)), "", "not an ELF file"},
		{"32 bits", anELF(func(b []byte) { b[4] = 1 }), "", "another machine"},
		{"big-endian", anELF(func(b []byte) { b[5] = 2 }), "", "another machine"},
		{"ARM", anELF(func(b []byte) { b[18] = 183 }), "", "another machine"},
		{"object file", anELF(func(b []byte) { b[16] = 1 }), "", "not an executable"},
		{"no program headers", anELF(func(b []byte) { b[56] = 0 }), "", "damaged"},
		{"many program headers", anELF(func(b []byte) { le.PutUint16(b[56:], 65535) }), "", "damaged"},
		{"odd program headers", anELF(func(b []byte) { b[54] = 1 }), "", "damaged"},
		{"program headers beyond", anELF(func(b []byte) { le.PutUint64(b[32:], 1<<63) }), "", "damaged"},
		{"program headers cut", anELF(func(b []byte) { le.PutUint64(b[32:], 250) }), "", "damaged"},
		{"loader's path beyond", anELF(func(b []byte) { le.PutUint64(b[first+8:], 1<<63) }), "", "damaged"},
		{"loader's path cut", anELF(func(b []byte) { le.PutUint64(b[first+8:], 252) }), "", "damaged"},
		{"loader's path empty", anELF(func(b []byte) { le.PutUint64(b[first+32:], 0) }), "", "damaged"},
		{"loader's path long", anELF(func(b []byte) { le.PutUint64(b[first+32:], 1<<62) }), "", "damaged"},
		{"loader relative", anELF(func(b []byte) { copy(b[128:], "lib/ld\x00\x00") }), "", "clean absolute path"},
		{"loader elsewhere", anELF(func(b []byte) { copy(b[128:], "/../ld\x00\x00") }), "", "clean absolute path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loaderOf(bytes.NewReader(tt.file))
			if got != tt.loader || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q, %v; want %q, %q", got, err, tt.loader, tt.err)
			}
		})
	}
}

func TestLoaderOfRealFiles(t *testing.T) {
	for name, dynamic := range map[string]bool{probe: false, "/bin/cat": true} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if loader, err := loaderOf(f); err != nil || (loader != "") != dynamic {
			t.Errorf("%s: loader %q, %v; want one: %t", name, loader, err, dynamic)
		}
	}
}

func FuzzLoaderOf(f *testing.F) {
	f.Add(anELF(func([]byte) {}))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		loader, err := loaderOf(bytes.NewReader(b))
		if err != nil && loader != "" {
			t.Errorf("%q with error %v", loader, err)
		}
		if len(loader) > maxLoaderPath {
			t.Errorf("loader's path of %d bytes", len(loader))
		}
	})
}
