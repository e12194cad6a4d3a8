package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/manifest"
)

// Kinds of asset.
const (
	kindAlgorithm = "algorithm"
	kindDataset   = "dataset"
)

type assetInfo struct {
	ID          string          `json:"id"`
	Workspace   string          `json:"workspace_id"`
	Owner       string          `json:"owner"`
	Name        string          `json:"name"`
	Kind        string          `json:"kind"`
	Type        string          `json:"type,omitempty"`
	Description string          `json:"description,omitempty"`
	SHA256      manifest.Digest `json:"sha256,omitzero"`
	// Commitment in place of SHA256.
	Commitment  manifest.Commitment `json:"commitment,omitzero"`
	Size        int64               `json:"size"`
	UnpackedMax int64               `json:"unpacked_max,omitempty"`
	ImageName   string              `json:"image_name,omitempty"`
	ImageConfig manifest.Digest     `json:"image_config,omitzero"`
	Files       []manifest.File     `json:"files,omitempty"`
	Python      manifest.Packages   `json:"python,omitzero"`
	Source      manifest.Source     `json:"source,omitzero"`
	Created     *time.Time          `json:"created"`
	Retired     *time.Time          `json:"retired,omitempty"`
}

func infoOfAsset(m *computationsv1.Asset) assetInfo {
	i := assetInfo{
		ID: m.GetId(), Workspace: m.GetWorkspaceId(), Owner: m.GetOwnerEmail(), Name: m.GetName(), Kind: m.GetKind(), Type: m.GetType(),
		Description: m.GetDescription(), Size: m.GetSize(), UnpackedMax: m.GetUnpackedMax(), ImageName: m.GetImageName(),
		Created: moment(m.GetCreated()), Retired: moment(m.GetRetired()),
	}
	copy(i.SHA256[:], m.GetSha256())
	copy(i.ImageConfig[:], m.GetImageConfig())
	copy(i.Commitment[:], m.GetCommitment())
	i.takeInputs(m)
	return i
}

func (i assetInfo) text() string {
	var r rows
	r.add("asset", "%s (%s)", packed(i.Name), i.ID)
	kind := i.Kind
	if i.Type != "" {
		kind += ", " + i.Type
	}
	if i.UnpackedMax > 0 && i.Kind == kindDataset {
		kind += ", a folder of at most " + bytesize.Round(i.UnpackedMax)
	}
	r.add("kind", "%s", kind)
	if i.Type == string(manifest.Container) {
		r.add("image", "%s", imageLine(manifest.Image{Name: i.ImageName, Config: i.ImageConfig, UnpackedMax: i.UnpackedMax}))
	}
	if i.Description != "" {
		r.add("description", "%s", packed(i.Description))
	}
	r.add("owner", "%s", i.Owner)
	r.add("size", "%s", bytesize.Round(i.Size))
	if i.Commitment != (manifest.Commitment{}) {
		r.add("commitment", "%s", i.Commitment)
	} else {
		r.add("sha256", "%s", i.SHA256)
	}
	i.inputRows(&r)
	r.add("created", "%s", when(i.Created))
	if i.Retired != nil {
		r.add("retired", "%s", when(i.Retired))
	}
	return r.String()
}

func (a *app) assetsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "assets",
		Short: "Describe your algorithms and datasets to the service",
		Long: `Describe your algorithms and datasets to the service: name, digest and size. The files
themselves stay with you, and go to the VM that computes on them alone.`,
	}
	group(cmd, a.assetsAddCmd(), a.assetsListCmd(), a.assetsShowCmd(), a.assetsEditCmd(), a.assetsRetireCmd())
	return cmd
}

