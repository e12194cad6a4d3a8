package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/manifest"
)

const (
	readSize  = 1 << 20 // bytes of one read
	readAhead = 3       // reads that may be ahead of the hash
)

// input is a file, or a folder that travels as its deterministic archive.
type input struct {
	path   string
	folder bool
	// size in bytes of what travels; -1: not known yet.
	size   int64
	digest manifest.Digest // known once size is, unless sizeOnly
	// salt of the commitment by which a manifest names it; nil: by its digest.
	salt *manifest.Salt
}

// kind is the word for it in texts and JSON.
func (in *input) kind() string {
	if in.folder {
		return "archive"
	}
	return "file"
}

// openInput looks at path without reading it.
func openInput(path string) (input, error) {
	info, err := os.Stat(path)
	if err != nil {
		return input{}, err
	}
	switch {
	case info.IsDir():
		return input{path: path, folder: true, size: -1}, nil
	case info.Mode().IsRegular():
		return input{path: path, size: info.Size()}, nil
	}
	return input{}, &fs.PathError{Op: "reading", Path: path, Err: errors.New("neither a file nor a folder")}
}

// copyTo writes what travels, from its first byte.
func (in *input) copyTo(w io.Writer) error {
	if in.folder {
		return archive.Pack(w, in.path)
	}
	f, err := os.Open(in.path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(onlyWriter{w}, onlyReader{f}, make([]byte, readSize))
	return err
}

// onlyReader and onlyWriter hide what would make io.Copy choose its own buffers.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// sum reads in and sets its size and digest.
func (in *input) sum(ctx context.Context, p *progress) error {
	h := newHasher(ctx, p)
	err := in.copyTo(h)
	n, digest, hashErr := h.finish()
	switch {
	case hashErr != nil:
		return hashErr // what made copyTo fail
	case err != nil:
		return fmt.Errorf("reading %s: %w", in.path, err)
	}
	in.size, in.digest = n, digest
	return nil
}

// hasher is a writer that hashes in a goroutine of its own, so that reading
// and hashing take place at once. finish ends and waits for it.
type hasher struct {
	ctx    context.Context
	full   chan []byte
	empty  chan []byte
	done   chan struct{}
	buf    []byte
	hash   hash.Hash
	n      int64
	shown  *progress
	failed error
}

func newHasher(ctx context.Context, p *progress) *hasher {
	h := &hasher{
		ctx: ctx, hash: sha256.New(), shown: p,
		full: make(chan []byte, readAhead), empty: make(chan []byte, readAhead), done: make(chan struct{}),
	}
	for range readAhead {
		h.empty <- make([]byte, 0, readSize)
	}
	go func() {
		defer close(h.done)
		for b := range h.full {
			h.hash.Write(b)
			h.empty <- b[:0]
		}
	}()
	return h
}

// Write takes b in pieces of readSize.
func (h *hasher) Write(b []byte) (int, error) {
	if h.failed = h.ctx.Err(); h.failed != nil {
		return 0, h.failed
	}
	for rest := b; len(rest) > 0; {
		if h.buf == nil {
			h.buf = <-h.empty
		}
		k := min(len(rest), cap(h.buf)-len(h.buf))
		h.buf = append(h.buf, rest[:k]...)
		rest = rest[k:]
		if len(h.buf) == cap(h.buf) {
			h.full <- h.buf
			h.buf = nil
		}
	}
	h.n += int64(len(b))
	if h.shown != nil {
		h.shown.set(h.n)
	}
	return len(b), nil
}

func (h *hasher) finish() (int64, manifest.Digest, error) {
	if len(h.buf) > 0 {
		h.full <- h.buf
	}
	close(h.full)
	<-h.done
	return h.n, manifest.Digest(h.hash.Sum(nil)), h.failed
}
