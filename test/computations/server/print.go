package server

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// String is the entry as one line for people. What comes from a guest can't
// begin a line of its own or move the cursor.
func (e Entry) String() string {
	var b strings.Builder
	at := e.Time
	if at.IsZero() {
		at = time.Now()
	}
	b.WriteString(at.Local().Format(time.TimeOnly))
	word := func(s string) {
		if s != "" {
			b.WriteString(" " + clean(s))
		}
	}
	switch e.Type {
	case "event":
		fmt.Fprintf(&b, " event  %-7s %3d %-16s", clean(e.Source), e.Sequence, clean(e.Kind))
		word(e.Message)
		for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
			fmt.Fprintf(&b, " %s=%s", clean(k), strconv.Quote(e.Attributes[k]))
		}
	case "log":
		fmt.Fprintf(&b, " log    %-7s %-5s", clean(e.Source), clean(e.Level))
		word(e.Message)
		if e.Dropped > 0 {
			fmt.Fprintf(&b, " (%d lines before it were dropped)", e.Dropped)
		}
	case "run_reply", "stop_reply":
		fmt.Fprintf(&b, " %s run %s", strings.ReplaceAll(e.Type, "_", " "), clean(e.RunID))
		switch {
		case len(e.Faults) > 0:
			b.WriteString(" refused:")
			for _, f := range e.Faults {
				fmt.Fprintf(&b, " [%s", clean(f.Reason))
				word(f.Field)
				word(f.Message)
				if f.Hint != "" {
					b.WriteString(" -> " + clean(f.Hint))
				}
				b.WriteString("]")
			}
		case e.AgentAddress != "":
			fmt.Fprintf(&b, " accepted; its agent will be at %s", clean(e.AgentAddress))
		default:
			b.WriteString(" accepted")
		}
	default:
		fmt.Fprintf(&b, " Manager %s %s", clean(e.Instance), clean(e.Type))
	}
	return b.String()
}

// clean escapes what is not plain text.
func clean(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}
