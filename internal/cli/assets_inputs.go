package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/bytesize"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// maxAuthorities is more than a manifest takes, in bytes.
const maxAuthorities = 128 << 10

// fileFlags name what comes beside an algorithm.
type fileFlags struct {
	files                []string
	requirements, wheels string
}

func (p *fileFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&p.files, "file", nil, "of an algorithm: a file or folder beside it, `[NAME=]PATH` (repeatable)")
	f.StringVar(&p.requirements, "requirements", "", "of a script in Python: its requirements.txt, `[NAME=]PATH`")
	f.StringVar(&p.wheels, "wheels", "", "of a script in Python: the folder of wheels, `[NAME=]PATH`")
}

// namedPath takes NAME=PATH, or PATH, whose end is the name. No name has a slash: what
// has one before its first '=' is a path.
func namedPath(v string) (name, path string, err error) {
	name, path, both := strings.Cut(v, "=")
	if both && !strings.Contains(name, "/") {
		return name, path, nil
	}
	whole, err := filepath.Abs(v) // for "." and the like
	return filepath.Base(whole), v, err
}

// describeFiles computes what is told of the files, by their digests, and their paths
// in the same order.
func (a *app) describeFiles(cmd *cobra.Command, p *fileFlags, q *computationsv1.CreateAssetRequest) (paths []string, err error) {
	for _, flag := range []string{"file", "requirements", "wheels"} {
		if cmd.Flags().Changed(flag) && q.Kind != kindAlgorithm {
			return nil, usagef("leave it out", "--%s is of algorithms only", flag)
		}
	}
	if p.requirements+p.wheels != "" && q.Type != string(manifest.Python) {
		return nil, usagef("leave them out", "--requirements and --wheels are of scripts in Python, and this is of the type %s", q.Type)
	}
	if (p.requirements == "") != (p.wheels == "") {
		return nil, usagef("give both: the packages come from the wheels, and from nowhere else", "--requirements and --wheels go together")
	}
	add := func(flag, v string) (string, error) {
		name, path, err := namedPath(v)
		if err != nil {
			return "", err
		}
		in, err := openInput(path)
		if err != nil {
			return "", advise(fmt.Errorf("computing the checksum of --%s: %w", flag, err), "write PATH or NAME=PATH; a NAME has no '/'")
		}
		shown := a.out.progress(path, in.size)
		err = in.sum(cmd.Context(), shown)
		shown.stop()
		if err != nil {
			return "", err
		}
		f := &computationsv1.File{Name: name, Sha256: in.digest[:], Size: in.size}
		if in.folder {
			f.UnpackedMax = in.size
		}
		q.Files = append(q.Files, f)
		paths = append(paths, path)
		return name, nil
	}
	for _, v := range p.files {
		if _, err := add("file", v); err != nil {
			return nil, err
		}
	}
	if p.requirements != "" {
		q.Python = &computationsv1.Packages{}
		if q.Python.Requirements, err = add("requirements", p.requirements); err != nil {
			return nil, err
		}
		if q.Python.Wheels, err = add("wheels", p.wheels); err != nil {
			return nil, err
		}
	}
	files := filesOf(q.Files)
	alg := manifest.Algorithm{Type: manifest.AlgorithmType(q.Type), Files: files, Python: pythonOf(q.Python)}
	return paths, faultyFlags("the files can't be described so", alg.ValidateFiles(), func(path string) string {
		switch {
		case strings.HasPrefix(path, "/python/"):
			return "--" + strings.TrimPrefix(path, "/python/")
		case strings.HasPrefix(path, "/files/"):
			var i int
			if _, err := fmt.Sscanf(path, "/files/%d/", &i); err == nil && i < len(files) {
				return "--file " + files[i].Name
			}
		}
		return "--file"
	})
}

// commitFiles puts commitments in place of the digests of the files at paths, and
// returns the files in which their salts are.
func commitFiles(q *computationsv1.CreateAssetRequest, paths []string) (salts []string, err error) {
	for i, f := range q.Files {
		file := filepath.Clean(paths[i]) + ".salt"
		s, _, err := newSalt(file)
		if err != nil {
			return nil, err
		}
		c := manifest.Commit(*s, manifest.Digest(f.Sha256))
		f.Sha256, f.Commitment = nil, c[:]
		salts = append(salts, file)
	}
	return salts, nil
}

// faultyFlags are a manifest's faults, as those of flags.
func faultyFlags(what string, found manifest.Faults, flag func(path string) string) error {
	if len(found) == 0 {
		return nil
	}
	p := &problem{err: errors.New(what), usage: true, hint: "see cocos-cli assets add --help"}
	for _, f := range found {
		p.faults = append(p.faults, rpcerr.Fault{Field: flag(f.Path), Message: f.Message})
	}
	return p
}

// sourceFlags say where the agent takes a dataset from.
type sourceFlags struct {
	manifest.Source
	encryption, authorities string
}

