package attest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// ParseEvidence reads evidence in JSON, as Evidence marshals. It says nothing of
// who made it. Unknown and duplicate members, a type that is none and an empty
// report are errors.
func ParseEvidence(b []byte) (Evidence, error) {
	var e Evidence
	if err := json.Unmarshal(b, &e, json.RejectUnknownMembers(true)); err != nil {
		return Evidence{}, fmt.Errorf("reading evidence: %w", err)
	}
	if !slices.Contains(Types(), e.Type) {
		return Evidence{}, fmt.Errorf("reading evidence: /type is %q; expected one of %s", e.Type, TypeNames())
	}
	if len(e.Report) == 0 {
		return Evidence{}, errors.New("reading evidence: /report is empty")
	}
	return e, nil
}

// TypeNames are those of Types, for texts.
func TypeNames() string {
	var names []string
	for _, t := range Types() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}
