package console_test

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// TestDraftFormWithoutScript fills a draft by nothing but forms.
func TestDraftFormWithoutScript(t *testing.T) {
	w := newWorld(t)
	b := w.browse("carl")
	path := w.path("/w/{workspace}/computations/new", false)
	f := form("name", "By hand", "description", "two\r\nlines", "tee", "sim", "attested_tls", "yes", "approve", "chosen", "approvers", string(w.users["dora"]),
		"rows", "1", "datasets/0/name", "a.csv", "datasets/0/provider", string(w.users["dora"]), "datasets/0/asset", string(w.things["dataset"]),
		"algorithm/provider", string(w.users["alan"]), "algorithm/args", "--x\r\n1 2\r\n", "algorithm/env", "A=1\r\nB=x=y\r\n",
		"algorithm/limits/memory_bytes", "1.5 GiB", "algorithm/limits/seconds", "60", "consumers", string(w.users["rita"]), "outputs/result_max", "10 MiB", "outputs/pad", "yes", "algorithm/limits/cpu_milli", "1500",
		"release", "RITA@example.org reports/** \r\n\r\nrita@example.org +output\r\nrita@example.org with space.txt", "ttl", "2 hours", "do", "add-dataset")
	r := b.post(path, f)
	if r.status != http.StatusOK || !strings.Contains(r.body, `name="datasets/1/name"`) || !strings.Contains(r.body, `value="a.csv"`) {
		t.Fatalf("%d: no second row\n%s", r.status, text(r.body))
	}
	f.Set("rows", "2")
	f.Set("datasets/1/name", "b.csv")
	f.Set("do", "remove-dataset:0")
	if r = b.post(path, f); strings.Contains(r.body, `value="a.csv"`) || !strings.Contains(r.body, `name="datasets/0/name" type="text" value="b.csv"`) || strings.Contains(r.body, `name="datasets/1/name"`) {
		t.Fatalf("the wrong row went\n%s", r.body)
	}
	f.Del("do")
	r = b.post(path, f)
	id, _, _ := strings.Cut(strings.TrimPrefix(r.to(), "/c/"), "?")
	if r.status != http.StatusSeeOther {
		t.Fatalf("%d %s", r.status, text(r.body))
	}
	c, err := w.svc.Computation(t.Context(), w.who["carl"], computations.ID(id))
	w.check(err)
	d := c.Draft
	if d.Name != "By hand" || d.Description != "two\nlines" || d.TEE != manifest.TEESim || !d.AttestedTLS || !slices.Equal(d.Algorithm.Args, []string{"--x", "1 2"}) ||
		d.Algorithm.Env["B"] != "x=y" || d.Algorithm.Limits.MemoryBytes != 3<<29 || d.Algorithm.Limits.Seconds != 60 || len(d.Datasets) != 2 || d.Datasets[1].Name != "b.csv" ||
		d.Outputs.ResultMax != 10<<20 || !d.Outputs.Pad || d.Outputs.OperatorOutput || d.Algorithm.Limits.CPUMilli != 1500 ||
		len(d.Release) != 1 || d.Release[0].Consumer != w.users["rita"] || !d.Release[0].Output || !slices.Equal(d.Release[0].Files, []string{"reports/**", "with space.txt"}) || d.TTL != 2*time.Hour || !slices.Equal(d.Approvers, []computations.ID{w.users["dora"]}) {
		t.Errorf("%+v", d)
	}
	// The form of what was saved, saved again, is the same.
	edit := b.get("/c/" + id + "/edit").body
	again := formIn(t, edit, "form")
	if r := b.post("/c/"+id+"/edit", again); r.status != http.StatusSeeOther {
		t.Fatalf("%d %s", r.status, text(r.body))
	}
	after, err := w.svc.Computation(t.Context(), w.who["carl"], computations.ID(id))
	w.check(err)
	if jsonText(w, after.Draft) != jsonText(w, d) || after.Draft.TTL != d.TTL {
		t.Errorf("%+v became %+v", d, after.Draft)
	}
	// Whoever is no member can't be released anything.
	again.Set("release", "nobody@example.org **")
	if r := b.post("/c/"+id+"/edit", again); r.status != http.StatusUnprocessableEntity || !strings.Contains(text(r.body), "nobody@example.org, who is no member") {
		t.Errorf("%d %s", r.status, text(r.body))
	}
	again.Del("release")
	// Saved a third time with the old revision, it is a conflict that keeps what was
	// typed.
	again.Set("name", "Typed meanwhile")
	if r := b.post("/c/"+id+"/edit", again); r.status != http.StatusConflict || !strings.Contains(r.body, "Typed meanwhile") || !strings.Contains(text(r.body), "changed meanwhile") {
		t.Errorf("%d %s", r.status, text(r.body))
	}
}

