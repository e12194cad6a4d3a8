package manifest_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

// divided is a valid manifest that says who gets what.
func divided() manifest.Manifest {
	p, m := everybody(), full()
	m.Consumers = []keys.Public{p.consumer.Public(), p.algo.Public()}
	m.Approvals = []keys.Public{p.algo.Public(), p.data.Public(), p.consumer.Public()}
	m.Outputs = manifest.Outputs{
		ResultMax: 1 << 20, Pad: true, OperatorOutput: true,
		Release: []manifest.Release{
			{Consumer: p.algo.Public(), Output: true},
			{Consumer: p.consumer.Public(), Files: []string{"model.bin", "reports/**/*.csv"}},
		},
	}
	return m
}

func TestReleaseIsFrozen(t *testing.T) {
	m := divided()
	f := freeze(t, m)
	if !reflect.DeepEqual(f.Manifest, m) {
		t.Errorf("frozen: %+v", f.Outputs)
	}
	// Empty lists make no second digest, and the caller's stay as they are.
	m.Outputs.Release[0].Files = []string{}
	if got := freeze(t, m); got.Digest != f.Digest || m.Outputs.Release[0].Files == nil {
		t.Errorf("%s\n%s", got.Raw, f.Raw)
	}
	m = full()
	want := freeze(t, m)
	m.Outputs.Release = []manifest.Release{}
	if got := freeze(t, m); got.Digest != want.Digest {
		t.Errorf("%s\n%s", got.Raw, want.Raw)
	}
}

// Each is right in all but one thing.
func TestReleaseIsRefused(t *testing.T) {
	p := everybody()
	for name, tt := range map[string]struct {
		change func(*manifest.Manifest)
		path   string
		want   string
	}{
		"padded to nothing": {func(m *manifest.Manifest) { m.Outputs.ResultMax = 0 }, "/outputs/pad", "at least 65536"},
		"padded to little":  {func(m *manifest.Manifest) { m.Outputs.ResultMax = 65535 }, "/outputs/pad", "at least 65536"},
		"no whole blocks":   {func(m *manifest.Manifest) { m.Outputs.ResultMax++ }, "/outputs/pad", "multiple of 512"},
		"operator without a provider": {func(m *manifest.Manifest) { m.Approvals = slices.Delete(m.Approvals, 1, 2) },
			"/outputs/operator_output", p.data.Public().Fingerprint()},
		"operator without a consumer": {func(m *manifest.Manifest) { m.Approvals = m.Approvals[:2] },
			"/outputs/operator_output", p.consumer.Public().Fingerprint()},
		"operator without the algorithm's": {func(m *manifest.Manifest) { m.Approvals = m.Approvals[1:] },
			"/outputs/operator_output", p.algo.Public().Fingerprint()},
		"a consumer without an entry": {func(m *manifest.Manifest) { m.Outputs.Release = m.Outputs.Release[:1] }, "/outputs/release", "/consumers/0"},
		"an entry without a key":      {func(m *manifest.Manifest) { m.Outputs.Release = append(m.Outputs.Release, manifest.Release{}) }, "/outputs/release/2/consumer", "missing"},
		"not a consumer": {func(m *manifest.Manifest) {
			m.Outputs.Release = append(m.Outputs.Release, manifest.Release{Consumer: p.data.Public()})
		}, "/outputs/release/2/consumer", "none of /consumers"},
		"twice": {func(m *manifest.Manifest) {
			m.Outputs.Release = append(m.Outputs.Release, manifest.Release{Consumer: p.algo.Public()})
		}, "/outputs/release/2/consumer", "same key as /outputs/release/0"},
		"a pattern twice": {func(m *manifest.Manifest) { m.Outputs.Release[1].Files = []string{"a", "a"} }, "/outputs/release/1/files/1", "as is"},
		"too many":        {func(m *manifest.Manifest) { m.Outputs.Release[1].Files = many(257) }, "/outputs/release/1/files", "257"},
	} {
		t.Run(name, func(t *testing.T) {
			m := divided()
			tt.change(&m)
			_, err := manifest.Freeze(m)
			if paths, text := faultsOf(t, err); !slices.Equal(paths, []string{tt.path}) || !strings.Contains(text, tt.want) {
				t.Errorf("got %v, want one fault with path %s and %q", err, tt.path, tt.want)
			}
		})
	}
	raw := freeze(t, divided()).Raw
	for path, value := range map[string]any{
		"/outputs/pad": false, "/outputs/operator_output": false, "/outputs/release/0/output": false,
		"/outputs/release/0/files": []any{}, "/outputs/release/1/name": "x",
	} {
		if _, err := manifest.Parse(edit(t, raw, path, value)); err == nil {
			t.Errorf("%s = %v was taken", path, value)
		}
	}
}

func many(n int) (all []string) {
	for i := range n {
		all = append(all, strings.Repeat("x", i+1))
	}
	return all
}

