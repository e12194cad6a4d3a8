package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// screenshots is where they are kept as a build's artefacts.
const screenshots = "../../../build/screenshots"

// browsers are real ones, without a window; each person has an own one.
type browsers struct {
	t    *testing.T
	path string
	base string
	axe  string
}

func newBrowsers(t *testing.T, base string) *browsers {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: scripts/deps test installs it", err)
	}
	axe, err := os.ReadFile("testdata/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		t.Fatal(err)
	}
	return &browsers{t, path, base, string(axe)}
}

// person is somebody with a browser.
type person struct {
	*browsers
	name string
	ctx  context.Context

	mu sync.Mutex
	// complaints are what the browser holds against the page: errors of scripts,
	// breaches of the content security policy, files that aren't there.
	complaints []string
	// cut: the way to the service is cut now and then, which is nothing to complain of.
	cut bool
}

// patience bounds each step in the browser; the machine may be busy.
const patience = 60 * time.Second

// person starts Chromium with a fresh profile; it ends with the test.
func (b *browsers) person(name string) *person {
	b.t.Helper()
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(b.path), chromedp.UserDataDir(b.t.TempDir()), chromedp.WindowSize(wide.w, wide.h), chromedp.WSURLReadTimeout(patience),
	}
	for _, flag := range []string{
		"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
		"disable-default-apps", "disable-extensions", "disable-dev-shm-usage", "hide-scrollbars", "mute-audio", "no-default-browser-check",
	} {
		options = append(options, chromedp.Flag(flag, true))
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	b.t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	b.t.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		b.t.Fatalf("starting %s: %v", b.path, err)
	}
	p := &person{browsers: b, name: name, ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			p.complaints = append(p.complaints, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			expected := strings.Contains(e.Entry.Text, "the server responded with a status of 4") ||
				p.cut && (strings.Contains(e.Entry.URL, "/stream") || strings.Contains(e.Entry.Text, "status of 502"))
			if e.Entry.Level == log.LevelError && !expected {
				p.complaints = append(p.complaints, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	})
	p.do(log.Enable(), runtime.Enable(), page.Enable())
	p.look(wide, false)
	return p
}

// do runs steps in the person's browser.
func (p *person) do(actions ...chromedp.Action) {
	p.t.Helper()
	if err := p.try(actions...); err != nil {
		var where, words string
		_ = p.try(chromedp.Location(&where), chromedp.Text("main", &words, chromedp.ByQuery))
		_ = p.picture("failure")
		p.t.Fatalf("%s at %s: %v\n%.1500s", p.name, where, err, strings.Join(strings.Fields(words), " "))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.complaints) > 0 {
		p.t.Errorf("%s's browser complains: %s", p.name, strings.Join(p.complaints, "\n"))
		p.complaints = nil
	}
}

func (p *person) try(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// open goes to a path of the console, or to a whole address.
func (p *person) open(path string) {
	p.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = p.base + path
	}
	p.do(chromedp.Navigate(path))
}

// fill types into fields, named as their labels begin.
func (p *person) fill(pairs ...string) {
	p.t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		p.put(pairs[i], "")
		p.do(chromedp.SendKeys(byLabel(pairs[i]), pairs[i+1], chromedp.BySearch))
	}
}

// put gives a field its value at once.
func (p *person) put(label, value string) {
	p.t.Helper()
	var put bool
	p.do(chromedp.Evaluate(fmt.Sprintf(`(f => { if (f) f.value = %q; return !!f && f.value === %q })(document.evaluate(%q, document, null, XPathResult.FIRST_ORDERED_NODE_TYPE).singleNodeValue)`,
		value, value, byLabel(label)), &put))
	if !put {
		p.t.Fatalf("%s at %s finds no field %q", p.name, p.path(), label)
	}
}

// choose takes a choice of a select.
func (p *person) choose(label, text string) {
	p.t.Helper()
	var value string
	p.do(chromedp.AttributeValue(fmt.Sprintf(`//select[@id=//label[starts-with(normalize-space(.), %q)]/@for]/option[contains(., %q)]`, label, text), "value", &value, nil, chromedp.BySearch))
	p.put(label, value)
}

// tick clicks a check box or a radio button by its label.
func (p *person) tick(label string) {
	p.t.Helper()
	p.do(chromedp.Click(fmt.Sprintf(`//label[starts-with(normalize-space(.), %q)]`, label), chromedp.BySearch))
}

