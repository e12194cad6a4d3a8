package archive

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ultravioletrs/cocos/manifest"
)

// Sum returns the digest and the size in bytes of what an upload of path would
// send: of a file its content, so that sha256sum gives the same digest, of a
// folder its archive.
func Sum(name string) (manifest.Digest, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return manifest.Digest{}, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return manifest.Digest{}, 0, err
	}
	if info.IsDir() {
		return Packing{}.Digest(name)
	}
	h := sha256.New()
	n, err := copyAhead(h, f, info.Size())
	if err != nil {
		return manifest.Digest{}, 0, fmt.Errorf("reading %s: %w", name, err)
	}
	return manifest.Digest(h.Sum(nil)), n, nil
}

// SumPadded is Sum, but a folder's archive is padded to size if it is smaller.
func SumPadded(name string, size int64) (manifest.Digest, int64, error) {
	d, n, err := Sum(name)
	if err != nil || n >= size {
		return d, n, err
	}
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return d, n, err
	}
	return Packing{Size: size}.Digest(name)
}

// Digest returns the digest and the size in bytes of dir's archive.
func (c Packing) Digest(dir string) (manifest.Digest, int64, error) {
	h := sha256.New()
	var size counter
	if err := c.Pack(io.MultiWriter(h, &size), dir); err != nil {
		return manifest.Digest{}, 0, err
	}
	return manifest.Digest(h.Sum(nil)), int64(size), nil
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

const (
	readSize = 512 << 10
	readers  = 3 // buffers under way
)

// copyAhead copies r to w. What is expected to be long is read by a goroutine,
// which ends before copyAhead returns, while w works on what came before.
func copyAhead(w io.Writer, r io.Reader, expected int64) (int64, error) {
	if expected <= readSize {
		return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, max(4<<10, min(expected+1, 64<<10))))
	}
	type piece struct {
		b   []byte
		n   int
		err error
	}
	full, empty := make(chan piece, readers), make(chan []byte, readers)
	for range readers {
		empty <- make([]byte, readSize)
	}
	go func() {
		defer close(full)
		for b := range empty {
			n, err := io.ReadFull(r, b)
			full <- piece{b, n, err}
			if err != nil {
				return
			}
		}
	}()
	var (
		total int64
		fault error
	)
	for p := range full {
		if fault != nil {
			continue
		}
		n, err := w.Write(p.b[:p.n])
		total += int64(n)
		if err == nil && p.err != nil && !errors.Is(p.err, io.EOF) && !errors.Is(p.err, io.ErrUnexpectedEOF) {
			err = p.err
		}
		if err != nil {
			fault = err
			close(empty)
			continue
		}
		empty <- p.b
	}
	return total, fault
}
