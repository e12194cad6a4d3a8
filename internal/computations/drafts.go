package computations

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// making bounds how fast one user fills the database with computations and assets,
// of which no use case deletes any: two thousand at once, and 17,000 a day.
func (s *Service) making(who Identity) error {
	if wait := s.makes.take(string(who.User)); wait > 0 {
		return &Error{Kind: Limited, Message: "you have made as many computations and assets as one can for now", Hint: fmt.Sprintf("try again in %v", wait.Round(time.Second)+time.Second)}
	}
	return nil
}

// CreateComputation begins a draft with the asker as its creator.
func (s *Service) CreateComputation(ctx context.Context, who Identity, workspace ID, d Draft) (Computation, error) {
	if err := s.making(who); err != nil {
		return Computation{}, err
	}
	return update(ctx, s, func(w Writer) (Computation, error) {
		x, err := s.inWorkspace(w, who, workspace, ComputationCreate)
		if err != nil {
			return Computation{}, err
		}
		d := ownKeys(d, x.user.ID, nil)
		if err := checkDraft(w, workspace, &Draft{}, &d); err != nil {
			return Computation{}, err
		}
		return s.begin(w, &x, d, ComputationCreate, "")
	})
}

// begin makes a computation of a draft that was checked.
func (s *Service) begin(w Writer, x *access, d Draft, how Action, from ID) (Computation, error) {
	c := Computation{ID: NewID(), Workspace: x.workspace.ID, Creator: x.user.ID, Created: s.now(), Draft: d, Revision: 1, CopiedFrom: from}
	if err := s.save(w, &c); err != nil {
		return Computation{}, err
	}
	if err := w.SetParts(c.ID, x.user.ID, []Part{PartCreator}); err != nil {
		return Computation{}, err
	}
	if err := syncParts(w, c.ID, &Draft{}, &d); err != nil {
		return Computation{}, err
	}
	return c, s.did(w, x, how, c.ID, "name", d.Name, "from", string(from))
}

// save writes a computation and tells who looks at its workspace.
func (s *Service) save(w Writer, c *Computation) error {
	w.Signal(WorkspaceTopic(c.Workspace))
	return w.PutComputation(*c)
}

// changeable lets through a draft.
func changeable(c *Computation) error {
	switch {
	case !c.Archived.IsZero():
		return &Error{Kind: Conflict, Message: "the computation is archived", Hint: "take it out of the archive first"}
	case c.Manifest != nil:
		return &Error{Kind: Conflict, Message: "the computation is frozen and can't change any more", Hint: "copy it, and change the copy"}
	}
	return nil
}

// current wants the revision that somebody saw to be the last one.
func current(c *Computation, revision int64) error {
	if c.Revision != revision {
		return &Error{Kind: Conflict, Field: "revision", Message: "the draft was changed meanwhile", Hint: "look at it again, and make your change to what is there now"}
	}
	return nil
}

// EditDraft replaces a draft. The parties' choices among their keys stay as they
// are, but for the asker's own.
func (s *Service) EditDraft(ctx context.Context, who Identity, id ID, revision int64, d Draft) (Computation, error) {
	return update(ctx, s, func(w Writer) (Computation, error) {
		x, err := s.onComputation(w, who, id, ComputationEdit)
		if err != nil {
			return Computation{}, err
		}
		c := x.computation
		if err := changeable(&c); err != nil {
			return Computation{}, err
		}
		if err := current(&c, revision); err != nil {
			return Computation{}, err
		}
		d := ownKeys(d, x.user.ID, c.Draft.Keys)
		if err := checkDraft(w, c.Workspace, &c.Draft, &d); err != nil {
			return Computation{}, err
		}
		if err := syncParts(w, id, &c.Draft, &d); err != nil {
			return Computation{}, err
		}
		c.Draft = d
		c.Revision++
		if err := s.save(w, &c); err != nil {
			return Computation{}, err
		}
		return c, s.did(w, &x, ComputationEdit, id, "revision", fmt.Sprint(c.Revision))
	})
}

// ownKeys takes the choice of a key from d for the user alone.
func ownKeys(d Draft, user ID, others map[ID]ID) Draft {
	ks := maps.Clone(others)
	if ks == nil {
		ks = map[ID]ID{}
	}
	if key, said := d.Keys[user]; said {
		ks[user] = key
	}
	if ks[user] == "" {
		delete(ks, user)
	}
	d.Keys = ks
	return d
}

