package console

import (
	"slices"

	"github.com/ultravioletrs/cocos/internal/computations"
)

var enrolLives = []choice{{Value: "1h", Text: "1 hour"}, {Value: "24h", Text: "1 day"}, {Value: "168h", Text: "1 week"}}

// enrolPage asks for a host's name, and shows the command that lets it in.
type enrolPage struct {
	Lives   []choice
	Token   *computations.EnrolToken
	Command string
}

func newHost(q *call) error {
	// Listing tokens is for those who may make one.
	if _, err := q.c.Service.EnrolTokens(q.r.Context(), q.who); err != nil {
		return err
	}
	return q.page("enrol", enrolView(newForm(nil).set("ttl", "24h"), enrolPage{Lives: enrolLives}))
}

func enrolView(f *form, p enrolPage) view {
	return view{Title: "Enrol a host", Section: "hosts", Form: f, Data: p, Above: []link{{"Hosts", "/hosts"}}}
}

func enrolHost(q *call) error {
	ttl, err := duration("ttl", q.post("ttl"))
	var t computations.EnrolToken
	var secret string
	if err == nil {
		t, secret, err = q.c.Service.CreateEnrolToken(q.r.Context(), q.who, q.post("name"), ttl)
	}
	if err != nil {
		return q.again(err, "enrol", enrolView(q.posted(), enrolPage{Lives: enrolLives}))
	}
	return q.page("enrol", enrolView(newForm(nil), enrolPage{Token: &t, Command: q.c.EnrolCommand(secret)}))
}

func askWithdrawToken(q *call) error {
	all, err := q.c.Service.EnrolTokens(q.r.Context(), q.who)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(t computations.EnrolToken) bool { return t.ID == q.id("token") })
	if i < 0 {
		return &computations.Error{Kind: computations.NotFound, Message: "there is no such enrolment token"}
	}
	return q.ask(view{Title: "Withdraw the token for “" + all[i].Name + "”?", Section: "hosts", Above: []link{{"Hosts", "/hosts"}}}, question{
		Texts:  []string{"The command that was made with it lets no host in any more. You can make another."},
		Action: "Withdraw the token", To: "/hosts/tokens/" + string(all[i].ID) + "/withdraw", Back: "/hosts", Danger: true,
	})
}

func withdrawToken(q *call) error {
	if err := q.c.Service.WithdrawEnrolToken(q.r.Context(), q.who, q.id("token")); err != nil {
		return err
	}
	return q.done("/hosts", "token-ended")
}
