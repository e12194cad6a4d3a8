package wasm

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/runtime/wasm/wasmtest"
)

const header = "\x00asm\x01\x00\x00\x00"

func TestCheck(t *testing.T) {
	start := wasmtest.Command().Exports
	module := func(change func(*wasmtest.Module)) string {
		m := wasmtest.Command()
		change(&m)
		return string(m.Bytes())
	}
	wasi := func(name string, kind byte) wasmtest.Name {
		return wasmtest.Name{Module: "wasi_snapshot_preview1", Name: name, Kind: kind}
	}
	whole := module(func(*wasmtest.Module) {})
	tests := []struct{ name, file, err string }{
		{"a command", whole, ""},
		{"with WASI", module(func(m *wasmtest.Module) {
			m.Imports = []wasmtest.Name{wasi("fd_write", wasmtest.Function), wasi("proc_exit", wasmtest.Function)}
		}), ""},
		{"with more exports", module(func(m *wasmtest.Module) {
			m.Exports = append([]wasmtest.Name{{Name: "memory", Kind: wasmtest.Memory}, {Name: "_initialize"}}, start...)
		}), ""},
		{"custom sections", header + "\x00\x05\x04name" + whole[len(header):], ""},

		{"nothing", "", "too short"},
		{"half a header", "\x00asm\x01", "too short"},
		{"another file", "\x7fELF\x02\x01\x01\x00", `is not a WebAssembly module; its type in the manifest is "wasm"`},
		{"text", "(module (func))", "is not a WebAssembly module"},
		{"a component", "\x00asm\x0d\x00\x01\x00", "is a WebAssembly component, and this machine runs core modules; build a command for WASI preview 1: GOOS=wasip1"},
		{"version 2", "\x00asm\x02\x00\x00\x00", "is WebAssembly of version 2, layer 0"},
		{"layer 2", "\x00asm\x01\x00\x02\x00", "is WebAssembly of version 1, layer 2"},
		{"no sections", header, "exports no function _start"},
		{"a library", module(func(m *wasmtest.Module) { m.Exports[0].Name = "_initialize" }), "is a library (a WASI reactor"},
		{"another start", module(func(m *wasmtest.Module) { m.Exports[0].Name = "main" }), "exports no function _start"},
		{"start is no function", module(func(m *wasmtest.Module) { m.Exports[0].Kind = wasmtest.Memory }), "exports no function _start"},
		{"for the web", module(func(m *wasmtest.Module) {
			m.Imports = []wasmtest.Name{wasi("fd_write", wasmtest.Function), {Module: "gojs", Name: "runtime.wasmExit"}}
		}), `imports "runtime.wasmExit" of "gojs", and there is nothing but wasi_snapshot_preview1`},
		{"older WASI", module(func(m *wasmtest.Module) { m.Imports = []wasmtest.Name{{Module: "wasi_unstable", Name: "fd_write"}} }), `of "wasi_unstable"`},
		{"a memory of WASI's", module(func(m *wasmtest.Module) { m.Imports = []wasmtest.Name{wasi("memory", wasmtest.Memory)} }), "which is no function"},

		{"section without a size", header + "\x02", "is a damaged WebAssembly module: the section at byte 8: unexpected EOF"},
		{"size of 33 bits", header + "\x02\xff\xff\xff\xff\x10", "a number of more than 32 bits"},
		{"size without end", header + "\x02\x80\x80\x80\x80\x80\x80", "a number of more than 32 bits"},
		{"large section", header + "\x02\x81\x80\x40", "has 1048577 bytes of imports or exports"},
		{"imports cut off", header + "\x02\x03\x01\x01a", "its imports: unexpected EOF"},
		{"no imports counted", header + "\x02\x00", "its imports: unexpected EOF"},
		{"many imports", header + "\x02\x05\xff\xff\xff\xff\x0f", "its imports: unexpected EOF"},
		{"long name", header + "\x07\x06\x01\xff\xff\xff\xff\x0f", "its exports: a name of 4294967295 bytes"},
		{"exports cut off", header + "\x07\x03\x01\x01a", "its exports: unexpected EOF"},
		{"exports twice", whole + "\x07\x01\x00", "is a second one of its kind"},
		{"many sections", header + strings.Repeat("\x00\x00", maxSections), "it has more than 4096 sections"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(strings.NewReader(tt.file))
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v; want %q", err, tt.err)
			}
		})
	}
}

type broken struct{}

var errBroken = errors.New("the disk is broken")

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

// brokenBehind reads the header only.
type brokenBehind struct{ broken }

func (b brokenBehind) ReadAt(p []byte, at int64) (int, error) {
	if at > 0 {
		return b.broken.ReadAt(p, at)
	}
	return strings.NewReader(header).ReadAt(p, at)
}

func TestCheckOfWhatCannotBeRead(t *testing.T) {
	for _, f := range []io.ReaderAt{broken{}, brokenBehind{}} {
		if err := Check(f); !errors.Is(err, errBroken) {
			t.Errorf("%v; want %v", err, errBroken)
		}
	}
}

func TestCommandIsParsed(t *testing.T) {
	argv := append(Command("/m.wasm", 1<<30, []string{"A=1", "B="}), "", "-x")
	j, err := parse(argv[1:])
	if err != nil || argv[0] != Name || j.memory != 1<<30 || strings.Join(j.args, ",") != "/m.wasm,,-x" || strings.Join(j.env, ",") != "A=1,B=" {
		t.Errorf("%q is read as %+v, %v", argv, j, err)
	}
	for _, argv := range [][]string{nil, {"1"}, {"1", "0"}, {"x", "0", "m"}, {"-1", "0", "m"}, {"1", "x", "m"}, {"1", "-1", "m"}, {"1", "1", "m"}, {"1", "2", "A=1", "m"}} {
		if j, err := parse(argv); err == nil || !strings.Contains(err.Error(), "by the agent only") {
			t.Errorf("%q is read as %+v, %v", argv, j, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(wasmtest.Command().Bytes())
	m := wasmtest.Command()
	m.Imports = []wasmtest.Name{{Module: wasiModule, Name: "fd_write"}}
	f.Add(m.Bytes())
	f.Add([]byte(header + "\x00\x05\x04name"))
	f.Fuzz(func(t *testing.T, b []byte) {
		counted := &countingReader{ReaderAt: bytes.NewReader(b)}
		if Check(counted) == nil && (!bytes.Contains(b, []byte(startFunction)) || !bytes.HasPrefix(b, []byte(header))) {
			t.Error("accepted without a start")
		}
		if most := headerSize + maxSections*6 + 2*(maxSection+4096); counted.asked > most {
			t.Errorf("read %d bytes; want at most %d", counted.asked, most)
		}
	})
}

type countingReader struct {
	io.ReaderAt
	asked int
}

func (r *countingReader) ReadAt(p []byte, at int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, at)
	r.asked += n
	return n, err
}
