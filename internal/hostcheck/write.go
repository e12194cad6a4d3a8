package hostcheck

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// colours of the verdicts on a terminal (ECMA-48, SGR).
var colours = map[Verdict]string{OK: "\x1b[32m", Info: "\x1b[36m", Warn: "\x1b[33m", Fail: "\x1b[1;31m"}

// Write shows findings to people: a line each, what to do about it below, and
// a last line that counts. colour is for terminals.
func Write(w io.Writer, fs []Finding, colour bool) error {
	width := 0
	for _, f := range fs {
		width = max(width, len(f.Name))
	}
	var b strings.Builder
	for _, f := range fs {
		before, after := "", ""
		if colour {
			before, after = colours[f.Verdict], "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s%-4s%s  %-*s  %s", before, f.Verdict, after, width, f.Name, clean(f.Found))
		if f.Needed != "" {
			fmt.Fprintf(&b, "; needed: %s", clean(f.Needed))
		}
		b.WriteByte('\n')
		if f.Mend != "" {
			fmt.Fprintf(&b, "%*s-> %s\n", 4+2+width+2, "", clean(f.Mend))
		}
	}
	fmt.Fprintf(&b, "%d failed, %d warned, %d in order\n", count(fs, Fail), count(fs, Warn), count(fs, OK))
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON shows findings to programs: one object with the worst verdict,
// "ok", "warn" or "fail", the findings, and the host's description.
func WriteJSON(w io.Writer, fs []Finding, d Description) error {
	out := struct {
		Verdict  Verdict     `json:"verdict"`
		Findings []Finding   `json:"findings"`
		Host     Description `json:"host"`
	}{Verdict: OK, Findings: fs, Host: d}
	switch {
	case Failed(fs):
		out.Verdict = Fail
	case count(fs, Warn) > 0:
		out.Verdict = Warn
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// clean keeps a finding on its line: programs' output and files' names are in
// it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
