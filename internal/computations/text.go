package computations

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxEmail       = 254
	maxTitle       = 128
	maxDescription = 4096
	maxClient      = 256
)

// emailPattern is narrower than the standards: ASCII alone, so that no address
// looks like another, and nothing that a shell, a page or a header understands.
var emailPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.!#$%&'*+/=?^_{|}~-]*@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// foldEmail is the form in which addresses are kept and compared.
func foldEmail(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

func checkEmail(field, email string) *Error {
	switch {
	case email == "":
		return invalid(field, "is missing")
	case len(email) > maxEmail:
		return invalid(field, "has %d characters; at most %d are accepted", len(email), maxEmail)
	case !emailPattern.MatchString(email):
		return invalid(field, "is not an email address that is accepted here, such as name@example.org")
	}
	return nil
}

// checkText wants a text that shows what it is: format characters could make one
// look like another.
func checkText(field, text string, least, most int, lines bool) *Error {
	n := utf8.RuneCountInString(text)
	switch {
	case !utf8.ValidString(text):
		return invalid(field, "is not UTF-8")
	case n < least || least > 0 && strings.TrimSpace(text) == "":
		return invalid(field, "is missing or empty")
	case n > most:
		return invalid(field, "has %d characters; at most %d are accepted", n, most)
	case strings.ContainsFunc(text, func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Cf) && !(lines && r == '\n')
	}):
		return invalid(field, "has control or invisible characters")
	}
	return nil
}

// plain is what a stranger said, such as a browser's name, made fit to be kept.
func plain(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf) {
			return -1
		}
		return r
	}, text)
	if r := []rune(text); len(r) > most {
		text = string(r[:most])
	}
	return strings.TrimSpace(text)
}

// faults collects what is wrong with a request.
type faults struct{ all Errors }

func (f *faults) add(e *Error) {
	if e != nil {
		f.all = append(f.all, e)
	}
}

// err is nil, the one fault, or all of them.
func (f *faults) err() error {
	switch len(f.all) {
	case 0:
		return nil
	case 1:
		return f.all[0]
	}
	return f.all
}
