package computations

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/manifest"
)

const (
	exportFormat  = "cocos/computation"
	exportVersion = 1
	// maxExport bounds what is imported, and so what is exported, in bytes.
	maxExport = 1 << 20
)

// exported is a draft as it goes from one workspace or service to another: people
// by their addresses, assets by their digests. Keys, approvals and runs stay.
type exported struct {
	Format      string            `json:"format"`
	Version     int               `json:"version"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitzero"`
	TEE         manifest.TEE      `json:"tee"`
	AttestedTLS bool              `json:"attested_tls"`
	Algorithm   exportedAlgorithm `json:"algorithm"`
	Datasets    []exportedDataset `json:"datasets,omitzero"`
	Consumers   []string          `json:"consumers,omitzero"`
	Approvers   []string          `json:"approvers,omitzero"`
	Outputs     manifest.Outputs  `json:"outputs,omitzero"`
	Release     []exportedRelease `json:"release,omitzero"`
	// Scratch and ScratchBytes as in Draft.
	Scratch      Scratch `json:"scratch,omitzero"`
	ScratchBytes int64   `json:"scratch_bytes,omitzero"`
	Image        string  `json:"image,omitzero"`
	// TTL as Go writes durations, such as "2h0m0s".
	TTL string `json:"ttl,omitzero"`
}

type exportedAlgorithm struct {
	Provider string            `json:"provider,omitzero"`
	Asset    *exportedAsset    `json:"asset,omitzero"`
	Args     []string          `json:"args,omitzero"`
	Env      map[string]string `json:"env,omitzero"`
	Limits   manifest.Limits   `json:"limits,omitzero"`
}

type exportedDataset struct {
	Name     string         `json:"name"`
	Provider string         `json:"provider,omitzero"`
	Asset    *exportedAsset `json:"asset,omitzero"`
}

type exportedAsset struct {
	Name       string              `json:"name"`
	SHA256     manifest.Digest     `json:"sha256,omitzero"`
	Commitment manifest.Commitment `json:"commitment,omitzero"`
	Files      []manifest.File     `json:"files,omitzero"`
	Python     manifest.Packages   `json:"python,omitzero"`
	Source     manifest.Source     `json:"source,omitzero"`
}

type exportedRelease struct {
	Consumer string   `json:"consumer"`
	Files    []string `json:"files,omitzero"`
	Output   bool     `json:"output,omitzero"`
}

// ExportComputation writes a computation's draft as JSON, for ImportComputation.
func (s *Service) ExportComputation(ctx context.Context, who Identity, id ID) ([]byte, error) {
	return view(ctx, s, func(r Reader) ([]byte, error) {
		x, err := s.onComputation(r, who, id, ComputationExport)
		if err != nil {
			return nil, err
		}
		e, err := export(r, &x.computation.Draft)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(e, json.Deterministic(true), jsontext.WithIndent("  "))
		if err != nil {
			return nil, fmt.Errorf("exporting computation %s: %w", id, err)
		}
		b = append(b, '\n')
		return b, checkLength(b)
	})
}

func export(r Reader, d *Draft) (*exported, error) {
	var errs []error
	email := func(user ID) string {
		if user == "" {
			return ""
		}
		u, err := r.User(user)
		errs = append(errs, err)
		return u.Email
	}
	emails := func(users []ID) []string {
		var all []string
		for _, user := range users {
			all = append(all, email(user))
		}
		return all
	}
	asset := func(id ID) *exportedAsset {
		if id == "" {
			return nil
		}
		a, err := r.Asset(id)
		errs = append(errs, err)
		return &exportedAsset{Name: a.Name, SHA256: a.SHA256, Commitment: a.Commitment, Files: a.Files, Python: a.Python, Source: a.Source}
	}
	e := &exported{
		Format: exportFormat, Version: exportVersion,
		Name: d.Name, Description: d.Description, TEE: d.TEE, AttestedTLS: d.AttestedTLS,
		Algorithm: exportedAlgorithm{
			Provider: email(d.Algorithm.Provider), Asset: asset(d.Algorithm.Asset),
			Args: d.Algorithm.Args, Env: d.Algorithm.Env, Limits: d.Algorithm.Limits,
		},
		Consumers: emails(d.Consumers), Approvers: emails(d.Approvers), Outputs: d.Outputs, Image: d.Image,
		Scratch: d.Scratch, ScratchBytes: d.ScratchBytes,
	}
	for _, slot := range d.Datasets {
		e.Datasets = append(e.Datasets, exportedDataset{Name: slot.Name, Provider: email(slot.Provider), Asset: asset(slot.Asset)})
	}
	for _, r := range d.Release {
		e.Release = append(e.Release, exportedRelease{email(r.Consumer), r.Files, r.Output})
	}
	if d.TTL != 0 {
		e.TTL = d.TTL.String()
	}
	return e, errors.Join(errs...)
}

// ImportComputation begins a draft of the asker's from what ExportComputation
// wrote. Everybody in it must be a member of the workspace; an asset is found by
// its digest, files and source among its provider's, and where it isn't there, the slot stays empty.
func (s *Service) ImportComputation(ctx context.Context, who Identity, workspace ID, raw []byte) (Computation, error) {
	e, fault := parseExport(raw)
	if err := s.making(who); err != nil {
		return Computation{}, err
	}
	return update(ctx, s, func(w Writer) (Computation, error) {
		x, err := s.inWorkspace(w, who, workspace, ComputationImport)
		if err != nil {
			return Computation{}, err
		}
		if fault != nil {
			return Computation{}, fault
		}
		d, err := imported(w, workspace, e)
		if err != nil {
			return Computation{}, err
		}
		if err := checkDraft(w, workspace, &Draft{}, &d); err != nil {
			return Computation{}, err
		}
		return s.begin(w, &x, d, ComputationImport, "")
	})
}

