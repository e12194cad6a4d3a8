package receipt

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ultravioletrs/cocos/manifest"
)

// Share is the archive that one consumer gets. Its size is that consumer's to
// know.
type Share struct {
	// Consumer is the fingerprint of a key that the manifest names.
	Consumer string          `json:"consumer"`
	SHA256   manifest.Digest `json:"sha256"`
}

// validateResults wants one archive, or one for each of several consumers.
func (p *Predicate) validateResults(f *faults) {
	if p.Result != nil && len(p.Results) > 0 {
		f.add("/predicate/results", "stand beside /predicate/result; expected the one or the other")
	}
	for i, r := range p.Results {
		at := fmt.Sprintf("/predicate/results/%d", i)
		if !fingerprintPattern.MatchString(r.Consumer) || slices.ContainsFunc(p.Results[:i], func(o Share) bool { return o.Consumer == r.Consumer }) {
			f.add(at+"/consumer", "is %q: no fingerprint, or that of another", r.Consumer)
		}
		f.digest(at+"/sha256", r.SHA256)
	}
}

func subjectsText(all []Subject) string {
	texts := make([]string, len(all))
	for i, s := range all {
		texts[i] = fmt.Sprintf("%q with SHA-256 %s", s.Name, s.Digest.SHA256)
	}
	return "exactly " + strings.Join(texts, ", ")
}
