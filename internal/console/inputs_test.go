package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/console"
	"github.com/ultravioletrs/cocos/internal/vm"
	"github.com/ultravioletrs/cocos/manifest"
)

// registered is the asset that a form makes.
func (w *world) registered(who string, v url.Values) computations.Asset {
	w.t.Helper()
	r := w.browse(who).post(w.path("/w/{workspace}/assets/new", false), v)
	id, _, _ := strings.Cut(strings.TrimPrefix(r.header.Get("Location"), "/a/"), "?")
	if r.status != http.StatusSeeOther {
		w.t.Fatalf("%d\n%s", r.status, text(r.body))
	}
	a, err := w.svc.Asset(w.t.Context(), w.who[who], computations.ID(id))
	w.check(err)
	return a
}

// TestInputsAreSeenBeforeTheyAreSigned: what a form says of files, packages and a
// source is in the manifest, and on the pages of those who approve it.
func TestInputsAreSeenBeforeTheyAreSigned(t *testing.T) {
	w := newWorld(t)
	sum := func(of byte) string { return strings.Repeat(string([]byte{'0', of}), 32) }
	// As cocos-cli checksum --json prints them, and a name in place of the path's end.
	files := `{"path":"code/requirements.txt","kind":"file","sha256":"` + sum('1') + `","size":20}
{"path":"C:\\code\\wheels","kind":"archive","sha256":"` + sum('2') + `","size":2048}
{"path":"x","name":"weights","kind":"file","commitment":"` + sum('3') + `","size":7}`
	script := w.registered("alan", form("kind", "algorithm", "type", "python", "name", "train", "sha256", sum('a'), "size", "9",
		"files", files, "python/requirements", "requirements.txt", "python/wheels", "wheels"))
	if want := []manifest.File{
		{Name: "requirements.txt", SHA256: script.Files[0].SHA256, Size: 20},
		{Name: "wheels", SHA256: script.Files[1].SHA256, Size: 2048, UnpackedMax: 2048},
		{Name: "weights", Commitment: script.Files[2].Commitment, Size: 7},
	}; script.Files[0] != want[0] || script.Files[1] != want[1] || script.Files[2] != want[2] || script.Files[2].Commitment.String() != sum('3') {
		t.Errorf("the asset has %+v", script.Files)
	}
	data := w.registered("dora", form("kind", "dataset", "name", "scans", "sha256", sum('b'), "size", "1073741824",
		"source/url", "s3://hospital/scans.age", "source/endpoint", "https://s3.hospital.example", "source/encryption", "age",
		"source/broker", "https://kbs.hospital.example", "source/resource", "default/key/scans", "source/redirects", "cdn.example:443\r\n\r\n b.example:8443 "))
	if got := strings.Join(data.Source.Redirects, " "); got != "cdn.example:443 b.example:8443" || data.Source.Encryption != manifest.Age {
		t.Errorf("the asset has %+v", data.Source)
	}
	servers := []string{"cdn.example:443", "b.example:8443", "kbs.hospital.example:443", "s3.hospital.example:443"}
	wants := func(who, path string, parts ...string) {
		t.Helper()
		page := strings.Join(strings.Fields(text(w.browse(who).get(w.path(path, false)).body)), " ")
		for _, part := range parts {
			if !strings.Contains(page, part) {
				t.Errorf("%s at %s lacks %q:\n%s", who, path, part, page)
			}
		}
	}
	w.things["script"], w.things["scans"] = script.ID, data.ID
	wants("nemo", "/a/{script}", "File requirements.txt", "Folder wheels", "Commitment", "installed from wheels")
	wants("nemo", "/a/{scans}", append(servers, "s3://hospital/scans.age", "Encrypted with age", "default/key/scans")...)

	d := computations.Draft{
		Name: "Fetched", TEE: manifest.TEESim, AttestedTLS: true,
		Algorithm: computations.AlgorithmSlot{Provider: w.users["alan"], Asset: script.ID},
		Datasets:  []computations.DatasetSlot{{Name: "scans", Provider: w.users["dora"], Asset: data.ID}},
		Consumers: []computations.ID{w.users["rita"]},
	}
	made, err := w.svc.CreateComputation(t.Context(), w.who["carl"], w.things["workspace"], d)
	w.check(err)
	w.things["fetched"] = made.ID
	seen := append(servers, "connects to these servers", "and to no others", "On a disk of 1.1 GiB that the VM encrypts", "installed from wheels", "File weights")
	wants("carl", "/c/{fetched}", seen...)
	wants("carl", "/c/{fetched}/freeze", "The agent will connect to kbs.hospital.example:443", "Inputs lie on a disk of 1.1 GiB")
	made, err = w.svc.Freeze(t.Context(), w.who["carl"], made.ID, made.Revision)
	w.check(err)
	for _, path := range []string{"/c/{fetched}", "/c/{fetched}/approve"} {
		wants("rita", path, seen...)
	}
	// One without any of it says so.
	d.Name, d.Datasets = "Without", nil
	without, err := w.svc.CreateComputation(t.Context(), w.who["carl"], w.things["workspace"], d)
	w.check(err)
	w.things["without"] = without.ID
	wants("carl", "/c/{without}", "None: nothing is fetched from anywhere", "In the VM’s memory")
	m, err := manifest.Parse(made.Manifest)
	w.check(err)
	if len(m.Algorithm.Files) != 3 || m.Algorithm.Python != script.Python || m.Datasets[0].Source.URL != data.Source.URL || m.ScratchBytes < 1<<30 {
		t.Errorf("the manifest is %s", m.Raw)
	}
}

