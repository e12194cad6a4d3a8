package oci

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/ultravioletrs/cocos/manifest"
)

// dockerItem is one image of a docker archive's manifest.json.
type dockerItem struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// readDocker lists the images of a docker archive.
func (a *Archive) readDocker() error {
	b, err := a.document("manifest.json")
	if err != nil {
		return err
	}
	var items []dockerItem
	if err := json.Unmarshal(b, &items); err != nil {
		return fmt.Errorf("manifest.json in it: %w", err)
	}
	if len(items) == 0 {
		return errors.New("manifest.json in it lists no image")
	}
	for _, item := range items {
		a.images = append(a.images, listed{
			names: item.RepoTags,
			load:  func() (*Image, error) { return a.loadDocker(item) },
		})
	}
	return nil
}

// loadDocker loads an image. No digest but its config's names its parts: the
// config's must be the pinned one, and it names the layers by their content.
func (a *Archive) loadDocker(item dockerItem) (*Image, error) {
	config, err := a.document(item.Config)
	if err != nil {
		return nil, fmt.Errorf("its config: %w", err)
	}
	img := &Image{ConfigDigest: manifest.Sum(config), archive: a}
	for i, name := range item.Layers {
		f, err := a.find(name)
		if err != nil {
			return nil, fmt.Errorf("its layer %d: %w", i, err)
		}
		img.layers = append(img.layers, layer{file: f})
	}
	return img, img.readConfig(config)
}
