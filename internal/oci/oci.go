// Package oci reads container images from archives and unpacks one into a folder.
//
// It takes what docker save and podman save write (a docker archive), what
// skopeo copy writes to oci-archive: and docker-archive:, and a tar of any OCI
// image layout. Layers may be compressed with gzip or zstd, the archive may not.
//
// The image is pinned by the SHA-256 of its config. From there every link is
// verified before it is used: index, image manifest and config by their digests
// before they are parsed, each layer by its digest and by its diff id, which the
// config names. Where one does not fit, nothing of the image is kept.
//
// Archives are strangers'. They are read in this process, and none of them is
// held in memory: documents have at most maxDocument bytes, the archive's own
// table of contents at most maxFiles names, and layers flow through. What comes
// out is bounded by Limits before it is written. No symbolic link of the image
// leads out of the folder: links are followed as by a process whose root the
// folder is. Devices, pipes and sockets are left out, and so are set-user-id
// bits, capabilities and all other attributes of files.
package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/ultravioletrs/cocos/manifest"
)

const (
	// maxDocument bounds an index, an image manifest and a config, in bytes.
	maxDocument = 4 << 20
	// maxFiles bounds the files in an archive, maxFileName their names.
	maxFiles    = 1 << 16
	maxFileName = 1 << 10
	// maxLinks bounds how many links are followed to one file.
	maxLinks = 40
)

// Archive is an image archive that was opened.
type Archive struct {
	r      io.ReaderAt
	files  map[string]file
	images []listed
	close  func() error
}

// file is one file in the archive, or a link to another.
type file struct {
	offset, size int64
	link         string
}

// listed is an image as the archive lists it. Nothing of it is verified yet.
type listed struct {
	names []string
	load  func() (*Image, error)
}

// OpenFile opens the archive in a file.
func OpenFile(name string) (*Archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a, err := Open(f, info.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	a.close = f.Close
	return a, nil
}

// Close closes the file of OpenFile.
func (a *Archive) Close() error {
	if a.close == nil {
		return nil
	}
	return a.close()
}

// Open reads what images an archive of size bytes has.
func Open(r io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{r: r, files: map[string]file{}}
	if err := a.scan(size); err != nil {
		return nil, fmt.Errorf("reading the image archive: %w", err)
	}
	var err error
	switch {
	case a.has("oci-layout"):
		err = a.readLayout()
	case a.has("manifest.json"):
		err = a.readDocker()
	default:
		err = errors.New("it has neither oci-layout nor manifest.json, so it holds no image; make it with docker save, podman save or skopeo copy")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the image archive: %w", err)
	}
	return a, nil
}

// scan finds where each file lies.
func (a *Archive) scan(size int64) error {
	s := io.NewSectionReader(a.r, 0, size)
	if kind := compression(s); kind != "" {
		return fmt.Errorf("it is compressed with %s as a whole; decompress it: only its layers may be", kind)
	}
	t := tar.NewReader(s)
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("it is empty")
		case err != nil:
			return fmt.Errorf("it is no tar archive, or damaged: %w", err)
		case n >= maxFiles:
			return fmt.Errorf("it has more than %d files", maxFiles)
		}
		if err := a.note(h, s); err != nil {
			return err
		}
	}
}

// note keeps where the file of a header lies; s stands at its first byte.
func (a *Archive) note(h *tar.Header, s *io.SectionReader) error {
	var f file
	switch h.Typeflag {
	case tar.TypeReg:
		for record := range h.PAXRecords {
			if strings.HasPrefix(record, "GNU.sparse.") {
				return fmt.Errorf("%q in it is a sparse file", h.Name)
			}
		}
		at, err := s.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		f.offset, f.size = at, h.Size
	case tar.TypeSymlink:
		f.link = path.Join("/", path.Dir(h.Name), h.Linkname)[1:]
	case tar.TypeLink:
		f.link = path.Join("/", h.Linkname)[1:]
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("%q in it is neither a file nor a folder", h.Name)
	}
	name := path.Join("/", h.Name)[1:]
	if len(name) > maxFileName || len(f.link) > maxFileName {
		return fmt.Errorf("%.60q… in it has a name of more than %d bytes", h.Name, maxFileName)
	}
	if _, twice := a.files[name]; twice {
		return fmt.Errorf("%q is in it twice", name)
	}
	a.files[name] = f
	return nil
}

func (a *Archive) has(name string) bool {
	_, ok := a.files[name]
	return ok
}

// find follows links to a file.
func (a *Archive) find(name string) (file, error) {
	at := path.Join("/", name)[1:]
	for range maxLinks {
		f, ok := a.files[at]
		if !ok {
			return file{}, fmt.Errorf("%q is not in it", name)
		}
		if f.link == "" {
			return f, nil
		}
		at = f.link
	}
	return file{}, fmt.Errorf("%q in it is a link that leads nowhere", name)
}

// document reads a small file as a whole.
func (a *Archive) document(name string) ([]byte, error) {
	f, err := a.find(name)
	switch {
	case err != nil:
		return nil, err
	case f.size > maxDocument:
		return nil, fmt.Errorf("%q in it has %d bytes; at most %d are allowed", name, f.size, maxDocument)
	}
	b := make([]byte, f.size)
	if _, err := a.r.ReadAt(b, f.offset); err != nil {
		return nil, fmt.Errorf("%q in it: %w", name, err)
	}
	return b, nil
}

// blobPath is where an OCI layout keeps a blob.
func blobPath(d manifest.Digest) string { return "blobs/sha256/" + d.String() }

// parseDigest takes "sha256:" with 64 digits, and no other algorithm.
func parseDigest(s string) (manifest.Digest, error) {
	if !strings.HasPrefix(s, "sha256:") {
		return manifest.Digest{}, fmt.Errorf("%.80q is no SHA-256 digest", s)
	}
	d, err := manifest.ParseDigest(s)
	if err != nil {
		return d, fmt.Errorf("%.80q %w", s, err)
	}
	return d, nil
}

// magics are how compressed files begin.
var magics = []struct{ kind, begin string }{
	{"gzip", "\x1f\x8b"}, {"zstd", "\x28\xb5\x2f\xfd"}, {"xz", "\xfd7zXZ\x00"}, {"bzip2", "BZh"},
}

func compression(r io.ReaderAt) string {
	b := make([]byte, 6)
	n, _ := r.ReadAt(b, 0) // a short file begins with none of them
	return compressionOf(b[:n])
}

func compressionOf(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.begin)) {
			return m.kind
		}
	}
	return ""
}
