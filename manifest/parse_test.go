package manifest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestFreezeAndParse(t *testing.T) {
	minimal := full()
	minimal.Description, minimal.TEE, minimal.AttestedTLS, minimal.Approvals, minimal.Datasets = "", manifest.TEENone, false, nil, nil
	minimal.Algorithm.Args, minimal.Algorithm.Env, minimal.Algorithm.Limits, minimal.Outputs = nil, nil, manifest.Limits{}, manifest.Outputs{}
	for name, m := range map[string]manifest.Manifest{"full": full(), "minimal": minimal, "container": container()} {
		t.Run(name, func(t *testing.T) {
			f := freeze(t, m)
			if f.Digest != manifest.Sum(f.Raw) || !reflect.DeepEqual(f.Manifest, m) {
				t.Errorf("frozen: %+v", f)
			}
			again, err := manifest.Parse(f.Raw)
			if err != nil || again.Digest != f.Digest || !reflect.DeepEqual(again.Manifest, m) || !bytes.Equal(again.Raw, f.Raw) {
				t.Errorf("parsed: %+v %v", again, err)
			}
			// The result keeps its own bytes.
			raw := bytes.Clone(f.Raw)
			kept, err := manifest.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			clear(raw)
			if manifest.Sum(kept.Raw) != f.Digest {
				t.Error("the frozen bytes changed with the caller's")
			}
			// As people write it: indented, in another order.
			var any map[string]any
			if err := json.Unmarshal(f.Raw, &any); err != nil {
				t.Fatal(err)
			}
			written, err := json.MarshalIndent(any, "", "   ")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := manifest.Parse(written); err == nil {
				t.Error("Parse took a form that is not canonical")
			}
			read, err := manifest.Decode(written)
			if err != nil || freeze(t, read).Digest != f.Digest {
				t.Errorf("decoded: %+v %v", read, err)
			}
		})
	}
}

// What is empty is left out, so that it makes no second digest.
func TestEmptyIsAbsent(t *testing.T) {
	m := full()
	m.Approvals, m.Datasets, m.Algorithm.Args, m.Algorithm.Env = nil, nil, nil, nil
	want := freeze(t, m)
	m.Approvals, m.Datasets = m.Consumers[:0], []manifest.Dataset{}
	m.Algorithm.Args, m.Algorithm.Env = []string{}, map[string]string{}
	if got := freeze(t, m); got.Digest != want.Digest {
		t.Errorf("%s\n%s", got.Raw, want.Raw)
	}
}

// The digest of a fixed manifest must never change.
func TestGoldenBytes(t *testing.T) {
	const key = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	const raw = `{"algorithm":{"provider":"` + key + `","sha256":"0200000000000000000000000000000000000000000000000000000000000000","size":5,"type":"binary"},` +
		`"attested_tls":false,"consumers":["` + key + `"],"id":"c1","name":"é€","nonce":"0100000000000000000000000000000000000000000000000000000000000000","tee":"none","version":1}`
	f, err := manifest.Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Digest.String(); got != "60dea2ff7b00e3c9f539bb4ca65071f460bd5f857f4df65b610ce10e50d5b6e6" {
		t.Errorf("digest %s", got)
	}
	if again := freeze(t, f.Manifest); string(again.Raw) != raw {
		t.Errorf("frozen again it is %s", again.Raw)
	}
}