var (
	inputs    = regexp.MustCompile(`<input ([^>]*)>`)
	areas     = regexp.MustCompile(`(?s)<textarea [^>]*name="([^"]*)"[^>]*>(.*?)</textarea>`)
	selects   = regexp.MustCompile(`(?s)<select [^>]*name="([^"]*)"[^>]*>(.*?)</select>`)
	selected  = regexp.MustCompile(`<option value="([^"]*)" selected>`)
	attribute = regexp.MustCompile(`([a-z-]+)="([^"]*)"`)
)

// formIn is what a browser would send of the page's form.
func formIn(t *testing.T, page, class string) url.Values {
	t.Helper()
	_, rest, ok := strings.Cut(page, `class="`+class+`"`)
	if !ok {
		t.Fatalf("no form\n%s", text(page))
	}
	body, _, _ := strings.Cut(rest, "</form>")
	v := url.Values{}
	unescape := strings.NewReplacer("&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#39;", "'", "&amp;", "&", "&#43;", "+").Replace
	for _, in := range inputs.FindAllStringSubmatch(body, -1) {
		a := map[string]string{}
		for _, pair := range attribute.FindAllStringSubmatch(in[1], -1) {
			a[pair[1]] = pair[2]
		}
		if a["type"] == "checkbox" || a["type"] == "radio" {
			if !strings.HasSuffix(in[1], " checked") && !strings.Contains(in[1], " checked ") {
				continue
			}
		}
		v.Add(a["name"], unescape(a["value"]))
	}
	for _, m := range areas.FindAllStringSubmatch(body, -1) {
		v.Add(m[1], unescape(m[2]))
	}
	for _, m := range selects.FindAllStringSubmatch(body, -1) {
		if s := selected.FindStringSubmatch(m[2]); s != nil {
			v.Add(m[1], s[1])
		}
	}
	return v
}

