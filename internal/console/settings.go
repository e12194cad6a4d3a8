package console

import (
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// credential finds one of the asker's credentials.
func (q *call) credential(id computations.ID) (computations.Credential, error) {
	all, err := q.c.Service.Credentials(q.r.Context(), q.who)
	if err != nil {
		return computations.Credential{}, err
	}
	for _, c := range all {
		if c.ID == id {
			return c, nil
		}
	}
	return computations.Credential{}, &computations.Error{Kind: computations.NotFound, Message: "you have no such session or token"}
}

// settingsPage is one's own account.
type settingsPage struct {
	Sessions, Tokens []computations.Credential
	// Secret of a token that was just made; shown once.
	Secret string
	// Lives are the choices of how long a token is good.
	Lives []choice
	// Name, Password and Token are the page's forms.
	Name, Password, Token *form
}

var tokenLives = []choice{{Value: "7", Text: "7 days"}, {Value: "30", Text: "30 days"}, {Value: "90", Text: "90 days"}, {Value: "365", Text: "1 year"}}

func (q *call) settings() (settingsPage, error) {
	p := settingsPage{
		Lives: tokenLives, Name: newForm(nil).set("name", q.who.Name), Password: newForm(nil), Token: newForm(nil).in("token").set("days", "90"),
	}
	all, err := q.c.Service.Credentials(q.r.Context(), q.who)
	if err != nil {
		return p, err
	}
	for _, c := range all {
		switch c.Kind {
		case computations.Session:
			p.Sessions = append(p.Sessions, c)
		case computations.AccessToken:
			p.Tokens = append(p.Tokens, c)
		}
	}
	return p, nil
}

// settingsAgain shows the page with the one form that was refused.
func (q *call) settingsAgain(err error, put func(*settingsPage, *form)) error {
	p, failed := q.settings()
	if failed != nil {
		return failed
	}
	f := q.posted()
	put(&p, f)
	return q.again(err, "settings", view{Title: "Settings", Section: "settings", Form: f, Data: p})
}

func showSettings(q *call) error {
	p, err := q.settings()
	if err != nil {
		return err
	}
	return q.page("settings", view{Title: "Settings", Section: "settings", Data: p})
}

func setName(q *call) error {
	if err := q.c.Service.SetName(q.r.Context(), q.who, q.post("name")); err != nil {
		return q.settingsAgain(err, func(p *settingsPage, f *form) { p.Name = f })
	}
	return q.done("/settings", "name")
}

func setPassword(q *call) error {
	err := q.sameTwice("new")
	if err == nil {
		err = q.c.Service.ChangePassword(q.r.Context(), q.who, q.r.PostForm.Get("old"), q.r.PostForm.Get("new"))
	}
	if err != nil {
		return q.settingsAgain(err, func(p *settingsPage, f *form) { p.Password = f })
	}
	return q.done("/settings", "password")
}

func createToken(q *call) error {
	days, err := wholeNumber("days", q.post("days"), 1, 366)
	var secret string
	if err == nil {
		secret, _, err = q.c.Service.CreateToken(q.r.Context(), q.who, q.post("name"), time.Duration(days)*24*time.Hour)
	}
	if err != nil {
		return q.settingsAgain(err, func(p *settingsPage, f *form) { p.Token = f.in("token") })
	}
	p, err := q.settings()
	if err != nil {
		return err
	}
	p.Secret = secret
	return q.page("settings", view{Title: "Settings", Section: "settings", Data: p, Done: "The token is made. Copy it now: it is not shown again."})
}

func askRevokeCredential(q *call) error {
	c, err := q.credential(q.id("credential"))
	if err != nil {
		return err
	}
	a := question{Action: "Sign this session out", To: "/settings/credentials/" + string(c.ID) + "/revoke", Back: "/settings", Danger: true}
	title := "Sign a session out?"
	switch {
	case c.Kind == computations.AccessToken:
		title, a.Action = "Revoke the token “"+c.Name+"”?", "Revoke the token"
		a.Texts = []string{"Programs that use it are refused from now on.", "A token that was revoked can't be brought back."}
	case c.ID == q.who.Credential:
		a.Texts = []string{"This is the session that you are using now. You will have to sign in again."}
	default:
		a.Texts = []string{"Whoever uses it, " + c.Client + ", has to sign in again."}
	}
	return q.ask(view{Title: title, Section: "settings", Above: []link{{"Settings", "/settings"}}}, a)
}

func revokeCredential(q *call) error {
	if err := q.c.Service.RevokeCredential(q.r.Context(), q.who, q.id("credential")); err != nil {
		return err
	}
	if q.id("credential") == q.who.Credential {
		q.c.setCookie(q.w, q.c.cookieName(), "", 0)
		return q.done("/sign-in", "signed-out")
	}
	return q.done("/settings", "revoked")
}
