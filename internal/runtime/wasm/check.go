package wasm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Of the WebAssembly binary format (core specification 2.0, section 5.5).
const (
	headerSize    = 8
	sectionImport = 2
	sectionExport = 7
	kindFunction  = 0
	maxSections   = 4096
	maxSection    = 1 << 20 // of imports and exports, in bytes
)

const (
	wasiModule    = "wasi_snapshot_preview1"
	startFunction = "_start"
	initFunction  = "_initialize"
)

// howToBuild ends what is said about a module of another kind.
const howToBuild = "build a command for WASI preview 1: GOOS=wasip1 GOARCH=wasm go build, or cargo build --target wasm32-wasip1"

var errNoStart = errors.New("exports no function " + startFunction + "; " + howToBuild)

// Check says what keeps a file from being run: it must be a core module that
// imports functions of WASI preview 1 only and exports its start. The file is a
// stranger's: whatever it says, no more than its sections' headers and 2 MiB of
// it are read. Whether its code is valid, only the engine knows.
func Check(f io.ReaderAt) error {
	header := make([]byte, headerSize)
	if _, err := f.ReadAt(header, 0); errors.Is(err, io.EOF) {
		return errors.New("is too short to be a WebAssembly module")
	} else if err != nil {
		return err
	}
	version, layer := binary.LittleEndian.Uint16(header[4:]), binary.LittleEndian.Uint16(header[6:])
	switch {
	case !bytes.HasPrefix(header, []byte("\x00asm")):
		return errors.New(`is not a WebAssembly module; its type in the manifest is "wasm"`)
	case layer == 1:
		return errors.New("is a WebAssembly component, and this machine runs core modules; " + howToBuild)
	case version != 1 || layer != 0:
		return fmt.Errorf("is WebAssembly of version %d, layer %d; expected 1 and 0", version, layer)
	}
	found := exports{}
	read := map[byte]bool{}
	at := int64(headerSize)
	for range maxSections {
		s, err := sectionAt(f, at)
		switch {
		case err == io.EOF:
			return found.judge()
		case err != nil:
			return err
		case s.in == nil:
		case read[s.id]:
			return damaged("the section at byte %d is a second one of its kind", at)
		case s.id == sectionImport:
			err = checkImports(s.in)
		case s.id == sectionExport:
			err = found.read(s.in)
		}
		if err != nil {
			return err
		}
		read[s.id] = true
		at = s.end
	}
	return damaged("it has more than %d sections", maxSections)
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("is a damaged WebAssembly module: "+format, args...)
}

type section struct {
	id  byte
	end int64   // where the next one begins
	in  *reader // its content, of an import or export section
}

// sectionAt returns io.EOF where the file ends.
func sectionAt(f io.ReaderAt, at int64) (section, error) {
	head := make([]byte, 1+binary.MaxVarintLen32)
	n, err := f.ReadAt(head, at)
	if n == 0 || err != nil && !errors.Is(err, io.EOF) {
		return section{}, err
	}
	in := &reader{Reader: bufio.NewReader(bytes.NewReader(head[1:n]))}
	size := in.number()
	if in.err != nil {
		return section{}, damaged("the section at byte %d: %w", at, in.err)
	}
	start := at + 1 + int64(in.taken)
	s := section{id: head[0], end: start + int64(size)}
	if s.id != sectionImport && s.id != sectionExport {
		return s, nil
	}
	if size > maxSection {
		return s, fmt.Errorf("has %d bytes of imports or exports; at most %d are read", size, maxSection)
	}
	s.in = &reader{Reader: bufio.NewReader(io.NewSectionReader(f, start, int64(size)))}
	return s, nil
}

func checkImports(in *reader) error {
	for range in.number() {
		module, name, kind := in.name(), in.name(), in.byte()
		switch {
		case in.err != nil:
			return damaged("its imports: %w", in.err)
		case string(module) != wasiModule:
			return fmt.Errorf("imports %.80q of %.80q, and there is nothing but %s; %s", name, module, wasiModule, howToBuild)
		case kind != kindFunction:
			return fmt.Errorf("imports %.80q of %s, which is no function; %s", name, wasiModule, howToBuild)
		}
		in.number() // its type
	}
	if in.err != nil {
		return damaged("its imports: %w", in.err)
	}
	return nil
}

// exports are those that tell what kind of module it is.
type exports struct{ start, init bool }

func (e *exports) read(in *reader) error {
	for range in.number() {
		name, kind := in.name(), in.byte()
		in.number() // its index
		if in.err != nil {
			break
		}
		e.start = e.start || string(name) == startFunction && kind == kindFunction
		e.init = e.init || string(name) == initFunction && kind == kindFunction
	}
	if in.err != nil {
		return damaged("its exports: %w", in.err)
	}
	return nil
}

func (e *exports) judge() error {
	switch {
	case e.start:
		return nil
	case e.init:
		return errors.New("is a library (a WASI reactor: it exports " + initFunction + ", not " + startFunction + "), which nothing would call; " + howToBuild)
	}
	return errNoStart
}

// reader reads the format's primitive values. After its first error it returns
// zeros, so that counted loops end.
type reader struct {
	*bufio.Reader
	taken int
	err   error
}

func (r *reader) byte() byte {
	if r.err != nil {
		return 0
	}
	b, err := r.ReadByte()
	if err != nil {
		r.fail(err)
		return 0
	}
	r.taken++
	return b
}

func (r *reader) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
}

// number is a u32 in LEB128.
func (r *reader) number() uint32 {
	var n uint64
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte()
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if n > math.MaxUint32 {
				break
			}
			return uint32(n)
		}
	}
	r.fail(errors.New("a number of more than 32 bits"))
	return 0
}

func (r *reader) name() []byte {
	n := r.number()
	if r.err != nil {
		return nil
	}
	if n > maxSection {
		r.fail(fmt.Errorf("a name of %d bytes", n))
		return nil
	}
	b := make([]byte, n)
	read, err := io.ReadFull(r, b)
	r.taken += read
	if err != nil {
		r.fail(err)
	}
	return b
}
