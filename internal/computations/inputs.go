package computations

import (
	"strings"

	"github.com/ultravioletrs/cocos/manifest"
)

// maxSourceTexts bounds what an asset says of a source, in bytes: a list of 100
// assets is one message, which gRPC's clients take up to 4 MiB, and a description
// may have 16 KiB. The certificates of a few authorities take far less.
const maxSourceTexts = 20 << 10

// checkInputs holds files, packages and source to the manifest's own rules.
func checkInputs(f *faults, a *Asset) {
	switch {
	case a.Kind == AssetAlgorithm:
		alg := manifest.Algorithm{Type: a.Type, Files: a.Files, Python: a.Python}
		refuse(f, "", alg.ValidateFiles())
		if !a.Source.IsZero() {
			f.add(invalid("source/url", "is of datasets; an algorithm comes from its provider"))
		}
		return
	case len(a.Files) > 0:
		f.add(invalid("files", "are of algorithms; a dataset is one file or folder"))
	case a.Python != (manifest.Packages{}):
		f.add(invalid("python/requirements", "is of algorithms in Python only"))
	}
	s := &a.Source
	if s.IsZero() {
		return
	}
	refuse(f, "source", s.Validate())
	texts := append([]string{s.URL, s.Endpoint, s.Region, string(s.Encryption), s.Broker, s.Resource, s.Authorities}, s.Redirects...)
	if n := len(strings.Join(texts, "")); n > maxSourceTexts {
		f.add(invalid("source/authorities", "make, with all else that is said of the source, %d bytes; at most %d are accepted: only what vouches for these servers belongs there", n, maxSourceTexts))
	}
}

// refuse adds a manifest's faults, whose paths go on from at.
func refuse(f *faults, at string, found manifest.Faults) {
	for _, fault := range found {
		field := strings.TrimPrefix(at+fault.Path, "/")
		// A path in a message is meant from the manifest on, which isn't there yet.
		f.add(invalid(field, "%s", strings.ReplaceAll(fault.Message, "/algorithm/", "")))
	}
}
