package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// problem is an error with what the user can do about it.
type problem struct {
	err error
	// hint is what to do next.
	hint string
	// usage: the command line is wrong.
	usage bool
	// reason and field are an agent's ErrorInfo, for scripts.
	reason, field string
	// claims of evidence that failed.
	claims []attest.Claim
	// causes are the most likely ones.
	causes []string
	// faults are several things that are wrong with a request.
	faults []rpcerr.Fault
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

// advise adds a hint to err, unless err has one already.
func advise(err error, format string, args ...any) error {
	var p *problem
	if errors.As(err, &p) && p.hint != "" {
		return err
	}
	q := problem{err: err, hint: fmt.Sprintf(format, args...)}
	if p != nil {
		q.usage, q.reason, q.field, q.claims, q.causes, q.faults = p.usage, p.reason, p.field, p.claims, p.causes, p.faults
	}
	return &q
}

// then is advise for what can be done beside err's own hint, or after it.
func then(err error, hint string) error {
	var p *problem
	if !errors.As(err, &p) {
		return &problem{err: err, hint: hint}
	}
	q := *p
	q.err = err
	if q.hint != "" && hint != "" {
		q.hint += "; then "
	}
	q.hint += hint
	return &q
}

// usage says that err is a wrong command line.
func usage(err error, hint string) error { return &problem{err: err, usage: true, hint: hint} }

// usagef is usage for a message of its own.
func usagef(hint, format string, args ...any) error {
	return &problem{err: fmt.Errorf(format, args...), usage: true, hint: hint}
}

// seeHelp is the hint for a wrong use of cmd.
func seeHelp(cmd *cobra.Command) string { return "see " + cmd.CommandPath() + " --help" }

// interrupted turns the error of a cancelled command into what the user did.
func interrupted(err error) error {
	q := problem{err: errors.New("interrupted")}
	var p *problem
	if errors.As(err, &p) {
		q.hint = p.hint
	}
	if !errors.Is(err, context.Canceled) && p == nil {
		q.err = fmt.Errorf("interrupted: %w", err)
	}
	return &q
}
