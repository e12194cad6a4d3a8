package console

import (
	"cmp"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// hostsPage is the fleet.
type hostsPage struct {
	Hosts  []hostLine
	Tokens []computations.EnrolToken
}

type hostLine struct {
	computations.Host
	State state
}

// hostState is a host's in words.
func hostState(h *computations.Host) state {
	switch {
	case !h.Revoked.IsZero():
		return state{"Revoked", "bad"}
	case !h.Connected:
		return state{"Not connected", "bad"}
	case h.Draining && h.Active == 0:
		return state{"Drained", "quiet"}
	case h.Draining:
		return state{"Draining", "wait"}
	case h.Cordoned:
		return state{"Cordoned", "wait"}
	}
	return state{"Ready", "good"}
}

func showHosts(q *call) error {
	all, err := q.c.Service.Hosts(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	var p hostsPage
	for _, h := range all {
		p.Hosts = append(p.Hosts, hostLine{h, hostState(&h)})
	}
	slices.SortStableFunc(p.Hosts, func(a, b hostLine) int {
		return cmp.Or(cmp.Compare(rank(a.Revoked), rank(b.Revoked)), cmp.Compare(a.Name, b.Name))
	})
	tokens, err := q.c.Service.EnrolTokens(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Host == "" && q.now().Before(t.Expires) {
			p.Tokens = append(p.Tokens, t)
		}
	}
	return q.page("hosts", view{Title: "Hosts", Section: "hosts", Data: p})
}

// rank puts what has ended last.
func rank(ended time.Time) int {
	if ended.IsZero() {
		return 0
	}
	return 1
}

// hostPage is one host.
type hostPage struct {
	hostLine
	Runs []computations.Run
	// Bad are the findings that keep something from working; Good the others.
	Bad, Good []computations.Finding
}

func (q *call) host() (computations.Host, []computations.Run, error) {
	return q.c.Service.Host(q.r.Context(), q.who, q.id("host"))
}

func showHost(q *call) error {
	h, runs, err := q.host()
	if err != nil {
		return err
	}
	p := hostPage{hostLine: hostLine{h, hostState(&h)}, Runs: runs}
	for _, f := range h.Report.Findings {
		if f.Verdict == "ok" || f.Verdict == "info" {
			p.Good = append(p.Good, f)
		} else {
			p.Bad = append(p.Bad, f)
		}
	}
	return q.page("host", view{Title: h.Name, Section: "hosts", Data: p, Above: []link{{"Hosts", "/hosts"}}})
}

func (q *call) hostDone(err error, what string) error {
	if err != nil {
		return err
	}
	return q.done("/hosts/"+string(q.id("host")), what)
}

func cordonHost(q *call) error {
	return q.hostDone(q.c.Service.CordonHost(q.r.Context(), q.who, q.id("host"), true), "cordoned")
}

func uncordonHost(q *call) error {
	return q.hostDone(q.c.Service.CordonHost(q.r.Context(), q.who, q.id("host"), false), "uncordoned")
}

func askDrain(q *call) error {
	h, _, err := q.host()
	if err != nil {
		return err
	}
	here := "/hosts/" + string(h.ID)
	return q.ask(view{Title: "Drain “" + h.Name + "”?", Section: "hosts", Above: []link{{"Hosts", "/hosts"}, {h.Name, here}}}, question{
		Texts:  []string{"The host gets no new runs. The " + count(h.Active, "run") + " there may end by themselves; none is stopped.", "You can let it take runs again at any time."},
		Action: "Drain the host", To: here + "/drain", Back: here,
	})
}

func drainHost(q *call) error {
	return q.hostDone(q.c.Service.DrainHost(q.r.Context(), q.who, q.id("host"), true), "draining")
}

func undrainHost(q *call) error {
	return q.hostDone(q.c.Service.DrainHost(q.r.Context(), q.who, q.id("host"), false), "uncordoned")
}

func askRevokeHost(q *call) error {
	h, _, err := q.host()
	if err != nil {
		return err
	}
	here := "/hosts/" + string(h.ID)
	return q.ask(view{Title: "Revoke “" + h.Name + "”?", Section: "hosts", Above: []link{{"Hosts", "/hosts"}, {h.Name, here}}}, question{
		Texts:  []string{"Its certificate is refused from now on, and its connection ends. This can't be undone: the host must be enrolled again.", "The " + count(h.Active, "run") + " there go on without anybody hearing of them. Drain the host first if you can."},
		Action: "Revoke the host", To: here + "/revoke", Back: here, Danger: true,
	})
}

func revokeHost(q *call) error {
	return q.hostDone(q.c.Service.RevokeHost(q.r.Context(), q.who, q.id("host")), "host-revoked")
}

// usersPage lists accounts.
type usersPage struct {
	Users []computations.User
	Older string
	Me    computations.ID
}

func showUsers(q *call) error {
	query := q.r.URL.Query()
	all, err := q.c.Service.Users(q.r.Context(), q.who, computations.Page{Before: computations.ID(query.Get("before")), Limit: pageLength + 1})
	if err != nil {
		return err
	}
	p := usersPage{Users: all, Me: q.who.User}
	if len(all) > pageLength {
		p.Users = all[:pageLength]
		p.Older = older(query, string(p.Users[pageLength-1].ID))
	}
	return q.page("users", view{Title: "Users", Section: "users", Data: p})
}

// userPage makes an account, and shows its link.
type userPage struct {
	User *computations.User
	Link string
}

func userView(title string, f *form, p userPage) view {
	return view{Title: title, Section: "users", Form: f, Data: p, Above: []link{{"Users", "/users"}}}
}

func newUser(q *call) error {
	if err := q.operates(); err != nil {
		return err
	}
	return q.page("user-new", userView("New account", newForm(nil), userPage{}))
}

// operates refuses to show operators' forms to others.
func (q *call) operates() error { return q.allow(q.who.Operator, computations.UserCreate) }

func createUser(q *call) error {
	u, secret, err := q.c.Service.CreateUser(q.r.Context(), q.who, q.post("email"), q.post("name"), q.post("operator") == "yes")
	if err != nil {
		return q.again(err, "user-new", userView("New account", q.posted(), userPage{}))
	}
	return q.page("user-new", userView("Account of "+u.Email, nil, userPage{User: &u, Link: secret}))
}

// user finds an account in the list, which operators alone see.
func (q *call) user() (computations.User, error) {
	p := computations.Page{}
	for {
		all, err := q.c.Service.Users(q.r.Context(), q.who, p)
		if err != nil {
			return computations.User{}, err
		}
		for _, u := range all {
			if u.ID == q.id("user") {
				return u, nil
			}
		}
		if len(all) < computations.MaxPage {
			return computations.User{}, &computations.Error{Kind: computations.NotFound, Message: "there is no such user"}
		}
		p.Before = all[len(all)-1].ID
	}
}

func askReset(q *call) error {
	u, err := q.user()
	if err != nil {
		return err
	}
	texts := []string{"At once the password of " + nameOf(&u) + " stops working, and all sessions, tokens and earlier links of the account end."}
	if !u.EmailVerified {
		texts = append(texts, "Nobody has vouched for this address yet. By making the link you do, and all keys of the account are revoked: anybody with an invitation's link could have registered them.")
	}
	return q.ask(view{Title: "Make a new link for " + u.Email + "?", Section: "users", Above: []link{{"Users", "/users"}}}, question{
		Texts:  append(texts, "With the link a new password is chosen, once, within a week. Give it to nobody else: whoever has it can take the account."),
		Action: "Make the link", To: "/users/" + string(u.ID) + "/reset", Back: "/users", Danger: true,
	})
}

func nameOf(u *computations.User) string {
	if u.Name != "" {
		return u.Name
	}
	return u.Email
}

func resetPassword(q *call) error {
	u, err := q.user()
	if err != nil {
		return err
	}
	address, err := q.c.Service.ResetPassword(q.r.Context(), q.who, u.ID)
	if err != nil {
		return err
	}
	return q.page("user-new", userView("Link for "+u.Email, nil, userPage{User: &u, Link: address}))
}

func askDisable(q *call) error {
	u, err := q.user()
	if err != nil {
		return err
	}
	return q.ask(view{Title: "Disable the account of " + u.Email + "?", Section: "users", Above: []link{{"Users", "/users"}}}, question{
		Texts:  []string{nameOf(&u) + " is signed out everywhere and can't sign in. Tokens stop working.", "Memberships, keys and approvals stay. The account can be enabled again."},
		Action: "Disable the account", To: "/users/" + string(u.ID) + "/disable", Back: "/users", Danger: true,
	})
}

func disableUser(q *call) error {
	if err := q.c.Service.SetUserDisabled(q.r.Context(), q.who, q.id("user"), true); err != nil {
		return err
	}
	return q.done("/users", "disabled")
}

func enableUser(q *call) error {
	if err := q.c.Service.SetUserDisabled(q.r.Context(), q.who, q.id("user"), false); err != nil {
		return err
	}
	return q.done("/users", "enabled")
}

// servicePage is the settings of the service.
type servicePage struct{ SignUps []choice }

func serviceView(f *form) view {
	return view{Title: "Service settings", Section: "service", Form: f, Data: servicePage{[]choice{
		{Value: "invitation", Text: "Only people who were invited"},
		{Value: "oidc", Text: "Everybody whom the OpenID Connect provider vouches for"},
	}}}
}

func showService(q *call) error {
	all, err := q.c.Service.Settings(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	f := newForm(nil)
	for name, value := range all {
		f.set(name, value)
	}
	return q.page("service", serviceView(f))
}

func setService(q *call) error {
	now, err := q.c.Service.Settings(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(now) {
		value := q.post(name)
		if value == now[name] || !q.r.PostForm.Has(name) {
			continue
		}
		if err := q.c.Service.SetSetting(q.r.Context(), q.who, name, value); err != nil {
			return q.again(err, "service", serviceView(q.posted()))
		}
	}
	return q.done("/service", "service")
}
