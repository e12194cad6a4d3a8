package manifest_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/manifest"
)

// Each manifest is right in all but one field of its files, its source or its
// scratch disk.
func TestInputsMalformed(t *testing.T) {
	raw := freeze(t, full()).Raw
	n := func(s string) json.Number { return json.Number(s) }
	type bad struct {
		value any
		want  string
	}
	const source = "/datasets/1/source"
	for path, values := range map[string][]bad{
		"/algorithm/files/0/name":         {{absent, "missing"}, {"a/b", "letters"}, {"..", ""}},
		"/algorithm/files/0/sha256":       {{absent, "missing"}, {strings.Repeat("0", 64), "zero"}},
		"/algorithm/files/0/size":         {{absent, "is missing"}, {n("-1"), "expected 0"}},
		"/algorithm/files/1/unpacked_max": {{n("-1"), "expected 0"}, {n("0.5"), "whole"}},
		"/algorithm/files/0/mode":         {{n("1"), "not a known field"}},
		"/algorithm/python/requirements":  {{absent, "missing"}, {"", "missing"}, {"other.txt", "has none of that name"}, {"wheels", "expected a file"}},
		"/algorithm/python/wheels":        {{absent, "missing"}, {"other", "has none of that name"}, {"requirements.txt", "folder of wheels"}},
		source + "/url":                   {{absent, "missing"}, {"ftp://h/x", "begins with one of"}, {"s3://Bucket/k", "s3://BUCKET/KEY"}, {"s3://bucket", "s3://BUCKET/KEY"}, {"s3://bucket/k?x=1", ""}, {"https:///x", "names a host"}, {":", ""}, {"s3://u:p@bucket/k", "password"}, {"s3://bucket/k#x", "fragment"}, {"s3://bucket/" + strings.Repeat("k", 2048), "2060"}},
		source + "/endpoint":              {{absent, "missing"}, {"s3.example.org", ""}, {"https://s3.example.org/path", "alone"}, {"https://s3.example.org:0", ""}, {"https://s3.example.org:", ""}, {"https://s3.example.org:70000", ""}, {"https://s3.b\u00fccher.example", "punycode"}, {"https://s3.b%C3%BCcher.example", "punycode"}},
		source + "/region":                {{"a b", "letters"}, {strings.Repeat("a", 65), ""}},
		source + "/encryption":            {{"gpg", `"age"`}, {"ocicrypt", "layers of images"}, {n("1"), "a string"}},
		source + "/broker":                {{absent, "missing beside /resource"}, {"http://keys.example.org", "https"}, {"https://keys.example.org?x=1", "query"}, {"https://b\u00fccher.example", "punycode"}},
		source + "/resource":              {{absent, "REPOSITORY/TYPE/TAG"}, {"a/b", ""}, {"a/b/c/d", ""}, {"a/b/", ""}, {"a/b/" + strings.Repeat("c", 129), ""}},
		source + "/redirects/0":           {{"cdn.example.org", "HOST:PORT"}, {"CDN.example.org:443", "lower case"}, {"cdn.example.org:0", ""}, {":443", ""}, {"u@h:1", ""}, {"b\u00fccher.example:443", "punycode"}},
		source + "/authorities":           {{"x", "PEM"}, {authority() + "x", "PEM"}, {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"}, {strings.ReplaceAll(authority(), "CERTIFICATE", "PUBLIC KEY"), "no certificate"}},
		source + "/password":              {{"x", "not a known field"}},
		"/datasets/0/size":                {{n("1098437885953"), "on a scratch disk"}},
		"/scratch_bytes":                  {{n("1"), "multiple of 1048576"}, {n("-1048576"), ""}, {n("1048576"), "the inputs need"}, {n("0"), "left out"}},
	} {
		for _, b := range values {
			_, err := manifest.Parse(edit(t, raw, path, b.value))
			paths, text := faultsOf(t, err)
			// What names a file that is not right has a fault, too.
			paths = slices.DeleteFunc(paths, func(p string) bool {
				return strings.HasPrefix(path, "/algorithm/files/") && strings.HasPrefix(p, "/algorithm/python/")
			})
			if !slices.Equal(paths, []string{path}) || !strings.Contains(text, b.want) {
				t.Errorf("%s = %.60v: got %v, want one fault with path %s and %q", path, b.value, err, path, b.want)
			}
		}
	}

	twice := full()
	twice.Algorithm.Files[1].Name = "requirements.txt"
	if paths, _ := faultsOf(t, twice.Validate()); !slices.Contains(paths, "/algorithm/files/1/name") {
		t.Errorf("a name twice: %v", paths)
	}
	binary := full()
	binary.Algorithm.Type = manifest.Binary
	if paths, text := faultsOf(t, binary.Validate()); !slices.Equal(paths, []string{"/algorithm/python"}) || !strings.Contains(text, `"python" only`) {
		t.Errorf("a binary's packages: %v", text)
	}
	for _, name := range []string{manifest.PythonUserBase, "PYTHONNOUSERSITE"} {
		m := full()
		m.Algorithm.Env = map[string]string{name: "1"}
		if paths, text := faultsOf(t, m.Validate()); !slices.Equal(paths, []string{"/algorithm/env/" + name}) || !strings.Contains(text, "hide the packages") {
			t.Errorf("%s: %v", name, text)
		}
		m.Algorithm.Python = manifest.Packages{}
		if err := m.Validate(); err != nil {
			t.Errorf("%s without packages: %v", name, err)
		}
	}
	empty := full()
	empty.Algorithm.Files, empty.Algorithm.Python = []manifest.File{}, manifest.Packages{}
	empty.Datasets[1].Source.Redirects = []string{}
	if raw := string(freeze(t, empty).Raw); strings.Contains(raw, "files") || strings.Contains(raw, "redirects") {
		t.Errorf("empty lists were kept: %s", raw)
	}
}

func TestSources(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0a", 32)
	for _, tt := range []struct {
		source  manifest.Source
		servers []string
	}{
		{manifest.Source{URL: "https://Example.org/a?b=c"}, []string{"example.org:443"}},
		{manifest.Source{URL: "http://[::1]:8080/a", Broker: "https://keys.example.org/kbs", Resource: "a/b/c"}, []string{"[::1]:8080", "keys.example.org:443"}},
		{manifest.Source{URL: "oci://registry.example.org:5000/a/b_c" + digest, Encryption: manifest.OCICrypt}, []string{"registry.example.org:5000"}},
		{manifest.Source{URL: "oci+http://registry/a" + digest, Encryption: manifest.Age}, []string{"registry:80"}},
		{full().Datasets[1].Source, []string{"cdn.example.org:443", "keys.example.org:443", "s3.example.org:9000"}},
	} {
		if faults := tt.source.Validate(); len(faults) > 0 {
			t.Errorf("%s: %v", tt.source.URL, faults)
		}
		if got := tt.source.Servers(); !slices.Equal(got, tt.servers) {
			t.Errorf("%s: servers %q, want %q", tt.source.URL, got, tt.servers)
		}
	}
	for url, field := range map[string]string{
		"oci://registry/a:tag":             "/url",
		"oci://registry/A" + digest:        "/url",
		"oci://registry" + digest:          "/url",
		"oci://registry/a" + digest[:70]:   "/url",
		"oci://registry/a" + digest + "?x": "/url",
		"https://b\u00fccher.example/a":    "/url",
	} {
		if faults := (manifest.Source{URL: url}).Validate(); len(faults) != 1 || faults[0].Path != field {
			t.Errorf("%s: %v", url, faults)
		}
	}
	for _, s := range []manifest.Source{
		{URL: "https://example.org/a", Endpoint: "https://s3.example.org"},
		{URL: "https://example.org/a", Region: "eu"},
	} {
		if faults := s.Validate(); len(faults) != 1 || !strings.Contains(faults[0].Message, "s3:// only") {
			t.Errorf("%v: %v", s, faults)
		}
	}
	m := full()
	if got := m.Servers(); len(got) != 3 {
		t.Errorf("servers of the manifest: %q", got)
	}
}

// What is right by itself may not fit how the computation is protected. Each refusal
// is of a manifest that is right in all but one.
func TestSourcesAreProtected(t *testing.T) {
	const url, endpoint, broker = "/datasets/0/source/url", "/datasets/0/source/endpoint", "/datasets/0/source/broker"
	digest := "@sha256:" + strings.Repeat("0a", 32)
	web, s3 := manifest.Source{URL: "http://example.org/a"}, manifest.Source{URL: "s3://bucket/a", Endpoint: "http://example.org"}
	image := manifest.Source{URL: "oci+http://example.org/a" + digest}
	sealed, elsewhere := web, s3
	sealed.Encryption, elsewhere.Encryption = manifest.Age, manifest.Age
	brokered := manifest.Source{URL: "https://example.org/a", Encryption: manifest.Age, Broker: "https://keys.example.org", Resource: "a/b/c"}
	for name, tt := range map[string]struct {
		tee      manifest.TEE
		attested bool
		source   manifest.Source
		path     string
	}{
		"plain http":                     {manifest.TEESNP, true, web, url},
		"a plain endpoint":               {manifest.TEESNP, true, s3, endpoint},
		"a plain registry":               {manifest.TEESNP, true, image, url},
		"plain http, encrypted":          {manifest.TEESNP, true, sealed, ""},
		"a plain endpoint, encrypted":    {manifest.TEESNP, true, elsewhere, ""},
		"plain http without attestation": {manifest.TEESNP, false, web, ""},
		"plain http without a TEE":       {manifest.TEENone, false, web, ""},
		"a broker without a TEE":         {manifest.TEENone, false, brokered, broker},
		"a broker of a TEE":              {manifest.TEESim, false, brokered, ""},
	} {
		m := full()
		m.TEE, m.AttestedTLS, m.Datasets = tt.tee, tt.attested, m.Datasets[:1]
		m.Datasets[0].Source = tt.source
		err := m.Validate()
		if tt.path == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if paths, _ := faultsOf(t, err); !slices.Equal(paths, []string{tt.path}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScratchNeed(t *testing.T) {
	m := manifest.Manifest{Algorithm: manifest.Algorithm{Type: manifest.Python, Size: 1 << 30, Files: []manifest.File{{Size: 1 << 20, UnpackedMax: 1 << 20}}}}
	m.Datasets = []manifest.Dataset{{Size: 64 << 20}, {}}
	// 2 MiB; 64 MiB; their 64ths; 1 MiB for each of three. The program stays in memory.
	if got, want := m.ScratchNeed(), int64(71<<20); got != want {
		t.Errorf("%d, want %d", got, want)
	}
	// A container's archive goes there, and what comes out of it does not.
	m.Algorithm.Type, m.Algorithm.Image.UnpackedMax = manifest.Container, 1<<40
	if got, want := m.ScratchNeed(), int64((71+1024+16+1)<<20); got != want {
		t.Errorf("with a container: %d, want %d", got, want)
	}
}
