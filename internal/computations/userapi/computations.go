package userapi

import (
	"context"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// drafts is the ComputationsService.
type drafts struct {
	computationsv1.UnimplementedComputationsServiceServer
	svc *computations.Service
}

func (s drafts) CreateComputation(ctx context.Context, q *computationsv1.CreateComputationRequest) (*computationsv1.CreateComputationResponse, error) {
	d, err := draftOf(q.GetDraft())
	if err != nil {
		return nil, err
	}
	c, err := s.svc.CreateComputation(ctx, who(ctx), computations.ID(q.GetWorkspaceId()), d)
	return &computationsv1.CreateComputationResponse{Computation: computation(c)}, err
}

func (s drafts) ListComputations(ctx context.Context, q *computationsv1.ListComputationsRequest) (*computationsv1.ListComputationsResponse, error) {
	c, err := cursorOf(q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, err
	}
	p, err := c.page()
	if err != nil {
		return nil, err
	}
	f := computations.ComputationFilter{
		Workspace: computations.ID(q.GetWorkspaceId()), Text: q.GetText(), States: q.GetStates(), Archived: q.GetArchived(),
	}
	if q.GetMine() {
		f.User = who(ctx).User
	}
	list, err := s.svc.Computations(ctx, who(ctx), f, p)
	if err != nil {
		return nil, err
	}
	var r computationsv1.ListComputationsResponse
	r.Computations, r.NextPageToken = cut(c, list, func(c computations.Computation) string { return string(c.ID) }, computation)
	return &r, nil
}

func (s drafts) CountComputations(ctx context.Context, q *computationsv1.CountComputationsRequest) (*computationsv1.CountComputationsResponse, error) {
	counts, err := s.svc.CountComputations(ctx, who(ctx), computations.ID(q.GetWorkspaceId()))
	r := &computationsv1.CountComputationsResponse{Counts: map[string]int64{}}
	for name, n := range counts {
		r.Counts[name] = int64(n)
	}
	return r, err
}

func (s drafts) GetComputation(ctx context.Context, q *computationsv1.GetComputationRequest) (*computationsv1.GetComputationResponse, error) {
	v, err := s.svc.Computation(ctx, who(ctx), computations.ID(q.GetComputationId()))
	if err != nil {
		return nil, err
	}
	return &computationsv1.GetComputationResponse{
		Computation: computation(v.Computation), Draft: draft(&v.Draft), Stage: string(v.Stage), Parties: each(v.Parties, party),
		Mine: texts(v.Mine), Allowed: texts(v.Allowed), Missing: v.Missing, Runs: each(v.Runs, run),
		Todo: each(v.Todo, func(t computations.Todo) *computationsv1.Todo {
			return &computationsv1.Todo{Action: string(t.Action), Text: t.Text, Command: t.Command}
		}),
		Invitations: each(v.Invitations, invitation), Servers: v.Plan.Servers(), ScratchBytes: v.Plan.ScratchBytes,
	}, nil
}

func (s drafts) EditDraft(ctx context.Context, q *computationsv1.EditDraftRequest) (*computationsv1.EditDraftResponse, error) {
	d, err := draftOf(q.GetDraft())
	if err != nil {
		return nil, err
	}
	c, err := s.svc.EditDraft(ctx, who(ctx), computations.ID(q.GetComputationId()), q.GetRevision(), d)
	return &computationsv1.EditDraftResponse{Computation: computation(c)}, err
}

func (s drafts) SetParts(ctx context.Context, q *computationsv1.SetPartsRequest) (*computationsv1.SetPartsResponse, error) {
	return &computationsv1.SetPartsResponse{}, s.svc.SetParts(ctx, who(ctx),
		computations.ID(q.GetComputationId()), computations.ID(q.GetUserId()), words[computations.Part](q.GetParts()))
}

func (s drafts) Supply(ctx context.Context, q *computationsv1.SupplyRequest) (*computationsv1.SupplyResponse, error) {
	return &computationsv1.SupplyResponse{}, s.svc.Supply(ctx, who(ctx), computations.ID(q.GetComputationId()), computations.Supply{
		Key: computations.ID(q.GetKeyId()), Slot: q.GetSlot(), Asset: computations.ID(q.GetAssetId()),
	})
}

func (s drafts) Freeze(ctx context.Context, q *computationsv1.FreezeRequest) (*computationsv1.FreezeResponse, error) {
	c, err := s.svc.Freeze(ctx, who(ctx), computations.ID(q.GetComputationId()), q.GetRevision())
	return &computationsv1.FreezeResponse{Computation: computation(c)}, err
}

func (s drafts) GetManifest(ctx context.Context, q *computationsv1.GetManifestRequest) (*computationsv1.GetManifestResponse, error) {
	v, err := s.svc.Computation(ctx, who(ctx), computations.ID(q.GetComputationId()))
	if err != nil {
		return nil, err
	}
	if v.Frozen == nil {
		return nil, &computations.Error{Kind: computations.Conflict, Message: "the computation is a draft: it has no manifest yet", Hint: "freeze it first"}
	}
	return &computationsv1.GetManifestResponse{
		Manifest: v.Frozen.Raw, ManifestDigest: v.Frozen.Digest[:],
		Approvals: each(v.Approvals, func(a computations.Approval) *computationsv1.Approval {
			return &computationsv1.Approval{PublicKey: a.PublicKey.SPKI(), Signature: a.Signature, At: stamp(a.At)}
		}),
	}, nil
}

func (s drafts) Approve(ctx context.Context, q *computationsv1.ApproveRequest) (*computationsv1.ApproveResponse, error) {
	key, err := publicKey("public_key", q.GetPublicKey())
	if err != nil {
		return nil, err
	}
	return &computationsv1.ApproveResponse{}, s.svc.Approve(ctx, who(ctx), computations.ID(q.GetComputationId()),
		manifest.Approval{PublicKey: key, Signature: q.GetSignature()})
}

func (s drafts) DryRun(ctx context.Context, q *computationsv1.DryRunRequest) (*computationsv1.DryRunResponse, error) {
	list, err := s.svc.DryRun(ctx, who(ctx), computations.ID(q.GetComputationId()))
	return &computationsv1.DryRunResponse{Checks: each(list, func(c computations.Check) *computationsv1.Check {
		return &computationsv1.Check{Name: c.Name, Ok: c.OK, Found: c.Found, Hint: c.Hint}
	})}, err
}

func (s drafts) CopyComputation(ctx context.Context, q *computationsv1.CopyComputationRequest) (*computationsv1.CopyComputationResponse, error) {
	c, err := s.svc.CopyComputation(ctx, who(ctx), computations.ID(q.GetComputationId()))
	return &computationsv1.CopyComputationResponse{Computation: computation(c)}, err
}

func (s drafts) ExportComputation(ctx context.Context, q *computationsv1.ExportComputationRequest) (*computationsv1.ExportComputationResponse, error) {
	b, err := s.svc.ExportComputation(ctx, who(ctx), computations.ID(q.GetComputationId()))
	return &computationsv1.ExportComputationResponse{Json: b}, err
}

func (s drafts) ImportComputation(ctx context.Context, q *computationsv1.ImportComputationRequest) (*computationsv1.ImportComputationResponse, error) {
	c, err := s.svc.ImportComputation(ctx, who(ctx), computations.ID(q.GetWorkspaceId()), q.GetJson())
	return &computationsv1.ImportComputationResponse{Computation: computation(c)}, err
}

func (s drafts) ArchiveComputation(ctx context.Context, q *computationsv1.ArchiveComputationRequest) (*computationsv1.ArchiveComputationResponse, error) {
	return &computationsv1.ArchiveComputationResponse{}, s.svc.ArchiveComputation(ctx, who(ctx), computations.ID(q.GetComputationId()), q.GetArchived())
}

func computation(c computations.Computation) *computationsv1.Computation {
	m := &computationsv1.Computation{
		Id: string(c.ID), WorkspaceId: string(c.Workspace), CreatorId: string(c.Creator), Created: stamp(c.Created),
		Name: c.Draft.Name, Tee: string(c.Draft.TEE), Revision: c.Revision, Frozen: stamp(c.Frozen),
		CopiedFrom: string(c.CopiedFrom), Archived: stamp(c.Archived), LastRun: string(c.LastRun),
	}
	if c.Manifest != nil {
		m.ManifestDigest = c.Digest[:]
	}
	return m
}

func party(p computations.Party) *computationsv1.Party {
	m := &computationsv1.Party{
		UserId: string(p.User), Email: p.Email, Name: p.Name, Parts: texts(p.Parts),
		MustApprove: p.MustApprove, Approved: stamp(p.Approved),
	}
	if p.Key != nil {
		m.PublicKey = p.Key.SPKI()
	}
	return m
}
