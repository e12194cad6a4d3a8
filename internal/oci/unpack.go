package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Owner has all files of an unpacked image.
type Owner struct{ UID, GID int }

// Unpack makes the folder dir, which must not exist, of the image's layers.
// After an error there is no dir.
//
// Modes are kept, without set-user-id, set-group-id and sticky bits; the owner
// may read everything, enter all folders, and execute what anybody may. With an
// owner all files are that one's, which takes privilege; without they are the
// caller's.
func (img *Image) Unpack(ctx context.Context, dir string, l Limits, owner *Owner) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("unpacking the image: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("unpacking the image: %w", err), os.RemoveAll(dir))
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := &tree{root: root, owner: owner, buf: make([]byte, readSize)}
	defer t.leave()
	if _, err := img.walk(ctx, l, t); err != nil {
		return err
	}
	return t.own(root, ".", 0o755|fs.ModeDir)
}

// tree is what has been unpacked so far.
type tree struct {
	root  *os.Root
	owner *Owner
	buf   []byte
	// made holds what this layer has, and the folders above: whiteouts are about
	// the layers below. Digests, because names can be long.
	made map[[16]byte]struct{}
	// in is the folder that the last entry was in, as its name says it; at is
	// where that leads, and here that folder.
	in   string
	at   string
	here *os.Root
}

// Prefixes of whiteouts (OCI image layer specification, "Whiteouts").
const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutOwn    = ".wh..wh." // of the file system that made them
)

func (t *tree) layer() {
	t.made = map[[16]byte]struct{}{}
	t.leave()
}

func key(name string) (k [16]byte) {
	sum := sha256.Sum256([]byte(name))
	copy(k[:], sum[:])
	return k
}

func (t *tree) mark(name string) { t.made[key(name)] = struct{}{} }

func (t *tree) entry(name string, h *tar.Header, content io.Reader) error {
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the top is not a folder")
		}
		return nil
	}
	dir, base := path.Split(name)
	if err := t.enter(dir); err != nil {
		return err
	}
	at := path.Join(t.at, base)
	switch {
	case base == whiteoutOpaque:
		return t.clear(t.at)
	case strings.HasPrefix(base, whiteoutOwn):
		return nil
	case strings.HasPrefix(base, whiteout):
		hidden := base[len(whiteout):]
		if hidden == "" || hidden == "." || hidden == ".." {
			return errors.New("it is a whiteout of no file")
		}
		return t.hide(path.Join(t.at, hidden))
	}
	t.mark(at)
	switch h.Typeflag {
	case tar.TypeDir:
		return t.folder(base, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return t.file(base, h, content)
	case tar.TypeSymlink:
		return t.symlink(base, h)
	case tar.TypeLink:
		return t.link(at, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		// Left out; what it replaces goes all the same.
		return t.here.RemoveAll(base)
	}
	return fmt.Errorf("it is of the unknown type %q", h.Typeflag)
}

// enter goes to the folder that a name says, and makes it where it is missing.
func (t *tree) enter(dir string) error {
	if t.here != nil && dir == t.in {
		return nil
	}
	at, err := follow(t.root, dir, func(name string) error {
		if err := t.root.Mkdir(name, 0o700); err != nil {
			return err
		}
		return t.own(t.root, name, 0o755|fs.ModeDir)
	})
	if err != nil {
		return err
	}
	here, err := t.root.OpenRoot(orTop(at))
	if err != nil {
		return err
	}
	t.leave()
	t.in, t.at, t.here = dir, at, here
	for above := at; above != ""; above = parent(above) {
		t.mark(above)
	}
	return nil
}

func (t *tree) leave() {
	if t.here != nil {
		_ = t.here.Close() // nothing is written through it any more
		t.here = nil
	}
}

// clear removes what lower layers have in a folder.
func (t *tree) clear(dir string) error {
	f, err := t.root.Open(orTop(dir))
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, n := range names {
		if err := t.hide(path.Join(dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// hide removes what lower layers have at a place.
func (t *tree) hide(at string) error {
	if _, ours := t.made[key(at)]; !ours {
		return t.root.RemoveAll(at)
	}
	info, err := t.root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a device, which was left out
	}
	if err != nil || !info.IsDir() {
		return err
	}
	return t.clear(at)
}

func (t *tree) folder(base string, h *tar.Header) error {
	info, err := t.here.Lstat(base)
	if err != nil || !info.IsDir() {
		if err := t.here.RemoveAll(base); err != nil {
			return err
		}
		if err := t.here.Mkdir(base, 0o700); err != nil {
			return err
		}
	}
	return t.own(t.here, base, h.FileInfo().Mode())
}

func (t *tree) file(base string, h *tar.Header, content io.Reader) error {
	if err := t.here.RemoveAll(base); err != nil {
		return err
	}
	f, err := t.here.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{content}, t.buf)
	if err == nil && n != h.Size {
		err = io.ErrUnexpectedEOF
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return t.own(t.here, base, h.FileInfo().Mode())
}

func (t *tree) symlink(base string, h *tar.Header) error {
	if err := t.here.RemoveAll(base); err != nil {
		return err
	}
	if err := t.here.Symlink(h.Linkname, base); err != nil {
		return err
	}
	if t.owner == nil {
		return nil
	}
	return t.here.Lchown(base, t.owner.UID, t.owner.GID)
}

// link makes at another name of a file of the image.
func (t *tree) link(at string, h *tar.Header) error {
	to, err := cleanName(h.Linkname)
	if err != nil {
		return fmt.Errorf("its target %.256q: %w", h.Linkname, err)
	}
	dir, base := path.Split(to)
	if dir, err = follow(t.root, dir, nil); err != nil {
		return fmt.Errorf("its target %.256q: %w", h.Linkname, err)
	}
	to = path.Join(dir, base)
	info, err := t.root.Lstat(orTop(to))
	switch {
	case err != nil:
		return fmt.Errorf("its target %.256q: %w", h.Linkname, err)
	case info.IsDir(), to == at:
		return fmt.Errorf("its target %.256q is a folder, or the link itself", h.Linkname)
	}
	if err := t.root.RemoveAll(at); err != nil {
		return err
	}
	return t.root.Link(to, at)
}

// own gives what was just made its mode and owner; it is no symbolic link.
func (t *tree) own(in *os.Root, name string, mode fs.FileMode) error {
	perm := mode.Perm() | 0o400
	if mode.IsDir() {
		perm |= 0o700 // the caller makes and removes what is in it
	} else if perm&0o111 != 0 {
		perm |= 0o100
	}
	if err := in.Chmod(name, perm); err != nil {
		return err
	}
	if t.owner == nil {
		return nil
	}
	return in.Lchown(name, t.owner.UID, t.owner.GID)
}