func TestFaultsStandBesideTheirFields(t *testing.T) {
	w := newWorld(t)
	w.change("stan", func(u *computations.User) { u.PasswordHash = "of another password" })
	more := func(first []string, rest []string) url.Values {
		v := form(append(first, "name", "x", "sha256", strings.Repeat("ab", 32), "size", "1")...)
		for i := 0; i < len(rest); i += 2 {
			v.Set(rest[i], rest[i+1])
		}
		return v
	}
	algorithm := func(rest ...string) url.Values { return more([]string{"kind", "algorithm", "type", "python"}, rest) }
	dataset := func(rest ...string) url.Values { return more([]string{"kind", "dataset"}, rest) }
	for name, tc := range map[string]struct {
		who, path string
		form      url.Values
		// field whose control must be marked, and words of the summary.
		field, words string
	}{
		"a name that is missing":         {"stan", "/workspaces/new", form("name", ""), "name", "Name is missing"},
		"a digest that is too short":     {"dora", "/w/{workspace}/assets/new", form("kind", "dataset", "name", "x", "sha256", "ab", "size", "1"), "sha256", "SHA-256 has 2 characters"},
		"a size that is none":            {"dora", "/w/{workspace}/assets/new", form("kind", "dataset", "name", "x", "sha256", strings.Repeat("ab", 32), "size", "large"), "size", "is not a size such as"},
		"a container without a config":   {"dora", "/w/{workspace}/assets/new", form("kind", "algorithm", "type", "container", "name", "x", "sha256", strings.Repeat("ab", 32), "size", "1", "unpacked_max", "1"), "image_config", "SHA-256 of its config has 0 characters"},
		"a container without a bound":    {"dora", "/w/{workspace}/assets/new", form("kind", "algorithm", "type", "container", "name", "x", "sha256", strings.Repeat("ab", 32), "size", "1", "image_config", strings.Repeat("cd", 32)), "unpacked_max", "Unpacked, at most is 0; expected 1 to"},
		"files that are no JSON":         {"alan", "/w/{workspace}/assets/new", algorithm("files", "requirements.txt"), "files", "can&#39;t be read: file 1 is not JSON"},
		"files with another member":      {"alan", "/w/{workspace}/assets/new", algorithm("files", `{"path":"a","kind":"file","sha256":"`+strings.Repeat("ab", 32)+`","size":1} {"nme":"b"}`), "files", "file 2, nme is not known"},
		"a file's digest":                {"alan", "/w/{workspace}/assets/new", algorithm("files", `{"path":"a","kind":"file","sha256":"ab","size":1}`), "files", "file 1, sha256 has 2 characters"},
		"a file's name":                  {"alan", "/w/{workspace}/assets/new", algorithm("files", `{"name":"a/b","sha256":"`+strings.Repeat("ab", 32)+`","size":1}`), "files", "File 1, name is &#34;a/b&#34;; use letters"},
		"a file of a dataset":            {"dora", "/w/{workspace}/assets/new", dataset("files", `{"name":"a","sha256":"`+strings.Repeat("ab", 32)+`","size":1}`), "files", "are of algorithms"},
		"requirements without a file":    {"alan", "/w/{workspace}/assets/new", algorithm("python/requirements", "r.txt", "python/wheels", "w"), "python/requirements", "has none of that name"},
		"packages of a binary":           {"alan", "/w/{workspace}/assets/new", algorithm("type", "binary", "python/requirements", "r.txt"), "python/requirements", "is of algorithms of the type"},
		"a password in an address":       {"dora", "/w/{workspace}/assets/new", dataset("source/url", "https://a:b@example.org/x"), "source/url", "Address has a user name or password, which everybody could read"},
		"a server without a source":      {"dora", "/w/{workspace}/assets/new", dataset("source/endpoint", "https://s3.example"), "source/url", "Address is missing"},
		"a broker in the clear":          {"dora", "/w/{workspace}/assets/new", dataset("source/url", "https://example.org/x", "source/broker", "http://kbs.example", "source/resource", "a/b/c"), "source/broker", "Your key broker is"},
		"a redirect to anywhere":         {"dora", "/w/{workspace}/assets/new", dataset("source/url", "https://example.org/x", "source/redirects", "a.example:443\r\nb.example"), "source/redirects", "Redirect 2 is &#34;b.example&#34;; expected HOST:PORT"},
		"authorities of no kind":         {"dora", "/w/{workspace}/assets/new", dataset("source/url", "https://example.org/x", "source/authorities", "x"), "source/authorities", "is not made of certificates"},
		"another encryption":             {"dora", "/w/{workspace}/assets/new", dataset("source/url", "https://example.org/x", "source/encryption", "gpg"), "source/encryption", "expected one of"},
		"a disk of no whole MiB":         {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "scratch", "auto", "scratch_bytes", "1 GB"), "scratch_bytes", "Size of the disk is 1000000000; expected a multiple of 1048576 (1 MiB)"},
		"a disk that there shall not be": {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "scratch", "never", "scratch_bytes", "1 GiB"), "scratch_bytes", "give the one or the other"},
		"a disk in another word":         {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "scratch", "yes"), "scratch", "Keep inputs on a disk is"},
		"a dataset's name":               {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "rows", "1", "datasets/0/name", "../x"), "datasets/0/name", "File name is"},
		"a time to live":                 {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "ttl", "soon"), "ttl", "is not a time such as"},
		"an environment":                 {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "algorithm/env", "novalue"), "algorithm/env", "has the line"},
		"nobody who approves":            {"carl", "/w/{workspace}/computations/new", form("name", "x", "tee", "sim", "approve", "chosen"), "approvers", "Choose at least one"},
		"an address":                     {"ada", "/w/{workspace}/invitations/new", form("email", "nobody", "role", "member"), "email", "Email address is not an email address"},
		"a host's name":                  {"olga", "/hosts/enrol", form("name", "A B", "ttl", "1h"), "name", "Name of the host is"},
		"two passwords":                  {"stan", "/settings/password", form("old", "x", "new", "correct horse battery", "again", "another"), "again", "is another password than the first"},
		"a token's life":                 {"stan", "/settings/tokens", form("name", "x", "days", "4000"), "token-days", "must be a whole number from 1 to 366"},
		"a new user's address":           {"olga", "/users/new", form("email", ""), "email", "Email address is missing"},
		"an approval that is none":       {"rita", "/c/{frozen}/approve", form("approval_text", "{}"), "approval", "is not what cocos-cli manifest approve prints"},
		"an approval by somebody else":   {"dora", "/c/{frozen}/approve", form("approval_text", jsonText(w, w.approval)), "", ""},
		"a file to import that is none":  {"nemo", "/w/{workspace}/computations/import", form("file_text", "{"), "", ""},
		"days that are too many":         {"olga", "/service", form("sign-up", "invitation", "invitation-days", "1000"), "invitation-days", "expected a number of days"},
	} {
		r := w.browse(tc.who).post(w.path(tc.path, false), tc.form)
		if tc.field == "" {
			if r.status < 400 || r.status >= 500 {
				t.Errorf("%s: %d", name, r.status)
			}
			continue
		}
		if r.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d\n%s", name, r.status, text(r.body))
			continue
		}
		id := "f-" + strings.NewReplacer("/", "-", ".", "-").Replace(tc.field)
		for _, part := range []string{`href="#` + id + `"`, `id="` + id + `-fault"`, tc.words, "<title>Error: "} {
			if !strings.Contains(r.body, part) {
				t.Errorf("%s: the page lacks %q\n%s", name, part, text(r.body))
			}
		}
	}
}

