// Package debian brings packages of one Debian release to a machine that may
// run another, without installing anything and without being root.
//
// Resolution and verification are apt's own, with sources and state folders of
// its own (Apt): it checks the archive's signature with the host's copy of
// Debian's archive keyring, and refuses anything unsigned, whatever the
// machine's own apt configuration allows. Downloads are made here, so that
// progress can be shown and one cache folder serves every build (Cache).
//
// The invariant: a package enters the cache only after its size and SHA-256
// were found right, and a Lock's packages are downloaded only after the signed
// indexes list exactly those digests. What is in the cache is hashed again
// when it is used. Packages are unpacked by dpkg-deb into a tar stream that the
// caller filters; maintainer scripts never run.
package debian

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The archives that a package can come from.
const (
	ArchiveMain     = "debian"
	ArchiveSecurity = "debian-security"
)

// Package names one binary package by everything that is needed to fetch and
// check it.
type Package struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Arch    string   `json:"arch"`
	Archive string   `json:"archive"` // ArchiveMain or ArchiveSecurity
	Path    string   `json:"path"`    // relative to the archive's root
	Size    int64    `json:"size"`    // bytes
	SHA256  string   `json:"sha256"`  // lower-case hex
	Use     []string `json:"use,omitempty"`
}

func (p Package) String() string { return p.Name + " " + p.Version }

// Index records a signed index that a lock was resolved against.
type Index struct {
	Suite  string `json:"suite"`
	Date   string `json:"date"`   // as the index states it
	SHA256 string `json:"sha256"` // of its InRelease file, lower-case hex
}

// Lock is the exact list of packages that an image is built from.
type Lock struct {
	Version  int       `json:"version"` // LockVersion
	Release  string    `json:"release"` // Debian's code name
	Indexes  []Index   `json:"indexes"`
	Packages []Package `json:"packages"` // sorted by name
}

// LockVersion is the version of the lock file's format.
const LockVersion = 1

// Using returns the packages that are marked for one of the uses.
func (l Lock) Using(uses ...string) []Package {
	var out []Package
	for _, p := range l.Packages {
		if slices.ContainsFunc(p.Use, func(u string) bool { return slices.Contains(uses, u) }) {
			out = append(out, p)
		}
	}
	return out
}

// Bytes returns the lock file's text.
func (l Lock) Bytes() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(l); err != nil {
		return nil, fmt.Errorf("writing the lock: %w", err)
	}
	return b.Bytes(), nil
}

// ReadLock reads a lock file. A missing file is an fs.ErrNotExist.
func ReadLock(name string) (Lock, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Lock{}, fmt.Errorf("reading the lock file: %w; run `make hal-update` to write it", err)
	}
	if err != nil {
		return Lock{}, fmt.Errorf("reading the lock file: %w", err)
	}
	l, err := ParseLock(b)
	if err != nil {
		return Lock{}, fmt.Errorf("lock file %s: %w; `make hal-update` writes a new one", name, err)
	}
	return l, nil
}

// ParseLock reads a lock file's text. Unknown fields and every malformed value
// are errors that name the package and the field.
func ParseLock(b []byte) (Lock, error) {
	var l Lock
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return Lock{}, fmt.Errorf("parsing: %w", err)
	}
	if d.More() {
		return Lock{}, errors.New("parsing: text after the end")
	}
	return l, l.validate()
}

var (
	nameRE    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	versionRE = regexp.MustCompile(`^([0-9]+:)?[0-9][A-Za-z0-9.+~-]*$`)
	releaseRE = regexp.MustCompile(`^[a-z]+$`)
)

func (l Lock) validate() error {
	if l.Version != LockVersion {
		return fmt.Errorf("version %d: this builder reads version %d", l.Version, LockVersion)
	}
	if !releaseRE.MatchString(l.Release) {
		return fmt.Errorf("release %q: want a code name", l.Release)
	}
	if len(l.Packages) == 0 {
		return errors.New("packages: empty")
	}
	var errs []error
	last := ""
	for _, p := range l.Packages {
		if p.Name <= last {
			errs = append(errs, fmt.Errorf("package %q: not sorted by name, or twice", p.Name))
		}
		last = p.Name
		if err := p.validate(); err != nil {
			errs = append(errs, fmt.Errorf("package %q: %w", p.Name, err))
		}
		if len(p.Use) == 0 {
			errs = append(errs, fmt.Errorf("package %q: use: empty", p.Name))
		}
	}
	return errors.Join(errs...)
}

func (p Package) validate() error {
	sum, err := hex.DecodeString(p.SHA256)
	switch {
	case !nameRE.MatchString(p.Name):
		return errors.New("name: not a package name")
	case !versionRE.MatchString(p.Version):
		return fmt.Errorf("version %q: not a package version", p.Version)
	case p.Arch != "amd64" && p.Arch != "all":
		return fmt.Errorf("arch %q: want amd64 or all", p.Arch)
	case p.Archive != ArchiveMain && p.Archive != ArchiveSecurity:
		return fmt.Errorf("archive %q: want %s or %s", p.Archive, ArchiveMain, ArchiveSecurity)
	case !strings.HasPrefix(p.Path, "pool/") || path.Clean(p.Path) != p.Path || !strings.HasSuffix(p.Path, ".deb"):
		return fmt.Errorf("path %q: want a clean relative path of a .deb below pool/", p.Path)
	case p.Size <= 0:
		return fmt.Errorf("size %d: want a positive number of bytes", p.Size)
	case err != nil || len(sum) != 32 || strings.ToLower(p.SHA256) != p.SHA256:
		return fmt.Errorf("sha256 %q: want 64 lower-case hex digits", p.SHA256)
	}
	return nil
}

// fileName is the package's name in the cache: readable, unique by content.
func (p Package) fileName() string {
	v := strings.ReplaceAll(p.Version, ":", "%3a")
	return fmt.Sprintf("%s_%s_%s.%s.deb", p.Name, v, p.Arch, p.SHA256[:16])
}