// TestSecretsHaveNoPlace: who describes a source is told beside the form that it is
// no place for secrets.
func TestSecretsHaveNoPlace(t *testing.T) {
	w := newWorld(t)
	page := text(w.browse("dora").get(w.path("/w/{workspace}/assets/new", false)).body)
	for _, part := range []string{"Put no secret in here", "Every participant reads these fields in the manifest, and so does this service"} {
		if !strings.Contains(page, part) {
			t.Errorf("the form lacks %q", part)
		}
	}
}

// TestDraftKeepsItsDisk: a draft's choice comes back into its form, and out again.
func TestDraftKeepsItsDisk(t *testing.T) {
	w := newWorld(t)
	b := w.browse("carl")
	path := w.path("/c/{draft}/edit", false)
	for _, tc := range []struct {
		choice, size string
		want         computations.Scratch
		bytes        int64
	}{
		{"always", "", computations.ScratchAlways, 0},
		{"never", "", computations.ScratchNever, 0},
		{"always", "2 GiB", computations.ScratchAuto, 2 << 30},
		{"auto", "", computations.ScratchAuto, 0},
	} {
		v := formIn(t, b.get(path).body, "form")
		v.Set("scratch", tc.choice)
		v.Set("scratch_bytes", tc.size)
		if r := b.post(path, v); r.status != http.StatusSeeOther {
			t.Fatalf("%d\n%s", r.status, text(r.body))
		}
		// Saved again as it is, it stays.
		if r := b.post(path, formIn(t, b.get(path).body, "form")); r.status != http.StatusSeeOther {
			t.Fatalf("%d\n%s", r.status, text(r.body))
		}
		c, err := w.svc.Computation(t.Context(), w.who["carl"], w.things["draft"])
		w.check(err)
		if c.Draft.Scratch != tc.want || c.Draft.ScratchBytes != tc.bytes {
			t.Errorf("%q and %q make %q and %d", tc.choice, tc.size, c.Draft.Scratch, c.Draft.ScratchBytes)
		}
	}
}

