package manifest

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ultravioletrs/cocos/keys"
)

// Release says what one consumer gets beside how the run ended.
type Release struct {
	Consumer keys.Public `json:"consumer"`
	// Files are patterns of names below results/. A pattern's parts, between
	// slashes, are those of path.Match; a part "**" stands for any number of
	// parts, none included.
	Files []string `json:"files,omitzero"`
	// Output: standard output and error, with what they tell of a failure, and
	// the use of resources.
	Output bool `json:"output,omitzero"`
}

// Bounds of patterns.
const (
	maxPatterns     = 256
	maxPatternBytes = 1024
	anyParts        = "**"
)

// Bounds of a padded archive, in bytes: it must have room to say why a run
// failed, and be a whole number of a tar archive's blocks.
const (
	minPadded = 64 << 10
	tarBlock  = 512
)

// ReleaseTo is what a consumer gets; everything is true where the manifest does
// not divide. Who is no consumer gets nothing.
func (m *Manifest) ReleaseTo(consumer keys.Public) (r Release, everything bool) {
	if !m.HasRole(consumer, Consumer) {
		return Release{Consumer: consumer}, false
	}
	i := slices.IndexFunc(m.Outputs.Release, func(r Release) bool { return r.Consumer.Equal(consumer) })
	if i < 0 {
		return Release{Consumer: consumer}, len(m.Outputs.Release) == 0
	}
	return m.Outputs.Release[i], false
}

// Has tells whether a file is released, by its name below results/.
func (r *Release) Has(name string) bool {
	return slices.ContainsFunc(r.Files, func(p string) bool {
		return matches(strings.Split(p, "/"), strings.Split(name, "/"))
	})
}

// matches takes time in the product of the lengths, whatever the pattern.
func matches(pattern, name []string) bool {
	// reached[i]: the pattern's parts so far match the first i parts of the name.
	reached := make([]bool, len(name)+1)
	reached[0] = true
	for _, part := range pattern {
		after := make([]bool, len(name)+1)
		for i := range reached {
			switch {
			case part == anyParts:
				after[i] = reached[i] || i > 0 && after[i-1]
			case i > 0 && reached[i-1]:
				ok, err := path.Match(part, name[i-1])
				after[i] = ok && err == nil
			}
		}
		reached = after
	}
	return reached[len(name)]
}

// canonical leaves out what is empty.
func (o Outputs) canonical() Outputs {
	if len(o.Release) == 0 {
		o.Release = nil
		return o
	}
	o.Release = slices.Clone(o.Release)
	for i := range o.Release {
		if len(o.Release[i].Files) == 0 {
			o.Release[i].Files = nil
		}
	}
	return o
}

func (v *validator) outputs(m *Manifest) {
	o := &m.Outputs
	v.size("/outputs/result_max", o.ResultMax, 0)
	switch {
	case !o.Pad:
	case o.ResultMax < minPadded:
		v.add("/outputs/pad", "is true, and /outputs/result_max is %d; expected what to pad to, at least %d", o.ResultMax, minPadded)
	case o.ResultMax%tarBlock != 0:
		v.add("/outputs/pad", "is true, and /outputs/result_max is %d; expected a multiple of %d", o.ResultMax, tarBlock)
	}
	if o.OperatorOutput {
		for _, p := range m.parties() {
			if !slices.ContainsFunc(m.Approvals, p.Equal) {
				v.add("/outputs/operator_output", "is true, and /approvals lacks %s, which brings something or gets the result: every party must approve that", p.Fingerprint())
			}
		}
	}
	if len(o.Release) == 0 {
		return
	}
	for i := range o.Release {
		v.release(m, i)
	}
	for i, c := range m.Consumers {
		if !slices.ContainsFunc(o.Release, func(r Release) bool { return r.Consumer.Equal(c) }) {
			v.add("/outputs/release", "has no entry for /consumers/%d: what is not released to it must be said", i)
		}
	}
}

func (v *validator) release(m *Manifest, i int) {
	r, at := &m.Outputs.Release[i], fmt.Sprintf("/outputs/release/%d", i)
	v.key(at+"/consumer", r.Consumer)
	if !r.Consumer.IsZero() {
		if !m.HasRole(r.Consumer, Consumer) {
			v.add(at+"/consumer", "is none of /consumers")
		}
		for j, other := range m.Outputs.Release[:i] {
			if other.Consumer.Equal(r.Consumer) {
				v.add(at+"/consumer", "is the same key as /outputs/release/%d/consumer", j)
			}
		}
	}
	if len(r.Files) > maxPatterns {
		v.add(at+"/files", "has %d entries; at most %d are allowed", len(r.Files), maxPatterns)
	}
	for j, p := range r.Files {
		field := fmt.Sprintf("%s/files/%d", at, j)
		if first := slices.Index(r.Files, p); first < j {
			v.add(field, "is %q, as is %s/files/%d", p, at, first)
		} else if err := CheckPattern(p); err != nil {
			v.add(field, "%v", err)
		}
	}
}

// CheckPattern says what is wrong with a pattern of released files; its error
// continues the pattern's name.
func CheckPattern(p string) error {
	switch {
	case p == "" || len(p) > maxPatternBytes:
		return fmt.Errorf("has %d bytes; expected 1 to %d", len(p), maxPatternBytes)
	case !utf8.ValidString(p) || strings.ContainsRune(p, 0):
		return fmt.Errorf("is %q; expected UTF-8 without NUL", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		_, err := path.Match(part, "")
		switch {
		case part == "" || part == "." || part == "..":
			return fmt.Errorf("is %q, with a part %q; expected a name below results/, such as reports/*.csv", p, part)
		case err != nil || strings.Contains(part, anyParts) && part != anyParts:
			return fmt.Errorf("is %q, and its part %q is no pattern; use *, ?, [a-z] within a part, and ** as a part of its own", p, part)
		}
	}
	return nil
}

// parties are those who bring something or get the result, each once.
func (m *Manifest) parties() []keys.Public {
	var all []keys.Public
	add := func(k keys.Public) {
		if !k.IsZero() && !slices.ContainsFunc(all, k.Equal) {
			all = append(all, k)
		}
	}
	add(m.Algorithm.Provider)
	for _, d := range m.Datasets {
		add(d.Provider)
	}
	for _, k := range m.Consumers {
		add(k)
	}
	return all
}
