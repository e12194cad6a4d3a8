// Package build writes small image archives, as docker save and skopeo do, from
// what is in memory: a program that needs no base image becomes a container
// without any container tool.
//
// The same image has the same bytes: entries are written as they are given, and
// without times and owners unless they have some.
package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ultravioletrs/cocos/internal/oci"
	"github.com/ultravioletrs/cocos/manifest"
)

// Image is what an archive is made of.
type Image struct {
	// Names are what the archive calls it; may be empty.
	Names  []string
	Config oci.Config
	Layers []Layer
	// Architecture is amd64 where it is empty.
	Architecture string
}

// Layer is one layer; its entries are in the order in which they are given.
type Layer struct {
	Entries []Entry
	// Compression is "gzip" or "zstd"; empty: none.
	Compression string
}

// Entry is a file, folder or link, or whatever else a layer may have. Size is
// set from Body.
type Entry struct {
	tar.Header
	Body []byte
}

// File is an executable or other file of an image.
func File(name string, mode int64, body []byte) Entry {
	return Entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, body}
}

// Folder is a folder of an image.
func Folder(name string) Entry {
	return Entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}}
}

// Link is a symbolic link of an image.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

// Descriptor names a blob, as in an OCI index or image manifest.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *Platform         `json:"platform,omitempty"`
}

// Platform as in an OCI index.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// Types of blobs that Describe is told.
const (
	TypeIndex    = "application/vnd.oci.image.index.v1+json"
	TypeManifest = "application/vnd.oci.image.manifest.v1+json"
	TypeConfig   = "application/vnd.oci.image.config.v1+json"
	TypeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// Describe names a blob.
func Describe(mediaType string, blob []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: "sha256:" + manifest.Sum(blob).String(), Size: len(blob)}
}

// BlobEntry is a blob as a file of an OCI layout.
func BlobEntry(blob []byte) Entry {
	return File("blobs/sha256/"+manifest.Sum(blob).String(), 0o644, blob)
}

// Parts are an image's blobs, made.
type Parts struct {
	Config   []byte
	Layers   [][]byte // as they travel
	Manifest []byte   // of an OCI layout
}

// Parts makes the image's blobs.
func (img Image) Parts() (p Parts, err error) {
	m := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        Descriptor   `json:"config"`
		Layers        []Descriptor `json:"layers"`
	}{SchemaVersion: 2, MediaType: TypeManifest, Layers: []Descriptor{}}
	diffIDs := []string{}
	for _, l := range img.Layers {
		content, err := Tar(l.Entries)
		if err != nil {
			return p, err
		}
		diffIDs = append(diffIDs, "sha256:"+manifest.Sum(content).String())
		blob, suffix, err := compress(l.Compression, content)
		if err != nil {
			return p, err
		}
		p.Layers = append(p.Layers, blob)
		m.Layers = append(m.Layers, Describe(TypeLayer+suffix, blob))
	}
	architecture := img.Architecture
	if architecture == "" {
		architecture = "amd64"
	}
	p.Config = marshal(map[string]any{
		"architecture": architecture, "os": "linux", "config": img.Config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	m.Config = Describe(TypeConfig, p.Config)
	p.Manifest = marshal(m)
	return p, nil
}

// OCI is the archive of images as a tar of an OCI layout.
func OCI(images ...Image) ([]Entry, error) {
	index := struct {
		SchemaVersion int          `json:"schemaVersion"`
		Manifests     []Descriptor `json:"manifests"`
	}{SchemaVersion: 2}
	entries := []Entry{File("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))}
	var blobs [][]byte
	for _, img := range images {
		p, err := img.Parts()
		if err != nil {
			return nil, err
		}
		names := img.Names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, n := range names {
			d := Describe(TypeManifest, p.Manifest)
			if n != "" {
				d.Annotations = map[string]string{"org.opencontainers.image.ref.name": n}
			}
			index.Manifests = append(index.Manifests, d)
		}
		blobs = append(append(blobs, p.Config, p.Manifest), p.Layers...)
	}
	entries = append(entries, File("index.json", 0o644, marshal(index)))
	return append(entries, once(blobs)...), nil
}

// once is the blobs as files, each once.
func once(blobs [][]byte) (entries []Entry) {
	have := map[manifest.Digest]bool{}
	for _, b := range blobs {
		if d := manifest.Sum(b); !have[d] {
			have[d] = true
			entries = append(entries, BlobEntry(b))
		}
	}
	return entries
}

// Docker is the archive of images as docker save writes it.
func Docker(images ...Image) ([]Entry, error) {
	type item struct{ Config, RepoTags, Layers any }
	var (
		items   []item
		entries []Entry
		have    = map[string]bool{}
	)
	add := func(name string, b []byte) string {
		if !have[name] {
			have[name] = true
			entries = append(entries, File(name, 0o644, b))
		}
		return name
	}
	for _, img := range images {
		p, err := img.Parts()
		if err != nil {
			return nil, err
		}
		layers := []string{}
		for _, l := range p.Layers {
			layers = append(layers, add(manifest.Sum(l).String()+"/layer.tar", l))
		}
		items = append(items, item{add(manifest.Sum(p.Config).String()+".json", p.Config), img.Names, layers})
	}
	return append(entries, File("manifest.json", 0o644, marshal(items))), nil
}

// Tar is the entries as an archive.
func Tar(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.Body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(0, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("writing %q: %w", e.Name, err)
		}
		if _, err := w.Write(e.Body); err != nil {
			return nil, fmt.Errorf("writing %q: %w", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func compress(kind string, content []byte) (blob []byte, suffix string, err error) {
	var b bytes.Buffer
	var w io.WriteCloser
	switch kind {
	case "":
		return content, "", nil
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		if w, err = zstd.NewWriter(&b); err != nil {
			return nil, "", err
		}
	default:
		return nil, "", fmt.Errorf("layers can't be compressed with %q", kind)
	}
	if _, err := w.Write(content); err != nil {
		return nil, "", err
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return b.Bytes(), "+" + kind, nil
}

// marshal can't fail: it is given strings and numbers.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