// Each manifest is right in all but one field; the fault has exactly its path.
func TestEveryFieldMalformed(t *testing.T) {
	raw := freeze(t, full()).Raw
	key := everybody().stranger.Public().String()
	long := strings.Repeat("x", 70_000)
	n := func(s string) json.Number { return json.Number(s) }
	wrongType := func(path string, good ...any) (values []any) {
		for _, v := range []any{nil, true, n("5"), "text", []any{}, map[string]any{}} {
			if !slices.ContainsFunc(good, func(g any) bool { return reflect.TypeOf(g) == reflect.TypeOf(v) }) {
				values = append(values, v)
			}
		}
		return values
	}
	type bad struct {
		value any
		want  string
	}
	for path, values := range map[string][]bad{
		"/version": {{absent, "reads version 1"}, {n("0"), ""}, {n("2"), ""}, {n("-1"), ""}, {n("1.5"), "whole number"}, {n("99999999999999999999"), "whole number"}, {n("1e400"), "whole number"}},
		"/id":      {{absent, "missing"}, {"", "missing"}, {"..", ""}, {".", ""}, {"a/b", ""}, {"a\x00", ""}, {"-a", ""}, {" a", ""}, {"ä", ""}, {strings.Repeat("a", 129), "129"}},
		"/name":    {{absent, "missing"}, {"", "missing"}, {"a\nb", "control"}, {"a\x00b", "control"}, {"a\u202eb", "invisible"}, {"a\u200bb", "invisible"}, {strings.Repeat("ä", 257), "257"}},
		"/description": {
			{"a\tb", "control"}, {"a\u2066b", "invisible"}, {strings.Repeat("ä", 4097), "4097"},
		},
		"/nonce":                         {{absent, "missing or zero"}, {strings.Repeat("0", 64), "zero"}, {"", "0 characters"}, {strings.Repeat("1", 63), "63"}, {strings.Repeat("1", 65), "65"}, {strings.Repeat("A", 64), "upper-case"}, {strings.Repeat("g", 64), "not hexadecimal"}, {strings.Repeat("ä", 32), "hexadecimal"}},
		"/tee":                           {{absent, `""`}, {"", ""}, {"SEV-SNP", ""}, {"sev", ""}, {"none ", ""}},
		"/attested_tls":                  {{absent, "is missing"}, {"true", "true or false"}, {n("1"), "true or false"}},
		"/approvals":                     {},
		"/approvals/0":                   {{"", ""}, {"AAAA", "public key"}, {key + "A", ""}, {key[:20], ""}, {" " + key, ""}},
		"/approvals/1":                   {{everybody().approver.Public().String(), "same key as /approvals/0"}},
		"/algorithm/type":                {{absent, `""`}, {"", ""}, {"fortran", "binary"}, {"Python", ""}},
		"/algorithm/args/0":              {{"a\x00b", "NUL"}, {long, "70000"}},
		"/algorithm/env/A":               {{"a\x00b", "NUL"}, {long, "70000"}},
		"/algorithm/env/A=B":             {{"x", "variable's name"}},
		"/algorithm/env/1A":              {{"x", "variable's name"}},
		"/algorithm/limits/memory_bytes": {{n("-1"), "expected 0 to"}, {n("1125899906842625"), "expected 0 to"}, {n("1.5"), "whole"}},
		"/algorithm/limits/processes":    {{n("-1"), ""}, {n("9007199254740993"), ""}},
		"/algorithm/limits/seconds":      {{n("-1"), ""}, {n("1e30"), "whole"}},
		"/algorithm/limits/output_bytes": {{n("-1"), ""}, {n("1125899906842625"), ""}},
		"/algorithm/limits/cpu_milli":    {{n("-1"), ""}, {n("9"), "expected 10 to"}, {n("1024001"), "expected 10 to"}, {n("1.5"), "whole"}, {n("0"), "left out"}},
		"/algorithm/sha256":              {{absent, "missing or zero"}, {strings.Repeat("0", 64), "zero"}, {strings.Repeat("1", 63), "63"}, {strings.Repeat("1", 66), "66"}, {strings.Repeat("F", 64), "upper"}, {"sha256:" + strings.Repeat("1", 64), "71"}},
		"/algorithm/size":                {{absent, "expected 1 to"}, {n("0"), "expected 1 to"}, {n("-1"), ""}, {n("1125899906842625"), ""}},
		"/algorithm/provider":            {{absent, "is missing"}, {"", ""}, {"AAAA", ""}},
		"/datasets/0/name":               {{absent, "missing"}, {"", "missing"}, {"..", ""}, {"a/b", ""}, {"../x", ""}, {"a\x00", ""}, {".hidden", ""}, {"two", ""}},
		"/datasets/0/provider":           {{absent, "is missing"}, {"x", ""}},
		"/datasets/0/sha256":             {{absent, "missing"}, {strings.Repeat("1", 62), "62"}, {"", "0 characters"}},
		"/datasets/0/size":               {{absent, "is missing"}, {n("-1"), ""}, {n("0.5"), "whole"}, {n("9223372036854775808"), "whole"}},
		"/datasets/1/unpacked_max":       {{n("-1"), ""}, {n("1125899906842625"), ""}, {n("0"), "left out"}},
		"/consumers":                     {{absent, "empty"}, {[]any{}, "empty"}},
		"/consumers/0":                   {{"", ""}, {"AAAA", ""}},
		"/algorithm/image":               {{map[string]any{}, "left out"}, {map[string]any{"name": "x"}, `"container" only`}, {map[string]any{"unpacked_max": n("1")}, `"container" only`}, {nil, "left out"}},
		"/outputs":                       {{map[string]any{}, "left out"}},
		"/outputs/result_max":            {{n("-1"), ""}, {n("1125899906842625"), ""}, {"5", "a string; expected a number"}},
		"/extra":                         {{n("1"), "not a known field"}},
		"/Version":                       {{n("1"), "not a known field"}},
		"/VERSION":                       {{n("1"), "not a known field"}},
		"/algorithm/Sha256":              {{strings.Repeat("1", 64), "not a known field"}},
		"/algorithm/limits/Seconds":      {{n("1"), "not a known field"}},
		"/datasets/0/Name":               {{"x", "not a known field"}},
		"/outputs/stdout":                {{true, "not a known field"}},
	} {
		switch path {
		case "/version", "/algorithm/size", "/datasets/0/size", "/algorithm/limits/seconds", "/outputs/result_max":
			for _, v := range wrongType(path, n("1")) {
				values = append(values, bad{v, ""})
			}
		case "/id", "/name", "/description", "/tee", "/nonce", "/algorithm/type", "/algorithm/sha256", "/algorithm/provider", "/datasets/0/name", "/consumers/0", "/algorithm/args/0", "/algorithm/env/A":
			for _, v := range wrongType(path, "") {
				values = append(values, bad{v, ""})
			}
		case "/attested_tls":
			for _, v := range wrongType(path, true) {
				values = append(values, bad{v, ""})
			}
		case "/approvals", "/consumers":
			for _, v := range wrongType(path, []any{}) {
				values = append(values, bad{v, ""})
			}
		case "/outputs":
			for _, v := range wrongType(path, map[string]any{}) {
				values = append(values, bad{v, ""})
			}
		}
		for _, b := range values {
			want := path
			if path == "/datasets/0/name" && b.value == "two" {
				want = "/datasets/1/name" // the second of that name
			}
			_, err := manifest.Parse(edit(t, raw, path, b.value))
			if paths, text := faultsOf(t, err); !slices.Equal(paths, []string{want}) || !strings.Contains(text, b.want) {
				t.Errorf("%s = %.60v: got %v, want one fault with path %s and %q", path, b.value, err, want, b.want)
			}
		}
	}
}

