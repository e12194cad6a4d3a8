package computations

import (
	"context"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// View is a computation with all that its page shows to one user.
type View struct {
	Computation
	Stage   Stage
	Parties []Party
	// Mine are the asker's parts.
	Mine []Part
	// Allowed is what the asker may do, and what can be done, as things stand.
	Allowed []Action
	// Missing is what freezing still needs, in plain words; empty for what is frozen.
	Missing []string
	// Plan is what the manifest says, or would as far as the draft goes.
	Plan manifest.Manifest
	// Frozen is the manifest; nil for a draft.
	Frozen    *manifest.Frozen
	Approvals []Approval
	// Runs are the newest ones, the newest first.
	Runs []Run
	// Invitations are those into this computation that wait for an answer, for
	// those who may invite.
	Invitations []Invitation
	// Todo is what the asker does next.
	Todo []Todo
	// KeyFile is what the asker's key in this computation is called on the asker's
	// machine, most likely; empty: the asker has no key in it.
	KeyFile string
}

// viewRuns is how many runs a View has.
const viewRuns = 20

// Computations lists those of a workspace that the asker may see.
func (s *Service) Computations(ctx context.Context, who Identity, f ComputationFilter, p Page) ([]Computation, error) {
	return view(ctx, s, func(r Reader) ([]Computation, error) {
		x, err := s.inWorkspace(r, who, f.Workspace, ComputationList)
		if err != nil {
			return nil, err
		}
		if err := f.check(); err != nil {
			return nil, err
		}
		return r.Computations(x.visible(f), p.bounded())
	})
}

// visible narrows a list to what the asker may see.
func (x *access) visible(f ComputationFilter) ComputationFilter {
	if !Allow(Standing{Role: x.standing.Role}, ComputationShow) {
		f.User = x.user.ID
	}
	return f
}

// CountComputations counts those that the asker may see, by stage or by the
// newest run's state.
func (s *Service) CountComputations(ctx context.Context, who Identity, workspace ID) (map[string]int, error) {
	return view(ctx, s, func(r Reader) (map[string]int, error) {
		x, err := s.inWorkspace(r, who, workspace, ComputationList)
		if err != nil {
			return nil, err
		}
		return r.CountComputations(x.visible(ComputationFilter{Workspace: workspace}))
	})
}

// Computation is one, with what the asker can do and should do next.
func (s *Service) Computation(ctx context.Context, who Identity, id ID) (View, error) {
	return view(ctx, s, func(r Reader) (View, error) {
		x, err := s.onComputation(r, who, id, ComputationShow)
		if err != nil {
			return View{}, err
		}
		return s.look(r, &x)
	})
}

func (s *Service) look(r Reader, x *access) (View, error) {
	v := View{Computation: x.computation, Stage: StageDraft, Mine: ordered(x.standing.Parts)}
	c := &v.Computation
	var err error
	if v.Approvals, err = r.Approvals(c.ID); err != nil {
		return View{}, err
	}
	if v.Runs, err = r.Runs(RunFilter{Computation: c.ID}, Page{Limit: viewRuns}); err != nil {
		return View{}, err
	}
	if c.Manifest == nil {
		res, err := resolve(r, c)
		if err != nil {
			return View{}, err
		}
		v.Missing, v.Plan = res.texts(), res.manifest
	} else {
		if v.Frozen, err = frozen(c); err != nil {
			return View{}, err
		}
		v.Stage, v.Plan = StageApprovals, v.Frozen.Manifest
		if v.Frozen.CheckApprovals(approvals(v.Approvals)) == nil {
			v.Stage = StageReady
		}
		if len(v.Runs) > 0 {
			v.Stage = Stage(v.Runs[0].State)
		}
	}
	if v.Parties, err = parties(r, &v); err != nil {
		return View{}, err
	}
	if Allow(x.standing, ComputationInvite) {
		if v.Invitations, err = waiting(r, c.ID); err != nil {
			return View{}, err
		}
	}
	v.Allowed = v.possible(x)
	v.Todo, err = s.todo(r, &v, x)
	return v, err
}

// texts is what is missing, each thing once.
func (res *resolution) texts() []string {
	var texts []string
	for _, e := range res.missing.all {
		if !slices.Contains(texts, e.Message) {
			texts = append(texts, e.Message)
		}
	}
	return texts
}

// parties lists everybody with a part, those of the manifest first.
func parties(r Reader, v *View) ([]Party, error) {
	parts, err := r.AllParts(v.ID)
	if err != nil {
		return nil, err
	}
	users := v.Draft.users()
	for _, user := range sortedIDs(parts) {
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	var all []Party
	for _, user := range users {
		u, err := r.User(user)
		if err != nil {
			return nil, err
		}
		p := Party{User: user, Email: u.Email, Name: u.Name, Parts: ordered(parts[user])}
		if key, err := partyKey(r, v, user); err != nil {
			return nil, err
		} else if !key.IsZero() {
			p.Key = &key
			p.MustApprove = v.Frozen != nil && v.Frozen.HasRole(key, manifest.Approver)
			p.Approved = approvedAt(v.Approvals, key)
		}
		all = append(all, p)
	}
	return all, nil
}

// partyKey is the key of a party of the manifest, or that which a draft would get.
func partyKey(r Reader, v *View, user ID) (keys.Public, error) {
	if v.Frozen == nil {
		if !slices.Contains(v.Draft.users(), user) {
			return keys.Public{}, nil
		}
		k, _, err := choose(r, user, v.Draft.Keys[user])
		return k.Public, err
	}
	id, pinned := v.Draft.Keys[user]
	if !pinned {
		return keys.Public{}, nil
	}
	k, err := r.Key(id)
	return k.Public, err
}

// approvedAt is when a key approved; zero: it has not.
func approvedAt(given []Approval, key keys.Public) time.Time {
	for _, a := range given {
		if a.PublicKey.Equal(key) {
			return a.At
		}
	}
	return time.Time{}
}

// waiting are the computation's invitations without an answer.
func waiting(r Reader, computation ID) ([]Invitation, error) {
	all, err := r.WaitingInvitations(computation)
	for i := range all {
		all[i] = withoutHash(all[i])
	}
	return all, err
}

// me is the asker's party; nil: the asker is none.
func (v *View) me(user ID) *Party {
	for i := range v.Parties {
		if v.Parties[i].User == user {
			return &v.Parties[i]
		}
	}
	return nil
}

// active is the newest run if it hasn't ended.
func (v *View) active() *Run {
	if len(v.Runs) == 0 || v.Runs[0].State.Ended() {
		return nil
	}
	return &v.Runs[0]
}

// possible is what the asker may do in the state that the computation is in.
func (v *View) possible(x *access) []Action {
	archived, draft := !v.Archived.IsZero(), v.Frozen == nil
	fits := func(a Action) bool {
		switch a {
		case ComputationEdit, ComputationSupply:
			return draft && !archived
		case ComputationFreeze:
			return draft && !archived && len(v.Missing) == 0
		case ComputationInvite, ComputationParts:
			return !archived
		case ComputationApprove:
			me := v.me(x.user.ID)
			return !archived && me != nil && me.MustApprove && me.Approved.IsZero()
		case ComputationRun:
			return !draft && !archived && v.active() == nil && v.Frozen.CheckApprovals(approvals(v.Approvals)) == nil
		case RunStop:
			return v.active() != nil && v.active().StopAsked.IsZero()
		case ReceiptSubmit, ReceiptShow, RunEntries, RunShow:
			return len(v.Runs) > 0
		case ComputationShow, ComputationDryRun, ComputationCopy, ComputationExport, ComputationArchive:
			return true
		}
		return false // not an action on a computation
	}
	return slices.DeleteFunc(Actions(), func(a Action) bool { return !fits(a) || !Allow(x.standing, a) })
}
