package oci

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/manifest"
)

// Of the OCI image specification, version 1.1, and docker's forms of the same.
const (
	typeIndex        = "application/vnd.oci.image.index.v1+json"
	typeManifest     = "application/vnd.oci.image.manifest.v1+json"
	typeDockerIndex  = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerImage  = "application/vnd.docker.distribution.manifest.v2+json"
	typeConfig       = "application/vnd.oci.image.config.v1+json"
	typeDockerConfig = "application/vnd.docker.container.image.v1+json"

	annotationName      = "io.containerd.image.name"
	annotationRef       = "org.opencontainers.image.ref.name"
	annotationReference = "vnd.docker.reference.type" // what is about an image and is none
)

var layerTypes = []string{
	"application/vnd.oci.image.layer.v1.tar",
	"application/vnd.oci.image.layer.v1.tar+gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
}

// maxIndexes bounds how deep indexes lie in one another.
const maxIndexes = 4

// descriptor names a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *platform         `json:"platform"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

type index struct {
	Manifests []descriptor `json:"manifests"`
}

type imageManifest struct {
	Config descriptor   `json:"config"`
	Layers []descriptor `json:"layers"`
}

func (d descriptor) isIndex() bool {
	return d.MediaType == typeIndex || d.MediaType == typeDockerIndex
}

// name is what people call it; empty if it has none.
func (d descriptor) name() string {
	if n := d.Annotations[annotationName]; n != "" {
		return n
	}
	return d.Annotations[annotationRef]
}

// readLayout lists the images of an OCI layout.
func (a *Archive) readLayout() error {
	b, err := a.document("index.json")
	if err != nil {
		return err
	}
	var top index
	if err := json.Unmarshal(b, &top); err != nil {
		return fmt.Errorf("index.json in it: %w", err)
	}
	// One index may list an image once for each platform, and another one all
	// images at the top: those of one name are told apart by platform.
	byName := map[string][]descriptor{}
	var names []string
	for _, d := range top.Manifests {
		if d.Annotations[annotationReference] != "" {
			continue
		}
		n := d.name()
		if _, seen := byName[n]; !seen {
			names = append(names, n)
		}
		byName[n] = append(byName[n], d)
	}
	for _, n := range names {
		for _, d := range runnable(byName[n]) {
			l := listed{load: func() (*Image, error) { return a.loadLayout(d, maxIndexes) }}
			if n != "" {
				l.names = []string{n}
			}
			a.images = append(a.images, l)
		}
	}
	if len(a.images) == 0 {
		return errors.New("index.json in it lists no image")
	}
	return nil
}

// runnable leaves out what is for another machine, if anything is for this one.
func runnable(ds []descriptor) []descriptor {
	ds = slices.DeleteFunc(slices.Clone(ds), func(d descriptor) bool { return d.Annotations[annotationReference] != "" })
	fits := slices.DeleteFunc(slices.Clone(ds), func(d descriptor) bool {
		return d.Platform != nil && (d.Platform.OS != imageOS || d.Platform.Architecture != imageArchitecture)
	})
	if len(fits) == 0 {
		return ds
	}
	// A variant needs a newer processor than any amd64 is.
	if plain := slices.DeleteFunc(slices.Clone(fits), func(d descriptor) bool {
		return d.Platform != nil && d.Platform.Variant != ""
	}); len(plain) > 0 {
		return plain
	}
	return fits
}

// blob reads and verifies a document.
func (a *Archive) blob(what string, d descriptor) ([]byte, manifest.Digest, error) {
	digest, err := parseDigest(d.Digest)
	if err != nil {
		return nil, digest, fmt.Errorf("the digest of its %s: %w", what, err)
	}
	b, err := a.document(blobPath(digest))
	if err != nil {
		return nil, digest, fmt.Errorf("its %s: %w", what, err)
	}
	if int64(len(b)) != d.Size {
		return nil, digest, fmt.Errorf("its %s has %d bytes; %d are named", what, len(b), d.Size)
	}
	if got := manifest.Sum(b); got != digest {
		return nil, digest, fmt.Errorf("its %s has the SHA-256 %s; %s is named", what, got, digest)
	}
	return b, digest, nil
}

// loadLayout loads an image by its manifest, or by an index of platforms.
func (a *Archive) loadLayout(d descriptor, indexes int) (*Image, error) {
	if d.isIndex() {
		return a.loadIndex(d, indexes)
	}
	if d.MediaType != typeManifest && d.MediaType != typeDockerImage {
		return nil, fmt.Errorf("its image manifest is of the type %.80q; expected %q", d.MediaType, typeManifest)
	}
	b, _, err := a.blob("image manifest", d)
	if err != nil {
		return nil, err
	}
	var m imageManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("its image manifest: %w", err)
	}
	if m.Config.MediaType != typeConfig && m.Config.MediaType != typeDockerConfig {
		return nil, fmt.Errorf("its config is of the type %.80q; this is no container image", m.Config.MediaType)
	}
	config, digest, err := a.blob("config", m.Config)
	if err != nil {
		return nil, err
	}
	img := &Image{ConfigDigest: digest, archive: a}
	for i, l := range m.Layers {
		if !slices.Contains(layerTypes, l.MediaType) {
			return nil, fmt.Errorf("its layer %d is of the type %.80q; expected one of %q", i, l.MediaType, layerTypes)
		}
		blob, err := parseDigest(l.Digest)
		if err != nil {
			return nil, fmt.Errorf("the digest of its layer %d: %w", i, err)
		}
		f, err := a.find(blobPath(blob))
		if err != nil {
			return nil, fmt.Errorf("its layer %d: %w", i, err)
		}
		if f.size != l.Size {
			return nil, fmt.Errorf("its layer %d has %d bytes; %d are named", i, f.size, l.Size)
		}
		img.layers = append(img.layers, layer{file: f, blob: &blob})
	}
	return img, img.readConfig(config)
}

func (a *Archive) loadIndex(d descriptor, indexes int) (*Image, error) {
	if indexes == 0 {
		return nil, fmt.Errorf("its indexes lie more than %d deep in one another", maxIndexes)
	}
	b, _, err := a.blob("index", d)
	if err != nil {
		return nil, err
	}
	var in index
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("its index: %w", err)
	}
	fits := runnable(in.Manifests)
	switch len(fits) {
	case 0:
		return nil, errors.New("its index lists no image")
	case 1:
		return a.loadLayout(fits[0], indexes-1)
	}
	var has []string
	for _, f := range fits {
		if f.Platform == nil {
			has = append(has, "one without a platform")
		} else {
			has = append(has, f.Platform.OS+"/"+f.Platform.Architecture)
		}
	}
	return nil, fmt.Errorf("its index lists %d images (%.200q); expected one for %s/%s", len(fits), has, imageOS, imageArchitecture)
}
