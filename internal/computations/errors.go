package computations

import "fmt"

// Kind is what an Error means for whoever asked.
type Kind string

// The kinds of error.
const (
	// Unauthenticated: it isn't known who asks.
	Unauthenticated Kind = "UNAUTHENTICATED"
	// Denied: who asks may see the thing, and not do this.
	Denied Kind = "DENIED"
	// NotFound: there is no such thing, or nothing that who asks may know of.
	NotFound Kind = "NOT_FOUND"
	// Invalid: what was asked is at fault; Field says where.
	Invalid Kind = "INVALID"
	// Conflict: the thing isn't in a state for it, or was changed meanwhile.
	Conflict Kind = "CONFLICT"
	// Limited: too often, or too much.
	Limited Kind = "LIMITED"
)

// Error is a refusal, for people. Other errors are the service's own trouble and
// are shown without their text.
type Error struct {
	Kind Kind
	// Field is the path of what is at fault, such as "name" or
	// "datasets/0/asset"; may be empty.
	Field   string
	Message string
	// Hint says what to do; may be empty.
	Hint string
}

func (e *Error) Error() string {
	text := e.Message
	if e.Field != "" {
		text = e.Field + ": " + text
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Errors are several faults of one request.
type Errors []*Error

func (es Errors) Error() string {
	text := ""
	for i, e := range es {
		if i > 0 {
			text += "\n"
		}
		text += e.Error()
	}
	return text
}

// Unwrap gives errors.As each of them.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// notFound is the one answer for what isn't there and for what is another's.
func notFound(what string) error {
	return &Error{Kind: NotFound, Message: "there is no such " + what, Hint: "or you have no part in it"}
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}
