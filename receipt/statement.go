package receipt

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ultravioletrs/cocos/attest"
	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// What the statement is, in in-toto's words.
const (
	statementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://github.com/ultravioletrs/cocos/receipt/v1"
)

// Names of the subject: what there is to show of the run.
const (
	subjectResult   = "result"
	subjectManifest = "manifest"
	simulatedMark   = "SIMULATED "
)

// Statement is an in-toto Statement, version 1.
type Statement struct {
	Type string `json:"_type"`
	// Subject is the result archive of a success, or each consumer's, and the
	// manifest of a failure.
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is in-toto's resource: what the statement is about.
type Subject struct {
	// Name begins with SIMULATED where the evidence is.
	Name   string        `json:"name"`
	Digest SubjectDigest `json:"digest"`
}

// SubjectDigest holds the one digest that is used.
type SubjectDigest struct {
	SHA256 manifest.Digest `json:"sha256"`
}

// Predicate is what was computed, as the agent in the VM saw it.
type Predicate struct {
	// Nonce makes the report data of equal runs differ, so that it tells nothing.
	Nonce manifest.Nonce `json:"nonce"`
	// Run is the run's id, which the host chose.
	Run string `json:"run"`
	// Manifest is the manifest digest.
	Manifest manifest.Digest `json:"manifest"`
	// Instance is the VM's instance key.
	Instance keys.Public `json:"instance"`
	TEE      attest.Type `json:"tee"`
	// Simulated: the evidence protects nothing, and proves nothing.
	Simulated bool `json:"simulated"`
	// Measurement is what the TEE measured of the image, by register.
	Measurement map[string]attest.Hex `json:"measurement"`
	// Algorithm, or AlgorithmCommitment, Files beside it and Datasets are the inputs
	// that arrived and ran.
	Algorithm           manifest.Digest     `json:"algorithm,omitzero"`
	AlgorithmCommitment manifest.Commitment `json:"algorithm_commitment,omitzero"`
	Files               []Input             `json:"files,omitzero"`
	Datasets            []Input             `json:"datasets,omitzero"`
	// Approvals are those on which the agent began.
	Approvals []Approval `json:"approvals,omitzero"`
	Outcome   Outcome    `json:"outcome"`
	// Reason of a failure, in the words that may leave the VM.
	Reason Reason `json:"reason,omitzero"`
	// ExitStatus of the algorithm; nil where it did not exit by itself.
	ExitStatus *int `json:"exit_status,omitzero"`
	// Signal that ended the algorithm; empty where none did.
	Signal string `json:"signal,omitzero"`
	// Limit that it exceeded, by its name in the manifest, or "files" or "scratch".
	Limit string `json:"limit,omitzero"`
	// Result is the archive for consumers; nil if a failure left none, or if the
	// manifest gives them different ones: then Results are those.
	Result  *Result `json:"result,omitzero"`
	Results []Share `json:"results,omitzero"`
	// HostClock has times that the host's clock told: they prove nothing.
	HostClock HostClock `json:"host_clock"`
}

// Input is a dataset, or a file beside the algorithm, named as the manifest does: by
// its digest or by a commitment.
type Input struct {
	Name       string              `json:"name"`
	SHA256     manifest.Digest     `json:"sha256,omitzero"`
	Commitment manifest.Commitment `json:"commitment,omitzero"`
}

// Approval is a participant's signature on the manifest, as manifest.Approval.
type Approval struct {
	// Key is the fingerprint of a key that the manifest names.
	Key       string `json:"key"`
	Signature []byte `json:"signature"`
}

// Outcome of a run.
type Outcome string

// The outcomes.
const (
	Succeeded Outcome = "succeeded"
	Failed    Outcome = "failed"
)

// Reason of a failure.
type Reason string

// The reasons, the agent's words.
const (
	AlgorithmFailed Reason = "algorithm-failed"
	AgentFailed     Reason = "agent-failed"
	StorageChanged  Reason = "storage-changed"
)

// Result is the archive that consumers get.
type Result struct {
	SHA256 manifest.Digest `json:"sha256"`
	// Size in bytes.
	Size int64 `json:"size"`
}

// HostClock has times in UTC by the host's clock.
type HostClock struct {
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
}

// namePattern is the manifest's, for names; nothing in it disturbs a terminal.
var (
	namePattern        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	registerPattern    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	wordPattern        = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]{0,31}$`)
	fingerprintPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// subjects are what p must be the predicate of.
func (p *Predicate) subjects() []Subject {
	var all []Subject
	add := func(name string, d manifest.Digest) {
		if p.Simulated {
			name = simulatedMark + name
		}
		all = append(all, Subject{Name: name, Digest: SubjectDigest{d}})
	}
	switch {
	case p.Outcome == Succeeded && p.Result != nil:
		add(subjectResult, p.Result.SHA256)
	case p.Outcome == Succeeded && len(p.Results) > 0:
		for _, r := range p.Results {
			add(subjectResult+" for "+r.Consumer, r.SHA256)
		}
	default:
		add(subjectManifest, p.Manifest)
	}
	return all
}

// statement about p.
func (p Predicate) statement() Statement {
	return Statement{Type: statementType, Subject: p.subjects(), PredicateType: PredicateType, Predicate: p}
}

// bytes is the one form of a statement.
func (s *Statement) bytes() ([]byte, error) {
	b, err := json.Marshal(s, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("writing the receipt's statement: %w", err)
	}
	v := jsontext.Value(b)
	if err := v.Canonicalize(); err != nil {
		return nil, fmt.Errorf("writing the receipt's statement: %w", err)
	}
	return v, nil
}

func parseStatement(b []byte) (Statement, error) {
	var s Statement
	if err := json.Unmarshal(b, &s, json.RejectUnknownMembers(true)); err != nil {
		return Statement{}, fmt.Errorf("the receipt's statement can't be read: %w", plain(err))
	}
	if err := s.validate(); err != nil {
		return Statement{}, err
	}
	form, err := s.bytes()
	if err != nil {
		return Statement{}, err
	}
	if !bytes.Equal(form, b) {
		return Statement{}, errors.New("the receipt's statement is not in its one form, canonical JSON (RFC 8785), or lacks a member")
	}
	return s, nil
}

// validate returns every fault, each with its path.
func (s *Statement) validate() error {
	var f faults
	if s.Type != statementType {
		f.add("/_type", "is %q; expected %q", s.Type, statementType)
	}
	if s.PredicateType != PredicateType {
		f.add("/predicateType", "is %q; expected %q", s.PredicateType, PredicateType)
	}
	p := &s.Predicate
	if want := p.subjects(); !slices.Equal(s.Subject, want) {
		f.add("/subject", "is not, as the predicate says, %s", subjectsText(want))
	}
	p.validate(&f)
	return errors.Join(f...)
}

func (p *Predicate) validate(f *faults) {
	if p.Nonce == (manifest.Nonce{}) {
		f.add("/predicate/nonce", "is missing or zero")
	}
	if !namePattern.MatchString(p.Run) {
		f.add("/predicate/run", "is %q; expected 1 to 128 letters, digits, '.', '_' and '-'", p.Run)
	}
	f.digest("/predicate/manifest", p.Manifest)
	if p.Instance.Kind() != keys.Ed25519 {
		f.add("/predicate/instance", "is a key of kind %q; expected %q", p.Instance.Kind(), keys.Ed25519)
	}
	if !slices.Contains(attest.Types(), p.TEE) {
		f.add("/predicate/tee", "is %q; expected one of %q", p.TEE, attest.Types())
	}
	if want := p.TEE == attest.Sim; p.Simulated != want {
		f.add("/predicate/simulated", "is %t; expected %t for /predicate/tee %q", p.Simulated, want, p.TEE)
	}
	if len(p.Measurement) == 0 {
		f.add("/predicate/measurement", "is missing")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Measurement)) {
		if !registerPattern.MatchString(name) {
			f.add("/predicate/measurement", "has the member %q, which is no register's name", name)
		}
	}
	f.content("/predicate/algorithm", "/predicate/algorithm_commitment", manifest.Content{SHA256: p.Algorithm, Commitment: p.AlgorithmCommitment})
	f.inputs("file", "/predicate/files", p.Files)
	f.inputs("dataset", "/predicate/datasets", p.Datasets)
	for i, a := range p.Approvals {
		if !fingerprintPattern.MatchString(a.Key) {
			f.add(fmt.Sprintf("/predicate/approvals/%d/key", i), "is %q; expected sha256: and 64 hexadecimal digits", a.Key)
		}
	}
	p.validateOutcome(f)
	if p.HostClock.Started.IsZero() {
		f.add("/predicate/host_clock/started", "is missing")
	}
	if p.HostClock.Finished.IsZero() {
		f.add("/predicate/host_clock/finished", "is missing")
	}
}

func (p *Predicate) validateOutcome(f *faults) {
	switch p.Outcome {
	case Succeeded:
		if p.Reason != "" {
			f.add("/predicate/reason", "is %q of a success; expected none", p.Reason)
		}
		if p.ExitStatus == nil || *p.ExitStatus != 0 {
			f.add("/predicate/exit_status", "is not 0, and /predicate/outcome is %q", p.Outcome)
		}
		if p.Result == nil && len(p.Results) == 0 {
			f.add("/predicate/result", "is missing, and /predicate/outcome is %q", p.Outcome)
		}
		if p.Signal != "" || p.Limit != "" {
			f.add("/predicate/signal", "or /predicate/limit is there, and /predicate/outcome is %q", p.Outcome)
		}
	case Failed:
		if p.Reason != AlgorithmFailed && p.Reason != AgentFailed && p.Reason != StorageChanged {
			f.add("/predicate/reason", "is %q; expected %q, %q or %q", p.Reason, AlgorithmFailed, AgentFailed, StorageChanged)
		}
	default:
		f.add("/predicate/outcome", "is %q; expected %q or %q", p.Outcome, Succeeded, Failed)
	}
	for _, word := range []struct{ at, text string }{{"/predicate/signal", p.Signal}, {"/predicate/limit", p.Limit}} {
		if word.text != "" && (!wordPattern.MatchString(word.text) || p.ExitStatus != nil && word.at == "/predicate/signal") {
			f.add(word.at, "is %q: no word of letters, digits and '_', or of an algorithm that exited", word.text)
		}
	}
	p.validateResults(f)
	if p.Result != nil {
		f.digest("/predicate/result/sha256", p.Result.SHA256)
		if p.Result.Size < 0 || p.Result.Size > manifest.MaxInputSize {
			f.add("/predicate/result/size", "is %d; expected 0 to %d", p.Result.Size, int64(manifest.MaxInputSize))
		}
	}
}

// faults collects what is wrong with a statement.
type faults []error

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, fmt.Errorf("receipt's statement %s %s", path, fmt.Sprintf(format, args...)))
}

// inputs wants names, each once, and one of the two for each.
func (f *faults) inputs(kind, path string, all []Input) {
	for i, in := range all {
		at := fmt.Sprintf("%s/%d", path, i)
		if !namePattern.MatchString(in.Name) || slices.ContainsFunc(all[:i], func(o Input) bool { return o.Name == in.Name }) {
			f.add(at+"/name", "is %q: no %s's name, or that of another", in.Name, kind)
		}
		f.content(at+"/sha256", at+"/commitment", in.content())
	}
}

func (in Input) content() manifest.Content {
	return manifest.Content{SHA256: in.SHA256, Commitment: in.Commitment}
}

// filesOf and datasetsOf are what a statement says of a manifest's.
func filesOf(m *manifest.Frozen) (all []Input) {
	for _, in := range m.Algorithm.Files {
		all = append(all, Input{Name: in.Name, SHA256: in.SHA256, Commitment: in.Commitment})
	}
	return all
}

func datasetsOf(m *manifest.Frozen) (all []Input) {
	for _, in := range m.Datasets {
		all = append(all, Input{Name: in.Name, SHA256: in.SHA256, Commitment: in.Commitment})
	}
	return all
}

// content wants one of the two.
func (f *faults) content(digestAt, commitmentAt string, c manifest.Content) {
	switch {
	case c == (manifest.Content{}):
		f.add(digestAt, "is missing or zero, and so is %s", commitmentAt)
	case c.Committed() && c.SHA256 != (manifest.Digest{}):
		f.add(commitmentAt, "stands beside %s; expected the one or the other", digestAt)
	}
}

func (f *faults) digest(path string, d manifest.Digest) {
	if d == (manifest.Digest{}) {
		f.add(path, "is missing or zero")
	}
}