// TestIdsAreUnique: a label belongs to one control, on pages with several forms and
// several people, too.
func TestIdsAreUnique(t *testing.T) {
	w := newWorld(t)
	ids := regexp.MustCompile(`\sid="([^"]+)"`)
	for pattern, v := range w.fixtures() {
		if v.form != nil || strings.HasSuffix(pattern, "/stream") {
			continue
		}
		seen := map[string]bool{}
		for _, m := range ids.FindAllStringSubmatch(w.browse(v.right).get(w.path(v.path, false)).body, -1) {
			if seen[m[1]] {
				t.Errorf("%s has the id %q twice", pattern, m[1])
			}
			seen[m[1]] = true
		}
	}
}

// TestEveryDoneIsSaid: a page can be told to say one of the texts and nothing else,
// and each text is said by something.
func TestEveryDoneIsSaid(t *testing.T) {
	var source strings.Builder
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := f.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
	}
	said := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)(?:q\.done|hostDone|setArchived)\(.*"([a-z-]+)"\)(?: })?$`).FindAllStringSubmatch(source.String(), -1) {
		said[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`done=([a-z-]+)"`).FindAllStringSubmatch(source.String(), -1) {
		said[m[1]] = true
	}
	texts := console.DoneTexts()
	for key := range texts {
		if !said[key] {
			t.Errorf("%q is said by nothing", key)
		}
	}
	for key := range said {
		if texts[key] == "" {
			t.Errorf("%q has no text", key)
		}
	}
	w := newWorld(t)
	if r := w.browse("stan").get("/keys?done=" + url.QueryEscape("Your key was stolen, call 555")); strings.Contains(r.body, "stolen") {
		t.Error("a page says what its address tells it to")
	}
}