// press clicks a link or a button by how its text begins, and waits for the page
// that comes.
func (p *person) press(text string) {
	p.t.Helper()
	path := fmt.Sprintf(`(//main//*[(self::a or self::button) and not(@hidden) and not(contains(@class, "copy")) and starts-with(normalize-space(.), %q)])[1]`, text)
	p.leave(chromedp.Click(path, chromedp.BySearch))
}

// leave does something that goes to another page, and waits until that is there.
func (p *person) leave(action chromedp.Action) {
	p.t.Helper()
	p.do(chromedp.Evaluate(`window.old = true`, nil), action)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		there := false
		// Between two pages there is none that could answer.
		if err := p.try(chromedp.Evaluate(`!window.old && document.readyState === "complete"`, &there)); err == nil && there {
			return
		}
		if time.Now().After(end) {
			p.do(chromedp.ActionFunc(func(context.Context) error { return errors.New("no other page comes") }))
		}
	}
}

func byLabel(label string) string {
	return fmt.Sprintf(`//*[@id=//label[starts-with(normalize-space(.), %q)]/@for]`, label)
}

// words of the page's main part.
func (p *person) words() string {
	p.t.Helper()
	var text string
	p.do(chromedp.Text("main", &text, chromedp.ByQuery))
	return strings.Join(strings.Fields(text), " ")
}

// sees wants texts to be on the page.
func (p *person) sees(texts ...string) {
	p.t.Helper()
	words := p.words()
	for _, text := range texts {
		if !strings.Contains(words, text) {
			p.t.Fatalf("%s doesn't see %q: %s", p.name, text, words)
		}
	}
}

// commands are the lines that the page gives to copy.
func (p *person) commands() []string {
	p.t.Helper()
	var all []string
	p.do(chromedp.Evaluate(`[...document.querySelectorAll(".command code")].map(c => c.textContent)`, &all))
	return all
}

// path is where the person is.
func (p *person) path() string {
	p.t.Helper()
	var where string
	p.do(chromedp.Location(&where))
	u, err := url.Parse(where)
	if err != nil {
		p.t.Fatal(err)
	}
	return u.Path
}

// view is a size of the window.
type view struct{ w, h int }

var (
	wide  = view{1280, 900}
	phone = view{360, 740}
)

// look sets the size of the window, and light or dark.
func (p *person) look(v view, dark bool) {
	p.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.do(
		emulation.SetDeviceMetricsOverride(int64(v.w), int64(v.h), 1, v == phone),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
	)
}

// picture keeps what the page looks like, from top to bottom.
func (p *person) picture(name string) error {
	var png []byte
	if err := p.try(chromedp.FullScreenshot(&png, 100)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(screenshots, name+".png"), png, 0o644)
}

// awaited waits for a promise.
func awaited(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }

// violation is one that axe found.
type violation struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Failure string `json:"failureSummary"`
	} `json:"nodes"`
}

// inspect looks at the page as a desktop in light and dark and as a phone: no id is
// there twice, axe finds nothing, nothing sticks out, and a picture is kept of each.
func (p *person) inspect(name string) {
	p.t.Helper()
	p.do(chromedp.Evaluate(`scrollTo(0, 0)`, nil), chromedp.Evaluate(p.axe+`; true`, nil))
	var twice []string
	p.do(chromedp.Evaluate(`[...document.querySelectorAll("[id]")].map(e => e.id).filter((id, i, all) => all.indexOf(id) < i)`, &twice))
	if len(twice) > 0 {
		p.t.Errorf("%s has the ids %q more than once", name, twice)
	}
	for _, v := range []struct {
		view
		name string
		dark bool
	}{{wide, "light", false}, {wide, "dark", true}, {phone, "phone", false}} {
		p.look(v.view, v.dark)
		p.do(chromedp.Evaluate(`document.fonts.ready.then(() => true)`, nil, awaited))
		var result string
		p.do(chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations))`, &result, awaited))
		var found []violation
		if err := json.Unmarshal([]byte(result), &found); err != nil {
			p.t.Fatalf("axe says %q: %v", result, err)
		}
		for _, f := range found {
			for _, n := range f.Nodes {
				p.t.Errorf("%s (%s): %s: %s\n%s\n%s", name, v.name, f.ID, f.Help, n.HTML, n.Failure)
			}
		}
		var width int
		p.do(chromedp.Evaluate(`document.documentElement.scrollWidth`, &width))
		if width > v.w {
			p.t.Errorf("%s (%s) is %d wide, and its window %d", name, v.name, width, v.w)
		}
		if err := p.picture(name + "-" + v.name); err != nil {
			p.t.Errorf("%s: %v", name, err)
		}
	}
	p.look(wide, false)
}
