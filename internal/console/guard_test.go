package console_test

import (
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
)

// TestForgedForms sends each form as another site would: nothing is done.
func TestForgedForms(t *testing.T) {
	w := newWorld(t)
	before, _, err := w.svc.VerifyAudit(t.Context())
	w.check(err)
	for name, header := range map[string]http.Header{
		"nothing is said":                      {},
		"another site":                         {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}},
		"another host of the same domain":      {"Sec-Fetch-Site": {"same-site"}},
		"a person's own address bar":           {"Sec-Fetch-Site": {"none"}},
		"only an origin, of another site":      {"Origin": {"https://evil.example"}},
		"only an origin, which is nobody's":    {"Origin": {"null"}},
		"only an origin, of another port":      {"Origin": {"http://127.0.0.1:1"}},
		"only an origin, of another scheme":    {"Origin": {strings.Replace(w.srv.URL, "http:", "https:", 1)}},
		"a good origin from another context":   {"Origin": {w.srv.URL}, "Sec-Fetch-Site": {"cross-site"}},
		"a referrer instead of an origin":      {"Referer": {w.srv.URL + "/"}},
		"a token of another kind in its place": {"X-Requested-With": {"XMLHttpRequest"}},
	} {
		for pattern, v := range w.fixtures() {
			if v.form == nil {
				continue
			}
			r := w.browse(v.right).do(http.MethodPost, w.path(v.path, false), v.form, header)
			if r.status != http.StatusForbidden || len(r.header.Values("Set-Cookie")) > 0 {
				t.Errorf("%s, %s: %d", pattern, name, r.status)
			}
		}
	}
	after, _, err := w.svc.VerifyAudit(t.Context())
	w.check(err)
	if after != before {
		t.Errorf("something was done: the audit log had %d entries and has %d", before, after)
	}
	// Right in this one field, each of them would have gone.
	for name, header := range map[string]http.Header{
		"the same origin":  {"Sec-Fetch-Site": {"same-origin"}},
		"an older browser": {"Origin": {w.srv.URL}},
		"behind a proxy":   {"Origin": {publicURL}},
	} {
		if r := w.browse("stan").do(http.MethodPost, "/settings/name", form("name", "Stan"), header); r.status != http.StatusSeeOther {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
}

func TestOnlyFormsChangeThings(t *testing.T) {
	w := newWorld(t)
	for pattern := range w.con.Patterns() {
		path, isPost := strings.CutPrefix(pattern, "POST ")
		if !isPost {
			continue
		}
		v := w.fixtures()[pattern]
		if _, both := w.con.Patterns()["GET "+path]; both {
			continue
		}
		if r := w.browse(v.right).get(w.path(v.path, false)); r.status != http.StatusMethodNotAllowed && r.status != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, r.status)
		}
	}
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	want := map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	}
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|<script[^>]*>[^<]|\son[a-z]+=|javascript:`)
	for _, public := range []string{publicURL, "https://cocos.example.org"} {
		w := newWorld(t, func(c *console.Config) { c.PublicURL = public })
		for pattern, v := range w.fixtures() {
			for _, name := range []string{v.right, "", "stan"} {
				b := w.browse(name)
				if strings.HasPrefix(public, "https") && name != "" {
					b = w.browse("")
					u, _ := url.Parse(w.srv.URL)
					b.c.Jar.SetCookies(u, []*http.Cookie{{Name: "__Host-cocos", Value: w.secrets[name], Path: "/"}})
				}
				if v.form != nil {
					continue // their answers are the pages that they lead to, and those of faults
				}
				r := b.get(w.path(v.path, false))
				for header, value := range want {
					if got := r.header.Get(header); got != value {
						t.Errorf("%s as %q: %s is %q, want %q", pattern, name, header, got, value)
					}
				}
				csp := r.header.Get("Content-Security-Policy")
				for _, part := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
					if !strings.Contains(csp, part) {
						t.Errorf("%s: the policy lacks %q: %s", pattern, part, csp)
					}
				}
				if strings.Contains(csp, "unsafe") {
					t.Errorf("%s: the policy is %s", pattern, csp)
				}
				if found := inline.FindString(r.body); found != "" {
					t.Errorf("%s has %q, which the policy forbids", pattern, found)
				}
				hsts := r.header.Get("Strict-Transport-Security")
				if strings.HasPrefix(public, "https") != strings.HasPrefix(hsts, "max-age=31536000") {
					t.Errorf("%s at %s: Strict-Transport-Security is %q", pattern, public, hsts)
				}
			}
		}
	}
}

func TestSessionCookie(t *testing.T) {
	for public, want := range map[string]string{
		publicURL:                   "cocos=cs_",
		"https://cocos.example.org": "__Host-cocos=cs_",
	} {
		w := newWorld(t, func(c *console.Config) { c.PublicURL = public })
		b := w.browse("")
		r := b.post("/link/"+w.secrets["link"], form("name", "Stan", "password", "correct horse battery", "again", "correct horse battery"))
		cookie := r.header.Get("Set-Cookie")
		if r.status != http.StatusSeeOther || !strings.HasPrefix(cookie, want) {
			t.Fatalf("%s: %d, %q", public, r.status, cookie)
		}
		for _, part := range []string{"; Path=/", "; HttpOnly", "; SameSite=Lax"} {
			if !strings.Contains(cookie, part) {
				t.Errorf("%s: the cookie lacks %q: %s", public, part, cookie)
			}
		}
		if secure := strings.Contains(cookie, "; Secure"); secure != strings.HasPrefix(public, "https") {
			t.Errorf("%s: %s", public, cookie)
		}
		if strings.Contains(cookie, "Domain") || strings.Contains(cookie, "Max-Age") {
			t.Errorf("%s: %s", public, cookie)
		}
	}
}

func TestForeignHostNames(t *testing.T) {
	w := newWorld(t, func(c *console.Config) { c.PublicURL = "https://cocos.example.org" })
	for host, want := range map[string]int{
		"cocos.example.org": 200, "COCOS.example.org": 200, "localhost:7080": 200, "127.0.0.1": 200, "[::1]:7080": 200,
		"evil.example": 421, "cocos.example.org.evil.example": 421, "cocos.example.org:81": 421, "192.0.2.1": 421, "localhost.evil.example": 421,
	} {
		req, err := http.NewRequest(http.MethodGet, w.srv.URL+"/sign-in", nil)
		w.check(err)
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		w.check(err)
		w.check(res.Body.Close())
		if res.StatusCode != want {
			t.Errorf("Host %s: %d, want %d", host, res.StatusCode, want)
		}
	}
}

func TestNoOpenRedirects(t *testing.T) {
	for next, want := range map[string]string{
		"/c/1?x=y": "/c/1?x=y", "/": "/", "": "/", "https://evil.example/": "/", "//evil.example": "/", "///evil.example": "/", "/\\evil.example": "/",
		"\\\\evil.example": "/", "/\t/evil.example": "/", "/\r\nSet-Cookie: a=b": "/", "javascript:alert(1)": "/", "http:/evil.example": "/", "/%0d%0a": "/%0d%0a",
		"c/1": "/", "@evil.example": "/", "/c/1#x": "/c/1", "http://user@evil.example": "/", ":": "/",
	} {
		if got := console.LocalPath(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
	w := newWorld(t)
	w.password("stan", "correct horse battery")
	for _, next := range []string{"https://evil.example/", "//evil.example", "/keys"} {
		r := w.browse("").post("/sign-in", form("email", "stan@example.org", "password", "correct horse battery", "next", next))
		if want := map[bool]string{true: "/keys", false: "/"}[next == "/keys"]; r.status != http.StatusSeeOther || r.to() != want {
			t.Errorf("%s: %d to %q, want %q", next, r.status, r.to(), want)
		}
		r = w.browse("nemo").get("/sign-in?next=" + url.QueryEscape(next))
		if want := map[bool]string{true: "/keys", false: "/"}[next == "/keys"]; r.to() != want {
			t.Errorf("signed in, %s: to %q, want %q", next, r.to(), want)
		}
	}
}

// password gives somebody one.
func (w *world) password(name, word string) {
	w.t.Helper()
	_, secret, ok := strings.Cut(w.resetLink(name), "/link/")
	if !ok {
		w.t.Fatal("no link")
	}
	_, err := w.svc.RedeemLink(w.t.Context(), secret, "", "", word, "a test")
	w.check(err)
}

// signedIn is somebody who was signed out, anew.
func (w *world) signedIn(name string) computations.Identity {
	w.t.Helper()
	secret := secretOf("cs_", name+"-again")
	w.credential(name, computations.Session, secret, time.Hour)
	who, err := w.svc.Authenticate(w.t.Context(), secret)
	w.check(err)
	return who
}

func (w *world) resetLink(name string) string {
	link, err := w.svc.ResetPassword(w.t.Context(), w.who["olga"], w.users[name])
	w.check(err)
	return link
}

func TestSignIn(t *testing.T) {
	w := newWorld(t)
	w.password("stan", "correct horse battery")
	unknown := w.browse("").post("/sign-in", form("email", "nobody@example.org", "password", "wrong password here"))
	wrong := w.browse("").post("/sign-in", form("email", "stan@example.org", "password", "wrong password here"))
	// Which of the two it was nobody learns.
	if unknown.status != http.StatusUnauthorized || wrong.status != unknown.status ||
		strings.ReplaceAll(wrong.body, "stan@", "nobody@") != unknown.body {
		t.Errorf("%d\n%s\n%d\n%s", unknown.status, text(unknown.body), wrong.status, text(wrong.body))
	}
	if strings.Contains(wrong.body, "wrong password here") {
		t.Error("the page has the password")
	}
	// Too many are refused with a word of when to come again.
	limited := reply{}
	for range 30 {
		if limited = w.browse("").post("/sign-in", form("email", "stan@example.org", "password", "wrong password here")); limited.status != http.StatusUnauthorized {
			break
		}
	}
	if limited.status != http.StatusTooManyRequests || !strings.Contains(text(limited.body), "try again in") && !strings.Contains(text(limited.body), "Try again in") {
		t.Errorf("%d\n%s", limited.status, text(limited.body))
	}
}

func TestSignOut(t *testing.T) {
	w := newWorld(t)
	b := w.browse("stan")
	if r := b.post("/sign-out", form()); r.to() != "/sign-in?done=signed-out" || !strings.Contains(r.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("%d to %q, %q", r.status, r.to(), r.header.Get("Set-Cookie"))
	}
	// The session itself has ended, also for whoever copied the cookie.
	if r := w.browse("stan").get("/keys"); r.to() != "/sign-in?next=%2Fkeys" {
		t.Errorf("the session goes on: %d", r.status)
	}
}

func TestTooLargeAndBrokenForms(t *testing.T) {
	w := newWorld(t)
	large := strings.Repeat("x", 70<<10)
	if r := w.browse("stan").post("/settings/name", form("name", large)); r.status != http.StatusUnprocessableEntity || !strings.Contains(r.body, "too large") {
		t.Errorf("%d %s", r.status, text(r.body))
	}
	if r := w.browse("nemo").post(w.path("/w/{workspace}/computations/import", false), form("file_text", strings.Repeat("x", 5<<20))); r.status != http.StatusUnprocessableEntity {
		t.Errorf("%d", r.status)
	}
	req, err := http.NewRequest(http.MethodPost, w.srv.URL+"/sign-in", strings.NewReader("%zz"))
	w.check(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	res, err := http.DefaultClient.Do(req)
	w.check(err)
	b, err := io.ReadAll(res.Body)
	w.check(err)
	w.check(res.Body.Close())
	if res.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(b), "can&#39;t be read") {
		t.Errorf("%d %s", res.StatusCode, text(string(b)))
	}
}

// TestErrorsTellNothing has the database fail under every page.
func TestErrorsTellNothing(t *testing.T) {
	w := newWorld(t)
	fixtures := w.fixtures()
	w.close()
	for pattern, v := range fixtures {
		if strings.HasSuffix(pattern, "/stream") || strings.Contains(pattern, "external") {
			continue
		}
		r := w.visit(w.browse("ada"), v, false)
		if r.status != http.StatusInternalServerError && pattern != "GET /sign-in" {
			t.Errorf("%s: %d", pattern, r.status)
		}
		reference := regexp.MustCompile(`<code>([A-Z0-9]{10})</code>`).FindStringSubmatch(r.body)
		said := text(r.body)
		if reference != nil {
			said = strings.ReplaceAll(said, reference[1], "") // any letters, by chance those of a word
		}
		if lower := strings.ToLower(said); strings.Contains(lower, "sql") || strings.Contains(lower, "database") || strings.Contains(lower, "goroutine") {
			t.Errorf("%s tells %s", pattern, said)
		}
		if reference == nil {
			t.Errorf("%s gives no reference: %s", pattern, text(r.body))
		} else if !strings.Contains(w.log.String(), reference[1]) {
			t.Errorf("%s: the log lacks the reference", pattern)
		}
	}
	// Nor does the log have a secret.
	for what, secret := range w.secrets {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has the secret of %q", what)
		}
	}
}

func TestAddressesBehindProxies(t *testing.T) {
	for name, tc := range map[string]struct {
		remote    string
		forwarded []string
		want      string
	}{
		"no proxy":               {"192.0.2.9:1", []string{"10.9.9.9"}, "192.0.2.9"},
		"a proxy":                {"127.0.0.1:1", []string{"198.51.100.7"}, "198.51.100.7"},
		"what a client made up":  {"127.0.0.1:1", []string{"1.1.1.1, 198.51.100.7"}, "198.51.100.7"},
		"two proxies":            {"127.0.0.1:1", []string{"198.51.100.7, 127.0.0.2"}, "198.51.100.7"},
		"two headers":            {"127.0.0.1:1", []string{"1.1.1.1", "198.51.100.7"}, "198.51.100.7"},
		"a proxy that says none": {"127.0.0.1:1", nil, "127.0.0.1"},
		"nonsense":               {"127.0.0.1:1", []string{"unknown"}, "127.0.0.1"},
		"IPv4 in IPv6":           {"[::ffff:192.0.2.9]:1", nil, "192.0.2.9"},
	} {
		c := &console.Console{Config: console.Config{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
		r := &http.Request{RemoteAddr: tc.remote, Header: http.Header{"X-Forwarded-For": tc.forwarded}}
		if got := console.From(c, r); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	for _, public := range []string{"", "cocos.example.org", "http://cocos.example.org", "https://cocos.example.org/x", "ftp://cocos.example.org", "https://u@cocos.example.org", "https://cocos.example.org?x"} {
		if _, err := console.New(console.Config{Service: w.svc, PublicURL: public}); err == nil || !strings.Contains(err.Error(), "public address") {
			t.Errorf("%q: %v", public, err)
		}
	}
	if _, err := console.New(console.Config{PublicURL: publicURL}); err == nil {
		t.Error("a console without a service")
	}
}

func TestStaticFiles(t *testing.T) {
	w := newWorld(t)
	page := w.browse("").get("/sign-in").body
	found := regexp.MustCompile(`/static/[^"]+`).FindAllString(page, -1)
	if len(found) < 4 {
		t.Fatalf("the page names %q", found)
	}
	slices.Sort(found)
	for _, path := range slices.Compact(found) {
		r := w.browse("").get(path)
		if r.status != http.StatusOK || r.header.Get("Cache-Control") != "public, max-age=31536000, immutable" || r.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %v", path, r.status, r.header)
		}
		if strings.HasSuffix(path, ".css") && strings.Contains(r.body, "{text-latin.woff2}") {
			t.Errorf("%s doesn't name its fonts", path)
		}
	}
	for _, path := range []string{"/static/", "/static/console.css", "/static/..%2fconsole.go", "/static/fonts.LICENSE.txt"} {
		if r := w.browse("").get(path); r.status == http.StatusOK {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

// TestTextsAreNeverMarkup puts markup into every text that people give.
func TestTextsAreNeverMarkup(t *testing.T) {
	w := newWorld(t)
	const evil = `<img src=x onerror=alert(1)>"'`
	w.check(w.svc.SetName(t.Context(), w.who["carl"], evil))
	w.check(w.svc.RenameWorkspace(t.Context(), w.who["ada"], w.things["workspace"], evil))
	c, err := w.svc.CreateComputation(t.Context(), w.who["carl"], w.things["workspace"], computations.Draft{
		Name: evil, Description: evil, TEE: "sim", Algorithm: computations.AlgorithmSlot{Args: []string{evil}, Env: map[string]string{"A": evil}}, Consumers: []computations.ID{w.users["carl"]},
	})
	w.check(err)
	w.check(w.svc.EditAsset(t.Context(), w.who["dora"], w.things["dataset"], evil, evil))
	w.put(func(tx computations.Writer) error {
		_, err := tx.Append([]computations.Entry{{Run: w.things["busy run"], Type: computations.EntryLog, Source: "agent", Level: evil, Message: evil, Attributes: map[string]string{evil: evil}}})
		return err
	})
	for _, path := range []string{"/w/{workspace}", "/w/{workspace}/members", "/w/{workspace}/assets", "/w/{workspace}/audit", "/w/{workspace}/computations?text=" + url.QueryEscape(evil), "/a/{dataset}", "/r/{busy run}?text=" + url.QueryEscape(evil), "/c/{done}", "/settings?done=" + url.QueryEscape(evil)} {
		for _, name := range []string{"carl", "ada"} {
			r := w.browse(name).get(w.path(path, false))
			if r.status != http.StatusOK && r.status != http.StatusForbidden || strings.Contains(r.body, "<img") {
				t.Errorf("%s as %s: %d, %v", path, name, r.status, strings.Contains(r.body, "<img"))
			}
		}
	}
	for _, path := range []string{"/c/" + string(c.ID), "/c/" + string(c.ID) + "/edit", "/c/" + string(c.ID) + "/people"} {
		if r := w.browse("carl").get(path); r.status != http.StatusOK || strings.Contains(r.body, "<img") || !strings.Contains(r.body, "&lt;img") {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}
