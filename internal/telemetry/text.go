package telemetry

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// cutMark ends text that was cut.
const cutMark = "…"

// Clean returns s as harmless text of at most n bytes: valid UTF-8 without
// terminal sequences and without anything that is not printable. Line breaks and
// tabs become spaces. Text that is too long ends with "…".
func Clean(s string, n int) string {
	if clean(s) {
		if len(s) <= n {
			return s
		}
		return cut(s, n)
	}
	var out strings.Builder
	for i := 0; i < len(s) && out.Len() <= n; {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == escape {
			i += escapeLength(s[i:])
			continue
		}
		i += size
		switch {
		case r == '\n', r == '\t', r == '\r', r == '\u2028', r == '\u2029', r == '\u0085':
			out.WriteByte(' ')
		case unicode.IsPrint(r): // utf8.RuneError among them
			out.WriteRune(r)
		}
	}
	if out.Len() > n {
		return cut(out.String(), n)
	}
	return out.String()
}

const escape = 0x1b

// clean tells whether there is nothing to take out of s.
func clean(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// cut shortens s, which is longer than n bytes.
func cut(s string, n int) string {
	n -= len(cutMark)
	if n < 0 {
		return ""
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + cutMark
}

// escapeLength is the length of the terminal sequence (ECMA-48) s begins with.
func escapeLength(s string) int {
	if len(s) < 2 || s[1] != '[' {
		return min(2, len(s))
	}
	for i := 2; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
	}
	return len(s)
}
