package computations

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ultravioletrs/cocos/manifest"
)

// Bounds of a draft; what is frozen is also held to the manifest's.
const (
	maxDraftName  = 256
	maxDatasets   = 256
	maxParties    = 256
	maxArgs       = 1024
	maxEnv        = 256
	maxPatterns   = 1024
	maxDraftBytes = 256 << 10
	minRunTTL     = time.Minute
	maxRunTTL     = 30 * 24 * time.Hour
)

var (
	// slotName is the manifest's pattern for what becomes a file's name.
	slotName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	imageDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// checkDraft says what is wrong with a draft, however unfinished it may be: what
// it names must be there, and belong together. What old had may stay.
func checkDraft(r Reader, workspace ID, old, d *Draft) error {
	var f faults
	d.checkForm(&f)
	if err := f.err(); err != nil {
		return err
	}
	members := map[ID]bool{}
	user := func(field string, id ID) error {
		if id == "" {
			return nil
		}
		if _, known := members[id]; !known {
			_, err := r.Member(workspace, id)
			if err != nil && !errors.Is(err, ErrNoRow) {
				return err
			}
			members[id] = err == nil
		}
		if !members[id] {
			f.add(invalid(field, "is no member of the workspace: invite them first"))
		}
		return nil
	}
	asset := func(field string, provider, id, had ID, kind AssetKind) error {
		if id == "" {
			return nil
		}
		e, err := checkAssetOf(r, field, workspace, provider, kind, id, id != had)
		f.add(e)
		return err
	}
	had := map[string]ID{}
	for _, slot := range old.Datasets {
		had[slot.Name] = slot.Asset
	}
	errs := []error{
		user("algorithm/provider", d.Algorithm.Provider),
		asset("algorithm/asset", d.Algorithm.Provider, d.Algorithm.Asset, old.Algorithm.Asset, AssetAlgorithm),
	}
	for i, slot := range d.Datasets {
		at := fmt.Sprintf("datasets/%d", i)
		errs = append(errs, user(at+"/provider", slot.Provider),
			asset(at+"/asset", slot.Provider, slot.Asset, had[slot.Name], AssetDataset))
	}
	for i, id := range d.Consumers {
		errs = append(errs, user(fmt.Sprintf("consumers/%d", i), id))
	}
	for i, id := range d.Approvers {
		errs = append(errs, user(fmt.Sprintf("approvers/%d", i), id))
	}
	for _, id := range sortedIDs(d.Keys) {
		if d.Keys[id] == old.Keys[id] {
			continue
		}
		e, err := checkKey(r, "keys/"+string(id), id, d.Keys[id])
		f.add(e)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.err()
}

// checkForm is what can be said without looking anything up.
func (d *Draft) checkForm(f *faults) {
	f.add(checkText("name", d.Name, 1, maxDraftName, false))
	f.add(checkText("description", d.Description, 0, maxDescription, true))
	if !slices.Contains(manifest.TEEs(), d.TEE) {
		f.add(invalid("tee", "is %q; expected one of %q", d.TEE, manifest.TEEs()))
	}
	count := func(field string, n, most int) {
		if n > most {
			f.add(invalid(field, "has %d entries; at most %d are accepted", n, most))
		}
	}
	count("datasets", len(d.Datasets), maxDatasets)
	count("consumers", len(d.Consumers), maxParties)
	count("approvers", len(d.Approvers), maxParties)
	count("algorithm/args", len(d.Algorithm.Args), maxArgs)
	count("algorithm/env", len(d.Algorithm.Env), maxEnv)
	bytes := len(d.Name) + len(d.Description)
	argument := func(field, text string) {
		bytes += len(text)
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			f.add(invalid(field, "is not UTF-8, or has a NUL byte"))
		}
	}
	for i, a := range d.Algorithm.Args {
		argument(fmt.Sprintf("algorithm/args/%d", i), a)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Algorithm.Env)) {
		if !envName.MatchString(name) {
			f.add(invalid("algorithm/env", "has %q, which is no variable's name: letters, digits and _ only", plain(name, maxTitle)))
		}
		bytes += len(name)
		argument("algorithm/env/"+plain(name, maxTitle), d.Algorithm.Env[name])
	}
	if bytes > maxDraftBytes {
		f.add(invalid("", "the draft's texts have %d bytes; at most %d are accepted", bytes, maxDraftBytes))
	}
	for i, slot := range d.Datasets {
		at := fmt.Sprintf("datasets/%d/name", i)
		if !slotName.MatchString(slot.Name) {
			f.add(invalid(at, "is %q; use letters, digits, '.', '_' and '-', and begin with a letter or digit", plain(slot.Name, maxTitle)))
		} else if slices.ContainsFunc(d.Datasets[:i], func(o DatasetSlot) bool { return o.Name == slot.Name }) {
			f.add(invalid(at, "is %q, as is that of another dataset", slot.Name))
		}
	}
	unique := func(field string, ids []ID) {
		for i, id := range ids {
			if id == "" || slices.Contains(ids[:i], id) {
				f.add(invalid(fmt.Sprintf("%s/%d", field, i), "is empty, or named twice"))
			}
		}
	}
	unique("consumers", d.Consumers)
	unique("approvers", d.Approvers)
	d.checkRelease(f)
	for field, n := range map[string]int64{
		"algorithm/limits/memory_bytes": d.Algorithm.Limits.MemoryBytes, "algorithm/limits/processes": d.Algorithm.Limits.Processes,
		"algorithm/limits/seconds": d.Algorithm.Limits.Seconds, "algorithm/limits/output_bytes": d.Algorithm.Limits.OutputBytes,
		"outputs/result_max": d.Outputs.ResultMax,
	} {
		if n < 0 || n > manifest.MaxInputSize {
			f.add(invalid(field, "is %d; expected 0, which is the agent's default, to %d", n, int64(manifest.MaxInputSize)))
		}
	}
	if n := d.Algorithm.Limits.CPUMilli; n != 0 && (n < manifest.MinCPUMilli || n > manifest.MaxCPUMilli) {
		f.add(invalid("algorithm/limits/cpu_milli", "is %d; expected 0, which is all processors, or %d to %d thousandths of one", n, manifest.MinCPUMilli, manifest.MaxCPUMilli))
	}
	d.checkScratch(f)
	if d.Image != "" && !imageDigest.MatchString(d.Image) {
		f.add(invalid("image", "is %q; expected the digest of a guest image, 64 hexadecimal digits", plain(d.Image, maxTitle)))
	}
	if d.TTL != 0 && (d.TTL < minRunTTL || d.TTL > maxRunTTL) {
		f.add(invalid("ttl", "is %v; expected 0, which leaves it to the host, or %v to %v", d.TTL, minRunTTL, maxRunTTL))
	}
}

