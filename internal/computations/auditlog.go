package computations

import (
	"context"
	"fmt"
)

// auditBatch is how many entries are read and checked at a time.
const auditBatch = 1000

// Audit lists who did what, newest first: in a workspace, or to the service as a
// whole.
func (s *Service) Audit(ctx context.Context, who Identity, f AuditFilter) ([]AuditEntry, error) {
	return view(ctx, s, func(r Reader) ([]AuditEntry, error) {
		var err error
		if f.Workspace == "" {
			_, err = s.onService(r, who, AuditServiceRead)
		} else {
			_, err = s.inWorkspace(r, who, f.Workspace, AuditRead)
		}
		if err != nil {
			return nil, err
		}
		f.Limit = Page{Limit: f.Limit}.bounded().Limit
		return r.Audit(f)
	})
}

// VerifyAudit goes along the whole chain. It returns how many entries there are
// and the last one's hash: an entry cut off at the end shows only against a hash
// that was noted elsewhere. The error names the first entry that does not hold.
func (s *Service) VerifyAudit(ctx context.Context) (n int64, head [32]byte, err error) {
	for {
		batch, err := view(ctx, s, func(r Reader) ([]AuditEntry, error) { return r.AuditChain(n, auditBatch) })
		if err != nil {
			return n, head, err
		}
		if len(batch) == 0 {
			return n, head, nil
		}
		for i := range batch {
			e := &batch[i]
			switch {
			case e.Sequence != n+1:
				return n, head, fmt.Errorf("the audit log is broken: entry %d is missing", n+1)
			case e.Previous != head:
				return n, head, fmt.Errorf("the audit log is broken at entry %d: it does not follow from entry %d", e.Sequence, n)
			case e.Hash != e.Sum():
				return n, head, fmt.Errorf("the audit log is broken at entry %d: it was changed after it was written", e.Sequence)
			}
			n, head = e.Sequence, e.Hash
		}
	}
}
