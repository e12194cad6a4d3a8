package console_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// TestQuestionBeforeANewLink: it says what ends at once, as the use case ends it.
func TestQuestionBeforeANewLink(t *testing.T) {
	w := newWorld(t)
	for _, verified := range []bool{true, false} {
		w.change("dora", func(u *computations.User) { u.EmailVerified = verified })
		page := w.browse("olga").get("/users/" + string(w.users["dora"]) + "/reset").body
		for _, words := range []string{"At once the password of Dora stops working, and all sessions, tokens and earlier links", `class="card narrow danger"`} {
			if !strings.Contains(page, words) {
				t.Errorf("verified %v: the question lacks %q\n%s", verified, words, text(page))
			}
		}
		if got := strings.Contains(page, "all keys of the account are revoked"); got == verified {
			t.Errorf("verified %v: keys are spoken of: %v", verified, got)
		}
		w.resetLink("dora")
		all, err := w.svc.Keys(t.Context(), w.signedIn("dora"))
		w.check(err)
		if revoked := !all[0].Revoked.IsZero(); revoked == verified {
			t.Errorf("verified %v: the key is revoked: %v", verified, revoked)
		}
	}
}

// TestShorterRetentionAsks: what would delete entries is asked for first.
func TestShorterRetentionAsks(t *testing.T) {
	w := newWorld(t)
	path := w.path("/w/{workspace}/settings/retention", false)
	for _, tc := range []struct {
		keep, sure string
		asks       bool
		kept       time.Duration
	}{
		{"720h0m0s", "", true, 0}, {"720h0m0s", "yes", false, 720 * time.Hour}, {"168h0m0s", "", true, 720 * time.Hour}, {"720h0m0s", "", false, 720 * time.Hour},
		{"2160h0m0s", "", false, 2160 * time.Hour}, {"0s", "", false, 0}, {"90m", "yes", false, 90 * time.Minute},
	} {
		r := w.browse("ada").post(path, form("keep", tc.keep, "sure", tc.sure))
		if asks := r.status == http.StatusOK && strings.Contains(text(r.body), "They can&#39;t be brought back.") && strings.Contains(r.body, `name="sure" value="yes"`); asks != tc.asks || !asks && r.status != http.StatusSeeOther {
			t.Errorf("%+v: %d\n%s", tc, r.status, text(r.body))
		}
		ws, _, err := w.svc.Workspace(t.Context(), w.who["ada"], w.things["workspace"])
		w.check(err)
		if ws.KeepEntries != tc.kept {
			t.Errorf("%+v: entries are kept for %v", tc, ws.KeepEntries)
		}
	}
	// What cocos-cli has set is shown as it is, and saved as it is.
	if page := w.browse("ada").get(w.path("/w/{workspace}/settings", false)).body; !strings.Contains(page, `value="1h30m0s" selected`) || !strings.Contains(text(page), "As now: 90 minutes") {
		t.Errorf("90 minutes are shown as\n%s", text(page))
	}
}

// TestNewLinkAsks: the link that was sent isn't ended by one click.
func TestNewLinkAsks(t *testing.T) {
	w := newWorld(t)
	link := w.path("/w/{workspace}/invitations/{new invitation}/resend", false)
	if page := w.browse("ada").get(w.path("/w/{workspace}/members", false)).body; !strings.Contains(page, `<a href="`+link+`"`) || strings.Contains(page, `action="`+link+`"`) {
		t.Errorf("the list doesn't lead to the question\n%s", text(page))
	}
	page := w.browse("ada").get(link).body
	if !strings.Contains(text(page), "The link that was sent before stops working.") || !strings.Contains(page, `action="`+link+`"`) {
		t.Errorf("nothing is asked\n%s", text(page))
	}
	if r := w.browse("").get(w.path("/invitation/{new invitation}", false)); r.status != http.StatusOK {
		t.Errorf("the question has ended the link: %d", r.status)
	}
}
