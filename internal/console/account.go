package console

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// signInPage is what the sign-in page needs beside its form.
type signInPage struct {
	// Next is where to go afterwards, a path of this console.
	Next string
}

func showSignIn(q *call) error {
	next := localPath(q.r.URL.Query().Get("next"))
	if q.who.User != "" {
		return q.goTo(next)
	}
	return q.page("sign-in", view{Title: "Sign in", Form: newForm(nil), Data: signInPage{next}})
}

func doSignIn(q *call) error {
	next := localPath(q.post("next"))
	session, err := q.c.Service.SignIn(q.r.Context(), q.post("email"), q.r.PostForm.Get("password"), client(q.r), q.c.from(q.r))
	if kindOf(err) == computations.Unauthenticated {
		// Which of the two is wrong nobody is told.
		v := view{Title: "Sign in", Form: q.posted(), Data: signInPage{next}}
		v.Form.refuse(err)
		return q.show(http.StatusUnauthorized, "sign-in", v)
	}
	if err != nil {
		return q.again(err, "sign-in", view{Title: "Sign in", Form: q.posted(), Data: signInPage{next}})
	}
	return q.begin(session, next)
}

func doSignOut(q *call) error {
	q.c.setCookie(q.w, q.c.cookieName(), "", 0)
	if q.who.User != "" {
		if err := q.c.Service.SignOut(q.r.Context(), q.who); err != nil && kindOf(err) != computations.Unauthenticated {
			return err
		}
	}
	return q.done("/sign-in", "signed-out")
}

// A sign-in elsewhere may take a while.
const attemptAge = 15 * time.Minute

func beginExternal(q *call) error {
	if q.c.External == nil {
		return errNoPage
	}
	address, attempt, err := q.c.External.Start(q.r.Context())
	if err != nil {
		return err
	}
	q.c.setCookie(q.w, q.c.stateCookie(), base64.RawURLEncoding.EncodeToString([]byte(attempt)), attemptAge)
	return q.goTo(address)
}

func finishExternal(q *call) error {
	if q.c.External == nil {
		return errNoPage
	}
	anew := &computations.Error{Kind: computations.Invalid, Message: "this sign-in wasn't begun in this browser, or too long ago", Hint: "begin it anew"}
	kept, err := q.r.Cookie(q.c.stateCookie())
	if err != nil {
		return anew
	}
	q.c.setCookie(q.w, q.c.stateCookie(), "", 0)
	attempt, err := base64.RawURLEncoding.DecodeString(kept.Value)
	if err != nil {
		return anew
	}
	user, err := q.c.External.Finish(q.r.Context(), q.r.URL.Query(), string(attempt))
	if err != nil {
		if kindOf(err) == "" {
			// Whatever it was, it was said by somebody else: for the log, not for the page.
			q.c.Log.WarnContext(q.r.Context(), "a sign-in elsewhere failed", "error", err)
			err = &computations.Error{Kind: computations.Invalid, Message: "You were not signed in by " + q.c.External.Label, Hint: "begin anew; if it happens again, ask the operator of this service, whose log says why"}
		}
		return shownRefusal(err)
	}
	session, ended, err := q.c.Service.SignInExternal(q.r.Context(), user, client(q.r))
	if err != nil {
		return shownRefusal(err)
	}
	if ended {
		return q.begin(session, "/?done=linked")
	}
	return q.begin(session, "/")
}

// shownRefusal is a refusal to sign somebody in, with its words: the sign-in page
// alone would not tell why.
func shownRefusal(err error) error {
	var e *computations.Error
	if errors.As(err, &e) && e.Kind == computations.Unauthenticated {
		return &computations.Error{Kind: computations.Denied, Message: e.Message, Hint: e.Hint}
	}
	return err
}

// linkPage is the page of a sign-in link.
type linkPage struct {
	User computations.User
	// Bootstrap: the account is the service's first.
	Bootstrap bool
}

func (q *call) linkView(form *form) (view, error) {
	u, err := q.c.Service.LinkInfo(q.r.Context(), q.r.PathValue("secret"))
	if err != nil {
		return view{}, err
	}
	p := linkPage{User: u, Bootstrap: strings.HasSuffix(u.Email, "@localhost")}
	title := "Choose a password"
	if p.Bootstrap {
		title = "Welcome to Cocos"
	}
	return view{Title: title, Form: form, Data: p}, nil
}

func showLink(q *call) error {
	v, err := q.linkView(newForm(nil))
	if err != nil {
		return err
	}
	if p := v.Data.(linkPage); !p.Bootstrap {
		v.Form.set("name", p.User.Name)
	}
	return q.page("link", v)
}