// parties are the users whom a draft names, each with what it gives them.
func (d *Draft) parties() map[ID][]Part {
	parties := map[ID][]Part{}
	add := func(user ID, p Part) {
		if user != "" && !slices.Contains(parties[user], p) {
			parties[user] = append(parties[user], p)
		}
	}
	for _, slot := range d.Datasets {
		add(slot.Provider, PartDataset)
	}
	add(d.Algorithm.Provider, PartAlgorithm)
	for _, user := range d.Consumers {
		add(user, PartConsumer)
	}
	return parties
}

// syncParts gives those whom the new draft names the parts that go with it, and
// takes them from those whom only the old one named.
func syncParts(w Writer, id ID, old, d *Draft) error {
	before, after := old.parties(), d.parties()
	both := maps.Clone(before)
	maps.Copy(both, after)
	for _, user := range sortedIDs(both) {
		has, err := w.Parts(id, user)
		if err != nil {
			return err
		}
		var want []Part
		for _, p := range allParts {
			if slices.Contains(after[user], p) || slices.Contains(has, p) && !slices.Contains(before[user], p) {
				want = append(want, p)
			}
		}
		if slices.Equal(ordered(has), want) {
			continue
		}
		if err := w.SetParts(id, user, want); err != nil {
			return err
		}
	}
	return nil
}

// ordered is parts in the order of Parts.
func ordered(parts []Part) []Part {
	return slices.DeleteFunc(Parts(), func(p Part) bool { return !slices.Contains(parts, p) })
}

// SetParts says what a member of the workspace is in the computation. Who becomes
// a consumer is put into the draft, and who is no party any more is taken out.
func (s *Service) SetParts(ctx context.Context, who Identity, id, user ID, parts []Part) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onComputation(w, who, id, ComputationParts)
		if err != nil {
			return err
		}
		if !x.computation.Archived.IsZero() {
			return changeable(&x.computation)
		}
		has, err := w.Parts(id, user)
		if err != nil {
			return err
		}
		want := slices.Clone(parts)
		if slices.Contains(has, PartCreator) {
			// It comes and stays with the computation, said or not.
			want = append(slices.DeleteFunc(want, func(p Part) bool { return p == PartCreator }), PartCreator)
		}
		if e := checkGiven("parts", slices.DeleteFunc(slices.Clone(want), func(p Part) bool {
			return p == PartCreator && slices.Contains(has, PartCreator)
		})); e != nil {
			return e
		}
		if _, err := w.Member(x.workspace.ID, user); errors.Is(err, ErrNoRow) {
			return invalid("user", "is no member of the workspace: invite them first")
		} else if err != nil {
			return err
		}
		if err := s.give(w, x.computation, user, has, want); err != nil {
			return err
		}
		return s.did(w, &x, ComputationParts, id, "user", string(user), "parts", join(ordered(want)))
	})
}

// restores tells whether a part is one that the frozen manifest gives the user, who
// left and came back.
func restores(c *Computation, user ID, p Part) bool {
	return c.Manifest != nil && c.Archived.IsZero() && slices.Contains(c.Draft.parties()[user], p)
}

// give sets a user's parts, and changes the draft to match.
func (s *Service) give(w Writer, c Computation, user ID, has, want []Part) error {
	want = ordered(want)
	gains := func(p Part) bool { return slices.Contains(want, p) && !slices.Contains(has, p) }
	loses := func(p Part) bool { return slices.Contains(has, p) && !slices.Contains(want, p) }
	changes := func(p Part) bool { return loses(p) || gains(p) && !restores(&c, user, p) }
	if slices.ContainsFunc(providers, changes) {
		if err := changeable(&c); err != nil {
			return err
		}
		d := &c.Draft
		if gains(PartConsumer) && !slices.Contains(d.Consumers, user) {
			d.Consumers = append(slices.Clone(d.Consumers), user)
		}
		if loses(PartConsumer) {
			d.Consumers = without(d.Consumers, user)
			d.Release = slices.DeleteFunc(slices.Clone(d.Release), func(r ReleaseSlot) bool { return r.Consumer == user })
		}
		if gains(PartAlgorithm) && d.Algorithm.Provider == "" {
			d.Algorithm.Provider = user
		}
		if loses(PartAlgorithm) && d.Algorithm.Provider == user {
			d.Algorithm.Provider, d.Algorithm.Asset = "", ""
		}
		if loses(PartDataset) {
			d.Datasets = slices.Clone(d.Datasets)
			for i := range d.Datasets {
				if d.Datasets[i].Provider == user {
					d.Datasets[i].Provider, d.Datasets[i].Asset = "", ""
				}
			}
		}
		if !slices.ContainsFunc(want, ofManifest) {
			d.Approvers = without(d.Approvers, user)
			d.Keys = maps.Clone(d.Keys)
			delete(d.Keys, user)
		}
		c.Revision++
		if err := s.save(w, &c); err != nil {
			return err
		}
	}
	w.Signal(WorkspaceTopic(c.Workspace))
	return w.SetParts(c.ID, user, want)
}

