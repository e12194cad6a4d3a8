package console

import (
	"context"
	"maps"
	"slices"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// homePage is where one begins.
type homePage struct {
	Invitations []computations.InvitationView
	Workspaces  []workspaceCard
}

// workspaceCard is a workspace in a list.
type workspaceCard struct {
	computations.Workspace
	Total int
}

func showHome(q *call) error {
	ctx := q.r.Context()
	var p homePage
	var err error
	if p.Invitations, err = q.c.Service.MyInvitations(ctx, q.who); err != nil {
		return err
	}
	all, err := q.c.Service.Workspaces(ctx, q.who)
	if err != nil {
		return err
	}
	// Most people have one.
	if len(all) == 1 && len(p.Invitations) == 0 && q.r.URL.Query().Get("done") == "" && q.r.URL.Query().Get("all") == "" {
		return q.goTo("/w/" + string(all[0].ID))
	}
	for _, w := range all {
		counts, err := q.c.Service.CountComputations(ctx, q.who, w.ID)
		if err != nil {
			return err
		}
		card := workspaceCard{Workspace: w}
		for n := range maps.Values(counts) {
			card.Total += n
		}
		p.Workspaces = append(p.Workspaces, card)
	}
	return q.page("home", view{Title: "Workspaces", Section: "home", Data: p})
}

func newWorkspace(q *call) error {
	return q.page("workspace-new", view{Title: "New workspace", Section: "home", Form: newForm(nil), Above: []link{{"Workspaces", "/?all=1"}}})
}

func createWorkspace(q *call) error {
	w, err := q.c.Service.CreateWorkspace(q.r.Context(), q.who, q.post("name"))
	if err != nil {
		return q.again(err, "workspace-new", view{Title: "New workspace", Section: "home", Form: q.posted(), Above: []link{{"Workspaces", "/?all=1"}}})
	}
	return q.done("/w/"+string(w.ID), "workspace")
}

// dashboardPage is a workspace at a glance.
type dashboardPage struct {
	// Waiting is what the reader does next, by computation.
	Waiting []waiting
	Counts  []stateCount
	Total   int
	// Newest computations.
	Newest []row
	// Keys the reader has in use.
	Keys int
}

type waiting struct {
	Computation computations.Computation
	Todo        computations.Todo
}

type stateCount struct {
	State string
	Count int
}

// lookedAt is how many computations the dashboard looks into for what the reader
// does next. Older ones are in the list.
const lookedAt = 10

var passive = []computations.Action{computations.ComputationShow, computations.RunShow, computations.RunEntries}

func showDashboard(q *call) error {
	ctx := q.r.Context()
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	var p dashboardPage
	counts, err := q.c.Service.CountComputations(ctx, q.who, in.ID)
	if err != nil {
		return err
	}
	for _, s := range stateOrder {
		if n := counts[s]; n > 0 {
			p.Counts = append(p.Counts, stateCount{s, n})
			p.Total += n
		}
	}
	keys, err := q.c.Service.Keys(ctx, q.who)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Revoked.IsZero() {
			p.Keys++
		}
	}
	if p.Waiting, err = q.waiting(ctx, in.ID); err != nil {
		return err
	}
	newestOf, page := computations.ComputationFilter{Workspace: in.ID}, computations.Page{Limit: 8}
	newest, err := q.c.Service.Computations(ctx, q.who, newestOf, page)
	if err != nil {
		return err
	}
	if p.Newest, err = q.rows(ctx, newestOf, page, newest); err != nil {
		return err
	}
	return q.page("dashboard", view{Title: "Dashboard", Section: "dashboard", In: in, Data: p})
}

// waiting looks into the reader's own newest computations.
func (q *call) waiting(ctx context.Context, ws computations.ID) ([]waiting, error) {
	mine, err := q.c.Service.Computations(ctx, q.who, computations.ComputationFilter{
		Workspace: ws, User: q.who.User, States: []string{"draft", "approvals", "ready", "queued", "running"},
	}, computations.Page{Limit: lookedAt})
	if err != nil {
		return nil, err
	}
	var all []waiting
	for _, c := range mine {
		v, err := q.c.Service.Computation(ctx, q.who, c.ID)
		if kindOf(err) == computations.NotFound {
			continue // gone meanwhile
		} else if err != nil {
			return nil, err
		}
		// To wait and to watch is nothing to do.
		if len(v.Todo) > 0 && !has(passive, v.Todo[0].Action) {
			all = append(all, waiting{c, v.Todo[0]})
		}
	}
	return all, nil
}

