package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Walk calls visit for every entry of a package file's data archive, with the
// clean relative path of the entry. Reading from r gives the file's bytes.
func Walk(ctx context.Context, deb string, visit func(name string, h *tar.Header, r io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", deb, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpacking %s: %w", deb, err)
	}
	err = walkTar(out, visit)
	if err == nil {
		_, err = io.Copy(io.Discard, out) // padding, so that dpkg-deb ends well
	}
	if err != nil {
		cancel()
		// dpkg-deb has children that a signal to it does not reach: the closed
		// pipe ends them, and Wait waits for all that hold stderr open.
		out.Close()
		_ = cmd.Wait() // it was stopped: its own error says nothing
		return fmt.Errorf("unpacking %s: %w", deb, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("unpacking %s: %w: %s", deb, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

func walkTar(r io.Reader, visit func(string, *tar.Header, io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" {
			continue
		}
		if err := visit(name, h, tr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// Unpack unpacks a package below root, as an ordinary user can: owners are
// dropped, modes keep their permission bits without set-user-ID and the like.
// place maps an entry's path to where it goes; an empty result leaves it out.
func Unpack(ctx context.Context, deb, root string, place func(name string, h *tar.Header) string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("unpacking to %s: %w", root, err)
	}
	defer r.Close()
	return Walk(ctx, deb, func(name string, h *tar.Header, body io.Reader) error {
		to := place(name, h)
		if to == "" {
			return nil
		}
		if dir := path.Dir(to); dir != "." {
			if err := r.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		switch h.Typeflag {
		case tar.TypeDir:
			return r.MkdirAll(to, 0o755)
		case tar.TypeReg:
			return writeFile(r, to, h, body)
		case tar.TypeSymlink:
			if err := r.Symlink(h.Linkname, to); !errors.Is(err, fs.ErrExist) {
				return err
			}
			// Two packages may ship the same link, not two different ones.
			if old, err := r.Readlink(to); err != nil || old != h.Linkname {
				return fmt.Errorf("link to %s: the path is taken", h.Linkname)
			}
			return nil
		case tar.TypeLink:
			from := place(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), h)
			if from == "" {
				return fmt.Errorf("hard link to %s, which was left out", h.Linkname)
			}
			return r.Link(from, to)
		}
		return fmt.Errorf("entry of type %q: not expected in a package", h.Typeflag)
	})
}

func writeFile(r *os.Root, to string, h *tar.Header, body io.Reader) error {
	mode := fs.FileMode(0o644)
	if h.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := r.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// The umask must not show in what is built.
	return os.Chmod(filepath.Join(r.Name(), to), mode)
}