// Each manifest is right in all but one field of its image.
func TestImageMalformed(t *testing.T) {
	raw := freeze(t, container()).Raw
	n := func(s string) json.Number { return json.Number(s) }
	type bad struct {
		value any
		want  string
	}
	for path, values := range map[string][]bad{
		"/algorithm/image/name":         {{"", "left out"}, {"a b", "a name that the archive has"}, {"-a", ""}, {"a\x00", ""}, {"ä", ""}, {strings.Repeat("a", 513), "513"}, {n("1"), "a string"}},
		"/algorithm/image/config":       {{absent, "cocos-cli container"}, {strings.Repeat("0", 64), "zero"}, {strings.Repeat("1", 63), "63"}, {"sha256:" + strings.Repeat("1", 64), "71"}, {nil, ""}},
		"/algorithm/image/unpacked_max": {{absent, "expected 1 to"}, {n("0"), "expected 1 to"}, {n("-1"), ""}, {n("1125899906842625"), ""}, {"1", "a number"}},
		"/algorithm/image/Name":         {{"x", "not a known field"}},
		"/algorithm/type":               {{"container ", ""}},
	} {
		for _, b := range values {
			_, err := manifest.Parse(edit(t, raw, path, b.value))
			if paths, text := faultsOf(t, err); !slices.Contains(paths, path) || !strings.Contains(text, b.want) {
				t.Errorf("%s = %.60v: got %v, want a fault with path %s and %q", path, b.value, err, path, b.want)
			}
		}
	}
	for name, tt := range map[string]struct {
		change func(*manifest.Algorithm)
		want   []string
	}{
		"a binary with an image":       {func(a *manifest.Algorithm) { a.Type = manifest.Binary }, []string{"/algorithm/image"}},
		"a container without an image": {func(a *manifest.Algorithm) { a.Image = manifest.Image{} }, []string{"/algorithm/image/config", "/algorithm/image/unpacked_max"}},
	} {
		m := container()
		tt.change(&m.Algorithm)
		if paths, _ := faultsOf(t, m.Validate()); !slices.Equal(paths, tt.want) {
			t.Errorf("%s: faults at %q, want %q", name, paths, tt.want)
		}
	}
}

