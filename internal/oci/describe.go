package oci

import (
	"context"

	"github.com/ultravioletrs/cocos/manifest"
)

// Description is what a manifest says of an image, and what else its owner may
// want to know.
type Description struct {
	// Pin has the name that was asked for.
	Pin    manifest.Image
	Config Config
}

// Describe verifies all of an image in an archive. With an empty name the
// archive has to have one image under at most one name.
func Describe(ctx context.Context, file, name string) (d Description, err error) {
	a, err := OpenFile(file)
	if err != nil {
		return d, err
	}
	defer a.Close()
	img, err := a.Image(name)
	if err != nil {
		return d, err
	}
	size, err := img.Measure(ctx)
	if err != nil {
		return d, err
	}
	return Description{Pin: manifest.Image{Name: name, Config: img.ConfigDigest, UnpackedMax: max(size, 1)}, Config: img.Config}, nil
}
