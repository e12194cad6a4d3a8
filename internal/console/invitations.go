package console

import (
	"github.com/ultravioletrs/cocos/internal/computations"
)

// invitePage asks whom to invite, to what.
type invitePage struct {
	Roles []choice
	Parts []choice
	// Computation is what the person is invited to; zero: the workspace alone.
	Computation computations.Computation
}

func partChoices() []choice {
	var all []choice
	for _, p := range computations.Parts() {
		if p != computations.PartCreator {
			all = append(all, choice{Value: string(p), Text: partName(p), Hint: sentence(partTexts[p].Does)})
		}
	}
	return all
}

func (q *call) inviteView(form *form, id computations.ID) (view, error) {
	in, err := q.in(q.id("workspace"))
	if err != nil {
		return view{}, err
	}
	p := invitePage{Parts: partChoices()}
	v := view{Title: "Invite somebody", Section: "members", In: in, Form: form, Above: []link{{"Members", "/w/" + string(in.ID) + "/members"}}}
	if id != "" {
		c, err := q.c.Service.Computation(q.r.Context(), q.who, id)
		if err != nil {
			return view{}, err
		}
		if c.Workspace != in.ID {
			return view{}, errNoPage
		}
		if err := q.allow(has(c.Allowed, computations.ComputationInvite), computations.ComputationInvite); err != nil {
			return view{}, err
		}
		p.Computation = c.Computation
		v.Section, v.Above = "computations", above(in, &c.Computation)
	} else if err := q.allow(in.Oversees(), computations.InvitationCreate); err != nil {
		return view{}, err
	}
	for _, c := range roleChoices() {
		if in.Administers() || c.Value == string(computations.RoleMember) {
			p.Roles = append(p.Roles, c)
		}
	}
	v.Data = p
	return v, nil
}

func newInvitation(q *call) error {
	query := q.r.URL.Query()
	f := newForm(nil).set("role", string(computations.RoleMember))
	f.values["parts"] = query["part"]
	v, err := q.inviteView(f, computations.ID(query.Get("computation")))
	if err != nil {
		return err
	}
	return q.page("invitation-new", v)
}

// invitedPage shows an invitation's link, once.
type invitedPage struct {
	Invitation computations.Invitation
	Link       string
	Back       link
}

func invite(q *call) error {
	ask := computations.Invite{
		Workspace: q.id("workspace"), Email: q.post("email"), Role: computations.Role(q.post("role")),
		Computation: computations.ID(q.post("computation")),
	}
	for _, p := range q.r.PostForm["parts"] {
		ask.Parts = append(ask.Parts, computations.Part(p))
	}
	inv, secret, err := q.c.Service.Invite(q.r.Context(), q.who, ask)
	if err != nil {
		v, failed := q.inviteView(q.posted(), ask.Computation)
		if failed != nil {
			return err
		}
		return q.again(err, "invitation-new", v)
	}
	return q.invited(inv, secret)
}

func (q *call) invited(inv computations.Invitation, secret string) error {
	in, err := q.in(inv.Workspace)
	if err != nil {
		return err
	}
	p := invitedPage{Invitation: inv, Link: q.c.Service.InvitationLink(secret), Back: link{"Members and invitations", "/w/" + string(in.ID) + "/members"}}
	v := view{Title: "Invitation for " + inv.Email, Section: "members", In: in, Above: []link{{"Members", "/w/" + string(in.ID) + "/members"}}}
	if inv.Computation != "" {
		p.Back = link{"Back to the computation", "/c/" + string(inv.Computation)}
		v.Section, v.Above = "computations", []link{p.Back}
	}
	v.Data = p
	return q.page("invited", v)
}

// invitationOf finds an invitation into the workspace that the asker oversees or
// has sent.
func (q *call) invitationOf() (*place, computations.Invitation, error) {
	inv, err := q.c.Service.Invitation(q.r.Context(), q.who, q.id("invitation"))
	if err != nil {
		return nil, computations.Invitation{}, err
	}
	if inv.Workspace != q.id("workspace") {
		return nil, computations.Invitation{}, errNoPage
	}
	in, err := q.in(inv.Workspace)
	return in, inv, err
}

// invitationsAt is the page that lists an invitation for whoever may look after it.
func invitationsAt(in *place, inv *computations.Invitation) string {
	if inv.Computation != "" && !in.Oversees() {
		return "/c/" + string(inv.Computation) + "/people"
	}
	return "/w/" + string(in.ID) + "/members"
}

func askResend(q *call) error {
	in, inv, err := q.invitationOf()
	if err != nil {
		return err
	}
	back := invitationsAt(in, &inv)
	return q.ask(view{Title: "Make a new link for " + inv.Email + "?", Section: "members", In: in, Above: []link{{"Invitations", back}}}, question{
		Texts:  []string{"The link that was sent before stops working. You then send the new one yourself."},
		Action: "Make the link", To: "/w/" + string(in.ID) + "/invitations/" + string(inv.ID) + "/resend", Back: back, Danger: true,
	})
}

func resendInvitation(q *call) error {
	_, inv, err := q.invitationOf()
	if err != nil {
		return err
	}
	secret, err := q.c.Service.ResendInvitation(q.r.Context(), q.who, inv.ID)
	if err != nil {
		return err
	}
	_, inv, err = q.invitationOf()
	if err != nil {
		return err
	}
	return q.invited(inv, secret)
}

func askWithdraw(q *call) error {
	in, inv, err := q.invitationOf()
	if err != nil {
		return err
	}
	back := invitationsAt(in, &inv)
	return q.ask(view{Title: "Withdraw the invitation?", Section: "members", In: in, Above: []link{{"Invitations", back}}}, question{
		Texts:  []string{"The link that was sent to " + inv.Email + " stops working. You can invite the person again."},
		Action: "Withdraw the invitation", To: "/w/" + string(in.ID) + "/invitations/" + string(inv.ID) + "/withdraw", Back: back, Danger: true,
	})
}

func withdraw(q *call) error {
	in, inv, err := q.invitationOf()
	if err != nil {
		return err
	}
	if err := q.c.Service.WithdrawInvitation(q.r.Context(), q.who, inv.ID); err != nil {
		return err
	}
	return q.done(invitationsAt(in, &inv), "withdrawn")
}
