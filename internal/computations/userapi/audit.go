package userapi

import (
	"context"
	"strconv"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
)

type audit struct {
	computationsv1.UnimplementedAuditServiceServer
	svc *computations.Service
}

func (s audit) ListAudit(ctx context.Context, q *computationsv1.ListAuditRequest) (*computationsv1.ListAuditResponse, error) {
	c, err := cursorOf(q.GetPageSize(), q.GetPageToken())
	if err != nil {
		return nil, err
	}
	f := computations.AuditFilter{
		Workspace: computations.ID(q.GetWorkspaceId()), Actor: computations.ID(q.GetActorId()), Action: q.GetAction(),
		Object: computations.ID(q.GetObjectId()), Limit: c.size + 1,
	}
	if f.Before, err = c.number(); err != nil {
		return nil, err
	}
	if f.From, err = moment("from", q.GetFrom()); err != nil {
		return nil, err
	}
	if f.To, err = moment("to", q.GetTo()); err != nil {
		return nil, err
	}
	list, err := s.svc.Audit(ctx, who(ctx), f)
	if err != nil {
		return nil, err
	}
	var r computationsv1.ListAuditResponse
	r.Entries, r.NextPageToken = cut(c, list, func(e computations.AuditEntry) string { return strconv.FormatInt(e.Sequence, 10) }, auditEntry)
	return &r, nil
}

func auditEntry(e computations.AuditEntry) *computationsv1.AuditEntry {
	return &computationsv1.AuditEntry{
		Sequence: e.Sequence, At: stamp(e.At), WorkspaceId: string(e.Workspace), ActorId: string(e.Actor), ActorEmail: e.Email,
		Action: e.Action, ObjectId: string(e.Object), Detail: e.Detail, Previous: e.Previous[:], Hash: e.Hash[:],
	}
}