// checkRelease wants each entry to be about one of the consumers, with patterns
// that a manifest takes. That every consumer has one is freezing's to check.
func (d *Draft) checkRelease(f *faults) {
	if len(d.Outputs.Release) > 0 {
		f.add(invalid("outputs/release", "names keys; a draft says who gets what in release, by users"))
	}
	patterns := 0
	for i, r := range d.Release {
		at := fmt.Sprintf("release/%d", i)
		if !slices.Contains(d.Consumers, r.Consumer) {
			f.add(invalid(at+"/consumer", "is about somebody who does not get the result"))
		}
		if slices.ContainsFunc(d.Release[:i], func(o ReleaseSlot) bool { return o.Consumer == r.Consumer }) {
			f.add(invalid(at+"/consumer", "is about somebody who has an entry already"))
		}
		patterns += len(r.Files)
		for j, p := range r.Files {
			field := fmt.Sprintf("%s/files/%d", at, j)
			if err := manifest.CheckPattern(p); err != nil {
				f.add(invalid(field, "%v", err))
			} else if slices.Contains(r.Files[:j], p) {
				f.add(invalid(field, "is %q, which is there already", plain(p, maxTitle)))
			}
		}
	}
	if patterns > maxPatterns {
		f.add(invalid("release", "has %d patterns; at most %d are accepted", patterns, maxPatterns))
	}
}

// checkAssetOf wants an asset of the workspace that its provider owns; fresh: that
// isn't retired, either.
func checkAssetOf(r Reader, field string, workspace, provider ID, kind AssetKind, id ID, fresh bool) (*Error, error) {
	a, err := r.Asset(id)
	switch {
	case errors.Is(err, ErrNoRow) || err == nil && a.Workspace != workspace:
		return invalid(field, "is no asset of this workspace"), nil
	case err != nil:
		return nil, err
	case a.Kind != kind:
		return invalid(field, "is of kind %q; expected %q", a.Kind, kind), nil
	case a.Owner != provider:
		return invalid(field, "is not its provider's own"), nil
	case fresh && !a.Retired.IsZero():
		return invalid(field, "is retired"), nil
	}
	return nil, nil
}

// checkKey wants a key that is the user's and in use.
func checkKey(r Reader, field string, user, id ID) (*Error, error) {
	k, err := r.Key(id)
	switch {
	case errors.Is(err, ErrNoRow) || err == nil && k.User != user:
		return invalid(field, "is no key of this user"), nil
	case err != nil:
		return nil, err
	case !k.Revoked.IsZero():
		return invalid(field, "is revoked"), nil
	}
	return nil, nil
}
