package console_test

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// visit is how a route is visited so that only who comes decides.
type visit struct {
	// path has {NAME} where a thing's id or a secret stands.
	path string
	form url.Values
	// action is what the visitor must be allowed to; see what it takes to learn that
	// the thing is there. Both empty: everybody who is signed in may come.
	action, see computations.Action
	// owner is whose thing it is, where only that one may; others are told that
	// there is none.
	owner string
	// right is somebody who may.
	right string
	// wrong is the status for others than the owner; zero: 404.
	wrong int
	// open: the address alone is the key.
	open bool
	// want is the status for right; zero: 303 for a form, 200 for a page.
	want int
}

func form(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// fixtures has an entry for every route; a route without one fails the test.
func (w *world) fixtures() map[string]visit {
	const (
		showC = computations.ComputationShow
		showW = computations.WorkspaceShow
		showR = computations.RunShow
		showA = computations.AssetShow
	)
	draftForm := form("name", "Another name", "tee", "sim", "attested_tls", "yes", "approve", "everybody", "revision", w.revision("draft"), "rows", "0", "consumers", string(w.users["rita"]))
	return map[string]visit{
		"GET /sign-in":                      {path: "/sign-in", open: true},
		"POST /sign-in":                     {path: "/sign-in", form: form("email", "nobody@example.org", "password", "wrong"), open: true, want: 401},
		"GET /sign-in/external":             {path: "/sign-in/external", open: true, want: 404},
		"GET /sign-in/external/back":        {path: "/sign-in/external/back", open: true, want: 404},
		"POST /sign-out":                    {path: "/sign-out", form: form(), open: true},
		"GET /link/{secret}":                {path: "/link/{link}", open: true},
		"POST /link/{secret}":               {path: "/link/{link}", form: form("name", "Stan", "password", "correct horse battery", "again", "correct horse battery"), open: true},
		"GET /invitation/{secret}":          {path: "/invitation/{new invitation}", open: true},
		"POST /invitation/{secret}/join":    {path: "/invitation/{new invitation}/join", form: form("name", "New", "password", "correct horse battery", "again", "correct horse battery"), open: true},
		"POST /invitation/{secret}/accept":  {path: "/invitation/{my invitation}/accept", form: form(), owner: "ines", right: "ines", wrong: 403},
		"GET /invitation/{secret}/decline":  {path: "/invitation/{new invitation}/decline", open: true},
		"POST /invitation/{secret}/decline": {path: "/invitation/{new invitation}/decline", form: form(), open: true},

		"GET /{$}":                                       {path: "/?all=1", right: "stan"},
		"POST /invitations/{invitation}/accept":          {path: "/invitations/{my invitation}/accept", form: form(), owner: "ines", right: "ines"},
		"GET /invitations/{invitation}/decline":          {path: "/invitations/{my invitation}/decline", owner: "ines", right: "ines"},
		"POST /invitations/{invitation}/decline":         {path: "/invitations/{my invitation}/decline", form: form(), owner: "ines", right: "ines"},
		"GET /keys":                                      {path: "/keys", right: "stan"},
		"GET /keys/{key}/revoke":                         {path: "/keys/{dora's key}/revoke", owner: "dora", right: "dora"},
		"POST /keys/{key}/revoke":                        {path: "/keys/{dora's key}/revoke", form: form(), owner: "dora", right: "dora"},
		"GET /settings":                                  {path: "/settings", right: "stan"},
		"POST /settings/name":                            {path: "/settings/name", form: form("name", "Somebody"), right: "stan"},
		"POST /settings/password":                        {path: "/settings/password", form: form("old", "x", "new", "correct horse battery", "again", "correct horse battery"), right: "stan", want: 409},
		"POST /settings/tokens":                          {path: "/settings/tokens", form: form("name", "ci", "days", "7"), right: "stan", want: 200},
		"GET /settings/credentials/{credential}/revoke":  {path: "/settings/credentials/{token}/revoke", owner: "carl", right: "carl"},
		"POST /settings/credentials/{credential}/revoke": {path: "/settings/credentials/{token}/revoke", form: form(), owner: "carl", right: "carl"},

		"GET /workspaces/new":                                   {path: "/workspaces/new", right: "stan"},
		"POST /workspaces/new":                                  {path: "/workspaces/new", form: form("name", "Mine"), right: "stan"},
		"GET /w/{workspace}":                                    {path: "/w/{workspace}", action: showW, see: showW, right: "nemo"},
		"GET /w/{workspace}/members":                            {path: "/w/{workspace}/members", action: computations.MemberList, see: showW, right: "nemo"},
		"GET /w/{workspace}/members/{user}/role":                {path: "/w/{workspace}/members/{nemo}/role", action: computations.MemberRole, see: showW, right: "ada"},
		"POST /w/{workspace}/members/{user}/role":               {path: "/w/{workspace}/members/{nemo}/role", form: form("role", "manager"), action: computations.MemberRole, see: showW, right: "ada"},
		"GET /w/{workspace}/members/{user}/remove":              {path: "/w/{workspace}/members/{lost}/remove", action: computations.MemberRemove, see: showW, right: "ada"},
		"POST /w/{workspace}/members/{user}/remove":             {path: "/w/{workspace}/members/{lost}/remove", form: form(), action: computations.MemberRemove, see: showW, right: "ada"},
		"GET /w/{workspace}/invitations/new":                    {path: "/w/{workspace}/invitations/new", action: computations.InvitationCreate, see: showW, right: "mona"},
		"POST /w/{workspace}/invitations/new":                   {path: "/w/{workspace}/invitations/new", form: form("email", "x@example.org", "role", "member"), action: computations.InvitationCreate, see: showW, right: "mona", want: 200},
		"GET /w/{workspace}/invitations/{invitation}/resend":    {path: "/w/{workspace}/invitations/{invitation}/resend", action: computations.InvitationResend, see: computations.InvitationList, right: "mona"},
		"POST /w/{workspace}/invitations/{invitation}/resend":   {path: "/w/{workspace}/invitations/{invitation}/resend", form: form(), action: computations.InvitationResend, see: computations.InvitationList, right: "mona", want: 200},
		"GET /w/{workspace}/invitations/{invitation}/withdraw":  {path: "/w/{workspace}/invitations/{invitation}/withdraw", action: computations.InvitationWithdraw, see: computations.InvitationList, right: "mona"},
		"POST /w/{workspace}/invitations/{invitation}/withdraw": {path: "/w/{workspace}/invitations/{invitation}/withdraw", form: form(), action: computations.InvitationWithdraw, see: computations.InvitationList, right: "mona"},
		"GET /w/{workspace}/audit":                              {path: "/w/{workspace}/audit", action: computations.AuditRead, see: showW, right: "mona"},
		"GET /w/{workspace}/settings":                           {path: "/w/{workspace}/settings", action: computations.WorkspaceRename, see: showW, right: "ada"},
		"POST /w/{workspace}/settings/name":                     {path: "/w/{workspace}/settings/name", form: form("name", "New name"), action: computations.WorkspaceRename, see: showW, right: "ada"},
		"POST /w/{workspace}/settings/retention":                {path: "/w/{workspace}/settings/retention", form: form("keep", "720h0m0s", "sure", "yes"), action: computations.WorkspaceRetain, see: showW, right: "ada"},

		"GET /w/{workspace}/assets":      {path: "/w/{workspace}/assets", action: computations.AssetList, see: showW, right: "nemo"},
		"GET /w/{workspace}/assets/new":  {path: "/w/{workspace}/assets/new", action: computations.AssetCreate, see: showW, right: "nemo"},
		"POST /w/{workspace}/assets/new": {path: "/w/{workspace}/assets/new", form: form("kind", "dataset", "name", "x", "sha256", strings.Repeat("0a", 32), "size", "3"), action: computations.AssetCreate, see: showW, right: "nemo"},
		"GET /a/{asset}":                 {path: "/a/{dataset}", action: showA, see: showA, right: "nemo"},
		"POST /a/{asset}":                {path: "/a/{dataset}", form: form("name", "y", "description", ""), action: computations.AssetEdit, see: showA, owner: "dora", right: "dora"},
		"GET /a/{asset}/retire":          {path: "/a/{dataset}/retire", action: computations.AssetRetire, see: showA, owner: "dora", right: "dora"},
		"POST /a/{asset}/retire":         {path: "/a/{dataset}/retire", form: form(), action: computations.AssetRetire, see: showA, owner: "dora", right: "ada"},

		"GET /w/{workspace}/computations":         {path: "/w/{workspace}/computations", action: computations.ComputationList, see: showW, right: "nemo"},
		"GET /w/{workspace}/computations/new":     {path: "/w/{workspace}/computations/new", action: computations.ComputationCreate, see: showW, right: "nemo"},
		"POST /w/{workspace}/computations/new":    {path: "/w/{workspace}/computations/new", form: draftForm, action: computations.ComputationCreate, see: showW, right: "nemo"},
		"GET /w/{workspace}/computations/import":  {path: "/w/{workspace}/computations/import", action: computations.ComputationImport, see: showW, right: "nemo"},
		"POST /w/{workspace}/computations/import": {path: "/w/{workspace}/computations/import", form: form("file_text", string(w.export)), action: computations.ComputationImport, see: showW, right: "nemo"},
		"GET /c/{computation}":                    {path: "/c/{done}", action: showC, see: showC, right: "vera"},
		"GET /c/{computation}/edit":               {path: "/c/{draft}/edit", action: computations.ComputationEdit, see: showC, right: "edith"},
		"POST /c/{computation}/edit":              {path: "/c/{draft}/edit", form: draftForm, action: computations.ComputationEdit, see: showC, right: "edith"},
		"GET /c/{computation}/people":             {path: "/c/{draft}/people", action: computations.ComputationParts, see: showC, right: "edith"},
		"POST /c/{computation}/people/{user}":     {path: "/c/{draft}/people/{nemo}", form: form("parts", "viewer"), action: computations.ComputationParts, see: showC, right: "edith"},
		"POST /c/{computation}/supply":            {path: "/c/{draft}/supply", form: form("slot", "datasets/tides", "asset", string(w.things["dataset"])), action: computations.ComputationSupply, see: showC, right: "dora"},
		"GET /c/{computation}/freeze":             {path: "/c/{complete}/freeze", action: computations.ComputationFreeze, see: showC, right: "edith"},
		"POST /c/{computation}/freeze":            {path: "/c/{complete}/freeze", form: form("revision", w.revision("complete")), action: computations.ComputationFreeze, see: showC, right: "edith"},
		"GET /c/{computation}/approve":            {path: "/c/{frozen}/approve", action: computations.ComputationApprove, see: showC, right: "rita"},
		"POST /c/{computation}/approve":           {path: "/c/{frozen}/approve", form: form("approval_text", jsonText(w, w.approval)), action: computations.ComputationApprove, see: showC, right: "rita"},
		"GET /c/{computation}/check":              {path: "/c/{ready}/check", action: computations.ComputationDryRun, see: showC, right: "rune"},
		"POST /c/{computation}/run":               {path: "/c/{ready}/run", form: form(), action: computations.ComputationRun, see: showC, right: "rune"},
		"GET /c/{computation}/runs":               {path: "/c/{done}/runs", action: showR, see: showC, right: "vera"},
		"POST /c/{computation}/copy":              {path: "/c/{done}/copy", form: form(), action: computations.ComputationCopy, see: showC, right: "vera"},
		"GET /c/{computation}/manifest.json":      {path: "/c/{done}/manifest.json", action: showC, see: showC, right: "vera"},
		"GET /c/{computation}/export.json":        {path: "/c/{done}/export.json", action: computations.ComputationExport, see: showC, right: "vera"},
		"GET /c/{computation}/archive":            {path: "/c/{done}/archive", action: computations.ComputationArchive, see: showC, right: "carl"},
		"POST /c/{computation}/archive":           {path: "/c/{done}/archive", form: form(), action: computations.ComputationArchive, see: showC, right: "carl"},
		"POST /c/{computation}/restore":           {path: "/c/{done}/restore", form: form(), action: computations.ComputationArchive, see: showC, right: "ada"},

		"GET /r/{run}":              {path: "/r/{done run}", action: showR, see: showR, right: "vera"},
		"GET /r/{run}/stream":       {path: "/r/{done run}/stream", action: computations.RunEntries, see: showR, right: "vera"},
		"GET /r/{run}/stop":         {path: "/r/{queued run}/stop", action: computations.RunStop, see: showR, right: "rune"},
		"POST /r/{run}/stop":        {path: "/r/{queued run}/stop", form: form(), action: computations.RunStop, see: showR, right: "mona"},
		"GET /r/{run}/receipt.json": {path: "/r/{done run}/receipt.json", action: computations.ReceiptShow, see: showR, right: "rita"},
		"POST /r/{run}/receipt":     {path: "/r/{done run}/receipt", form: form("receipt_text", string(w.receipt)), action: computations.ReceiptSubmit, see: showR, right: "rita"},

		"GET /hosts":                          {path: "/hosts", action: computations.HostList, right: "olga"},
		"GET /hosts/enrol":                    {path: "/hosts/enrol", action: computations.HostEnrol, right: "olga"},
		"POST /hosts/enrol":                   {path: "/hosts/enrol", form: form("name", "host-2", "ttl", "1h"), action: computations.HostEnrol, right: "olga", want: 200},
		"GET /hosts/tokens/{token}/withdraw":  {path: "/hosts/tokens/{enrol token}/withdraw", action: computations.HostWithdraw, right: "olga"},
		"POST /hosts/tokens/{token}/withdraw": {path: "/hosts/tokens/{enrol token}/withdraw", form: form(), action: computations.HostWithdraw, right: "olga"},
		"GET /hosts/{host}":                   {path: "/hosts/{host}", action: computations.HostShow, right: "olga"},
		"POST /hosts/{host}/cordon":           {path: "/hosts/{host}/cordon", form: form(), action: computations.HostCordon, right: "olga"},
		"POST /hosts/{host}/uncordon":         {path: "/hosts/{host}/uncordon", form: form(), action: computations.HostCordon, right: "olga"},
		"GET /hosts/{host}/drain":             {path: "/hosts/{host}/drain", action: computations.HostDrain, right: "olga"},
		"POST /hosts/{host}/drain":            {path: "/hosts/{host}/drain", form: form(), action: computations.HostDrain, right: "olga"},
		"POST /hosts/{host}/undrain":          {path: "/hosts/{host}/undrain", form: form(), action: computations.HostDrain, right: "olga"},
		"GET /hosts/{host}/revoke":            {path: "/hosts/{host}/revoke", action: computations.HostRevoke, right: "olga"},
		"POST /hosts/{host}/revoke":           {path: "/hosts/{host}/revoke", form: form(), action: computations.HostRevoke, right: "olga"},
		"GET /users":                          {path: "/users", action: computations.UserList, right: "olga"},
		"GET /users/new":                      {path: "/users/new", action: computations.UserCreate, right: "olga"},
		"POST /users/new":                     {path: "/users/new", form: form("email", "z@example.org", "name", "Z"), action: computations.UserCreate, right: "olga", want: 200},
		"GET /users/{user}/reset":             {path: "/users/{stan}/reset", action: computations.UserCreate, right: "olga"},
		"POST /users/{user}/reset":            {path: "/users/{stan}/reset", form: form(), action: computations.UserCreate, right: "olga", want: 200},
		"GET /users/{user}/disable":           {path: "/users/{stan}/disable", action: computations.UserDisable, right: "olga"},
		"POST /users/{user}/disable":          {path: "/users/{stan}/disable", form: form(), action: computations.UserDisable, right: "olga"},
		"POST /users/{user}/enable":           {path: "/users/{lost}/enable", form: form(), action: computations.UserDisable, right: "olga"},
		"GET /audit":                          {path: "/audit", action: computations.AuditServiceRead, right: "olga"},
		"GET /service":                        {path: "/service", action: computations.ServiceSettings, right: "olga"},
		"POST /service":                       {path: "/service", form: form("sign-up", "oidc", "invitation-days", "3"), action: computations.ServiceSettings, right: "olga"},
	}
}

var placeholder = regexp.MustCompile(`\{([^}]+)\}`)

// path puts ids into a path; other: those of things that aren't there.
func (w *world) path(path string, other bool) string {
	return placeholder.ReplaceAllStringFunc(path, func(p string) string {
		name := p[1 : len(p)-1]
		secret := strings.HasPrefix(path, "/link/") || strings.HasPrefix(path, "/invitation/")
		switch {
		case secret && other:
			return secretOf(w.secrets[name][:3], "wrong")
		case secret:
			return w.secrets[name]
		case other:
			return string(computations.NewID())
		case w.things[name] != "":
			return string(w.things[name])
		case w.users[name] != "":
			return string(w.users[name])
		}
		w.t.Fatalf("%s: there is no %q", path, name)
		return ""
	})
}

func (w *world) visit(b *browser, v visit, other bool) reply {
	path := w.path(v.path, other)
	if v.form != nil {
		return b.post(path, v.form)
	}
	return b.get(path)
}

// standing is how somebody of the fixture stands to a visit's thing.
func standing(name string, v visit) computations.Standing {
	s := computations.Standing{Operator: name == "olga", Role: people[name], Parts: partsOf[name], Owner: v.owner == name}
	if !strings.HasPrefix(v.path, "/c/") && !strings.HasPrefix(v.path, "/r/") {
		s.Parts = nil
	}
	return s
}

// expected is the status that a signed-in person gets; zero: it succeeds.
func expected(name string, v visit) int {
	s := standing(name, v)
	switch {
	case v.action == "" && v.owner != "" && v.owner != name:
		return cmp.Or(v.wrong, http.StatusNotFound)
	case v.action == "":
		return 0
	case v.see != "" && !computations.Allow(s, v.see):
		return http.StatusNotFound
	case !computations.Allow(s, v.action):
		return http.StatusForbidden
	}
	return 0
}

func TestEveryRouteHasAFixture(t *testing.T) {
	w := newWorld(t)
	fixtures, patterns := w.fixtures(), w.con.Patterns()
	for pattern, open := range patterns {
		v, known := fixtures[pattern]
		switch {
		case !known:
			t.Errorf("%s has no fixture: say who may come and who may not", pattern)
		case v.open != open:
			t.Errorf("%s: the fixture says open %v, the route %v", pattern, v.open, open)
		case !open && v.right == "":
			t.Errorf("%s: the fixture names nobody who may", pattern)
		case (v.form != nil) != strings.HasPrefix(pattern, "POST "):
			t.Errorf("%s: a form goes with POST, and with it alone", pattern)
		}
	}
	for pattern := range fixtures {
		if _, known := patterns[pattern]; !known {
			t.Errorf("the fixture has %s, the routes have not", pattern)
		}
	}
}

// TestIsolation visits every route as everybody who may not, and looks that
// nothing was told and nothing changed.
func TestIsolation(t *testing.T) {
	w := newWorld(t)
	before, head, err := w.svc.VerifyAudit(context.Background())
	w.check(err)
	refused := 0
	for pattern, v := range w.fixtures() {
		if v.open {
			continue
		}
		// Whoever isn't signed in.
		for _, who := range []string{"", "expired", "token", "lost"} {
			r := w.visit(w.browse(who), v, false)
			refused++
			want := "/sign-in"
			if v.form == nil {
				want = "/sign-in?next=" + url.QueryEscape(w.path(v.path, false))
			}
			if strings.HasSuffix(pattern, "/stream") {
				if r.status != http.StatusUnauthorized {
					t.Errorf("%s as %q: %d", pattern, who, r.status)
				}
			} else if r.status != http.StatusSeeOther || r.to() != want {
				t.Errorf("%s as %q: %d to %q, want %q", pattern, who, r.status, r.to(), want)
			}
			if leaks(r) {
				t.Errorf("%s as %q tells something: %s", pattern, who, r.body)
			}
		}
		for name := range people {
			want := expected(name, v)
			if name == "lost" || want == 0 {
				continue
			}
			refused++
			b := w.browse(name)
			r := w.visit(b, v, false)
			if r.status != want {
				t.Errorf("%s as %s: %d, want %d\n%s", pattern, name, r.status, want, text(r.body))
				continue
			}
			if want != http.StatusNotFound {
				continue
			}
			if leaks(r) {
				t.Errorf("%s as %s tells something: %s", pattern, name, r.body)
			}
			// The answer is that for what isn't there at all.
			nothing := w.visit(b, v, true)
			if nothing.status != r.status || nothing.body != r.body || !sameHeader(nothing.header, r.header) {
				t.Errorf("%s as %s tells what is there from what isn't:\n%d %s\n%d %s", pattern, name, r.status, text(r.body), nothing.status, text(nothing.body))
			}
		}
	}
	if refused < 500 {
		t.Errorf("only %d visits were refused", refused)
	}
	after, now, err := w.svc.VerifyAudit(context.Background())
	w.check(err)
	if after != before || now != head {
		t.Errorf("something changed: the audit log had %d entries and has %d", before, after)
	}
}

// TestTheRightOnesMay shows that the fixtures' visits are refused for nothing but
// who comes.
func TestTheRightOnesMay(t *testing.T) {
	shared := newWorld(t)
	for pattern, v := range shared.fixtures() {
		t.Run(pattern, func(t *testing.T) {
			w := shared
			if v.form != nil {
				w = newWorld(t)
			}
			w.t = t
			want := v.want
			if want == 0 {
				if want = http.StatusOK; v.form != nil {
					want = http.StatusSeeOther
				}
			}
			names := []string{v.right}
			if v.form == nil && !v.open {
				// A page changes nothing: everybody who may can come.
				for name := range people {
					if name != "lost" && expected(name, v) == 0 {
						names = append(names, name)
					}
				}
			}
			for _, name := range names {
				if r := w.visit(w.browse(name), v, false); r.status != want || strings.HasPrefix(r.to(), "/sign-in") && pattern != "POST /sign-out" && !strings.Contains(pattern, "decline") {
					t.Errorf("as %q: %d to %q, want %d\n%s\n%s", name, r.status, r.to(), want, text(r.body), w.log)
				}
			}
			// A wrong secret opens nothing.
			if v.open && strings.Contains(v.path, "{") {
				if r := w.visit(w.browse(""), v, true); r.status != http.StatusNotFound || leaks(r) {
					t.Errorf("with a wrong secret: %d\n%s", r.status, text(r.body))
				}
			}
		})
	}
}

// leaks tells whether a reply has a name that a stranger mustn't learn.
func leaks(r reply) bool {
	return strings.Contains(r.body, mark) || strings.Contains(r.body, innerMark)
}

func sameHeader(a, b http.Header) bool {
	a, b = a.Clone(), b.Clone()
	a.Del("Date")
	b.Del("Date")
	return maps.EqualFunc(a, b, slices.Equal)
}

var tags = regexp.MustCompile(`(?s)<(head|nav|style)\b.*?</(head|nav|style)>|<[^>]*>|\n\s*\n`)

// text is a page's words, for failures.
func text(body string) string { return strings.TrimSpace(tags.ReplaceAllString(body, " ")) }
