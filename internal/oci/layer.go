package oci

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/ultravioletrs/cocos/manifest"
)

// Limits bound what comes out of an image. A zero allows nothing.
type Limits struct {
	// Entries is the number of files, folders and links in all layers.
	Entries int
	// Depth of the deepest one; an entry at the top has depth 1.
	Depth int
	// Bytes bounds all that the layers hold, whether a later one removes it or
	// not: for each entry one block of 4 KiB, and its content in whole blocks.
	Bytes int64
}

// LimitsOf are those of an image with this unpacked_max.
func LimitsOf(unpackedMax int64) Limits {
	return Limits{Entries: 1 << 19, Depth: 128, Bytes: unpackedMax}
}

const (
	// block is what memory file systems and disks give a file at least, in bytes.
	block = 4 << 10
	// slack is what a layer may have beyond what counts: padding, attributes.
	slack = 16 << 20
	// maxWindow bounds the memory that one zstd layer takes, in bytes.
	maxWindow = 32 << 20
	readSize  = 256 << 10
)

// visitor takes the layers' entries; a name is clean and relative, or empty for
// the top.
type visitor interface {
	// layer begins the next one.
	layer()
	entry(name string, h *tar.Header, content io.Reader) error
}

// walker goes through all layers, verifies and counts.
type walker struct {
	ctx     context.Context
	limits  Limits
	visit   visitor
	entries int
	bytes   int64
	raw     int64 // decompressed bytes that may still come
}

// walk returns how many bytes, as Limits counts them, the image has.
func (img *Image) walk(ctx context.Context, l Limits, v visitor) (int64, error) {
	w := walker{ctx: ctx, limits: l, visit: v, raw: l.Bytes + slack}
	for i, layer := range img.layers {
		v.layer()
		if err := w.layer(img.archive, layer); err != nil {
			return 0, fmt.Errorf("layer %d of the image: %w", i, err)
		}
	}
	return w.bytes, nil
}

// Measure verifies all layers and returns how many bytes, as Limits counts them,
// the image has: its unpacked_max.
func (img *Image) Measure(ctx context.Context) (int64, error) {
	return img.walk(ctx, LimitsOf(manifest.MaxInputSize), nobody{})
}

type nobody struct{}

func (nobody) layer()                                     {}
func (nobody) entry(string, *tar.Header, io.Reader) error { return nil }

func (w *walker) layer(a *Archive, l layer) error {
	source := bufio.NewReaderSize(&watched{ctx: w.ctx, r: io.NewSectionReader(a.r, l.file.offset, l.file.size)}, readSize)
	head, _ := source.Peek(6) // a short one begins with no magic
	var (
		raw  io.Reader = source
		blob           = sha256.New()
		kind           = compressionOf(head)
	)
	if kind != "" && l.blob != nil {
		raw = io.TeeReader(source, blob)
	}
	content, free, err := decompress(kind, raw)
	if err != nil {
		return err
	}
	defer free()
	diff := &counted{r: content, hash: sha256.New(), left: &w.raw}
	if err := w.entriesOf(diff); err != nil {
		return err
	}
	// What comes after the last entry is part of the digests, too.
	if _, err := io.Copy(io.Discard, diff); err != nil {
		return fmt.Errorf("reading its end: %w", err)
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return fmt.Errorf("reading its end: %w", err)
	}
	got := manifest.Digest(diff.hash.Sum(nil))
	if got != l.diffID {
		return fmt.Errorf("its content has the SHA-256 %s; the config names %s", got, l.diffID)
	}
	if l.blob == nil {
		return nil
	}
	if kind != "" {
		got = manifest.Digest(blob.Sum(nil))
	}
	if got != *l.blob {
		return fmt.Errorf("it has the SHA-256 %s; the image manifest names %s", got, *l.blob)
	}
	return nil
}

func decompress(kind string, r io.Reader) (content io.Reader, free func(), err error) {
	switch kind {
	case "":
		return r, func() {}, nil
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("decompressing it: %w", err)
		}
		return z, func() { _ = z.Close() }, nil // nothing is open
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("decompressing it: %w", err)
		}
		return z, z.Close, nil
	}
	return nil, nil, fmt.Errorf("it is compressed with %s; expected gzip, zstd or nothing", kind)
}

func (w *walker) entriesOf(r io.Reader) error {
	t := tar.NewReader(r)
	last := ""
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading it after %.256q: %w", last, err)
		}
		last = h.Name
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := cleanName(h.Name)
		if err == nil {
			err = w.count(name, h)
		}
		if err == nil {
			err = w.visit.entry(name, h, t)
		}
		if err != nil {
			return fmt.Errorf("%.256q: %w", h.Name, err)
		}
	}
}

// cleanName takes "./x" and "/x" for "x", as all tools do.
func cleanName(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("its name has a part \"..\"")
		}
	}
	return path.Clean("/" + name)[1:], nil
}

// count charges an entry before anything is made of it.
func (w *walker) count(name string, h *tar.Header) error {
	w.entries++
	content := int64(0)
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse {
		content = h.Size
	}
	left := w.limits.Bytes - w.bytes
	switch depth := strings.Count(name, "/") + 1; {
	case w.entries > w.limits.Entries:
		return fmt.Errorf("with it there are more than the allowed %d entries", w.limits.Entries)
	case depth > w.limits.Depth:
		return fmt.Errorf("it is %d folders deep; at most %d are allowed", depth, w.limits.Depth)
	case content < 0 || content > left || block+(content+block-1)/block*block > left:
		return fmt.Errorf("with it there are more than the %d bytes of unpacked_max", w.limits.Bytes)
	}
	w.bytes += block + (content+block-1)/block*block
	return nil
}

// counted hashes what is read, and ends where there is more of it than its
// entries can need: a few bytes decompress into as many zeros as one likes.
type counted struct {
	r    io.Reader
	hash hash.Hash
	left *int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.hash.Write(b[:n])
	if *c.left -= int64(n); *c.left < 0 {
		return 0, errors.New("it decompresses into more than unpacked_max allows")
	}
	return n, err
}

// watched ends with its context.
type watched struct {
	ctx context.Context
	r   io.Reader
}

func (w *watched) Read(b []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.r.Read(b)
}
