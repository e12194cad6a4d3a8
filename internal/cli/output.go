package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// output keeps the rules of the package comment; nothing else in the package
// writes to standard output or standard error.
type output struct {
	stdout, stderr io.Writer
	json           bool
	// columns of the terminal that stderr is; 0: none.
	columns func() int
	now     func() time.Time
	// simulated marks every object from then on.
	simulated atomic.Bool
}

// result prints what was asked for: value with --json, else the text.
func (o *output) result(value any, format string, args ...any) error {
	if o.json {
		return o.object(value)
	}
	return o.text(format, args...)
}

// object prints value as one line of JSON.
func (o *output) object(value any) error {
	b, err := encode(value)
	if err != nil {
		return err
	}
	return o.write(o.marked(b))
}

// marked adds "simulated" to a line of JSON where that is so.
func (o *output) marked(b []byte) []byte {
	var members map[string]json.RawMessage
	if !o.simulated.Load() || json.Unmarshal(b, &members) != nil {
		return b
	}
	if _, said := members["simulated"]; said {
		return b
	}
	sep := ","
	if len(members) == 0 {
		sep = ""
	}
	return append(bytes.TrimSuffix(b, []byte("}\n")), sep+`"simulated":true}`+"\n"...)
}

func encode(value any) ([]byte, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encoding the output: %w", err)
	}
	return append(b, '\n'), nil
}

func (o *output) text(format string, args ...any) error {
	return o.write([]byte(harmless(fmt.Sprintf(format, args...))))
}

func (o *output) write(b []byte) error {
	if _, err := o.stdout.Write(b); err != nil {
		return fmt.Errorf("writing to standard output: %w", err)
	}
	return nil
}

// hint tells people what is going on; scripts are spared it.
func (o *output) hint(format string, args ...any) {
	if !o.json {
		fmt.Fprintln(o.stderr, harmless(fmt.Sprintf(format, args...)))
	}
}

// problem prints an error that ends the command, or part of it.
func (o *output) problem(err error) {
	var p *problem
	if !errors.As(err, &p) {
		p = &problem{}
	}
	if o.json {
		b, encodeErr := encode(map[string]any{"error": struct {
			Message string `json:"message"`
			Reason  string `json:"reason,omitempty"`
			Field   string `json:"field,omitempty"`
			Hint    string `json:"hint,omitempty"`
			// Claims of evidence that failed.
			Claims []attest.Claim `json:"claims,omitempty"`
			Causes []string       `json:"causes,omitempty"`
			// Faults of a request that has several.
			Faults []faultInfo `json:"faults,omitempty"`
		}{err.Error(), p.reason, p.field, p.hint, p.claims, p.causes, infoOfFaults(p.faults)}})
		if encodeErr == nil {
			o.stderr.Write(o.marked(b)) //nolint:errcheck // nowhere left to say it
		}
		return
	}
	fmt.Fprintf(o.stderr, "cocos-cli: %s\n", clean(err.Error()))
	for _, c := range p.claims {
		fmt.Fprintf(o.stderr, "  %s\n    expected  %s\n    found     %s\n", clean(c.Name), clean(c.Expected), clean(c.Found))
	}
	for _, c := range p.causes {
		fmt.Fprintf(o.stderr, "  cause: %s\n", clean(c))
	}
	for _, f := range p.faults {
		fmt.Fprintf(o.stderr, "  %s\n", clean(faultText(f)))
	}
	if p.hint != "" {
		fmt.Fprintf(o.stderr, "  next: %s\n", clean(p.hint))
	}
}

// faultInfo is one of several things that are wrong with a request.
type faultInfo struct {
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func infoOfFaults(faults []rpcerr.Fault) []faultInfo {
	var all []faultInfo
	for _, f := range faults {
		all = append(all, faultInfo{f.Field, f.Message, f.Hint})
	}
	return all
}

func faultText(f rpcerr.Fault) string {
	text := f.Message
	if f.Field != "" {
		text = f.Field + ": " + text
	}
	if f.Hint != "" {
		text += "; " + f.Hint
	}
	return text
}
