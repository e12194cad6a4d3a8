package attest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// PolicyVersion is the version of the policy's format.
const PolicyVersion = 1

// Policy is an Appraisal Policy for Evidence, a JSON file of the relying
// party's own. A kind of evidence without a section is refused; so is whatever
// a section does not list. What may go unchecked is said in so many words.
type Policy struct {
	Version int `json:"version"` // PolicyVersion
	// Note is for people.
	Note string     `json:"note,omitzero"`
	SNP  *SNPPolicy `json:"snp,omitzero"`
	TDX  *TDXPolicy `json:"tdx,omitzero"`
	SGX  *SGXPolicy `json:"sgx,omitzero"`
	// Simulated set: evidence of the simulated TEE is accepted, which protects
	// nothing.
	Simulated *SimPolicy `json:"simulated,omitzero"`
}

// ParsePolicy reads a policy's text. Members that are unknown, twice there or null
// are refused, and every fault is named with its path.
func ParsePolicy(b []byte) (Policy, error) {
	var p Policy
	if path, found := null(b); found {
		return Policy{}, fmt.Errorf("policy%s is null: leave it out, or say what it is to be", path)
	}
	if err := json.Unmarshal(b, &p, json.RejectUnknownMembers(true)); err != nil {
		return Policy{}, fmt.Errorf("reading the policy: %w", err)
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// null finds a member that is null, which would read as one that is not there: a
// requirement that somebody wrote and nobody makes.
func null(b []byte) (path jsontext.Pointer, found bool) {
	for d := jsontext.NewDecoder(bytes.NewReader(b)); ; {
		token, err := d.ReadToken()
		if err != nil {
			return "", false // it has ended, or what reads it next says why it can't
		}
		if token.Kind() == 'n' {
			return d.StackPointer(), true
		}
	}
}

// Bytes returns the text that ParsePolicy reads.
func (p Policy) Bytes() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(p, jsontext.WithIndent("  "), json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("writing the policy: %w", err)
	}
	return append(b, '\n'), nil
}

// Validate returns every fault, each with its path.
func (p Policy) Validate() error {
	var f faults
	if p.Version != PolicyVersion {
		f.add("/version", "is %d; this version reads %d", p.Version, PolicyVersion)
	}
	if p.SNP == nil && p.TDX == nil && p.SGX == nil && p.Simulated == nil {
		f.add("", "has no section: name what you accept in snp, tdx, sgx or simulated; nothing else is")
	}
	if p.SNP != nil {
		p.SNP.validate(&f, "/snp")
	}
	if p.TDX != nil {
		p.TDX.validate(&f, "/tdx")
	}
	if p.SGX != nil {
		p.SGX.validate(&f, "/sgx")
	}
	if p.Simulated != nil {
		p.Simulated.validate(&f, "/simulated")
	}
	return f.err()
}

// Hex is bytes, as text in lower-case hexadecimal.
type Hex []byte

func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText is String.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText takes lower-case hexadecimal digits.
func (h *Hex) UnmarshalText(b []byte) error {
	if strings.ToLower(string(b)) != string(b) {
		return errors.New("has upper-case digits; expected lower-case hexadecimal")
	}
	d, err := hex.DecodeString(string(b))
	if err != nil {
		return errors.New("is not lower-case hexadecimal")
	}
	*h = d
	return nil
}

// Check says whether a check is made. Its zero value is a fault of the policy.
type Check string

// The two.
const (
	CheckRequired Check = "required"
	CheckNot      Check = "unchecked"
)

// AnyID in the place of a list of chips or platforms accepts each of them.
const AnyID = "any"

// faults collects what is wrong with a policy.
type faults []error

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, fmt.Errorf("policy%s %s", path, fmt.Sprintf(format, args...)))
}

func (f faults) err() error { return errors.Join(f...) }

// sized wants at least one value, each of size bytes.
func (f *faults) sized(path string, values []Hex, size int) {
	if len(values) == 0 {
		f.add(path, "is empty: nothing would be accepted; list each value that you accept")
	}
	f.sizedOrNone(path, values, size)
}

func (f *faults) sizedOrNone(path string, values []Hex, size int) {
	for i, v := range values {
		if len(v) != size {
			f.add(fmt.Sprintf("%s/%d", path, i), "has %d bytes; expected %d", len(v), size)
		}
	}
}

func (f *faults) check(path string, c Check) {
	if c != CheckRequired && c != CheckNot {
		f.add(path, "is %q; expected %q or %q", c, CheckRequired, CheckNot)
	}
}

// ids wants "any" alone, or values of size bytes in hexadecimal.
func (f *faults) ids(path string, ids []string, size int) {
	if len(ids) == 0 {
		f.add(path, "is empty: list the platforms' identities, or %q in so many words", AnyID)
	}
	for i, id := range ids {
		if id == AnyID {
			if len(ids) > 1 {
				f.add(path, "has %q beside others: what does it mean?", AnyID)
			}
			continue
		}
		var h Hex
		if err := h.UnmarshalText([]byte(id)); err != nil || len(h) != size {
			f.add(fmt.Sprintf("%s/%d", path, i), "is not %q or %d bytes in lower-case hexadecimal", AnyID, size)
		}
	}
}
