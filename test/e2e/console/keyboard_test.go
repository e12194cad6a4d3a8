package console

import (
	"context"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// focused is what has the keyboard: its text, or its label.
const focused = `(e => (e.labels && e.labels[0] || e).textContent.trim() || e.id)(document.activeElement)`

// pressEnter is the key with its character in one event, as keyboards send it: were
// they apart, the character could come to what the key led to, and send a form.
var pressEnter = chromedp.ActionFunc(func(ctx context.Context) error {
	down := input.DispatchKeyEvent(input.KeyDown).WithKey("Enter").WithCode("Enter").WithWindowsVirtualKeyCode(13).WithText("\r")
	up := input.DispatchKeyEvent(input.KeyUp).WithKey("Enter").WithCode("Enter").WithWindowsVirtualKeyCode(13)
	return chromedp.Run(ctx, down, up)
})

// TestKeyboard goes by the keyboard alone, on a desktop and on a phone.
func TestKeyboard(t *testing.T) {
	s := startService(t)
	p := newBrowsers(t, s.url).person("Grace")
	at := func(want string) {
		t.Helper()
		// The browser moves it with the next frame, which may be a while.
		var is string
		for end := time.Now().Add(patience); is != want; time.Sleep(20 * time.Millisecond) {
			p.do(chromedp.Evaluate(focused, &is))
			if is != want && time.Now().After(end) {
				t.Fatalf("the keyboard is at %q, want %q", is, want)
			}
		}
	}
	key := func(keys string) { t.Helper(); p.do(chromedp.KeyEvent(keys)) }

	p.open(s.link)
	key(kb.Tab)
	at("Skip to the content")
	var visible bool
	p.do(chromedp.Evaluate(`document.activeElement.getBoundingClientRect().top >= 0`, &visible))
	if !visible {
		t.Error("the way past the navigation can't be seen when it has the keyboard")
	}
	key(kb.Enter)
	key(kb.Tab)
	at("Email address")
	key("grace@example.org")
	key(kb.Tab)
	at("Your name")
	key("Grace Okafor")
	key(kb.Tab)
	at("Password")
	key("short")
	key(kb.Tab)
	at("Password, once more")
	key("short")
	// Enter sends the form; the keyboard is then at what has to be mended.
	p.leave(chromedp.KeyEvent(kb.Enter))
	if err := p.try(chromedp.Poll(`document.activeElement.classList.contains("faults")`, nil, chromedp.WithPollingTimeout(patience))); err != nil {
		t.Fatalf("the keyboard isn't at the summary of what has to be mended: %v", err)
	}
	key(kb.Tab)
	p.do(pressEnter)
	if err := p.try(chromedp.Poll(`document.activeElement.id === "f-password"`, nil, chromedp.WithPollingTimeout(patience))); err != nil {
		t.Fatalf("the link in the summary doesn't lead to the field: %v", err)
	}
	key(password)
	key(kb.Tab)
	key(password)
	p.leave(chromedp.KeyEvent(kb.Enter))

	// On a phone the navigation opens and closes.
	p.look(phone, false)
	p.open("/keys")
	open := func() (is bool) {
		t.Helper()
		p.do(chromedp.Evaluate(`document.querySelector("#menu").matches(":popover-open")`, &is))
		return is
	}
	key(kb.Tab)
	key(kb.Tab)
	key(kb.Tab)
	at("Menu")
	key(kb.Enter)
	if !open() {
		t.Fatal("the menu doesn't open")
	}
	if err := p.picture("menu-phone"); err != nil {
		t.Error(err)
	}
	key(kb.Tab)
	at("Workspaces")
	key(kb.Escape)
	if open() {
		t.Error("the menu doesn't close")
	}
	at("Menu")

	// A command is copied, and that is said.
	p.look(wide, false)
	p.do(chromedp.Evaluate(`navigator.clipboard.writeText = async t => { window.copied = t }`, nil),
		chromedp.Evaluate(`document.querySelector("button.copy").focus()`, nil))
	key(kb.Enter)
	var copied, said string
	p.do(chromedp.Poll(`document.querySelector("#said").textContent === "Copied"`, nil, chromedp.WithPollingTimeout(patience)),
		chromedp.Evaluate(`window.copied`, &copied), chromedp.Evaluate(`document.querySelector("#said").getAttribute("aria-live")`, &said))
	if copied != "cocos-cli keys --out grace" || said != "polite" {
		t.Errorf("copied %q, said %q", copied, said)
	}
}