// membersPage is who is in a workspace.
type membersPage struct {
	Members     []computations.Member
	Invitations []computations.Invitation
	// MayInvite is true of whoever sees the invitations.
	MayInvite bool
	Me        computations.ID
}

func showMembers(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	p := membersPage{Me: q.who.User, MayInvite: in.Oversees()}
	if p.Members, err = q.c.Service.Members(q.r.Context(), q.who, in.ID); err != nil {
		return err
	}
	if p.MayInvite {
		if p.Invitations, err = q.c.Service.Invitations(q.r.Context(), q.who, in.ID); err != nil {
			return err
		}
	}
	return q.page("members", view{Title: "Members", Section: "members", In: in, Data: p})
}

// member finds a member of a workspace.
func (q *call) member(in *place, user computations.ID) (computations.Member, error) {
	all, err := q.c.Service.Members(q.r.Context(), q.who, in.ID)
	if err != nil {
		return computations.Member{}, err
	}
	i := slices.IndexFunc(all, func(m computations.Member) bool { return m.User == user })
	if i < 0 {
		return computations.Member{}, &computations.Error{Kind: computations.NotFound, Message: "there is no such member"}
	}
	return all[i], nil
}

func roleChoices() []choice {
	var all []choice
	for _, r := range computations.Roles() {
		all = append(all, choice{Value: string(r), Text: roleName(r), Hint: sentence(roleTexts[r].Does)})
	}
	return all
}

// rolePage asks for a member's role.
type rolePage struct {
	Member computations.Member
	Roles  []choice
}

func (q *call) roleView(form *form) (view, error) {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return view{}, err
	}
	if err := q.allow(in.Administers(), computations.MemberRole); err != nil {
		return view{}, err
	}
	m, err := q.member(in, q.id("user"))
	if err != nil {
		return view{}, err
	}
	if form == nil {
		form = newForm(nil).set("role", string(m.Role))
	}
	return view{
		Title: "Role of " + m.Name, Section: "members", In: in, Form: form, Above: []link{{"Members", "/w/" + string(in.ID) + "/members"}},
		Data: rolePage{m, roleChoices()},
	}, nil
}

// allow refuses to show a form whose sending would be refused. The use case
// decides; this only spares people the work.
func (q *call) allow(may bool, a computations.Action) error {
	if may {
		return nil
	}
	return &computations.Error{Kind: computations.Denied, Message: "you may not do this", Hint: "it is for " + computations.Entitled(a)}
}

func askRole(q *call) error {
	v, err := q.roleView(nil)
	if err != nil {
		return err
	}
	return q.page("role", v)
}

func setRole(q *call) error {
	ws := q.id("workspace")
	if err := q.c.Service.SetMemberRole(q.r.Context(), q.who, ws, q.id("user"), computations.Role(q.post("role"))); err != nil {
		v, failed := q.roleView(q.posted())
		if failed != nil {
			return err
		}
		return q.again(err, "role", v)
	}
	return q.done("/w/"+string(ws)+"/members", "member")
}

func askRemoveMember(q *call) error {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return err
	}
	m, err := q.member(in, q.id("user"))
	if err != nil {
		return err
	}
	back := "/w/" + string(in.ID) + "/members"
	a := question{To: back + "/" + string(m.User) + "/remove", Back: back, Danger: true}
	v := view{Section: "members", In: in, Above: []link{{"Members", back}}}
	if m.User == q.who.User {
		v.Title, a.Action = "Leave “"+in.Name+"”?", "Leave the workspace"
		a.Texts = []string{"You lose your parts in all of its computations.", "What you approved stays approved. To come back you need an invitation."}
		return q.ask(v, a)
	}
	if err := q.allow(in.Administers(), computations.MemberRemove); err != nil {
		return err
	}
	v.Title, a.Action = "Remove "+m.Name+"?", "Remove from the workspace"
	a.Texts = []string{m.Name + " (" + m.Email + ") loses all parts in computations of this workspace.", "What was approved stays approved. Frozen manifests still name the key."}
	return q.ask(v, a)
}

func removeMember(q *call) error {
	ws := q.id("workspace")
	if err := q.c.Service.RemoveMember(q.r.Context(), q.who, ws, q.id("user")); err != nil {
		return err
	}
	if q.id("user") == q.who.User {
		return q.done("/", "left")
	}
	return q.done("/w/"+string(ws)+"/members", "removed")
}