func (p *sourceFlags) add(f *pflag.FlagSet) {
	f.StringVar(&p.URL, "source", "", "of a dataset: the `URL` from which the agent fetches it, in place of an upload")
	f.StringVar(&p.Endpoint, "endpoint", "", "with s3://: the server's `URL`")
	f.StringVar(&p.Region, "region", "", "with s3://: the server's region")
	f.StringVar(&p.encryption, "encryption", "", "how what lies at the source is encrypted, a `KIND`: age or ocicrypt (default: not at all)")
	f.StringVar(&p.Broker, "broker", "", "your key broker's `URL`, https:// (default: you hand over by yourself what it takes)")
	f.StringVar(&p.Resource, "resource", "", "with --broker: what it releases, `REPOSITORY/TYPE/TAG`")
	f.StringArrayVar(&p.Redirects, "redirect", nil, "another server, `HOST:PORT`, that these may send the agent to (repeatable)")
	f.StringVar(&p.authorities, "authorities", "", "`FILE` with certificates in PEM that alone vouch for these servers (default: the public authorities)")
}

func encryptionNames() []string {
	var all []string
	for _, e := range manifest.Encryptions() {
		all = append(all, string(e))
	}
	return all
}

// describe says of a dataset where it comes from.
func (p *sourceFlags) describe(q *computationsv1.CreateAssetRequest) error {
	s := p.Source
	s.Encryption = manifest.Encryption(p.encryption)
	if p.authorities != "" {
		b, err := readSmall(p.authorities, maxAuthorities)
		if err != nil {
			return fmt.Errorf("reading --authorities: %w", err)
		}
		s.Authorities = string(b)
	}
	switch {
	case s.IsZero():
		return nil
	case q.Kind != kindDataset:
		return usagef("an algorithm comes from its provider: leave --source and what goes with it out", "sources are of datasets only")
	}
	flags := map[string]string{"url": "source", "redirects": "redirect"}
	if err := faultyFlags("the dataset can't be fetched so", s.Validate(), func(path string) string {
		name, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if flag, other := flags[name]; other {
			name = flag
		}
		return "--" + name
	}); err != nil {
		return err
	}
	q.Source = &computationsv1.Source{
		Url: s.URL, Endpoint: s.Endpoint, Region: s.Region, Encryption: string(s.Encryption),
		Broker: s.Broker, Resource: s.Resource, Redirects: s.Redirects, Authorities: s.Authorities,
	}
	return nil
}

// filesOf are the files of an asset as a manifest has them.
func filesOf(all []*computationsv1.File) (files []manifest.File) {
	for _, m := range all {
		f := manifest.File{Name: m.GetName(), Size: m.GetSize(), UnpackedMax: m.GetUnpackedMax()}
		copy(f.SHA256[:], m.GetSha256())
		copy(f.Commitment[:], m.GetCommitment())
		files = append(files, f)
	}
	return files
}

func pythonOf(m *computationsv1.Packages) manifest.Packages {
	return manifest.Packages{Requirements: m.GetRequirements(), Wheels: m.GetWheels()}
}

// takeInputs takes what the service has of files, packages and a source.
func (i *assetInfo) takeInputs(m *computationsv1.Asset) {
	i.Files, i.Python = filesOf(m.GetFiles()), pythonOf(m.GetPython())
	if s := m.GetSource(); s != nil {
		i.Source = manifest.Source{
			URL: s.GetUrl(), Endpoint: s.GetEndpoint(), Region: s.GetRegion(), Encryption: manifest.Encryption(s.GetEncryption()),
			Broker: s.GetBroker(), Resource: s.GetResource(), Redirects: s.GetRedirects(), Authorities: s.GetAuthorities(),
		}
	}
}

func (i *assetInfo) inputRows(r *rows) {
	for _, f := range i.Files {
		kind := "file"
		if f.UnpackedMax > 0 {
			kind = "folder of at most " + bytesize.Round(f.UnpackedMax)
		}
		r.add("file", "%s, %s, %s, %s", f.Name, kind, bytesize.Round(f.Size), f.Content())
	}
	if i.Python != (manifest.Packages{}) {
		r.add("packages", "of %s, from %s", i.Python.Requirements, i.Python.Wheels)
	}
	s := &i.Source
	if s.IsZero() {
		return
	}
	r.add("source", "%s", s.URL)
	for _, member := range []struct{ what, text string }{
		{"at", s.Endpoint}, {"in the region", s.Region}, {"encrypted with", string(s.Encryption)}, {"key from", strings.TrimSuffix(s.Broker+", "+s.Resource, ", ")},
	} {
		if member.text != "" {
			r.add("", "%s %s", member.what, packed(member.text))
		}
	}
	for _, server := range s.Servers() {
		r.add("connects to", "%s", server)
	}
	if s.Authorities != "" {
		r.add("", "vouched for by its own authorities alone")
	}
}
