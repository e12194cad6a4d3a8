package console

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// functions are those of the templates.
func (c *Console) functions() template.FuncMap {
	return template.FuncMap{
		"static":       c.static.path,
		"when":         when,
		"day":          day,
		"ago":          func(t time.Time) template.HTML { return ago(t, c.Now()) },
		"lasting":      lasting,
		"size":         size,
		"disk":         disk,
		"inClearText":  func() string { return inClearText },
		"grouped":      grouped,
		"state":        func(s any) state { return stateOf(fmt.Sprint(s)) },
		"part":         partName,
		"partDoes":     func(p computations.Part) string { return partTexts[p].Does },
		"parts":        partsText,
		"role":         roleName,
		"roleDoes":     func(r computations.Role) string { return roleTexts[r].Does },
		"tee":          teeName,
		"teeDoes":      func(t manifest.TEE) string { return teeTexts[t].Does },
		"list":         list,
		"count":        func(n int, one string) string { return count(n, one) },
		"sentence":     sentence,
		"action":       actionText,
		"expired":      func(t time.Time) bool { return !t.IsZero() && !c.Now().Before(t) },
		"command":      func(words ...string) command { return command{Line: strings.Join(words, "")} },
		"line":         line,
		"named":        func(label, line string) command { return command{Label: label, Line: line} },
		"add":          func(a, b int) int { return a + b },
		"entry":        entry,
		"todo":         todoButton,
		"cut":          cut,
		"sentenceCase": sentenceCase,
	}
}

// line is a command for a shell: each word is taken as it is, whoever chose it.
func line(words ...any) string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = fmt.Sprint(w)
	}
	return computations.CommandLine(texts...)
}

// command is a line for a terminal with its button to copy it.
type command struct{ Label, Line string }

const timeLayout = "2 Jan 2006, 15:04 UTC"

// when is a time for people; the script shows it by the reader's own clock.
func when(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	return timeElement(t, t.UTC().Format(timeLayout), "full")
}

// day is a date.
func day(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	return timeElement(t, t.UTC().Format("2 Jan 2006"), "date")
}

// timeElement needs no escaping: text is made of what time.Format gives.
func timeElement(t time.Time, text, form string) template.HTML {
	return template.HTML(`<time datetime="` + t.UTC().Format(time.RFC3339) + `" data-form="` + form + `">` + text + `</time>`)
}

// ago is a time by its distance, as far as that is short.
func ago(t, now time.Time) template.HTML {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	text := ""
	switch {
	case d < -time.Minute:
		return when(t)
	case d < 45*time.Second:
		text = "just now"
	case d < 90*time.Minute:
		text = count(int(d.Round(time.Minute)/time.Minute), "minute") + " ago"
	case d < 24*time.Hour:
		text = count(int(d.Round(time.Hour)/time.Hour), "hour") + " ago"
	case d < 14*24*time.Hour:
		text = count(int(d.Round(24*time.Hour)/(24*time.Hour)), "day") + " ago"
	default:
		return day(t)
	}
	return template.HTML(`<time datetime="` + t.UTC().Format(time.RFC3339) + `" title="` + t.UTC().Format(timeLayout) + `">` + text + `</time>`)
}

// lasting is a duration for people.
func lasting(d time.Duration) string {
	switch {
	case d <= 0:
		return "no limit"
	case d < time.Minute:
		return count(int(d/time.Second), "second")
	case d < 2*time.Hour && d%time.Minute != 0:
		return count(int(d/time.Minute), "minute") + " " + count(int(d%time.Minute/time.Second), "second")
	case d < 2*time.Hour:
		return count(int(d/time.Minute), "minute")
	case d < 48*time.Hour && d%time.Hour >= time.Minute:
		return count(int(d/time.Hour), "hour") + " " + count(int(d%time.Hour/time.Minute), "minute")
	case d < 48*time.Hour:
		return count(int(d/time.Hour), "hour")
	}
	return count(int(d/(24*time.Hour)), "day")
}

// size is a number of bytes for people, exact where it matters.
func size(n int64) string {
	if n < 1024 {
		return count(n, "byte")
	}
	return bytesize.Round(n)
}

// groups of a digest, so that people can compare it: of eight digits, set apart by
// style alone, so that a copy of it has no spaces.
func grouped(v any) []string {
	text := fmt.Sprint(v)
	var all []string
	if kind, rest, ok := strings.Cut(text, ":"); ok {
		all, text = append(all, kind+":"), rest
	}
	for len(text) > 8 {
		all, text = append(all, text[:8]), text[8:]
	}
	return append(all, text)
}

func partsText(parts []computations.Part) string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = partName(p)
		if i > 0 {
			names[i] = strings.ToLower(names[i])
		}
	}
	return list(names)
}

// actionText is an entry of the audit log in words: "computation.freeze" is
// "computation: freeze".
func actionText(a string) string {
	what, did, ok := strings.Cut(a, ".")
	if !ok {
		return a
	}
	return what + ": " + strings.NewReplacer(".", " ", "-", " ").Replace(did)
}

// entry is one of the navigation.
func entry(v view, section, text, to string) navEntry {
	e := navEntry{Text: text, To: to}
	if v.Section == section {
		e.Current = "true"
		if v.Title == text || len(v.Above) == 0 {
			e.Current = "page"
		}
	}
	return e
}

type navEntry struct{ Text, To, Current string }

// cut is the beginning of a fingerprint, where the whole is in the title.
func cut(fingerprint string) string {
	if len(fingerprint) <= 23 {
		return fingerprint
	}
	return fingerprint[:23] + "…"
}

// button takes a reader to where something is done.
type button struct {
	To, Text string
	Post     bool
}

// todoButton is the console's own way to do what is to be done next; where there is
// none, the command is the way.
func todoButton(id computations.ID, t computations.Todo) button {
	here := "/c/" + string(id)
	switch t.Action {
	case computations.ComputationEdit:
		return button{To: here + "/edit", Text: "Edit the draft"}
	case computations.ComputationFreeze:
		return button{To: here + "/freeze", Text: "Freeze the manifest"}
	case computations.ComputationRun:
		return button{To: here + "/run", Text: "Start a run", Post: true}
	case computations.ComputationDryRun:
		return button{To: here + "/check", Text: "Dry run"}
	}
	return button{}
}

// Shell tells whether the line is one for a shell, and not a link or a secret.
func (c command) Shell() bool {
	return strings.HasPrefix(c.Line, "cocos-") || strings.HasPrefix(c.Line, "printf ")
}

// Words are the line's, which break between lines only where they must.
func (c command) Words() []string { return strings.Split(c.Line, " ") }
