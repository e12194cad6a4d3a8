package console

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// Patterns lists every route with whether it stands open to anybody.
func (c *Console) Patterns() map[string]bool {
	all := map[string]bool{}
	for _, r := range c.routes() {
		all[r.pattern] = r.door == open
	}
	return all
}

// DoneTexts are what pages may say that was done.
func DoneTexts() map[string]string { return doneTexts }

// LocalPath is for its table.
var LocalPath = localPath

// From is a request's address.
func From(c *Console, r *http.Request) string { return c.from(r) }

// Differs are the claims that don't agree, as texts.
func Differs(claims []claim) string {
	var all []string
	for _, c := range claims {
		if c.Verdict == "differs" {
			all = append(all, c.Text)
		}
	}
	return strings.Join(all, " ")
}

// ReadyClaims and the others are for their tables.
func ReadyClaims(v *computations.View, run *computations.Run, said map[string]string) []claim {
	return readyClaims(v, run, said).Claims
}

// CheckCommand appraises a run's VM.
func CheckCommand(v *computations.View, run *computations.Run) string { return checkCommand(v, run) }

// EntryFilter is a query's.
func EntryFilter(query url.Values) computations.EntryFilter {
	f, _, err := entryFilter(query)
	if err != nil {
		panic(err)
	}
	return f
}

// TitleOf is an entry's.
func TitleOf(e computations.Entry) string { return lineOf(&e).Title }

// DoneSteps are the steps of a run's way that events end, by their ids.
func DoneSteps(f *manifest.Frozen, events []computations.Entry) string {
	var done []string
	steps, _ := progressOf(f, events)
	for _, s := range steps {
		if s.Where == "done" {
			done = append(done, s.ID)
		}
	}
	return strings.Join(done, " ")
}

// Names for tables.
var (
	ReceiptClaims = receiptClaims
	Passes        = passes
	PartName      = partName
	TEEName       = teeName
)