// TestProgressOfInputs: each input has a step of its own, and its event ends that one.
func TestProgressOfInputs(t *testing.T) {
	f := &manifest.Frozen{}
	f.Algorithm.Files = []manifest.File{{Name: "same"}, {Name: "wheels"}}
	f.Datasets = []manifest.Dataset{{Name: "same"}}
	said := func(kind, name string) computations.Entry {
		return computations.Entry{Type: computations.EntryEvent, Kind: vm.EventInput, Attributes: map[string]string{"kind": kind, "name": name}}
	}
	for name, tc := range map[string]struct {
		events []computations.Entry
		done   string
	}{
		"nothing":     {nil, ""},
		"a file":      {[]computations.Entry{said("file", "same")}, "file:same"},
		"a dataset":   {[]computations.Entry{said("dataset", "same")}, "dataset:same"},
		"the program": {[]computations.Entry{said("algorithm", "")}, "algorithm"},
		"all":         {[]computations.Entry{said("algorithm", ""), said("file", "wheels"), said("file", "same"), said("dataset", "same")}, "algorithm file:same file:wheels dataset:same"},
		"no input":    {[]computations.Entry{said("file", "other")}, ""},
	} {
		if got := console.DoneSteps(f, tc.events); got != tc.done {
			t.Errorf("%s: %q is done, want %q", name, got, tc.done)
		}
	}
}

// TestPlainHTTPIsSaid to whoever describes, freezes or looks at it: the host reads such
// a dataset. One that is encrypted, or comes over https, has no such warning.
func TestPlainHTTPIsSaid(t *testing.T) {
	const warning = "over plain http, not encrypted: the host and everyone on the way read it."
	for name, c := range map[string]struct {
		source []string
		want   bool
	}{
		"http":          {[]string{"source/url", "http://data.example/x"}, true},
		"s3 over http":  {[]string{"source/url", "s3://bucket/x", "source/endpoint", "http://s3.example:9000"}, true},
		"oci over http": {[]string{"source/url", "oci+http://registry.example/x@sha256:" + strings.Repeat("ab", 32)}, true},
		"encrypted":     {[]string{"source/url", "http://data.example/x.age", "source/encryption", "age"}, false},
		"https":         {[]string{"source/url", "https://data.example/x"}, false},
		"s3 over https": {[]string{"source/url", "s3://bucket/x", "source/endpoint", "https://s3.example:9000"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			data := w.registered("dora", form(append([]string{"kind", "dataset", "name", "scans", "sha256", strings.Repeat("0b", 32), "size", "9"}, c.source...)...))
			script := w.registered("alan", form("kind", "algorithm", "type", "python", "name", "train", "sha256", strings.Repeat("0a", 32), "size", "9"))
			made, err := w.svc.CreateComputation(t.Context(), w.who["carl"], w.things["workspace"], computations.Draft{
				Name: "Clear", TEE: manifest.TEESim,
				Algorithm: computations.AlgorithmSlot{Provider: w.users["alan"], Asset: script.ID},
				Datasets:  []computations.DatasetSlot{{Name: "scans", Provider: w.users["dora"], Asset: data.ID}},
				Consumers: []computations.ID{w.users["rita"]}, Approvers: []computations.ID{w.users["rita"]},
			})
			w.check(err)
			w.things["scans"], w.things["clear"] = data.ID, made.ID
			look := func(who, path, what string) {
				t.Helper()
				page := strings.Join(strings.Fields(text(w.browse(who).get(w.path(path, false)).body)), " ")
				if strings.Contains(page, what+warning) != c.want {
					t.Errorf("%s at %s, want the warning: %v\n%s", who, path, c.want, page)
				}
			}
			look("nemo", "/a/{scans}", "Comes ")
			look("carl", "/c/{clear}", "The dataset scans comes ")
			look("carl", "/c/{clear}/freeze", "The dataset scans comes ")
			_, err = w.svc.Freeze(t.Context(), w.who["carl"], made.ID, made.Revision)
			w.check(err)
			look("rita", "/c/{clear}", "The dataset scans comes ")
			look("rita", "/c/{clear}/approve", "The dataset scans comes ")
		})
	}
}

// TestWhenADiskIsTaken is said as the service decides it.
func TestWhenADiskIsTaken(t *testing.T) {
	w := newWorld(t)
	if page := text(w.browse("carl").get(w.path("/c/{draft}/edit", false)).body); !strings.Contains(page, "If the inputs need more than 512 MiB") || computations.ScratchFrom != 512<<20 {
		t.Errorf("%s", page)
	}
}
