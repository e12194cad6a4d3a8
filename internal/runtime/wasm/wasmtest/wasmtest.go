// Package wasmtest assembles small WebAssembly modules for tests, where no
// compiler makes what is to be tested.
package wasmtest

import "encoding/binary"

// Kinds of what is imported and exported.
const (
	Function = 0
	Memory   = 2
)

// Name of something imported or exported.
type Name struct {
	Module string // of an import
	Name   string
	Kind   byte
}

// Module has one function of its own, () -> (), and one memory of Pages pages of
// 64 KiB. Functions that it imports are (i32) -> (), as proc_exit is.
type Module struct {
	Imports []Name
	Exports []Name // all of the one function, or of the memory
	Pages   uint32
	// Body is the function's code without its end.
	Body []byte
}

// Command is a module whose start has body.
func Command(body ...byte) Module {
	return Module{Exports: []Name{{Name: "_start", Kind: Function}}, Pages: 1, Body: body}
}

// Bytes is the module in the binary format.
func (m Module) Bytes() []byte {
	b := []byte("\x00asm\x01\x00\x00\x00")
	b = section(b, 1, 2, 0x60, 0, 0, 0x60, 1, 0x7f, 0)
	imported := byte(0)
	var imports []byte
	for _, i := range m.Imports {
		imports = name(name(imports, i.Module), i.Name)
		switch imports = append(imports, i.Kind); i.Kind {
		case Memory:
			imports = append(imports, 0, 1) // at least one page
		default:
			imports = append(imports, 1)
			imported++
		}
	}
	b = section(b, 2, len(m.Imports), imports...)
	b = section(b, 3, 1, 0)
	b = section(b, 5, 1, binary.AppendUvarint([]byte{0}, uint64(m.Pages))...)
	var exports []byte
	for _, e := range m.Exports {
		exports = append(name(exports, e.Name), e.Kind)
		if e.Kind == Function {
			exports = append(exports, imported)
		} else {
			exports = append(exports, 0)
		}
	}
	b = section(b, 7, len(m.Exports), exports...)
	body := append(append([]byte{0}, m.Body...), 0x0b)
	return section(b, 10, 1, append(binary.AppendUvarint(nil, uint64(len(body))), body...)...)
}

// section appends a section with a vector of n elements.
func section(b []byte, id byte, n int, elements ...byte) []byte {
	content := append(binary.AppendUvarint(nil, uint64(n)), elements...)
	b = binary.AppendUvarint(append(b, id), uint64(len(content)))
	return append(b, content...)
}

func name(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
