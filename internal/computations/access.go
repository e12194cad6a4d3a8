package computations

import (
	"errors"
	"slices"
	"strings"
)

// access is who asks, how they stand to what they ask about, and the thing.
type access struct {
	user     User
	standing Standing

	workspace   Workspace
	computation Computation
	run         Run
	asset       Asset
	invitation  Invitation
}

var errUnauthenticated = &Error{Kind: Unauthenticated, Message: "you are not signed in, or not any more", Hint: "sign in"}

// denied says who could do it.
func denied(a Action) error {
	return &Error{Kind: Denied, Message: "you may not do this (" + string(a) + ")", Hint: "it is for " + Entitled(a)}
}

// Entitled says in plain words who may do a.
func Entitled(a Action) string {
	n, known := needs[a]
	switch {
	case !known:
		return "nobody"
	case n.anyUser:
		return "everybody with an account"
	case n.operator:
		return "operators of the service"
	}
	var who []string
	if slices.Equal(n.roles, allRoles) {
		who = append(who, "every member of the workspace")
	} else if len(n.roles) > 0 {
		who = append(who, "the workspace's "+join(n.roles))
	}
	if slices.Equal(n.parts, allParts) {
		who = append(who, "everybody with a part in the computation")
	} else if len(n.parts) > 0 {
		who = append(who, "the computation's "+join(n.parts))
	}
	if n.owner {
		who = append(who, "its owner")
	}
	return strings.Join(who, ", and for ")
}

func join[T ~string](words []T) string {
	text := make([]string, len(words))
	for i, w := range words {
		text[i] = string(w)
	}
	return strings.Join(text, ", ")
}

// asker finds who asks by the credential alone: that it still holds, and whose
// it is.
func (s *Service) asker(r Reader, who Identity) (User, error) {
	u, _, err := s.bearer(r, who.hash)
	return u, err
}

// onService lets through whoever may do a to the service as a whole.
func (s *Service) onService(r Reader, who Identity, a Action) (access, error) {
	u, err := s.asker(r, who)
	if err != nil {
		return access{}, err
	}
	x := access{user: u, standing: Standing{Operator: u.Operator}}
	if !Allow(x.standing, a) {
		return access{}, denied(a)
	}
	return x, nil
}

// inPerson is onService for what makes accounts, lets others in, or changes who may
// come: an access token, which lies in some file, must not grow into an account, or
// outlast its own end.
func (s *Service) inPerson(r Reader, who Identity, a Action) (access, error) {
	x, err := s.onService(r, who, a)
	if err != nil {
		return access{}, err
	}
	_, c, err := s.bearer(r, who.hash)
	if err == nil {
		err = needSession(c)
	}
	if err != nil {
		return access{}, err
	}
	return x, nil
}

// enter finds a workspace and the asker's role in it, and decides nothing yet.
func (s *Service) enter(r Reader, u User, workspace ID) (access, error) {
	x := access{user: u, standing: Standing{Operator: u.Operator}}
	var err error
	if x.workspace, err = r.Workspace(workspace); err != nil {
		return access{}, err
	}
	m, err := r.Member(workspace, u.ID)
	if err != nil && !errors.Is(err, ErrNoRow) {
		return access{}, err
	}
	x.standing.Role = m.Role
	return x, nil
}

// decide lets through whoever may do a; who may not even see the thing is told
// that there is none.
func (x access) decide(what string, see, a Action, err error) (access, error) {
	switch {
	case errors.Is(err, ErrNoRow):
		return access{}, notFound(what)
	case err != nil:
		return access{}, err
	case !Allow(x.standing, see):
		return access{}, notFound(what)
	case !Allow(x.standing, a):
		return access{}, denied(a)
	}
	return x, nil
}

func (s *Service) inWorkspace(r Reader, who Identity, workspace ID, a Action) (access, error) {
	u, err := s.asker(r, who)
	if err != nil {
		return access{}, err
	}
	x, err := s.enter(r, u, workspace)
	return x.decide("workspace", WorkspaceShow, a, err)
}

func (s *Service) onAsset(r Reader, who Identity, id ID, a Action) (access, error) {
	u, err := s.asker(r, who)
	if err != nil {
		return access{}, err
	}
	x, err := func() (access, error) {
		asset, err := r.Asset(id)
		if err != nil {
			return access{}, err
		}
		x, err := s.enter(r, u, asset.Workspace)
		x.asset, x.standing.Owner = asset, asset.Owner == u.ID
		return x, err
	}()
	return x.decide("asset", AssetShow, a, err)
}

func (s *Service) onInvitation(r Reader, who Identity, id ID, a Action) (access, error) {
	u, err := s.asker(r, who)
	if err != nil {
		return access{}, err
	}
	x, err := func() (access, error) {
		inv, err := r.Invitation(id)
		if err != nil {
			return access{}, err
		}
		x, err := s.enter(r, u, inv.Workspace)
		x.invitation, x.standing.Owner = inv, inv.By == u.ID
		return x, err
	}()
	return x.decide("invitation", InvitationList, a, err)
}

// at finds a computation and how a user stands to it, and decides nothing yet.
func (s *Service) at(r Reader, u User, id ID) (access, error) {
	c, err := r.Computation(id)
	if err != nil {
		return access{}, err
	}
	x, err := s.enter(r, u, c.Workspace)
	if err != nil {
		return access{}, err
	}
	x.computation = c
	x.standing.Parts, err = r.Parts(id, u.ID)
	return x, err
}

func (s *Service) onComputation(r Reader, who Identity, id ID, a Action) (access, error) {
	u, err := s.asker(r, who)
	if err != nil {
		return access{}, err
	}
	x, err := s.at(r, u, id)
	return x.decide("computation", ComputationShow, a, err)
}

func (s *Service) onRun(r Reader, who Identity, id ID, a Action) (access, error) {
	u, err := s.asker(r, who)
	if err != nil {
		return access{}, err
	}
	x, err := func() (access, error) {
		run, err := r.Run(id)
		if err != nil {
			return access{}, err
		}
		x, err := s.at(r, u, run.Computation)
		x.run = run
		return x, err
	}()
	return x.decide("run", RunShow, a, err)
}
