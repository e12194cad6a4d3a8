// Package config reads a program's configuration from its environment, by one
// table of variables.
//
// The table is all there is: the program's documentation, the file in which
// nothing is set, and the reader come from it. Reading finds every fault; each
// names the variable, its value and what is accepted. A name that begins with
// the program's prefix and isn't in the table is a fault, too: a misspelt switch
// must not silently leave a default in force.
package config

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Variable is one row of the table of a program whose settings are S.
type Variable[S any] struct {
	Name string
	// Kind says what is accepted; Unit is that of a number.
	Kind, Unit string
	// Fallback is what holds when the variable is unset; "" is nothing.
	Fallback string
	// Otherwise takes its place in a case that Table.Case names; "": it does not.
	Otherwise string
	// EmptyToo: an empty value is one.
	EmptyToo bool
	// Secret: a value may hold a password, and is never shown.
	Secret bool
	// Effect is a sentence or two for people; names are in backquotes.
	Effect string
	// Set takes a value into the settings. Its error says what is expected.
	Set func(s *S, value string) error
}

// Table is a program's configuration.
type Table[S any] struct {
	Variables []Variable[S]
	// Prefix begins the names that belong to the program; a name of another
	// beginning that is in the table is known by itself.
	Prefix string
	// Docs is the page that lists the table.
	Docs string
	// Case is when Variable.Otherwise holds, such as "where VMs are emulated";
	// CaseHead names it before a value in the documentation.
	Case, CaseHead string
}

// Values is what Read found besides what it set.
type Values[S any] struct {
	// Given has the names of the variables that are set.
	Given map[string]bool
	// Otherwise sets what is different in the table's case and isn't given.
	Otherwise []func(*S)
}

// Read takes environ, entries of the form NAME=value, into s.
func (t Table[S]) Read(environ []string, s *S) (v Values[S], errs []error) {
	v.Given = map[string]bool{}
	given := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		known := slices.ContainsFunc(t.Variables, func(v Variable[S]) bool { return v.Name == name })
		if known || strings.HasPrefix(name, t.Prefix) {
			given[name] = value
		}
		if !known && strings.HasPrefix(name, t.Prefix) {
			errs = append(errs, fmt.Errorf("%s=%q is not a variable of this version%s", name, withoutPassword(value), t.didYouMean(name)))
		}
	}
	for _, row := range t.Variables {
		value, isGiven := given[row.Name]
		if isGiven {
			v.Given[row.Name] = true
		}
		switch {
		case isGiven && value == "" && !row.EmptyToo:
			errs = append(errs, fmt.Errorf("%s is empty; unset it%s, or use %s", row.Name, t.fallbackText(row), row.accepts()))
		case isGiven:
			err := row.Set(s, value)
			switch {
			case err != nil && row.Secret:
				errs = append(errs, fmt.Errorf("%s is not valid (its value is not shown, as it may hold a password); expected %w", row.Name, err))
			case err != nil:
				errs = append(errs, fmt.Errorf("%s=%q is not valid; expected %w", row.Name, withoutPassword(value), err))
			}
		case row.Fallback != "":
			if row.Otherwise != "" {
				v.Otherwise = append(v.Otherwise, func(s *S) { _ = row.Set(s, row.Otherwise) }) // a test sets each
			}
			if err := row.Set(s, row.Fallback); err != nil {
				errs = append(errs, fmt.Errorf("%s: default %q: %w", row.Name, row.Fallback, err))
			}
		}
	}
	return v, errs
}

// WriteFile writes the text of an environment file in which nothing is set,
// beneath head, which is comment already.
func (t Table[S]) WriteFile(w io.Writer, head string) error {
	var b strings.Builder
	b.WriteString(head)
	for _, v := range t.Variables {
		b.WriteByte('\n')
		kind := v.accepts()
		if v.Otherwise != "" {
			kind += "; " + t.Case + " the default is " + v.Otherwise
		}
		for _, line := range wrap(strings.ReplaceAll(v.Effect, "`", "")+" ("+kind+")", 78) {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		fmt.Fprintf(&b, "#%s=%s\n", v.Name, v.Fallback)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markdown is the documentation's table.
func (t Table[S]) Markdown() string {
	var b strings.Builder
	b.WriteString("| Variable | Type | Unit or range | Default | Effect |\n|---|---|---|---|---|\n")
	orDash := func(s string) string {
		if s == "" {
			return "–"
		}
		return s
	}
	for _, v := range t.Variables {
		fallback := v.Fallback
		if fallback != "" {
			fallback = "`" + fallback + "`"
		}
		if v.Otherwise != "" {
			fallback += "; " + t.CaseHead + " `" + v.Otherwise + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", v.Name, v.Kind, orDash(v.Unit), orDash(fallback), v.Effect)
	}
	return b.String()
}

// Faults finds rows that say too little, and names that are there twice.
func (t Table[S]) Faults() error {
	var errs []error
	have := map[string]bool{}
	for _, v := range t.Variables {
		if have[v.Name] {
			errs = append(errs, fmt.Errorf("%s is twice in the table", v.Name))
		}
		have[v.Name] = true
		if v.Kind == "" || v.Effect == "" {
			errs = append(errs, fmt.Errorf("%s has no type or no effect", v.Name))
		}
	}
	return errors.Join(errs...)
}

func (v Variable[S]) accepts() string {
	if v.Unit == "" {
		return v.Kind
	}
	return v.Kind + " (" + v.Unit + ")"
}

func (t Table[S]) fallbackText(v Variable[S]) string {
	if v.Fallback == "" {
		return ""
	}
	if v.Otherwise != "" {
		return " for the default, " + v.Fallback + " (" + v.Otherwise + " " + t.Case + ")"
	}
	return " for the default, " + v.Fallback
}

// withoutPassword is a value for a log: where it looks like a URL with user and
// password in it, these are left out.
func withoutPassword(value string) string {
	at := strings.LastIndexByte(value, '@')
	if at < 0 {
		return value
	}
	scheme := ""
	if i := strings.Index(value[:at], "://"); i >= 0 {
		scheme = value[:i+len("://")]
	}
	return scheme + "..." + value[at:]
}

// didYouMean finds the name that is most like an unknown one.
func (t Table[S]) didYouMean(name string) string {
	best, least := "", len(name)/3+1
	for _, v := range t.Variables {
		if d := distance(name, v.Name); d < least {
			best, least = v.Name, d
		}
	}
	if best == "" {
		return "; " + t.Docs + " lists them all"
	}
	return "; did you mean " + best + "?"
}

// distance counts the insertions, deletions and substitutions from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitute := diagonal
			if a[i-1] != b[j-1] {
				substitute++
			}
			diagonal = row[j]
			row[j] = min(substitute, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// wrap breaks text into lines of at most width bytes, where words allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
