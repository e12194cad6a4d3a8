package computations

import (
	"slices"
	"unicode/utf8"
)

// maxSources bounds how many sources of entries are asked for at once, and
// maxSource the name of one, in characters. Those that hosts have are fewer, and
// shorter.
const (
	maxSources = 8
	maxSource  = 64
)

// levels are those of log lines.
var levels = []string{"error", "warn", "info", "debug"}

// statuses are what a list of computations can be narrowed to.
var statuses = []string{
	string(StageDraft), string(StageApprovals), string(StageReady), string(RunQueued), string(RunOffered),
	string(RunStarting), string(RunRunning), string(RunFinished), string(RunFailed), string(RunStopped),
}

// check refuses what no computation can be in: each word becomes part of a
// question to the database.
func (f ComputationFilter) check() error {
	if e := checkWords("states", f.States, statuses); e != nil {
		return e
	}
	return nil
}

// check refuses what no entry can have.
func (f EntryFilter) check() error {
	var bad faults
	bad.add(checkWords("types", f.Types, []EntryType{EntryEvent, EntryLog}))
	bad.add(checkWords("levels", f.Levels, levels))
	bad.add(checkSources(f.Sources))
	return bad.err()
}

// checkWords wants words of those accepted, each once.
func checkWords[S ~string](field string, words, accepted []S) *Error {
	for i, w := range words {
		switch {
		case !slices.Contains(accepted, w):
			return invalid(field, "have %q; expected some of %q", plain(string(w), maxTitle), accepted)
		case slices.Contains(words[:i], w):
			return invalid(field, "have %q twice", w)
		}
	}
	return nil
}

// checkSources wants few names, each once: newer hosts may have others than this
// service knows.
func checkSources(names []string) *Error {
	if len(names) > maxSources {
		return invalid("sources", "are %d; at most %d are accepted", len(names), maxSources)
	}
	for i, name := range names {
		switch {
		case name == "" || utf8.RuneCountInString(name) > maxSource:
			return invalid("sources", "have a name of %d characters; expected 1 to %d", utf8.RuneCountInString(name), maxSource)
		case slices.Contains(names[:i], name):
			return invalid("sources", "have %q twice", name)
		}
	}
	return nil
}