// checkLength refuses an export that no service reads.
func checkLength(raw []byte) error {
	if len(raw) > maxExport {
		return invalid("", "the file has %d bytes; at most %d are read", len(raw), maxExport)
	}
	return nil
}

func parseExport(raw []byte) (*exported, error) {
	if err := checkLength(raw); err != nil {
		return nil, err
	}
	var e exported
	if err := json.Unmarshal(raw, &e, json.RejectUnknownMembers(true)); err != nil {
		return nil, jsonFault(err)
	}
	switch {
	case e.Format != exportFormat:
		return nil, invalid("format", "is %q; expected %q, as exporting a computation writes it", plain(e.Format, maxTitle), exportFormat)
	case e.Version != exportVersion:
		return nil, invalid("version", "is %d; this software reads version %d", e.Version, exportVersion)
	}
	return &e, nil
}

// jsonFault is an error of reading JSON, with its place and without Go's types.
func jsonFault(err error) error {
	field := func(p jsontext.Pointer) string { return strings.TrimPrefix(strings.ToValidUTF8(string(p), "�"), "/") }
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return invalid(field(syntactic.JSONPointer), "is given twice")
		}
		return invalid(field(syntactic.JSONPointer), "is not valid JSON")
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		if errors.Is(err, json.ErrUnknownName) {
			return invalid(field(semantic.JSONPointer), "is not a known field")
		}
		return invalid(field(semantic.JSONPointer), "is not of the type that belongs here")
	}
	return invalid("", "the file can't be read as JSON")
}

// sameSource takes redirects to nowhere for none.
func sameSource(a, b manifest.Source) bool {
	redirects := slices.Equal(a.Redirects, b.Redirects)
	a.Redirects, b.Redirects = nil, nil
	return redirects && reflect.DeepEqual(a, b)
}

// imported finds people and assets in a workspace.
func imported(r Reader, workspace ID, e *exported) (Draft, error) {
	if n := len(e.Datasets); n > maxDatasets { // each is looked for
		return Draft{}, invalid("datasets", "are %d; at most %d are accepted", n, maxDatasets)
	}
	members, err := r.Members(workspace)
	if err != nil {
		return Draft{}, err
	}
	var f faults
	user := func(field, email string) ID {
		if email == "" {
			return ""
		}
		i := slices.IndexFunc(members, func(m Member) bool { return m.Email == foldEmail(email) })
		if i < 0 {
			f.add(invalid(field, "%s is no member of this workspace: invite them first", plain(email, maxEmail)))
			return ""
		}
		return members[i].User
	}
	users := func(field string, emails []string) []ID {
		var all []ID
		for i, email := range emails {
			if id := user(fmt.Sprintf("%s/%d", field, i), email); id != "" {
				all = append(all, id)
			}
		}
		return all
	}
	var failed error
	asset := func(kind AssetKind, owner ID, a *exportedAsset) ID {
		if a == nil || owner == "" {
			return ""
		}
		content := manifest.Content{SHA256: a.SHA256, Commitment: a.Commitment}
		if content == (manifest.Content{}) {
			return ""
		}
		found, err := r.Assets(AssetFilter{Workspace: workspace, Kind: kind, Owner: owner, Content: content}, Page{Limit: MaxPage})
		if err != nil {
			failed = errors.Join(failed, err)
		}
		// The same content may come with other files, or from elsewhere.
		i := slices.IndexFunc(found, func(f Asset) bool {
			return slices.Equal(f.Files, a.Files) && f.Python == a.Python && sameSource(f.Source, a.Source)
		})
		if i < 0 {
			return ""
		}
		return found[i].ID
	}
	d := Draft{
		Name: e.Name, Description: e.Description, TEE: e.TEE, AttestedTLS: e.AttestedTLS,
		Algorithm: AlgorithmSlot{Provider: user("algorithm/provider", e.Algorithm.Provider), Args: e.Algorithm.Args, Env: e.Algorithm.Env, Limits: e.Algorithm.Limits},
		Consumers: users("consumers", e.Consumers), Approvers: users("approvers", e.Approvers), Outputs: e.Outputs, Image: e.Image,
		Scratch: e.Scratch, ScratchBytes: e.ScratchBytes,
	}
	d.Algorithm.Asset = asset(AssetAlgorithm, d.Algorithm.Provider, e.Algorithm.Asset)
	for i, slot := range e.Datasets {
		provider := user(fmt.Sprintf("datasets/%d/provider", i), slot.Provider)
		d.Datasets = append(d.Datasets, DatasetSlot{Name: slot.Name, Provider: provider, Asset: asset(AssetDataset, provider, slot.Asset)})
	}
	for i, r := range e.Release {
		if id := user(fmt.Sprintf("release/%d/consumer", i), r.Consumer); id != "" {
			d.Release = append(d.Release, ReleaseSlot{id, r.Files, r.Output})
		}
	}
	if e.TTL != "" {
		if d.TTL, err = time.ParseDuration(e.TTL); err != nil {
			f.add(invalid("ttl", "is %q; expected a duration such as 2h30m", plain(e.TTL, maxTitle)))
		}
	}
	if failed != nil {
		return Draft{}, failed
	}
	return d, f.err()
}