// Bytes that JSON tools in other languages may read differently.
func TestFormsThatAreRefused(t *testing.T) {
	raw := string(freeze(t, full()).Raw)
	replace := func(old, new string) string {
		t.Helper()
		if strings.Count(raw, old) < 1 {
			t.Fatalf("%s is not in the manifest", old)
		}
		return strings.Replace(raw, old, new, 1)
	}
	for _, tt := range []struct{ name, in, path, want string }{
		{"nothing", "", "", "not valid JSON"},
		{"not JSON", "x", "", "not valid JSON"},
		{"an array", "[]", "", "an array"},
		{"a number", "1", "", "a number"},
		{"cut", raw[:len(raw)-1], "", "not valid JSON"},
		{"two of them", raw + raw, "", "not valid JSON"},
		{"a space after it", raw + " ", "", "not canonical"},
		{"a line after it", raw + "\n", "", "not canonical"},
		{"a byte order mark", "\ufeff" + raw, "", "not valid JSON"},
		{"a NUL after it", raw + "\x00", "", "not valid JSON"},
		{"a space inside", replace(`"version":1`, `"version": 1`), "", "not canonical"},
		{"another order", `{"version":1,` + strings.TrimSuffix(strings.TrimPrefix(raw, "{"), `,"version":1}`) + "}", "", "not canonical"},
		{"an escape", replace(`"id":"c1"`, `"id":"c\u0031"`), "", "not canonical"},
		{"an escaped key", replace(`"id":`, `"\u0069d":`), "", "not canonical"},
		{"a slash escaped", replace(`"size":100`, `"size":100,"x\/":1`), "/algorithm/x~1", "not a known field"},
		{"minus zero", replace(`"size":10}`, `"size":-0}`), "", "not canonical"},
		{"an exponent", replace(`"size":100`, `"size":1e2`), "/algorithm/size", "whole number"},
		{"a fraction", replace(`"size":100`, `"size":100.0`), "/algorithm/size", "whole number"},
		{"a leading zero", replace(`"size":100`, `"size":0100`), "/algorithm", "not valid JSON"},
		{"a hexadecimal number", replace(`"size":100`, `"size":0x64`), "/algorithm", "not valid JSON"},
		{"NaN", replace(`"size":100`, `"size":NaN`), "/algorithm/size", "not valid JSON"},
		{"invalid UTF-8", replace(`"id":"c1"`, "\"id\":\"c\xff\""), "/id", "UTF-8"},
		{"half a surrogate", replace(`"id":"c1"`, `"id":"\ud800"`), "/id", "surrogate"},
		{"a comment", replace(`"id"`, `/**/"id"`), "", "not valid JSON"},
		{"a comma too many", replace(`"version":1}`, `"version":1,}`), "", "not valid JSON"},
		{"a key twice", replace(`"version":1`, `"version":1,"version":1`), "/version", "given twice"},
		{"a key twice, other value", replace(`"version":1`, `"version":1,"version":2`), "/version", "given twice"},
		{"a key twice, once escaped", replace(`"version":1`, `"version":1,"v\u0065rsion":2`), "/version", "given twice"},
		{"a key twice below", replace(`"size":100`, `"size":100,"size":100`), "/algorithm/size", "given twice"},
		{"a variable twice", replace(`"A":"1"`, `"A":"1","A":"2"`), "/algorithm/env/A", "given twice"},
		{"a key twice in a dataset", replace(`"name":"one.csv"`, `"name":"one.csv","name":"one.csv"`), "/datasets/0/name", "given twice"},
		{"no arguments, said so", replace(`"args":["--alpha","0.5"]`, `"args":[]`), "/algorithm/args", "left out"},
		{"arguments null", replace(`"args":["--alpha","0.5"]`, `"args":null`), "/algorithm/args", "left out"},
		{"a limit of zero", replace(`"seconds":60`, `"seconds":0`), "/algorithm/limits/seconds", "left out"},
		{"deep nesting", `{"a":` + strings.Repeat("[", 20_000), "/a", "not a known field"},
		{"too long", raw + strings.Repeat(" ", manifest.MaxSize), "", "at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := manifest.Parse([]byte(tt.in))
			paths, text := faultsOf(t, err)
			if !slices.Contains(paths, tt.path) || !strings.Contains(text, tt.want) {
				t.Errorf("got %v, want a fault at %q with %q", err, tt.path, tt.want)
			}
		})
	}
}

