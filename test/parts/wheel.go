package parts

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Wheel is a Python package in the form in which pip installs it (the binary
// distribution format of packaging.python.org).
type Wheel struct {
	Name, Version string
	// Tag is what it runs on, such as py3-none-any.
	Tag      string
	Requires []string
	// Files are its modules, by their paths.
	Files map[string][]byte
}

// FileName is by what pip knows it.
func (w Wheel) FileName() string {
	return fmt.Sprintf("%s-%s-%s.whl", strings.ReplaceAll(w.Name, "-", "_"), w.Version, w.Tag)
}

// Write makes the wheel in a folder.
func (w Wheel) Write(dir string) error {
	f, err := os.Create(filepath.Join(dir, w.FileName()))
	if err != nil {
		return err
	}
	return errors.Join(w.write(f), f.Close())
}

func (w Wheel) write(f *os.File) error {
	info := fmt.Sprintf("%s-%s.dist-info/", strings.ReplaceAll(w.Name, "-", "_"), w.Version)
	all := maps.Clone(w.Files)
	meta := fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", w.Name, w.Version)
	for _, r := range w.Requires {
		meta += "Requires-Dist: " + r + "\n"
	}
	all[info+"METADATA"] = []byte(meta)
	all[info+"WHEEL"] = fmt.Appendf(nil, "Wheel-Version: 1.0\nGenerator: cocos\nRoot-Is-Purelib: %t\nTag: %s\n", strings.HasSuffix(w.Tag, "none-any"), w.Tag)
	var record strings.Builder
	z := zip.NewWriter(f)
	add := func(name string, content []byte) error {
		out, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err != nil {
			return err
		}
		_, err = out.Write(content)
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := add(name, all[name]); err != nil {
			return err
		}
		sum := sha256.Sum256(all[name])
		fmt.Fprintf(&record, "%s,sha256=%s,%d\n", name, base64.RawURLEncoding.EncodeToString(sum[:]), len(all[name]))
	}
	fmt.Fprintf(&record, "%sRECORD,,\n", info)
	return errors.Join(add(info+"RECORD", []byte(record.String())), z.Close())
}
