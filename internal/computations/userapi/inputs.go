package userapi

import (
	"fmt"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// contentOf wants a digest or a commitment of the right length; at is the field that
// they lie in, with a slash.
func contentOf(at string, sum, commitment []byte) (c manifest.Content, err error) {
	switch n, want := len(sum), len(c.SHA256); {
	case n == want:
		c.SHA256 = manifest.Digest(sum)
	case n > 0 || len(commitment) == 0:
		return c, invalid(at+"sha256", "has %d bytes; expected %d", n, want)
	}
	switch n, want := len(commitment), len(c.Commitment); {
	case n == want:
		c.Commitment = manifest.Commitment(commitment)
	case n > 0:
		return c, invalid(at+"commitment", "has %d bytes; expected %d", n, want)
	}
	return c, nil
}

// named is the digest or the commitment; the other is nil.
func named(c manifest.Content) (sum, commitment []byte) {
	if c.Committed() {
		return nil, c.Commitment[:]
	}
	return c.SHA256[:], nil
}

func filesOf(all []*computationsv1.File) (files []manifest.File, err error) {
	for i, m := range all {
		c, err := contentOf(fmt.Sprintf("files/%d/", i), m.GetSha256(), m.GetCommitment())
		if err != nil {
			return nil, err
		}
		files = append(files, manifest.File{Name: m.GetName(), SHA256: c.SHA256, Commitment: c.Commitment, Size: m.GetSize(), UnpackedMax: m.GetUnpackedMax()})
	}
	return files, nil
}

func sourceOf(m *computationsv1.Source) manifest.Source {
	return manifest.Source{
		URL: m.GetUrl(), Endpoint: m.GetEndpoint(), Region: m.GetRegion(), Encryption: manifest.Encryption(m.GetEncryption()),
		Broker: m.GetBroker(), Resource: m.GetResource(), Redirects: m.GetRedirects(), Authorities: m.GetAuthorities(),
	}
}

// inputs adds what an asset has of files, packages and a source.
func inputs(m *computationsv1.Asset, a *computations.Asset) {
	for _, f := range a.Files {
		sum, commitment := named(f.Content())
		m.Files = append(m.Files, &computationsv1.File{Name: f.Name, Sha256: sum, Commitment: commitment, Size: f.Size, UnpackedMax: f.UnpackedMax})
	}
	if p := a.Python; p != (manifest.Packages{}) {
		m.Python = &computationsv1.Packages{Requirements: p.Requirements, Wheels: p.Wheels}
	}
	if s := &a.Source; !s.IsZero() {
		m.Source = &computationsv1.Source{
			Url: s.URL, Endpoint: s.Endpoint, Region: s.Region, Encryption: string(s.Encryption),
			Broker: s.Broker, Resource: s.Resource, Redirects: s.Redirects, Authorities: s.Authorities,
		}
	}
}
