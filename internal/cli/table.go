package cli

import (
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// grid is a table for people: a header and rows, in columns. What is empty is
// shown as a dash. No cell can look like two, or like a line of its own.
func grid(header []string, lines [][]string) string {
	if len(lines) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	put := func(cells []string) {
		for i, c := range cells {
			if c == "" {
				c = "-"
			}
			if i > 0 {
				w.Write([]byte{'\t'}) //nolint:errcheck // into memory
			}
			w.Write([]byte(packed(clean(c)))) //nolint:errcheck // into memory
		}
		w.Write([]byte{'\n'}) //nolint:errcheck // into memory
	}
	put(header)
	for _, l := range lines {
		put(l)
	}
	w.Flush() //nolint:errcheck // into memory
	return b.String()
}

// listed prints things: with --json as one object, of which name is the member with
// all of them; else as a table, or none says that there are none.
func listed[T any](a *app, name string, things []T, header []string, line func(T) []string, none string) error {
	if things == nil {
		things = []T{}
	}
	lines := make([][]string, len(things))
	for i, t := range things {
		lines[i] = line(t)
	}
	if err := a.out.result(map[string][]T{name: things}, "%s", grid(header, lines)); err != nil {
		return err
	}
	if len(things) == 0 {
		a.out.hint("%s", none)
	}
	return nil
}

// moment is a time of the service; nil for none.
func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	v := t.AsTime()
	return &v
}

// when is a time for people; empty for none.
func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// yes is a mark in a table.
func yes(v bool, word string) string {
	if v {
		return word
	}
	return ""
}
