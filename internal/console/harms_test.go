package console_test

import (
	"net/http"
	"strings"
	"testing"
)

// harm is what a form of the console does to what was there.
type harm int

const (
	none harm = iota
	// undoable: it takes something away that can be had back; it is asked for.
	undoable
	// lasting: it ends something; it is asked for, as dangerous.
	lasting
)

// harms has every form of the console. One that isn't here fails the test.
var harms = map[string]harm{
	"POST /sign-in":                     none,
	"POST /sign-out":                    none, // one's own session, and one signs in again
	"POST /link/{secret}":               none,
	"POST /invitation/{secret}/join":    none,
	"POST /invitation/{secret}/accept":  none,
	"POST /invitation/{secret}/decline": lasting,

	"POST /invitations/{invitation}/accept":          none,
	"POST /invitations/{invitation}/decline":         lasting,
	"POST /keys/{key}/revoke":                        lasting,
	"POST /settings/name":                            none,
	"POST /settings/password":                        none,
	"POST /settings/tokens":                          none,
	"POST /settings/credentials/{credential}/revoke": lasting,

	"POST /workspaces/new":                                  none,
	"POST /w/{workspace}/members/{user}/role":               none, // has a page of its own
	"POST /w/{workspace}/members/{user}/remove":             lasting,
	"POST /w/{workspace}/invitations/new":                   none,
	"POST /w/{workspace}/invitations/{invitation}/resend":   none,
	"POST /w/{workspace}/invitations/{invitation}/withdraw": lasting,
	"POST /w/{workspace}/settings/name":                     none,
	"POST /w/{workspace}/settings/retention":                none, // asked for where it deletes: TestShorterRetentionAsks

	"POST /w/{workspace}/assets/new": none,
	"POST /a/{asset}":                none,
	"POST /a/{asset}/retire":         lasting,

	"POST /w/{workspace}/computations/new":    none,
	"POST /w/{workspace}/computations/import": none,
	"POST /c/{computation}/edit":              none,
	"POST /c/{computation}/people/{user}":     none,
	"POST /c/{computation}/supply":            none,
	"POST /c/{computation}/freeze":            none, // asked for, and nothing is lost
	"POST /c/{computation}/approve":           none,
	"POST /c/{computation}/run":               none,
	"POST /c/{computation}/copy":              none,
	"POST /c/{computation}/archive":           undoable,
	"POST /c/{computation}/restore":           none,

	"POST /r/{run}/stop":    lasting,
	"POST /r/{run}/receipt": none,

	"POST /hosts/enrol":                   none,
	"POST /hosts/tokens/{token}/withdraw": lasting,
	"POST /hosts/{host}/cordon":           none, // and back, beside it
	"POST /hosts/{host}/uncordon":         none,
	"POST /hosts/{host}/drain":            undoable,
	"POST /hosts/{host}/undrain":          none,
	"POST /hosts/{host}/revoke":           lasting,
	"POST /users/new":                     none,
	"POST /users/{user}/reset":            lasting,
	"POST /users/{user}/disable":          lasting,
	"POST /users/{user}/enable":           none,
	"POST /service":                       none,
}

// TestWhatDestroysAsks: at the address of each form that ends or takes away
// something is a page that asks for it, whose button leads to that very form and
// looks as dangerous as it is.
func TestWhatDestroysAsks(t *testing.T) {
	w := newWorld(t)
	patterns, fixtures := w.con.Patterns(), w.fixtures()
	for pattern := range patterns {
		if _, classed := harms[pattern]; strings.HasPrefix(pattern, http.MethodPost) && !classed {
			t.Errorf("%s isn't classed: say what harm it does", pattern)
		}
	}
	for pattern, does := range harms {
		if _, there := patterns[pattern]; !there {
			t.Errorf("%s is no route any more", pattern)
			continue
		}
		if does == none {
			continue
		}
		asks := strings.Replace(pattern, http.MethodPost, http.MethodGet, 1)
		v, there := fixtures[asks]
		if _, route := patterns[asks]; !route || !there {
			t.Errorf("%s is not asked for", pattern)
			continue
		}
		r := w.browse(v.right).get(w.path(v.path, false))
		path := strings.Split(w.path(v.path, false), "?")[0]
		if r.status != http.StatusOK || !strings.Contains(r.body, `<form method="post" action="`+path+`">`) || strings.Contains(r.body, `<button class="danger">`) != (does == lasting) {
			t.Errorf("%s as %q: %d, and no such question that leads to its form:\n%s", asks, v.right, r.status, text(r.body))
		}
	}
}