// TestClaims: what a host or a receipt says is compared where that can be done, and
// never called verified.
func TestClaims(t *testing.T) {
	w := newWorld(t)
	c, err := w.svc.Computation(context.Background(), w.who["rita"], w.things["done"])
	w.check(err)
	r, err := receipt.Parse(w.receipt)
	w.check(err)
	run := c.Runs[0]
	good := map[string]string{"tee": "sim", "attested": "true", "manifest_digest": c.Digest.String()}
	for name, tc := range map[string]struct {
		change func(map[string]string)
		want   string
	}{
		"all as it should be":       {func(map[string]string) {}, ""},
		"another manifest":          {func(m map[string]string) { m["manifest_digest"] = strings.Repeat("0", 64) }, "another manifest"},
		"another TEE":               {func(m map[string]string) { m["tee"] = "sev-snp" }, "asks for a simulated TEE"},
		"no TEE":                    {func(m map[string]string) { delete(m, "tee") }, "doesn't say that it has a TEE"},
		"a VM that isn't attested":  {func(m map[string]string) { m["attested"] = "false" }, "doesn't say that it shows evidence"},
		"a word that is none there": {func(m map[string]string) { m["tee"] = "best" }, "asks for a simulated TEE"},
	} {
		said := map[string]string{}
		for k, v := range good {
			said[k] = v
		}
		tc.change(said)
		if got := console.Differs(console.ReadyClaims(&c, &run, said)); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	for name, tc := range map[string]struct {
		change func(*receipt.Predicate, *computations.Run)
		want   string
	}{
		"all as it should be": {func(*receipt.Predicate, *computations.Run) {}, ""},
		"another manifest":    {func(p *receipt.Predicate, _ *computations.Run) { p.Manifest = manifest.Digest{1} }, "about another manifest"},
		"another run":         {func(_ *receipt.Predicate, r *computations.Run) { r.ID = "other" }, "about another run"},
		"another algorithm":   {func(p *receipt.Predicate, _ *computations.Run) { p.Algorithm = manifest.Digest{1} }, "are not those of the manifest"},
		"a file less":         {func(p *receipt.Predicate, _ *computations.Run) { p.Files = nil }, "are not those of the manifest"},
		"a file's name":       {func(p *receipt.Predicate, _ *computations.Run) { p.Files[0].Name = "x" }, "are not those of the manifest"},
		"a file's digest":     {func(p *receipt.Predicate, _ *computations.Run) { p.Files[0].SHA256 = manifest.Digest{1} }, "are not those of the manifest"},
		"a dataset less":      {func(p *receipt.Predicate, _ *computations.Run) { p.Datasets = nil }, "are not those of the manifest"},
		"a dataset's name":    {func(p *receipt.Predicate, _ *computations.Run) { p.Datasets[0].Name = "x" }, "are not those of the manifest"},
		"a dataset's digest":  {func(p *receipt.Predicate, _ *computations.Run) { p.Datasets[0].SHA256 = manifest.Digest{1} }, "are not those of the manifest"},
		"an approval less":    {func(p *receipt.Predicate, _ *computations.Run) { p.Approvals = p.Approvals[:2] }, "1 of 3 approvals are not in it"},
		"another TEE":         {func(p *receipt.Predicate, _ *computations.Run) { p.TEE = "tdx" }, "ran in Intel TDX"},
	} {
		p, other := r.Statement.Predicate, run
		p.Files, p.Datasets, p.Approvals = slices.Clone(p.Files), slices.Clone(p.Datasets), slices.Clone(p.Approvals)
		tc.change(&p, &other)
		if got := console.Differs(console.ReceiptClaims(c.Frozen, &other, &p)); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	page := text(w.browse("rita").get(w.path("/c/{done}", false)).body)
	page = strings.Join(strings.Fields(page), " ")
	for _, words := range []string{"SIMULATED", "This service can’t vouch for it.", "cocos-cli receipt verify", "It has not verified the evidence in it."} {
		if !strings.Contains(page, words) {
			t.Errorf("the page lacks %q", words)
		}
	}
	if strings.Contains(strings.ToLower(page), "is verified") {
		t.Error("the page says that something is verified")
	}
}

// TestEveryKindOfEventHasWords, so that nobody reads only its name.
func TestEveryKindOfEventHasWords(t *testing.T) {
	for _, kind := range []string{
		vm.EventAccepted, vm.EventLost, vm.EventRemoved, vm.EventStarting, vm.EventBooting, vm.EventSilent, vm.EventExpired, vm.EventStopping,
		vm.EventExited, vm.EventReady, vm.EventState, vm.EventInput, vm.EventRefused, vm.EventReleased,
	} {
		if title := console.TitleOf(computations.Entry{Type: computations.EntryEvent, Kind: kind}); title == "" || title == kind {
			t.Errorf("%s has no words", kind)
		}
	}
	for _, p := range computations.Parts() {
		if console.PartName(p) == string(p) {
			t.Errorf("the part %s has no name", p)
		}
	}
	for _, tee := range manifest.TEEs() {
		if console.TEEName(tee) == string(tee) {
			t.Errorf("the TEE %s has no name", tee)
		}
	}
}

// TestFilterIsTheStores: a live stream lets through what a page's filter would.
func TestFilterIsTheStores(t *testing.T) {
	w := newWorld(t)
	run := w.things["busy run"]
	now := time.Now().UTC().Truncate(time.Second)
	w.put(func(tx computations.Writer) error {
		var all []computations.Entry
		for i, level := range []string{"debug", "info", "warn", "error"} {
			for j, source := range []string{"agent", "shim", "manager"} {
				at := now.Add(time.Duration(i) * time.Hour)
				all = append(all, computations.Entry{Run: run, Type: computations.EntryLog, Source: source, Level: level, Time: at, Message: "Some TEXT, äÖ"},
					computations.Entry{Run: run, Type: computations.EntryEvent, Source: source, Sequence: int64(100 + i*10 + j), Level: "info", Time: at, Kind: "x", Message: "event"})
			}
		}
		_, err := tx.Append(all)
		return err
	})
	everything, err := w.svc.Entries(t.Context(), w.who["carl"], run, computations.EntryFilter{})
	w.check(err)
	for _, query := range []string{"", "level=error", "level=warn", "level=info", "type=log", "type=event&level=warn", "source=shim", "text=some", "text=TEXT", "text=event",
		"from=" + now.Add(time.Hour).Format("2006-01-02T15:04:05"), "to=" + now.Add(2*time.Hour).Format("2006-01-02T15:04:05"), "level=info&source=agent&text=text"} {
		values, _ := url.ParseQuery(query)
		f := console.EntryFilter(values)
		want, err := w.svc.Entries(t.Context(), w.who["carl"], run, f)
		w.check(err)
		var got []computations.Entry
		for _, e := range everything {
			if console.Passes(&e, &f) {
				got = append(got, e)
			}
		}
		if len(got) != len(want) || query != "" && len(got) == len(everything) {
			t.Errorf("%s: the stream lets %d through, the store %d of %d", query, len(got), len(want), len(everything))
		}
	}
}

// TestLogSaysWhen: a line's hour is nothing without its day and its zone.
func TestLogSaysWhen(t *testing.T) {
	w := newWorld(t)
	w.put(func(tx computations.Writer) error {
		_, err := tx.Append([]computations.Entry{{Run: w.things["busy run"], Type: computations.EntryLog, Source: "agent", Level: "info", Message: "hello",
			Time: time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.FixedZone("", 3600))}})
		return err
	})
	const want = `<time datetime="2026-03-04T04:06:07.089Z" title="2026-03-04T04:06:07.089Z" data-form="entry">4 Mar, 04:06:07 UTC</time>`
	if r := w.browse("carl").get(w.path("/r/{busy run}", false)); !strings.Contains(r.body, want) {
		t.Errorf("no %s\n%s", want, text(r.body))
	}
}

// TestEditorLooksAfterInvitations: who invites into a computation, and is no more
// than a member, makes a new link and withdraws on the page of its people; another
// member can't.
func TestEditorLooksAfterInvitations(t *testing.T) {
	w := newWorld(t)
	people := w.path("/c/{complete}/people", false)
	edith := w.browse("edith")
	if r := edith.post(w.path("/w/{workspace}/invitations/new", false), url.Values{
		"email": {"late@example.org"}, "role": {"member"}, "computation": {string(w.things["complete"])}, "parts": {"viewer"},
	}); r.status != http.StatusOK || !strings.Contains(r.body, "/invitation/ci_") {
		t.Fatalf("inviting: %d\n%s", r.status, text(r.body))
	}
	page := edith.get(people).body
	action := regexp.MustCompile(`/w/[0-9a-f-]+/invitations/[0-9a-f-]+/(resend|withdraw)`).FindAllString(page, -1)
	if len(action) != 2 || !strings.Contains(page, "late@example.org") {
		t.Fatalf("the page offers %q\n%s", action, text(page))
	}
	for _, other := range []string{"carl", "dora"} { // the creator, and a member with a part
		if r := w.browse(other).post(action[0], url.Values{}); r.status != http.StatusNotFound {
			t.Errorf("%s makes a new link of another's invitation: %d", other, r.status)
		}
		if r := w.browse(other).post(action[1], url.Values{}); r.status != http.StatusNotFound {
			t.Errorf("%s withdraws another's invitation: %d", other, r.status)
		}
	}
	if strings.Contains(w.browse("carl").get(people).body, "/resend") {
		t.Error("the creator is offered what only the inviter may do")
	}
	if r := edith.post(action[0], url.Values{}); r.status != http.StatusOK || !strings.Contains(r.body, "/invitation/ci_") {
		t.Errorf("a new link: %d\n%s", r.status, text(r.body))
	}
	if r := edith.get(action[1]); r.status != http.StatusOK || !strings.Contains(r.body, people) {
		t.Errorf("asking first: %d\n%s", r.status, text(r.body))
	}
	if r := edith.post(action[1], url.Values{}); r.status >= 400 {
		t.Errorf("withdrawing: %d\n%s", r.status, text(r.body))
	}
	if strings.Contains(edith.get(people).body, "late@example.org") {
		t.Error("a withdrawn invitation still waits")
	}
}

// An asset may be registered by its commitment; its pages say which it is.
func TestCommittedAsset(t *testing.T) {
	w := newWorld(t)
	b := w.browse("dora")
	digits := strings.Repeat("0b", 32)
	r := b.post(w.path("/w/{workspace}/assets/new", false), form("kind", "dataset", "name", "hidden", "sha256", "commitment:"+digits, "size", "3"))
	id, _, _ := strings.Cut(strings.TrimPrefix(r.to(), "/a/"), "?")
	if r.status != http.StatusSeeOther {
		t.Fatalf("%d %s", r.status, text(r.body))
	}
	a, err := w.svc.Asset(t.Context(), w.who["dora"], computations.ID(id))
	w.check(err)
	if a.SHA256 != (manifest.Digest{}) || a.Commitment.String() != digits {
		t.Errorf("%+v", a)
	}
	if page := text(b.get("/a/" + id).body); !strings.Contains(page, "Commitment") || strings.Contains(page, "SHA-256") {
		t.Errorf("its page says %s", page)
	}
	r = b.post(w.path("/w/{workspace}/assets/new", false), form("kind", "dataset", "name", "hidden", "sha256", "commitment:ab", "size", "3"))
	if r.status != http.StatusUnprocessableEntity || !strings.Contains(text(r.body), "has 2 characters") {
		t.Errorf("%d %s", r.status, text(r.body))
	}
}
