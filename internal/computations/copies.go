package computations

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ArchiveComputation takes a computation out of lists, or puts it back.
func (s *Service) ArchiveComputation(ctx context.Context, who Identity, id ID, archived bool) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onComputation(w, who, id, ComputationArchive)
		if err != nil {
			return err
		}
		c := x.computation
		if archived == !c.Archived.IsZero() {
			return nil
		}
		c.Archived = Computation{}.Archived
		if archived {
			if active, err := activeRun(w, id); err != nil {
				return err
			} else if active != nil {
				return &Error{Kind: Conflict, Message: fmt.Sprintf("run %d has not ended", active.Number), Hint: "stop it first, or wait"}
			}
			c.Archived = s.now()
		}
		if err := s.save(w, &c); err != nil {
			return err
		}
		return s.did(w, &x, ComputationArchive, id, "archived", fmt.Sprint(archived))
	})
}

// CopyComputation begins a new draft of the asker's with the same contents. Those
// who left the workspace are taken out of it.
func (s *Service) CopyComputation(ctx context.Context, who Identity, id ID) (Computation, error) {
	if err := s.making(who); err != nil {
		return Computation{}, err
	}
	return update(ctx, s, func(w Writer) (Computation, error) {
		x, err := s.onComputation(w, who, id, ComputationCopy)
		if err != nil {
			return Computation{}, err
		}
		if !Allow(x.standing, ComputationCreate) {
			return Computation{}, denied(ComputationCreate)
		}
		d := x.computation.Draft
		gone := map[ID]bool{}
		for user := range d.parties() {
			if _, err := w.Member(x.workspace.ID, user); errors.Is(err, ErrNoRow) {
				gone[user] = true
			} else if err != nil {
				return Computation{}, err
			}
		}
		return s.begin(w, &x, d.except(gone), ComputationCopy, id)
	})
}

// except is a copy of the draft without some users.
func (d Draft) except(gone map[ID]bool) Draft {
	d.Keys = maps.Clone(d.Keys)
	maps.DeleteFunc(d.Keys, func(user, _ ID) bool { return gone[user] })
	d.Consumers = slices.DeleteFunc(slices.Clone(d.Consumers), func(u ID) bool { return gone[u] })
	d.Release = slices.DeleteFunc(slices.Clone(d.Release), func(r ReleaseSlot) bool { return gone[r.Consumer] })
	d.Approvers = slices.DeleteFunc(slices.Clone(d.Approvers), func(u ID) bool { return gone[u] })
	if gone[d.Algorithm.Provider] {
		d.Algorithm.Provider, d.Algorithm.Asset = "", ""
	}
	d.Datasets = slices.Clone(d.Datasets)
	for i := range d.Datasets {
		if gone[d.Datasets[i].Provider] {
			d.Datasets[i].Provider, d.Datasets[i].Asset = "", ""
		}
	}
	return d
}
