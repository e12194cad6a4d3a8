package store_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/manifest"
)

func testComputations(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	c := computations.Computation{ID: "c1", Workspace: w.ws.ID, Creator: w.bob.ID, Created: now, Revision: 7, CopiedFrom: w.draft.ID,
		Draft: computations.Draft{Name: "Mean", Description: "d", TEE: manifest.TEESNP, AttestedTLS: true,
			Algorithm: computations.AlgorithmSlot{Provider: w.ann.ID, Asset: "a", Args: []string{"-x", ""}, Env: map[string]string{"A": "b"},
				Limits: manifest.Limits{Seconds: 3}},
			Datasets:  []computations.DatasetSlot{{Name: "one", Provider: w.bob.ID}, {Name: "two"}},
			Consumers: []id{w.ann.ID}, Approvers: []id{w.bob.ID}, Keys: map[id]id{w.ann.ID: "k"}, Image: "sha256:1", TTL: 90 * time.Minute}}
	put(t, s, func(wr writer) error { return wr.PutComputation(c) })
	get := func(r reader) (computations.Computation, error) { return r.Computation("c1") }
	same(t, s, c, get)
	c.Draft.Keys, c.Revision, c.Archived = nil, 8, now
	put(t, s, func(wr writer) error { return wr.PutComputation(c) })
	same(t, s, c, get)

	w.frozen.LastRun = computations.RunQueued
	same(t, s, w.frozen, func(r reader) (computations.Computation, error) { return r.Computation(w.frozen.ID) })
}

func testSelectComputations(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	update(t, s, func(wr writer) error {
		var errs []error
		for _, c := range []struct {
			name, text string
			archived   time.Time
			parts      []computations.Part
			state      computations.RunState
		}{
			{name: "comp-a", text: "ÄRZTE 100%_", parts: []computations.Part{computations.PartViewer}},
			{name: "comp-b", text: "ärzte 100!%", state: computations.RunRunning},
			{name: "comp-c", text: "x", state: computations.RunFailed, parts: []computations.Part{computations.PartEditor}},
			{name: "comp-d", text: "gone", archived: now, parts: []computations.Part{computations.PartEditor}},
		} {
			errs = append(errs, wr.PutComputation(computations.Computation{ID: id(c.name), Workspace: w.ws.ID, Creator: w.ann.ID, Archived: c.archived,
				Draft: computations.Draft{Name: c.text}}), wr.SetParts(id(c.name), w.bob.ID, c.parts))
			if c.state != "" {
				errs = append(errs, wr.PutRun(computations.Run{ID: id("run-" + c.name), Computation: id(c.name), Workspace: w.ws.ID, Number: 1,
					State: c.state, By: w.ann.ID}))
			}
		}
		return errors.Join(errs...)
	})
	type cf = computations.ComputationFilter
	for name, c := range map[string]struct {
		filter cf
		want   []id
	}{
		"all":                         {cf{}, []id{"comp-frozen", "comp-draft", "comp-c", "comp-b", "comp-a"}},
		"archived":                    {cf{Archived: true}, []id{"comp-d"}},
		"text":                        {cf{Text: "Ärzte"}, []id{"comp-b", "comp-a"}},
		"text with a %":               {cf{Text: "0%_"}, []id{"comp-a"}},
		"text with a !":               {cf{Text: "0!"}, []id{"comp-b"}},
		"no such text":                {cf{Text: "zzz"}, nil},
		"drafts":                      {cf{States: []string{"draft"}}, []id{"comp-draft", "comp-a"}},
		"running and queued":          {cf{States: []string{"running", "queued"}}, []id{"comp-frozen", "comp-b"}},
		"approvals, which have a run": {cf{States: []string{"approvals"}}, nil},
		"bob's":                       {cf{User: w.bob.ID}, []id{"comp-c", "comp-a"}},
		"bob's failed":                {cf{User: w.bob.ID, States: []string{"failed"}}, []id{"comp-c"}},
		"bob's archived":              {cf{User: w.bob.ID, Archived: true}, []id{"comp-d"}},
		"bob's with text":             {cf{User: w.bob.ID, Text: "ÄRZTE"}, []id{"comp-a"}},
		"nobody's":                    {cf{User: "x"}, nil},
	} {
		c.filter.Workspace = w.ws.ID
		t.Run(name, func(t *testing.T) {
			ids(t, s, c.want, computationID, func(r reader) ([]computations.Computation, error) {
				return r.Computations(c.filter, computations.Page{})
			})
			view(t, s, func(r reader) error {
				counts, err := r.CountComputations(c.filter)
				n := 0
				for _, count := range counts {
					n += count
				}
				if n != len(c.want) {
					t.Errorf("counted %v, want %d", counts, len(c.want))
				}
				return err
			})
		})
	}
	ids(t, s, nil, computationID, func(r reader) ([]computations.Computation, error) {
		return r.Computations(cf{Workspace: w.other.ID}, computations.Page{})
	})
	same(t, s, map[string]int{"draft": 2, "running": 1, "failed": 1, "queued": 1}, func(r reader) (map[string]int, error) {
		return r.CountComputations(cf{Workspace: w.ws.ID})
	})
}