func without(ids []ID, id ID) []ID {
	return slices.DeleteFunc(slices.Clone(ids), func(other ID) bool { return other == id })
}

// Supply is what a party brings to a draft: a key of its own, or an asset of its
// own for a slot.
type Supply struct {
	// Key is the one that the asker uses in this computation; empty: unchanged.
	Key ID
	// Slot is "algorithm" or "datasets/NAME"; empty: no asset is named.
	Slot string
	// Asset for the slot; empty: none any more.
	Asset ID
}

// Supply names the asker's key or asset. A slot that is nobody's becomes the
// asker's, who needs the part for it.
func (s *Service) Supply(ctx context.Context, who Identity, id ID, with Supply) error {
	return s.change(ctx, func(w Writer) error {
		x, err := s.onComputation(w, who, id, ComputationSupply)
		if err != nil {
			return err
		}
		c := x.computation
		if err := changeable(&c); err != nil {
			return err
		}
		if with.Key == "" && with.Slot == "" {
			return invalid("", "name a key, or a slot and an asset for it")
		}
		old := c.Draft
		if with.Key != "" {
			c.Draft = ownKeys(c.Draft, x.user.ID, c.Draft.Keys)
			c.Draft.Keys[x.user.ID] = with.Key
			if e, err := checkKey(w, "key", x.user.ID, with.Key); e != nil || err != nil {
				return errors.Join(err, asError(e))
			}
		}
		if with.Slot != "" {
			if err := fill(w, &x, &c.Draft, with); err != nil {
				return err
			}
		}
		if err := syncParts(w, id, &old, &c.Draft); err != nil {
			return err
		}
		c.Revision++
		if err := s.save(w, &c); err != nil {
			return err
		}
		return s.did(w, &x, ComputationSupply, id, "slot", with.Slot, "asset", string(with.Asset), "key", string(with.Key))
	})
}

// asError keeps a nil *Error from becoming an error that isn't nil.
func asError(e *Error) error {
	if e == nil {
		return nil
	}
	return e
}

// fill puts the asker's asset into a slot.
func fill(r Reader, x *access, d *Draft, with Supply) error {
	var provider, asset *ID
	kind, part := AssetAlgorithm, PartAlgorithm
	if name, of := strings.CutPrefix(with.Slot, "datasets/"); of {
		kind, part = AssetDataset, PartDataset
		d.Datasets = slices.Clone(d.Datasets)
		i := slices.IndexFunc(d.Datasets, func(s DatasetSlot) bool { return s.Name == name })
		if i < 0 {
			return invalid("slot", "is %q, and the computation has no such dataset", plain(with.Slot, maxTitle))
		}
		provider, asset = &d.Datasets[i].Provider, &d.Datasets[i].Asset
	} else if with.Slot == "algorithm" {
		provider, asset = &d.Algorithm.Provider, &d.Algorithm.Asset
	} else {
		return invalid("slot", "is %q; expected \"algorithm\" or \"datasets/NAME\"", plain(with.Slot, maxTitle))
	}
	if !slices.Contains(x.standing.Parts, part) || *provider != "" && *provider != x.user.ID {
		return &Error{Kind: Denied, Field: "slot", Message: "this is for somebody else to bring"}
	}
	if with.Asset != "" {
		e, err := checkAssetOf(r, "asset", x.workspace.ID, x.user.ID, kind, with.Asset, true)
		if e != nil || err != nil {
			return errors.Join(err, asError(e))
		}
	}
	*provider, *asset = x.user.ID, with.Asset
	return nil
}
