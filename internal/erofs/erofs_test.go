package erofs_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	reader "github.com/erofs/go-erofs"

	"github.com/ultravioletrs/cocos/internal/erofs"
)

// entry is a file (content set) or folder of a test's image.
type entry struct {
	name    string
	perm    fs.FileMode
	content []byte // nil: a folder
}

func image(t *testing.T, entries []entry) []byte {
	t.Helper()
	var p erofs.Plan
	var content []byte
	for _, e := range entries {
		err := error(nil)
		if e.content == nil {
			err = p.Folder(e.name)
		} else {
			err = p.File(e.name, e.perm, int64(len(e.content)))
			content = append(content, e.content...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	size, err := p.Size()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := p.Write(&out)
	if err != nil {
		t.Fatal(err)
	}
	// In uneven pieces, over the bounds of files.
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 1777)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if int64(out.Len()) != size || size%erofs.BlockSize != 0 {
		t.Fatalf("the image has %d bytes; planned were %d", out.Len(), size)
	}
	return out.Bytes()
}

// read is what an independent reader finds in an image.
func read(t *testing.T, image []byte) map[string]string {
	t.Helper()
	fsys, err := reader.Open(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if !d.IsDir() {
			b, err := fs.ReadFile(fsys, name)
			if err != nil {
				return err
			}
			text += " " + string(b)
		}
		found[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImage(t *testing.T) {
	pattern := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*7 + i>>8)
		}
		return b
	}
	many := []entry{{"many", 0, nil}}
	for i := range 1000 { // the entries take more than one block
		many = append(many, entry{fmt.Sprintf("many/file-%04d-%s", i, strings.Repeat("n", i%60)), 0o644, []byte{byte(i)}})
	}
	for name, entries := range map[string][]entry{
		"nothing":  nil,
		"one file": {{"data.csv", 0o444, pattern(10000)}},
		"sizes": {
			{"empty", 0o644, []byte{}},
			{"less", 0o644, pattern(4095)},
			{"block", 0o755, pattern(4096)},
			{"more", 0o644, pattern(4097)},
			{"also-empty", 0o644, []byte{}},
		},
		"folders": {
			{"!before-the-dot", 0o644, []byte("x")},
			{"a", 0, nil},
			{"a/b", 0, nil},
			{"a/b/c", 0o755, []byte("deep")},
			{"a.b", 0o644, []byte("beside")},
			{"empty", 0, nil},
			{"ü", 0o644, []byte("not ASCII")},
			{strings.Repeat("l", 255), 0o644, []byte("long")},
		},
		"many": many,
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]string{}
			for _, e := range entries {
				if e.content == nil {
					want[e.name] = (fs.ModeDir | 0o755).String()
				} else {
					want[e.name] = e.perm.String() + " " + string(e.content)
				}
			}
			if got := read(t, image(t, entries)); !maps.Equal(got, want) {
				t.Errorf("found %q", slices.Sorted(maps.Keys(got)))
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, add := range map[string]func(p *erofs.Plan) error{
		"no folder":   func(p *erofs.Plan) error { return p.File("a/b", 0o644, 1) },
		"absolute":    func(p *erofs.Plan) error { return p.File("/a", 0o644, 1) },
		"no name":     func(p *erofs.Plan) error { return p.Folder("") },
		"the root":    func(p *erofs.Plan) error { return p.Folder(".") },
		"up":          func(p *erofs.Plan) error { return p.File("..", 0o644, 1) },
		"not clean":   func(p *erofs.Plan) error { return p.File("./a", 0o644, 1) },
		"long":        func(p *erofs.Plan) error { return p.File(strings.Repeat("l", 256), 0o644, 1) },
		"NUL":         func(p *erofs.Plan) error { return p.File("a\x00", 0o644, 1) },
		"less than 0": func(p *erofs.Plan) error { return p.File("a", 0o644, -1) },
		"too much":    func(p *erofs.Plan) error { return p.File("a", 0o644, 1<<62) },
		"in a file": func(p *erofs.Plan) error {
			if err := p.File("a", 0o644, 1); err != nil {
				return nil
			}
			return p.File("a/b", 0o644, 1)
		},
		"twice": func(p *erofs.Plan) error {
			if p.File("a", 0o644, 1) != nil || p.Folder("a") != nil {
				return nil
			}
			_, err := p.Size()
			return err
		},
		"late": func(p *erofs.Plan) error {
			if _, err := p.Size(); err != nil {
				return nil
			}
			return p.File("a", 0o644, 1)
		},
	} {
		if err := add(new(erofs.Plan)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWriterHoldsToThePlan(t *testing.T) {
	var p erofs.Plan
	if err := p.File("a", 0o644, 10); err != nil {
		t.Fatal(err)
	}
	w, err := p.Write(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("an image without its content was complete")
	}
	if n, err := w.Write(make([]byte, 11)); err == nil || n != 10 {
		t.Errorf("more than was planned: %d, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