// testFrozen: one field at a time of what is frozen, and one that isn't.
func testFrozen(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	other := w.freeze(t, "comp-other")
	for name, change := range map[string]func(c *computations.Computation){
		"manifest": func(c *computations.Computation) {
			c.Manifest = append(c.Manifest[:len(c.Manifest):len(c.Manifest)], ' ')
		},
		"digest": func(c *computations.Computation) { c.Digest[0]++ },
		"both":   func(c *computations.Computation) { c.Manifest, c.Digest = other.Manifest, other.Digest },
		"thawed": func(c *computations.Computation) {
			c.Manifest, c.Digest, c.Frozen = nil, manifest.Digest{}, time.Time{}
		},
		"frozen":    func(c *computations.Computation) { c.Frozen = c.Frozen.Add(1) },
		"revision":  func(c *computations.Computation) { c.Revision++ },
		"workspace": func(c *computations.Computation) { c.Workspace = w.other.ID },
	} {
		c := w.frozen
		change(&c)
		if err := s.Update(t.Context(), func(wr writer) error { return wr.PutComputation(c) }); !errors.Is(err, computations.ErrTaken) {
			t.Errorf("%s: %v, want ErrTaken", name, err)
		}
	}
	w.frozen.Archived = now
	put(t, s, func(wr writer) error { return wr.PutComputation(w.frozen) })
	w.frozen.LastRun = computations.RunQueued
	same(t, s, w.frozen, func(r reader) (computations.Computation, error) { return r.Computation(w.frozen.ID) })

	// What is frozen must be a manifest of that digest.
	for name, c := range map[string]computations.Computation{
		"its manifest: ": {ID: "z", Workspace: w.ws.ID, Creator: w.ann.ID, Manifest: []byte("{}"), Digest: manifest.Sum([]byte("{}")), Frozen: now},
		"has the digest": {ID: "z", Workspace: w.ws.ID, Creator: w.ann.ID, Manifest: other.Manifest, Digest: w.frozen.Digest, Frozen: now},
	} {
		if err := s.Update(t.Context(), func(wr writer) error { return wr.PutComputation(c) }); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}

func testStages(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	// Lists of the workspace and of a user have it in that state only.
	status := func(c id, want string) {
		t.Helper()
		view(t, s, func(r reader) error {
			for _, state := range []string{"draft", "approvals", "ready", "queued", "running", "finished"} {
				for _, user := range []id{"", w.bob.ID} {
					list, err := r.Computations(computations.ComputationFilter{Workspace: w.ws.ID, User: user, States: []string{state}}, computations.Page{})
					if err != nil {
						return err
					}
					counts, err := r.CountComputations(computations.ComputationFilter{Workspace: w.ws.ID, User: user})
					if err != nil {
						return err
					}
					if counts[state] != len(list) {
						t.Errorf("%d are counted as %q (of %q), %d are listed", counts[state], state, user, len(list))
					}
					if there := slices.Contains(names(list, computationID), c); there != (state == want) {
						t.Errorf("%s (of %q) is %q: %v, want %q", c, user, state, there, want)
					}
				}
			}
			return nil
		})
	}
	viewer := []computations.Part{computations.PartViewer}
	none := w.freeze(t, "comp-none")
	put(t, s, func(wr writer) error {
		return errors.Join(wr.PutComputation(none), wr.SetParts(none.ID, w.bob.ID, viewer))
	})
	status(none.ID, "ready")

	one := w.freeze(t, "comp-one", w.annKey.Public())
	draft := one
	draft.Manifest, draft.Digest, draft.Frozen = nil, manifest.Digest{}, time.Time{}
	put(t, s, func(wr writer) error {
		return errors.Join(wr.PutComputation(draft), wr.SetParts(one.ID, w.bob.ID, viewer))
	})
	status(one.ID, "draft")
	put(t, s, func(wr writer) error { return wr.PutComputation(one) })
	status(one.ID, "approvals")
	put(t, s, func(wr writer) error {
		return wr.PutApproval(computations.Approval{Computation: one.ID, User: w.ann.ID, At: now,
			Approval: manifest.Approval{PublicKey: w.annKey.Public(), Signature: []byte("s")}})
	})
	status(one.ID, "ready")
	one.Archived = now
	put(t, s, func(wr writer) error { return wr.PutComputation(one) })
	status(one.ID, "nowhere")
	one.Archived = time.Time{}
	put(t, s, func(wr writer) error { return wr.PutComputation(one) })
	status(one.ID, "ready")

	run := computations.Run{ID: "run-2a", Computation: one.ID, Workspace: w.ws.ID, Number: 1, State: computations.RunRunning, By: w.ann.ID}
	put(t, s, func(wr writer) error { return wr.PutRun(run) })
	status(one.ID, "running")
	second := run
	second.ID, second.Number, second.State = "run-2b", 2, computations.RunQueued
	put(t, s, func(wr writer) error { return wr.PutRun(second) })
	run.State = computations.RunFinished // the one before doesn't count any more
	put(t, s, func(wr writer) error { return wr.PutRun(run) })
	status(one.ID, "queued")
	same(t, s, computations.RunQueued, func(r reader) (computations.RunState, error) {
		c, err := r.Computation(one.ID)
		return c.LastRun, err
	})
}

func testParts(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	viewer, editor := []computations.Part{computations.PartViewer}, []computations.Part{computations.PartEditor, computations.PartRunner}
	update(t, s, func(wr writer) error {
		return errors.Join(wr.SetParts(w.draft.ID, w.ann.ID, editor), wr.SetParts(w.draft.ID, w.bob.ID, viewer), wr.SetParts(w.frozen.ID, w.bob.ID, editor))
	})
	parts := func(c, u id, want []computations.Part) {
		t.Helper()
		same(t, s, want, func(r reader) ([]computations.Part, error) { return r.Parts(c, u) })
	}
	parts(w.draft.ID, w.ann.ID, editor)
	parts(w.frozen.ID, w.ann.ID, nil)
	same(t, s, map[id][]computations.Part{w.ann.ID: editor, w.bob.ID: viewer}, func(r reader) (map[id][]computations.Part, error) {
		return r.AllParts(w.draft.ID)
	})
	put(t, s, func(wr writer) error { return wr.SetParts(w.draft.ID, w.ann.ID, viewer) })
	parts(w.draft.ID, w.ann.ID, viewer)
	put(t, s, func(wr writer) error { return wr.SetParts(w.draft.ID, w.ann.ID, nil) })
	parts(w.draft.ID, w.ann.ID, nil)
	put(t, s, func(wr writer) error { return wr.DropParts(w.other.ID, w.bob.ID) })
	parts(w.draft.ID, w.bob.ID, viewer)
	put(t, s, func(wr writer) error { return wr.DropParts(w.ws.ID, w.bob.ID) })
	parts(w.draft.ID, w.bob.ID, nil)
	parts(w.frozen.ID, w.bob.ID, nil)
	same(t, s, map[string]int{}, func(r reader) (map[string]int, error) {
		return r.CountComputations(computations.ComputationFilter{Workspace: w.ws.ID, User: w.bob.ID})
	})
}

func testApprovals(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	a := computations.Approval{Computation: w.frozen.ID, User: w.ann.ID, At: now,
		Approval: manifest.Approval{PublicKey: w.annKey.Public(), Signature: []byte{0, 1, 255}}}
	b := a
	b.User, b.At = w.bob.ID, now.Add(1)
	update(t, s, func(wr writer) error { return errors.Join(wr.PutApproval(b), wr.PutApproval(a)) })
	view(t, s, func(r reader) error {
		got, err := r.Approvals(w.frozen.ID)
		if len(got) != 2 || !reflect.DeepEqual(got[0], a) || !reflect.DeepEqual(got[1], b) {
			t.Errorf("got  %+v\nwant %+v", got, []computations.Approval{a, b})
		}
		return err
	})
	same(t, s, nil, func(r reader) ([]computations.Approval, error) { return r.Approvals(w.draft.ID) })
}
