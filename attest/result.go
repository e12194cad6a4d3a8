package attest

import (
	"fmt"
	"strings"
	"time"
)

// Result is an Attestation Result: what a Verifier made of Evidence, claim by
// claim.
type Result struct {
	Type Type `json:"type"`
	// Simulated evidence protects nothing; whoever shows a Result says SIMULATED.
	Simulated bool `json:"simulated"`
	Accepted  bool `json:"accepted"`
	// At is the time for which dates were judged.
	At     time.Time `json:"at"`
	Claims []Claim   `json:"claims"`
	// NotBefore and NotAfter bound the times at which the same evidence with the
	// same endorsements is accepted; zero where it was refused.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
}

// Verdict of a claim.
type Verdict string

// The verdicts.
const (
	Passed Verdict = "passed"
	Failed Verdict = "failed"
	// Unchecked: the policy does not ask, or the evidence does not state it.
	Unchecked Verdict = "unchecked"
)

// Claim is one thing that was looked at.
type Claim struct {
	// Name is dotted and lower case, such as "snp.measurement".
	Name string `json:"name"`
	// Expected and Found are texts for people, digests in hexadecimal.
	Expected string  `json:"expected"`
	Found    string  `json:"found"`
	Verdict  Verdict `json:"verdict"`
	// Hint says what most likely happened and what to do; on refusals.
	Hint string `json:"hint,omitzero"`
}

// Add appends a claim and returns whether it passed.
func (r *Result) Add(ok bool, name, expected, found string) bool {
	v := Failed
	if ok {
		v = Passed
	}
	r.Claims = append(r.Claims, Claim{Name: name, Expected: expected, Found: found, Verdict: v})
	return ok
}

// Skip appends a claim that the policy does not ask for.
func (r *Result) Skip(name, found string) {
	r.Claims = append(r.Claims, Claim{Name: name, Expected: "anything, says the policy", Found: found, Verdict: Unchecked})
}

// Unstated appends a claim on what this kind of evidence does not state, whatever
// the policy says of it.
func (r *Result) Unstated(name, found string) {
	r.Claims = append(r.Claims, Claim{Name: name, Expected: "nothing: this evidence does not state it", Found: found, Verdict: Unchecked})
}

// Failed returns the claims that failed.
func (r *Result) Failed() []Claim {
	var failed []Claim
	for _, c := range r.Claims {
		if c.Verdict == Failed {
			failed = append(failed, c)
		}
	}
	return failed
}

// Conclude sets Accepted and returns the *Refusal, if it is one. A result
// without any claim that passed is refused.
func (r *Result) Conclude() error {
	passed := 0
	for _, c := range r.Claims {
		switch c.Verdict {
		case Passed:
			passed++
		case Unchecked:
		default:
			return &Refusal{Result: *r}
		}
	}
	if passed == 0 {
		return &Refusal{Result: *r}
	}
	r.Accepted = true
	return nil
}

// Refusal is the error of evidence that was appraised and not accepted.
type Refusal struct{ Result Result }

// Error names each failed claim with what was expected and found.
func (r *Refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s evidence is refused", r.Result.Type)
	failed := r.Result.Failed()
	if len(failed) == 0 {
		b.WriteString(": nothing was shown")
	}
	for i, c := range failed {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s: expected %s, found %s", sep, c.Name, c.Expected, c.Found)
	}
	return b.String()
}
