package verity

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// disk is a small disk; it refuses writes outside of it.
type disk []byte

func (d disk) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(b)) > int64(len(d)) {
		return 0, io.ErrShortWrite
	}
	return copy(d[at:], b), nil
}

func TestTreeMatchesBuild(t *testing.T) {
	salt := [32]byte{7}
	for _, blocks := range []int{1, 2, 127, 128, 129, 128*gathered - 1, 128*gathered + 1, 128*128 + 1} {
		data := pattern(blocks)
		want, tree, err := Build(bytes.NewReader(data), int64(len(data)), salt)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{4096, 1000, 10000, len(data)} {
			d := make(disk, want.Size())
			b, err := NewTree(d, uint64(blocks), salt)
			if err != nil {
				t.Fatal(err)
			}
			for rest := data; len(rest) > 0; {
				n, err := b.Write(rest[:min(piece, len(rest))])
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			p, err := b.Finish()
			if err != nil || p != want || !bytes.Equal(d[p.HashOffset():], tree) {
				t.Errorf("%d blocks in pieces of %d: %v, %v; want %v and the same tree", blocks, piece, p, err, want)
			}
		}
	}
}

type broken struct{ error }

func (b broken) WriteAt([]byte, int64) (int, error) { return 0, b.error }

func TestTreeRefuses(t *testing.T) {
	for _, blocks := range []uint64{0, maxDataBlocks + 1} {
		if _, err := NewTree(disk{}, blocks, [32]byte{}); err == nil {
			t.Errorf("%d blocks: no error", blocks)
		}
	}
	for _, size := range []int{0, 4096, 8191} {
		b, err := NewTree(make(disk, 3*BlockSize), 2, [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if p, err := b.Finish(); err == nil {
			t.Errorf("%d bytes of two blocks gave %v", size, p)
		}
	}
	b, err := NewTree(make(disk, 3*BlockSize), 2, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.Write(make([]byte, 2*BlockSize+1)); err == nil || n != 2*BlockSize {
		t.Errorf("more than two blocks: %d, %v", n, err)
	}
	full := errors.New("full")
	if b, err = NewTree(broken{full}, 2, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write(make([]byte, 2*BlockSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(); !errors.Is(err, full) {
		t.Errorf("a disk that is full: %v", err)
	}
}
