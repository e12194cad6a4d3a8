package computations

import (
	"context"
	"slices"

	"github.com/ultravioletrs/cocos/manifest"
)

// CreateAsset describes an algorithm or a dataset of the asker's. Who makes it is
// its owner; the service never sees what it describes.
func (s *Service) CreateAsset(ctx context.Context, who Identity, a Asset) (Asset, error) {
	if err := s.making(who); err != nil {
		return Asset{}, err
	}
	return update(ctx, s, func(w Writer) (Asset, error) {
		x, err := s.inWorkspace(w, who, a.Workspace, AssetCreate)
		if err != nil {
			return Asset{}, err
		}
		if err := checkAsset(&a); err != nil {
			return Asset{}, err
		}
		made := a
		made.ID, made.Owner, made.Email = NewID(), x.user.ID, x.user.Email
		made.Created = s.now()
		made.Retired = Asset{}.Retired
		if err := w.PutAsset(made); err != nil {
			return Asset{}, err
		}
		w.Signal(WorkspaceTopic(made.Workspace))
		return made, s.did(w, &x, AssetCreate, made.ID, "name", made.Name, "kind", string(made.Kind), "content", made.Content().String())
	})
}

// Content is how a manifest names what the asset describes.
func (a Asset) Content() manifest.Content {
	return manifest.Content{SHA256: a.SHA256, Commitment: a.Commitment}
}

func checkAsset(a *Asset) error {
	var f faults
	f.add(checkText("name", a.Name, 1, maxTitle, false))
	f.add(checkText("description", a.Description, 0, maxDescription, true))
	switch c := a.Content(); {
	case c == (manifest.Content{}):
		f.add(invalid("sha256", "is missing; cocos-cli checksum prints it"))
	case c.Committed() && c.SHA256 != (manifest.Digest{}):
		f.add(invalid("commitment", "stands beside sha256; give the one or the other"))
	}
	least := int64(0)
	switch a.Kind {
	case AssetAlgorithm:
		least = 1
		if !slices.Contains(manifest.AlgorithmTypes(), a.Type) {
			f.add(invalid("type", "is %q; expected one of %q", a.Type, manifest.AlgorithmTypes()))
		}
		if a.Type != manifest.Container && a.UnpackedMax != 0 {
			f.add(invalid("unpacked_max", "is of folders of data and of containers; other algorithms are one file"))
		}
	case AssetDataset:
		if a.Type != "" {
			f.add(invalid("type", "is of algorithms; a dataset has none"))
		}
		if a.UnpackedMax < 0 || a.UnpackedMax > manifest.MaxInputSize {
			f.add(invalid("unpacked_max", "is %d; expected 0 to %d", a.UnpackedMax, int64(manifest.MaxInputSize)))
		}
	default:
		f.add(invalid("kind", "is %q; expected %q or %q", a.Kind, AssetAlgorithm, AssetDataset))
	}
	checkImage(&f, a)
	checkInputs(&f, a)
	if a.Size < least || a.Size > manifest.MaxInputSize {
		f.add(invalid("size", "is %d; expected %d to %d bytes", a.Size, least, int64(manifest.MaxInputSize)))
	}
	return f.err()
}

// checkImage holds what a container's asset says of its image to the manifest's own
// rules, and wants others to say nothing.
func checkImage(f *faults, a *Asset) {
	if a.Type != manifest.Container {
		if a.ImageName != "" || a.ImageConfig != (manifest.Digest{}) {
			f.add(invalid("image_config", "is of containers only, as is image_name"))
		}
		return
	}
	fields := map[string]string{"/name": "image_name", "/config": "image_config", "/unpacked_max": "unpacked_max"}
	for _, fault := range a.image().Validate() {
		f.add(invalid(fields[fault.Path], "%s", fault.Message))
	}
}

// image is the asset's part of a manifest.
func (a *Asset) image() manifest.Image {
	if a.Type != manifest.Container {
		return manifest.Image{}
	}
	return manifest.Image{Name: a.ImageName, Config: a.ImageConfig, UnpackedMax: a.UnpackedMax}
}

// Assets lists a workspace's assets.
func (s *Service) Assets(ctx context.Context, who Identity, f AssetFilter, p Page) ([]Asset, error) {
	return view(ctx, s, func(r Reader) ([]Asset, error) {
		if _, err := s.inWorkspace(r, who, f.Workspace, AssetList); err != nil {
			return nil, err
		}
		return r.Assets(f, p.bounded())
	})
}

// Asset is one of them.
func (s *Service) Asset(ctx context.Context, who Identity, id ID) (Asset, error) {
	x, err := view(ctx, s, func(r Reader) (access, error) { return s.onAsset(r, who, id, AssetShow) })
	return x.asset, err
}

// EditAsset changes what people read of an asset; what it is can't change.
func (s *Service) EditAsset(ctx context.Context, who Identity, id ID, name, description string) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onAsset(w, who, id, AssetEdit)
		if err != nil {
			return err
		}
		var f faults
		f.add(checkText("name", name, 1, maxTitle, false))
		f.add(checkText("description", description, 0, maxDescription, true))
		if err := f.err(); err != nil {
			return err
		}
		x.asset.Name, x.asset.Description = name, description
		if err := w.PutAsset(x.asset); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(x.workspace.ID))
		return s.did(w, &x, AssetEdit, id, "name", name)
	})
}

// RetireAsset takes an asset out of use for what isn't frozen yet.
func (s *Service) RetireAsset(ctx context.Context, who Identity, id ID) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onAsset(w, who, id, AssetRetire)
		if err != nil {
			return err
		}
		if !x.asset.Retired.IsZero() {
			return &Error{Kind: Conflict, Message: "this asset is retired already"}
		}
		x.asset.Retired = s.now()
		if err := w.PutAsset(x.asset); err != nil {
			return err
		}
		w.Signal(WorkspaceTopic(x.workspace.ID))
		return s.did(w, &x, AssetRetire, id)
	})
}
