package oci

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/manifest"
)

// The platform of the VMs that run images.
const (
	imageOS           = "linux"
	imageArchitecture = "amd64"
)

// maxLayers bounds the layers of an image.
const maxLayers = 512

// Image is one image whose documents are verified; its layers are when they are
// read.
type Image struct {
	// ConfigDigest is the SHA-256 of its config: what docker images --no-trunc and
	// podman images --no-trunc call its ID.
	ConfigDigest manifest.Digest
	Config       Config

	archive *Archive
	layers  []layer
}

// Config is how an image wants to be run.
type Config struct {
	Entrypoint []string `json:"Entrypoint"`
	Cmd        []string `json:"Cmd"`
	// Env are variables as NAME=VALUE.
	Env        []string `json:"Env"`
	WorkingDir string   `json:"WorkingDir"`
	// User is "", or a user's name or number, and after a colon a group's.
	User string `json:"User"`
}

type layer struct {
	file file
	// blob is the digest of the file as it lies there; nil: none is known.
	blob *manifest.Digest
	// diffID is the digest of its content, decompressed.
	diffID manifest.Digest
}

// Pinned loads the image that a manifest names.
func (a *Archive) Pinned(pin manifest.Image) (*Image, error) {
	img, err := a.Image(pin.Name)
	if err != nil {
		return nil, err
	}
	if img.ConfigDigest != pin.Config {
		return nil, fmt.Errorf("reading the image archive: the config of its image has the SHA-256 %s; the manifest pins %s", img.ConfigDigest, pin.Config)
	}
	return img, nil
}

// Image loads the image of this name; with an empty name the only one.
func (a *Archive) Image(name string) (*Image, error) {
	found, err := a.choose(name)
	if err != nil {
		return nil, fmt.Errorf("reading the image archive: %w", err)
	}
	img, err := found.load()
	if err != nil {
		return nil, fmt.Errorf("reading the image archive: %w", err)
	}
	return img, nil
}

// Names are those of the archive's images, in its order; an image without a
// name has an empty one.
func (a *Archive) Names() []string {
	var names []string
	for _, l := range a.images {
		if len(l.names) == 0 {
			names = append(names, "")
		}
		names = append(names, l.names...)
	}
	return names
}

func (a *Archive) choose(name string) (listed, error) {
	names := a.Names()
	if name == "" {
		if len(names) == 1 {
			return a.images[0], nil
		}
		return listed{}, fmt.Errorf("it has %d images or tags: %s; name one of them", len(names), listOf(names))
	}
	var found []listed
	for _, l := range a.images {
		for _, n := range l.names {
			if familiar(n) == familiar(name) {
				found = append(found, l)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return listed{}, fmt.Errorf("it has no image %q; it has %s", name, listOf(names))
	}
	return listed{}, fmt.Errorf("it has the name %q %d times", name, len(found))
}

// familiar is a name as people type it.
func familiar(name string) string {
	short, _ := strings.CutPrefix(name, "docker.io/")
	short, _ = strings.CutPrefix(short, "library/")
	return short
}

// maxListed is how many names a message has.
const maxListed = 20

func listOf(names []string) string {
	var b strings.Builder
	for i, n := range names {
		switch {
		case i == maxListed:
			fmt.Fprintf(&b, ", and %d more", len(names)-i)
			return b.String()
		case i > 0:
			b.WriteString(", ")
		}
		if n == "" {
			b.WriteString("one without a name")
		} else {
			fmt.Fprintf(&b, "%.256q", n)
		}
	}
	return b.String()
}

// readConfig takes a config whose bytes are verified.
func (img *Image) readConfig(b []byte) error {
	var c struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Config       Config `json:"config"`
		RootFS       struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("its config: %w", err)
	}
	if c.OS != imageOS || c.Architecture != imageArchitecture {
		return fmt.Errorf("it is for %.40q on %.40q; expected %q on %q: build it with --platform %[3]s/%[4]s", c.OS, c.Architecture, imageOS, imageArchitecture)
	}
	if n := len(c.RootFS.DiffIDs); n != len(img.layers) || n > maxLayers {
		return fmt.Errorf("its config names %d layers and it has %d; expected as many, and at most %d", n, len(img.layers), maxLayers)
	}
	for i, s := range c.RootFS.DiffIDs {
		d, err := parseDigest(s)
		if err != nil {
			return fmt.Errorf("its config: the diff id of layer %d: %w", i, err)
		}
		img.layers[i].diffID = d
	}
	img.Config = c.Config
	return c.Config.check()
}

func (c *Config) check() error {
	nul := func(s string) bool { return strings.ContainsRune(s, 0) }
	if slices.ContainsFunc(slices.Concat(c.Entrypoint, c.Cmd, c.Env, []string{c.WorkingDir, c.User}), nul) {
		return errors.New("its config: a text has a NUL byte")
	}
	for _, v := range c.Env {
		if i := strings.IndexByte(v, '='); i <= 0 {
			return fmt.Errorf("its config: the variable %.80q is not NAME=VALUE", v)
		}
	}
	return nil
}