// What Go can hold and JSON can't, and bounds on numbers of things.
func TestFreezeRefuses(t *testing.T) {
	for path, change := range map[string]func(*manifest.Manifest){
		"/name":                     func(m *manifest.Manifest) { m.Name = "a\xff" },
		"/description":              func(m *manifest.Manifest) { m.Description = "a\xff" },
		"/algorithm/args/1":         func(m *manifest.Manifest) { m.Algorithm.Args = []string{"a", "b\xff"} },
		"/algorithm/args":           func(m *manifest.Manifest) { m.Algorithm.Args = make([]string, 1025) },
		"/algorithm/env/A":          func(m *manifest.Manifest) { m.Algorithm.Env = map[string]string{"A": "\xff"} },
		"/algorithm/env/A~1B~0":     func(m *manifest.Manifest) { m.Algorithm.Env = map[string]string{"A/B~": ""} },
		"/algorithm/env":            func(m *manifest.Manifest) { m.Algorithm.Env = manyVariables(257) },
		"/datasets":                 func(m *manifest.Manifest) { m.Datasets = manyDatasets(257) },
		"/attested_tls":             func(m *manifest.Manifest) { m.TEE, m.Datasets = manifest.TEENone, m.Datasets[:1] },
		"/algorithm/provider":       func(m *manifest.Manifest) { m.Algorithm.Provider = keys.Public{} },
		"/consumers/0":              func(m *manifest.Manifest) { m.Consumers[0] = keys.Public{} },
		"/algorithm/limits/seconds": func(m *manifest.Manifest) { m.Algorithm.Limits.Seconds = -1 },
	} {
		m := full()
		change(&m)
		_, err := manifest.Freeze(m)
		if paths, _ := faultsOf(t, err); !slices.Equal(paths, []string{path}) {
			t.Errorf("got %v, want one fault at %s", err, path)
		}
	}
	large := full()
	large.Algorithm.Args = slices.Repeat([]string{strings.Repeat("x", 60_000)}, 20)
	if _, err := manifest.Freeze(large); err == nil || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("a manifest of more than 1 MiB: %.200v", err)
	}
}

func manyVariables(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprint("V", i)] = ""
	}
	return m
}

func manyDatasets(n int) (ds []manifest.Dataset) {
	for i := range n {
		ds = append(ds, manifest.Dataset{Name: fmt.Sprint("d", i), Provider: everybody().data.Public(), SHA256: manifest.Digest{1}})
	}
	return ds
}

// An author mends a manifest in one round.
func TestAllFaultsAtOnce(t *testing.T) {
	raw := freeze(t, full()).Raw
	for path, v := range map[string]any{
		"/version": json.Number("7"), "/nonce": "12", "/tee": "x", "/approvals/1": "AAAA", "/algorithm/type": "x",
		"/algorithm/sha256": "zz", "/algorithm/size": "big", "/datasets/0/name": "../x", "/datasets/1/sha256": absent, "/consumers/0": nil,
		"/attested_tls": "yes", "/outputs/result_max": json.Number("-1"), "/algorithm/env/A": json.Number("1"), "/algorithm/args/1": nil,
	} {
		raw = edit(t, raw, path, v)
	}
	_, err := manifest.Parse(raw)
	paths, _ := faultsOf(t, err)
	slices.Sort(paths)
	want := []string{"/algorithm/args/1", "/algorithm/env/A", "/algorithm/sha256", "/algorithm/size", "/algorithm/type", "/approvals/1", "/attested_tls", "/consumers/0",
		"/datasets/0/name", "/datasets/1/sha256", "/nonce", "/outputs/result_max", "/tee", "/version"}
	if !slices.Equal(paths, want) {
		t.Errorf("got  %q,\nwant %q", paths, want)
	}
	// Unfrozen, what can be read is read and the rest is named.
	_, err = manifest.Decode(raw)
	paths, _ = faultsOf(t, err)
	if !slices.Contains(paths, "/algorithm/sha256") || !slices.Contains(paths, "/consumers/0") {
		t.Errorf("Decode: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	p := everybody()
	m := full()
	m.Approvals, m.Datasets[1].Provider, m.Consumers[0] = nil, p.algo.Public(), p.algo.Public()
	raw := freeze(f, m).Raw
	f.Add(raw)
	for _, s := range []string{"", "{}", "null", `{"version":1,"version":1}`, `{"algorithm":{"limits":{"seconds":1e3}}}`, string(raw) + " ", strings.Replace(string(raw), `"c1"`, `"c\u0031"`, 1)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		frozen, err := manifest.Parse(in)
		if err != nil {
			faultsOf(t, err)
			return
		}
		// What is taken is valid, is named by its own bytes, and is the one
		// form of what it says.
		if err := frozen.Validate(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(frozen.Raw, in) || frozen.Digest != manifest.Sum(in) {
			t.Fatal("the bytes changed")
		}
		if again, err := manifest.Freeze(frozen.Manifest); err != nil || !bytes.Equal(again.Raw, in) {
			t.Fatalf("frozen again it is %s, %v", again.Raw, err)
		}
	})
}