func redeemLink(q *call) error {
	v, err := q.linkView(q.posted())
	if err != nil {
		return err
	}
	if err := q.sameTwice("password"); err != nil {
		return q.again(err, "link", v)
	}
	session, err := q.c.Service.RedeemLink(q.r.Context(), q.r.PathValue("secret"), q.post("name"), q.post("email"), q.r.PostForm.Get("password"), client(q.r))
	if err != nil {
		return q.again(err, "link", v)
	}
	return q.begin(session, "/")
}

// sameTwice wants a password to be typed twice alike.
func (q *call) sameTwice(name string) error {
	if q.r.PostForm.Get(name) != q.r.PostForm.Get("again") {
		return invalid("again", "is another password than the first", "")
	}
	return nil
}

// invitationPage is an invitation that was opened by its link.
type invitationPage struct {
	computations.InvitationView
	Secret string
	// Mine: whoever is signed in has the address that it is for.
	Mine bool
}

func (q *call) invitationView(form *form) (view, error) {
	secret := q.r.PathValue("secret")
	inv, err := q.c.Service.InvitationByLink(q.r.Context(), secret)
	if err != nil {
		return view{}, err
	}
	return view{Title: "Invitation to " + inv.WorkspaceName, Form: form, Data: invitationPage{
		InvitationView: inv, Secret: secret, Mine: q.who.User != "" && q.who.Email == inv.Email,
	}}, nil
}

func showInvitation(q *call) error {
	v, err := q.invitationView(newForm(nil))
	if err != nil {
		return err
	}
	return q.page("invitation", v)
}

func joinInvitation(q *call) error {
	v, err := q.invitationView(q.posted())
	if err != nil {
		return err
	}
	if err := q.sameTwice("password"); err != nil {
		return q.again(err, "invitation", v)
	}
	session, inv, err := q.c.Service.AcceptAsNew(q.r.Context(), q.r.PathValue("secret"), q.post("name"), q.r.PostForm.Get("password"), client(q.r))
	if err != nil {
		return q.again(err, "invitation", v)
	}
	return q.begin(session, welcomePath(inv)+"?done=accepted")
}

// welcomePath is the first page of whoever accepted an invitation.
func welcomePath(inv computations.Invitation) string {
	if inv.Computation != "" {
		return "/c/" + string(inv.Computation)
	}
	return "/w/" + string(inv.Workspace)
}

func acceptInvitation(q *call) error {
	inv, err := q.c.Service.AcceptInvitation(q.r.Context(), q.who, q.r.PathValue("secret"))
	if err != nil {
		return err
	}
	return q.done(welcomePath(inv), "accepted")
}

func askDecline(q *call) error {
	v, err := q.invitationView(nil)
	if err != nil {
		return err
	}
	here := "/invitation/" + q.r.PathValue("secret")
	inv := v.Data.(invitationPage)
	return q.ask(view{Title: "Decline the invitation?"}, question{
		Texts:  []string{inv.ByName + " invited you to the workspace “" + inv.WorkspaceName + "”.", "If you decline, the link stops working. You can be invited again."},
		Action: "Decline the invitation", To: here + "/decline", Back: here, Danger: true,
	})
}

func declineInvitation(q *call) error {
	if err := q.c.Service.DeclineInvitation(q.r.Context(), q.r.PathValue("secret")); err != nil {
		return err
	}
	if q.who.User != "" {
		return q.done("/", "declined")
	}
	return q.done("/sign-in", "declined")
}

func acceptMine(q *call) error {
	inv, err := q.c.Service.AcceptMyInvitation(q.r.Context(), q.who, q.id("invitation"))
	if err != nil {
		return err
	}
	return q.done(welcomePath(inv), "accepted")
}

func askDeclineMine(q *call) error {
	mine, err := q.c.Service.MyInvitations(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	for _, inv := range mine {
		if inv.ID == q.id("invitation") {
			return q.ask(view{Title: "Decline the invitation?", Section: "home"}, question{
				Texts:  []string{inv.ByName + " invited you to the workspace “" + inv.WorkspaceName + "”.", "If you decline, you can be invited again."},
				Action: "Decline the invitation", To: "/invitations/" + string(inv.ID) + "/decline", Back: "/", Danger: true,
			})
		}
	}
	return &computations.Error{Kind: computations.NotFound, Message: "there is no such invitation for you"}
}

func declineMine(q *call) error {
	if err := q.c.Service.DeclineMyInvitation(q.r.Context(), q.who, q.id("invitation")); err != nil {
		return err
	}
	return q.done("/", "declined")
}
