package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ultravioletrs/cocos/internal/archive"
	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// Computation is what one person wants to compute alone, with algorithm, data and
// result belonging to one key; or with the data of another.
type Computation struct {
	// Algorithm is a file; its type is found in it unless Type says.
	Algorithm string
	Type      manifest.AlgorithmType
	Args      []string
	// Files are files and folders beside the algorithm, each named as its file.
	Files []string
	// Python names those of Files from which a script's packages are installed.
	Python manifest.Packages
	// ScratchBytes is the size of the disk for the inputs; 0: they are held in memory.
	ScratchBytes int64
	// Data are files and folders; a dataset is named as its file.
	Data  []string
	Owner keys.Public
	// DataOwner brings the data; zero: Owner.
	DataOwner keys.Public
	// Attested is the TEE that has to vouch for the VM, over attested TLS, and
	// everybody then has to approve the manifest; empty: none.
	Attested manifest.TEE
}

// Freeze reads the files and makes the manifest, with a new nonce each time.
func (c Computation) Freeze() (manifest.Frozen, error) {
	algorithm, err := c.algorithm()
	if err != nil {
		return manifest.Frozen{}, fmt.Errorf("algorithm: %w", err)
	}
	m := manifest.Manifest{
		Version:   manifest.Version,
		Name:      "Sample computation with " + filepath.Base(c.Algorithm),
		TEE:       manifest.TEENone,
		Algorithm: algorithm,
		Consumers: []keys.Public{c.Owner},

		ScratchBytes: c.ScratchBytes,
	}
	if _, err := rand.Read(m.Nonce[:]); err != nil {
		return manifest.Frozen{}, fmt.Errorf("making a nonce: %w", err)
	}
	m.ID = "sample-" + hex.EncodeToString(m.Nonce[:4])
	for _, path := range c.Data {
		d, err := inputOf(path)
		if err != nil {
			return manifest.Frozen{}, fmt.Errorf("dataset: %w", err)
		}
		d.Provider = c.dataOwner()
		m.Datasets = append(m.Datasets, d)
	}
	if c.Attested != "" {
		m.TEE, m.AttestedTLS = c.Attested, true
		m.Approvals = []keys.Public{c.Owner}
		if !c.dataOwner().Equal(c.Owner) && len(c.Data) > 0 {
			m.Approvals = append(m.Approvals, c.DataOwner)
		}
	}
	return manifest.Freeze(m)
}

func (c Computation) dataOwner() keys.Public {
	if c.DataOwner.IsZero() {
		return c.Owner
	}
	return c.DataOwner
}

func (c Computation) algorithm() (manifest.Algorithm, error) {
	info, err := os.Stat(c.Algorithm)
	if err != nil {
		return manifest.Algorithm{}, err
	}
	if !info.Mode().IsRegular() {
		return manifest.Algorithm{}, fmt.Errorf("%s is not a file", c.Algorithm)
	}
	kind := c.Type
	if kind == "" {
		if kind, err = algorithmType(c.Algorithm); err != nil {
			return manifest.Algorithm{}, err
		}
	}
	digest, size, err := archive.Sum(c.Algorithm)
	if err != nil {
		return manifest.Algorithm{}, err
	}
	if size == 0 {
		return manifest.Algorithm{}, fmt.Errorf("%s is empty", c.Algorithm)
	}
	a := manifest.Algorithm{Type: kind, Args: c.Args, SHA256: digest, Size: size, Provider: c.Owner, Python: c.Python}
	for _, path := range c.Files {
		f, err := inputOf(path)
		if err != nil {
			return manifest.Algorithm{}, err
		}
		a.Files = append(a.Files, manifest.File{Name: f.Name, SHA256: f.SHA256, Size: f.Size, UnpackedMax: f.UnpackedMax})
	}
	if kind == manifest.Container {
		d, err := oci.Describe(context.Background(), c.Algorithm, "")
		if err != nil {
			return manifest.Algorithm{}, err
		}
		a.Image = d.Pin
	}
	return a, nil
}

// algorithmType looks into the file: ELF is a binary, a module is WebAssembly, a
// tar archive a container; a script is Python when its name or its first line says
// so.
func algorithmType(name string) (manifest.AlgorithmType, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	switch {
	case bytes.HasPrefix(line, []byte("\x7fELF")):
		return manifest.Binary, nil
	case bytes.HasPrefix(head[:n], []byte("\x00asm")):
		return manifest.Wasm, nil
	case strings.HasSuffix(name, ".py"), bytes.HasPrefix(line, []byte("#!")) && bytes.Contains(line, []byte("python")):
		return manifest.Python, nil
	case n == len(head) && string(head[257:262]) == "ustar":
		return manifest.Container, nil
	}
	return "", fmt.Errorf("%s is neither an ELF program nor a Python script (.py) nor a WebAssembly module nor an image archive; set ALGO_TYPE to one of %q", name, manifest.AlgorithmTypes())
}

// inputOf is what a manifest says of a file or folder, but for who brings it.
func inputOf(path string) (manifest.Dataset, error) {
	info, err := os.Stat(path)
	if err != nil {
		return manifest.Dataset{}, err
	}
	if !info.Mode().IsRegular() && !info.IsDir() { // a device may have no end
		return manifest.Dataset{}, fmt.Errorf("%s is neither a file nor a folder", path)
	}
	digest, size, err := archive.Sum(path)
	if err != nil {
		return manifest.Dataset{}, err
	}
	abs, err := filepath.Abs(path) // "." has a name, too
	if err != nil {
		return manifest.Dataset{}, err
	}
	d := manifest.Dataset{Name: filepath.Base(abs), SHA256: digest, Size: size}
	if info, err := os.Stat(path); err != nil {
		return manifest.Dataset{}, err
	} else if info.IsDir() {
		d.UnpackedMax, err = unpackedSize(path)
		return d, err
	}
	return d, nil
}

// unpackedSize adds up a folder's files. At least 1: 0 would say that it is no
// archive.
func unpackedSize(dir string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return max(total, 1), err
}