func (a *app) assetsListCmd() *cobra.Command {
	var (
		workspace, kind string
		retired         bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the assets of a workspace",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				w, err := s.workspace(ctx, workspace)
				if err != nil {
					return err
				}
				all, err := s.allAssets(ctx, &computationsv1.ListAssetsRequest{WorkspaceId: w.ID, Kind: kind, Retired: retired})
				if err != nil {
					return err
				}
				return listed(a, "assets", all, []string{"NAME", "KIND", "TYPE", "SIZE", "OWNER", "RETIRED", "ID"}, func(i assetInfo) []string {
					return []string{i.Name, i.Kind, i.Type, bytesize.Round(i.Size), i.Owner, when(i.Retired), i.ID}
				}, "none yet: cocos-cli assets add PATH --kind KIND")
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	cmd.Flags().StringVar(&kind, "kind", "", "only those of this `KIND`: algorithm or dataset")
	cmd.Flags().BoolVar(&retired, "retired", false, "also those that are retired")
	complete(cmd, "kind", func() []string { return []string{kindAlgorithm, kindDataset} })
	return cmd
}

// allAssets goes through all pages.
func (s *service) allAssets(ctx context.Context, q *computationsv1.ListAssetsRequest) ([]assetInfo, error) {
	return pages(func(token string) ([]assetInfo, string, error) {
		q.PageSize, q.PageToken = maxPage, token
		r, err := s.assets.ListAssets(ctx, q)
		if err != nil {
			return nil, "", s.explain("listing the assets", err)
		}
		return each(r.GetAssets(), infoOfAsset), r.GetNextPageToken(), nil
	}, maxListed)
}

const (
	// maxPage is the service's longest page.
	maxPage = 100
	// maxListed is how many things a command lists at most.
	maxListed = 10000
)

// pages puts a list together from its pages, up to most things.
func pages[T any](page func(token string) ([]T, string, error), most int) ([]T, error) {
	var all []T
	for token := ""; ; {
		some, next, err := page(token)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if next == "" || len(all) >= most {
			return all[:min(len(all), most)], nil
		}
		token = next
	}
}

// asset finds one by its id, or by its name in a workspace.
func (s *service) asset(ctx context.Context, named, workspace string) (assetInfo, error) {
	if isID(named) {
		r, err := s.assets.GetAsset(ctx, &computationsv1.GetAssetRequest{AssetId: named})
		if err != nil {
			return assetInfo{}, s.explain("asking for the asset", err)
		}
		return infoOfAsset(r.GetAsset()), nil
	}
	w, err := s.workspace(ctx, workspace)
	if err != nil {
		return assetInfo{}, err
	}
	all, err := s.allAssets(ctx, &computationsv1.ListAssetsRequest{WorkspaceId: w.ID})
	if err != nil {
		return assetInfo{}, err
	}
	name := func(i assetInfo) string { return i.Name }
	if n := len(slices.DeleteFunc(each(all, name), func(n string) bool { return n != named })); n > 1 {
		// Several providers may well call theirs data.csv; one's own comes first.
		me, err := s.account(ctx)
		if err != nil {
			return assetInfo{}, err
		}
		if own := slices.DeleteFunc(slices.Clone(all), func(i assetInfo) bool { return i.Name != named || i.Owner != me.Email }); len(own) > 0 {
			all = own
		}
	}
	return only(all, named, "asset", "cocos-cli assets list", name)
}

// only is the one thing of a name.
func only[T any](all []T, named, what, shows string, name func(T) string) (found T, err error) {
	n := 0
	for _, t := range all {
		if name(t) == named {
			found = t
			n++
		}
	}
	switch n {
	case 1:
		return found, nil
	case 0:
		return found, advise(fmt.Errorf("there is no %s %q", what, named), "%s shows what there is", shows)
	}
	return found, usagef("give its id; "+shows+" shows it", "%d of them are called %q", n, named)
}

func (a *app) assetsShowCmd() *cobra.Command {
	var workspace string
	cmd := &cobra.Command{
		Use:   "show ASSET",
		Short: "Show an asset, by its id or name",
		Args:  exactly("ASSET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				info, err := s.asset(ctx, args[0], workspace)
				if err != nil {
					return err
				}
				return a.out.result(info, "%s", info.text())
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	return cmd
}

func (a *app) assetsEditCmd() *cobra.Command {
	var workspace, name, description string
	cmd := &cobra.Command{
		Use:   "edit ASSET",
		Short: "Change what an asset of yours is called, and what is said of it",
		Long: `Change what an asset of yours is called, and what is said of it. What no flag names
stays. Its digest never changes: other bytes are another asset.`,
		Example: `  cocos-cli assets edit lin_reg.py --description "Fitted by least squares"`,
		Args:    exactly("ASSET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("name") && !cmd.Flags().Changed("description") {
				return usagef("give --name or --description", "there is nothing to change")
			}
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				info, err := s.asset(ctx, args[0], workspace)
				if err != nil {
					return err
				}
				q := &computationsv1.EditAssetRequest{AssetId: info.ID, Name: info.Name, Description: info.Description}
				if cmd.Flags().Changed("name") {
					q.Name = name
				}
				if cmd.Flags().Changed("description") {
					q.Description = description
				}
				if _, err := s.assets.EditAsset(ctx, q); err != nil {
					return s.explain("changing the asset", err)
				}
				return a.out.result(map[string]string{"id": info.ID}, "%s\n", info.ID)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "another name")
	f.StringVar(&description, "description", "", "another description")
	return cmd
}

func (a *app) assetsRetireCmd() *cobra.Command {
	var (
		workspace string
		sure      bool
	)
	cmd := &cobra.Command{
		Use:   "retire ASSET",
		Short: "Keep an asset out of new drafts",
		Args:  exactly("ASSET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd, func(ctx context.Context, s *service) error {
				info, err := s.asset(ctx, args[0], workspace)
				if err != nil {
					return err
				}
				if !sure {
					if err := a.agree(ctx, "Retire %s?", info.Name); err != nil {
						return err
					}
				}
				if _, err := s.assets.RetireAsset(ctx, &computationsv1.RetireAssetRequest{AssetId: info.ID}); err != nil {
					return s.explain("retiring the asset", err)
				}
				return a.out.result(map[string]string{"id": info.ID}, "%s\n", info.ID)
			})
		},
	}
	workspaceFlag(cmd, &workspace)
	yesFlag(cmd, &sure)
	return cmd
}