func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern   string
		yes, no   []string
		malformed bool
	}{
		{pattern: "model.bin", yes: []string{"model.bin"}, no: []string{"a/model.bin", "model.bin/x", "Model.bin", "model.bi", ""}},
		{pattern: "*.csv", yes: []string{".csv", "a.csv"}, no: []string{"a/b.csv", "a.csvx"}},
		{pattern: "a/?.txt", yes: []string{"a/b.txt", "a/é.txt"}, no: []string{"a/bc.txt", "a/.txt", "b.txt"}},
		{pattern: "[a-c]x", yes: []string{"ax", "cx"}, no: []string{"dx", "x"}},
		{pattern: `\*`, yes: []string{"*"}, no: []string{"a"}},
		{pattern: "**", yes: []string{"a", "a/b", "a/b/c.d"}},
		{pattern: "a/**", yes: []string{"a/b", "a/b/c", "a"}, no: []string{"b/a", "ab"}},
		{pattern: "**/x", yes: []string{"x", "a/x", "a/b/x"}, no: []string{"ax", "x/a"}},
		{pattern: "a/**/b/**/c", yes: []string{"a/b/c", "a/1/2/b/c", "a/b/1/c", "a/b/b/c/c"}, no: []string{"a/c", "a/b/c/d"}},
		{pattern: strings.Repeat("**/", 200) + "x", yes: []string{strings.Repeat("y/", 60) + "x"}, no: []string{strings.Repeat("y/", 60) + "z"}},
		{pattern: "", malformed: true},
		{pattern: "/a", malformed: true},
		{pattern: "a/", malformed: true},
		{pattern: "a//b", malformed: true},
		{pattern: "../a", malformed: true},
		{pattern: "./a", malformed: true},
		{pattern: "a**", malformed: true},
		{pattern: "[a", malformed: true},
		{pattern: "a\x00", malformed: true},
		{pattern: "\xff", malformed: true},
		{pattern: strings.Repeat("x", 1025), malformed: true},
	} {
		if err := manifest.CheckPattern(tt.pattern); (err != nil) != tt.malformed {
			t.Errorf("%.30q: %v; want malformed: %t", tt.pattern, err, tt.malformed)
		}
		r := manifest.Release{Files: []string{tt.pattern}}
		for _, name := range tt.yes {
			if !r.Has(name) {
				t.Errorf("%.30q does not match %q", tt.pattern, name)
			}
		}
		for _, name := range tt.no {
			if r.Has(name) {
				t.Errorf("%.30q matches %q", tt.pattern, name)
			}
		}
	}
}

func TestReleaseTo(t *testing.T) {
	p, m := everybody(), divided()
	if r, everything := m.ReleaseTo(p.consumer.Public()); everything || len(r.Files) != 2 || r.Output {
		t.Errorf("a consumer: %+v %t", r, everything)
	}
	if r, everything := m.ReleaseTo(p.data.Public()); everything || len(r.Files) > 0 || r.Output {
		t.Errorf("not a consumer: %+v %t", r, everything)
	}
	undivided := full()
	if _, everything := undivided.ReleaseTo(p.consumer.Public()); !everything {
		t.Error("an undivided result is divided")
	}
	if _, everything := undivided.ReleaseTo(p.data.Public()); everything {
		t.Error("who is no consumer gets everything")
	}
}

func TestCommitment(t *testing.T) {
	salt, input := manifest.Salt{1}, manifest.Sum([]byte("yes"))
	// The bytes must never change: (label, salt, digest), one after the other.
	want := manifest.Sum(slices.Concat([]byte("cocos/v1/commitment"), salt[:], input[:]))
	c := manifest.Commit(salt, input)
	if c.String() != want.String() {
		t.Errorf("commitment %s, want %s", c, want)
	}
	for name, tt := range map[string]struct {
		content manifest.Content
		salt    manifest.Salt
		want    bool
	}{
		"right":                {manifest.Content{Commitment: c}, salt, true},
		"another salt":         {manifest.Content{Commitment: c}, manifest.Salt{2}, false},
		"digest":               {manifest.Content{SHA256: input}, manifest.Salt{}, true},
		"another digest":       {manifest.Content{SHA256: manifest.Sum(nil)}, manifest.Salt{}, false},
		"digest as commitment": {manifest.Content{Commitment: manifest.Commitment(input)}, salt, false},
	} {
		if got := tt.content.Is(input, tt.salt); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if (manifest.Content{}).Is(manifest.Digest{}, manifest.Salt{}) {
		t.Error("nothing names something")
	}

	m := full()
	m.Algorithm.SHA256, m.Algorithm.Commitment = manifest.Digest{}, c
	m.Datasets[1].SHA256, m.Datasets[1].Commitment = manifest.Digest{}, c
	f := freeze(t, m)
	if !reflect.DeepEqual(f.Manifest, m) || strings.Count(string(f.Raw), `"commitment"`) != 2 || strings.Count(string(f.Raw), `"sha256"`) != 3 {
		t.Errorf("frozen: %s", f.Raw)
	}
	digest := strings.Repeat("1", 64)
	for _, tt := range []struct {
		path  string
		value any
		fault string
		want  string
	}{
		{"/algorithm/sha256", digest, "/algorithm/commitment", "beside sha256"},
		{"/datasets/1/sha256", digest, "/datasets/1/commitment", "beside sha256"},
		{"/algorithm/commitment", absent, "/algorithm/sha256", "missing or zero"},
		{"/datasets/1/commitment", strings.Repeat("0", 64), "/datasets/1/sha256", "missing or zero"},
		{"/datasets/1/commitment", strings.Repeat("F", 64), "/datasets/1/commitment", "upper"},
		{"/datasets/1/commitment", digest[1:], "/datasets/1/commitment", "63"},
	} {
		_, err := manifest.Parse(edit(t, f.Raw, tt.path, tt.value))
		if paths, text := faultsOf(t, err); !slices.Contains(paths, tt.fault) || !strings.Contains(text, tt.want) {
			t.Errorf("%s = %v: got %v, want a fault with path %s and %q", tt.path, tt.value, err, tt.fault, tt.want)
		}
	}
}
