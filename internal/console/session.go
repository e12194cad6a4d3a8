package console

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// cookieName is that of the session's cookie. With its prefix browsers take it
// over TLS only, from this host and for all of its paths.
func (c *Console) cookieName() string {
	if c.secure() {
		return "__Host-cocos"
	}
	return "cocos"
}

// stateCookie keeps what External needs until the browser comes back.
func (c *Console) stateCookie() string { return c.cookieName() + "-state" }

func (c *Console) setCookie(w http.ResponseWriter, name, value string, age time.Duration) {
	k := &http.Cookie{
		Name: name, Value: value, Path: "/", HttpOnly: true, Secure: c.secure(),
		SameSite: http.SameSiteLaxMode, // links from mail arrive signed in, forms of others don't
	}
	switch {
	case value == "":
		k.MaxAge = -1
	case age > 0:
		k.MaxAge = int(age / time.Second)
	}
	http.SetCookie(w, k)
}

// begin keeps a session in the browser and goes on to next. The session itself
// ends when the service says so; the cookie with the browser.
func (q *call) begin(session, next string) error {
	q.c.setCookie(q.w, q.c.cookieName(), session, 0)
	return q.goTo(next)
}

// identify finds who asks; the zero Identity is nobody. Only sessions come by
// cookie: a token is for programs.
func (q *call) identify() error {
	k, err := q.r.Cookie(q.c.cookieName())
	if err != nil {
		return nil
	}
	who, err := q.c.Service.Authenticate(q.r.Context(), k.Value)
	switch {
	case kindOf(err) == computations.Unauthenticated:
		return nil
	case err != nil:
		return err
	case who.Kind == computations.Session:
		q.who = who
	}
	return nil
}

// toSignIn sends a browser to the sign-in page, and after it back to a page.
func (q *call) toSignIn() error {
	if q.route.stream {
		http.Error(q.w, "Sign in first.", http.StatusUnauthorized)
		return nil
	}
	if q.r.Method != http.MethodGet {
		return q.goTo("/sign-in")
	}
	return q.goTo("/sign-in?next=" + url.QueryEscape(q.r.URL.RequestURI()))
}

// client is what a session is called in its owner's list: the browser's name for
// itself, bounded.
func client(r *http.Request) string {
	agent := r.UserAgent()
	name := "A browser"
	for _, b := range []struct{ mark, name string }{
		{"Edg/", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"},
	} {
		if strings.Contains(agent, b.mark) {
			name = b.name
			break
		}
	}
	for _, s := range []struct{ mark, name string }{
		{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"}, {"Mac OS X", "macOS"}, {"Linux", "Linux"},
	} {
		if strings.Contains(agent, s.mark) {
			return name + " on " + s.name
		}
	}
	return name
}
