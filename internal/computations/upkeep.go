package computations

import (
	"context"
	"errors"
)

// upkeepBatch bounds one transaction of upkeep, so that others get their turn.
const upkeepBatch = 1000

// Upkeep deletes credentials that no longer count, and entries that were kept long
// enough.
func (s *Service) Upkeep(ctx context.Context) error {
	now := s.now()
	errs := []error{s.inBatches(ctx, func(w Writer) (int, error) {
		return w.ExpireCredentials(now, now.Add(-sessionIdle), upkeepBatch)
	})}
	forgetful, err := view(ctx, s, func(r Reader) ([]Workspace, error) { return r.Forgetful() })
	errs = append(errs, err)
	for _, ws := range forgetful {
		errs = append(errs, s.inBatches(ctx, func(w Writer) (int, error) {
			return w.Expire(ws.ID, now.Add(-ws.KeepEntries), upkeepBatch)
		}))
	}
	return errors.Join(errs...)
}

func (s *Service) inBatches(ctx context.Context, delete func(Writer) (int, error)) error {
	for {
		n, err := update(ctx, s, delete)
		if err != nil || n < upkeepBatch {
			return err
		}
	}
}
