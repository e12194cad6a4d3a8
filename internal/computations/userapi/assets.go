package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

type assets struct {
	computationsv1.UnimplementedAssetsServiceServer
	svc *computations.Service
}

func (s assets) CreateAsset(ctx context.Context, q *computationsv1.CreateAssetRequest) (*computationsv1.CreateAssetResponse, error) {
	content, err := contentOf("", q.GetSha256(), q.GetCommitment())
	if err != nil {
		return nil, err
	}
	files, err := filesOf(q.GetFiles())
	if err != nil {
		return nil, err
	}
	var image manifest.Digest
	if n := len(q.GetImageConfig()); n != 0 && n != len(image) {
		return nil, invalid("image_config", "has %d bytes; expected %d, or none", n, len(image))
	}
	copy(image[:], q.GetImageConfig())
	made, err := s.svc.CreateAsset(ctx, who(ctx), computations.Asset{
		Workspace: computations.ID(q.GetWorkspaceId()), Name: q.GetName(), Kind: computations.AssetKind(q.GetKind()),
		Description: q.GetDescription(), SHA256: content.SHA256, Commitment: content.Commitment, Size: q.GetSize(),
		UnpackedMax: q.GetUnpackedMax(), Type: manifest.AlgorithmType(q.GetType()),
		ImageName: q.GetImageName(), ImageConfig: image, Files: files,
		Python: manifest.Packages{Requirements: q.GetPython().GetRequirements(), Wheels: q.GetPython().GetWheels()}, Source: sourceOf(q.GetSource()),
	})
	return &computationsv1.CreateAssetResponse{Asset: asset(made)}, err
}

func (s assets) ListAssets(ctx context.Context, q *computationsv1.ListAssetsRequest) (*computationsv1.ListAssetsResponse, error) {
	c, err := cursorOf(q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, err
	}
	p, err := c.page()
	if err != nil {
		return nil, err
	}
	list, err := s.svc.Assets(ctx, who(ctx), computations.AssetFilter{
		Workspace: computations.ID(q.GetWorkspaceId()), Kind: computations.AssetKind(q.GetKind()), Retired: q.GetRetired(),
	}, p)
	if err != nil {
		return nil, err
	}
	var r computationsv1.ListAssetsResponse
	r.Assets, r.NextPageToken = cut(c, list, func(a computations.Asset) string { return string(a.ID) }, asset)
	return &r, nil
}

func (s assets) GetAsset(ctx context.Context, q *computationsv1.GetAssetRequest) (*computationsv1.GetAssetResponse, error) {
	a, err := s.svc.Asset(ctx, who(ctx), computations.ID(q.GetAssetId()))
	return &computationsv1.GetAssetResponse{Asset: asset(a)}, err
}

func (s assets) EditAsset(ctx context.Context, q *computationsv1.EditAssetRequest) (*computationsv1.EditAssetResponse, error) {
	return &computationsv1.EditAssetResponse{}, s.svc.EditAsset(ctx, who(ctx), computations.ID(q.GetAssetId()), q.GetName(), q.GetDescription())
}

func (s assets) RetireAsset(ctx context.Context, q *computationsv1.RetireAssetRequest) (*computationsv1.RetireAssetResponse, error) {
	return &computationsv1.RetireAssetResponse{}, s.svc.RetireAsset(ctx, who(ctx), computations.ID(q.GetAssetId()))
}

func asset(a computations.Asset) *computationsv1.Asset {
	sum, commitment := named(a.Content())
	m := &computationsv1.Asset{
		Id: string(a.ID), WorkspaceId: string(a.Workspace), OwnerId: string(a.Owner), OwnerEmail: a.Email, Name: a.Name,
		Kind: string(a.Kind), Description: a.Description, Sha256: sum, Commitment: commitment, Size: a.Size, UnpackedMax: a.UnpackedMax,
		Type: string(a.Type), ImageName: a.ImageName, Created: stamp(a.Created), Retired: stamp(a.Retired),
	}
	if a.ImageConfig != (manifest.Digest{}) {
		m.ImageConfig = a.ImageConfig[:]
	}
	inputs(m, &a)
	return m
}
