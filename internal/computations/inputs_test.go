package computations_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	c "github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

// packaged is a script with what it takes.
func packaged(ws c.ID) c.Asset {
	return c.Asset{
		Workspace: ws, Name: "train.py", Kind: c.AssetAlgorithm, Type: manifest.Python, SHA256: manifest.Digest{7}, Size: 100,
		Files: []manifest.File{
			{Name: "requirements.txt", SHA256: manifest.Digest{1}, Size: 20},
			{Name: "wheels", Commitment: manifest.Commitment{2}, Size: 5 << 20, UnpackedMax: 5 << 20},
			{Name: "weights", SHA256: manifest.Digest{3}, Size: 0},
		},
		Python: manifest.Packages{Requirements: "requirements.txt", Wheels: "wheels"},
	}
}

// fetched is a dataset that the agent fetches.
func fetched(ws c.ID) c.Asset {
	return c.Asset{
		Workspace: ws, Name: "scans", Kind: c.AssetDataset, SHA256: manifest.Digest{4}, Size: 1 << 39,
		Source: manifest.Source{
			URL: "s3://hospital/scans.age", Endpoint: "https://s3.hospital.example:9000", Region: "eu-1", Encryption: manifest.Age,
			Broker: "https://kbs.hospital.example", Resource: "default/key/scans", Redirects: []string{"cdn.example:443"},
		},
	}
}

// What assets say of files, packages and a source is in the manifest as they say it,
// and approvers are told which servers the agent connects to.
func TestFreezeOfFilesAndSources(t *testing.T) {
	p := newPlay(t)
	algorithm, err := p.CreateAsset(p.ctx, p.dave.Identity, packaged(p.ws.ID))
	p.ok(err)
	dataset, err := p.CreateAsset(p.ctx, p.bob.Identity, fetched(p.ws.ID))
	p.ok(err)
	d := p.draft()
	d.Algorithm.Asset, d.Datasets[0].Asset = algorithm.ID, dataset.ID
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision, d)))
	servers := "[cdn.example:443 kbs.hospital.example:443 s3.hospital.example:9000]"
	// The inputs need 1,116,707,225,600 bytes on it. An eighth is room beside them, and the
	// wheels may be 10,240 entries.
	const disk = (558361477120/8*9 + 10240*4608 + 1<<20 - 1) >> 20 << 20
	look := func(when string) {
		t.Helper()
		for _, who := range []*person{p.alice, p.carol} {
			if v := p.view(who); fmt.Sprint(v.Plan.Servers()) != servers || v.Plan.ScratchBytes != disk || len(v.Missing) > 0 {
				t.Errorf("%s: connects to %v, a disk of %d; missing %q", when, v.Plan.Servers(), v.Plan.ScratchBytes, v.Missing)
			}
		}
	}
	look("draft")
	m, err := manifest.Parse(p.freeze().Manifest)
	p.ok(err)
	look("frozen")
	a, b := packaged(p.ws.ID), fetched(p.ws.ID)
	if !reflect.DeepEqual(m.Algorithm.Files, a.Files) || m.Algorithm.Python != a.Python || !reflect.DeepEqual(m.Datasets[0].Source, b.Source) {
		t.Errorf("the manifest has %+v, %+v and %+v", m.Algorithm.Files, m.Algorithm.Python, m.Datasets[0].Source)
	}
	if m.ScratchBytes != disk || m.ScratchBytes < m.ScratchNeed() {
		t.Errorf("the disk has %d bytes, and the inputs need %d", m.ScratchBytes, m.ScratchNeed())
	}
}

// Each refusal is of something right in all but one field.
func TestAssetsWithInputs(t *testing.T) {
	p := newPlay(t)
	script := func(change func(*c.Asset)) c.Asset { a := packaged(p.ws.ID); change(&a); return a }
	data := func(change func(*c.Asset)) c.Asset { a := fetched(p.ws.ID); change(&a); return a }
	for name, tt := range map[string]struct {
		asset c.Asset
		field string
		says  string
	}{
		"a file without a name":    {script(func(a *c.Asset) { a.Files[2].Name = "" }), "files/2/name", "is missing"},
		"a file elsewhere":         {script(func(a *c.Asset) { a.Files[2].Name = "../x" }), "files/2/name", "use letters"},
		"two files of a name":      {script(func(a *c.Asset) { a.Files[2].Name = "wheels" }), "files/2/name", "that of files/1"},
		"a file without a digest":  {script(func(a *c.Asset) { a.Files[0].SHA256 = manifest.Digest{} }), "files/0/sha256", "is missing"},
		"a file with both":         {script(func(a *c.Asset) { a.Files[0].Commitment = manifest.Commitment{1} }), "files/0/commitment", ""},
		"a file of less than none": {script(func(a *c.Asset) { a.Files[0].Size = -1 }), "files/0/size", "is -1"},
		"no requirements":          {script(func(a *c.Asset) { a.Python.Requirements = "" }), "python/requirements", "is missing"},
		"requirements elsewhere":   {script(func(a *c.Asset) { a.Python.Requirements = "other.txt" }), "python/requirements", "files has none of that name"},
		"wheels that are a file":   {script(func(a *c.Asset) { a.Python.Wheels = "weights" }), "python/wheels", "a folder of wheels"},
		"packages of a binary":     {script(func(a *c.Asset) { a.Type = manifest.Binary }), "python", "of the type"},
		"an algorithm from afar":   {script(func(a *c.Asset) { a.Source = fetched("").Source }), "source/url", "of datasets"},
		"65 files": {script(func(a *c.Asset) {
			a.Python = manifest.Packages{}
			a.Files = nil
			for i := range 65 {
				a.Files = append(a.Files, manifest.File{Name: fmt.Sprint("f", i), SHA256: manifest.Digest{1}})
			}
		}), "files", "at most 64"},
		"files of data":          {data(func(a *c.Asset) { a.Files = packaged("").Files }), "files", "of algorithms"},
		"packages of data":       {data(func(a *c.Asset) { a.Python = packaged("").Python }), "python/requirements", "of algorithms"},
		"a source without a URL": {data(func(a *c.Asset) { a.Source.URL = "" }), "source/url", "is missing"},
		"a password in the URL": {data(func(a *c.Asset) {
			a.Source.Endpoint = ""
			a.Source.Region = ""
			a.Source.URL = "https://u:p@x.example/y"
		}),
			"source/url", "everybody could read"},
		"no endpoint":            {data(func(a *c.Asset) { a.Source.Endpoint = "" }), "source/endpoint", "is missing"},
		"another encryption":     {data(func(a *c.Asset) { a.Source.Encryption = "gpg" }), "source/encryption", "expected one of"},
		"a broker in the clear":  {data(func(a *c.Asset) { a.Source.Broker = "http://kbs.example" }), "source/broker", "https"},
		"a broker of nothing":    {data(func(a *c.Asset) { a.Source.Resource = "" }), "source/resource", "REPOSITORY/TYPE/TAG"},
		"a resource of nobody":   {data(func(a *c.Asset) { a.Source.Broker = "" }), "source/broker", "is missing"},
		"a redirect to anywhere": {data(func(a *c.Asset) { a.Source.Redirects = []string{"cdn.example"} }), "source/redirects/0", "HOST:PORT"},
		"authorities of no kind": {data(func(a *c.Asset) { a.Source.Authorities = "x" }), "source/authorities", "PEM"},
		"many addresses": {data(func(a *c.Asset) {
			for i := range 16 {
				a.Source.Redirects = append(a.Source.Redirects[:i], strings.Repeat("a", 2100)+".example:443")
			}
		}), "source/authorities", "at most 20480"},
	} {
		_, err := p.CreateAsset(p.ctx, p.bob.Identity, tt.asset)
		t.Run(name, func(t *testing.T) {
			found := faultsOf(err)
			if says, there := found[tt.field]; kindOf(err) != c.Invalid || !there || len(found) != 1 || !strings.Contains(says, tt.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Every text of a source counts: a list of assets is one message.
func TestSourceTextsAreBounded(t *testing.T) {
	p := newPlay(t)
	a := fetched(p.ws.ID)
	a.Source.Redirects = nil
	left := 20<<10 - len(a.Source.URL+a.Source.Endpoint+a.Source.Region+string(a.Source.Encryption)+a.Source.Broker+a.Source.Resource)
	for i := range 16 {
		one := left / 16
		if i == 15 {
			one = left - 15*one
		}
		a.Source.Redirects = append(a.Source.Redirects, strings.Repeat("a", one-4)+":443")
	}
	p.ok(empty(p.CreateAsset(p.ctx, p.bob.Identity, a)))
	for name, change := range map[string]func(*manifest.Source){
		"resource": func(s *manifest.Source) { s.Resource += "x" },
		"region":   func(s *manifest.Source) { s.Region += "x" },
		"url":      func(s *manifest.Source) { s.URL += "x" },
	} {
		more := a
		change(&more.Source)
		_, err := p.CreateAsset(p.ctx, p.bob.Identity, more)
		if says := faultsOf(err)["source/authorities"]; !strings.Contains(says, "20481 bytes; at most 20480") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScratchOfADraft(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*c.Draft)
		// field and says are those of the draft's refusal, missing what freezing lacks.
		field, says, missing string
	}{
		"as the inputs need": {change: func(d *c.Draft) {}},
		"always":             {change: func(d *c.Draft) { d.Scratch = c.ScratchAlways }},
		"never":              {change: func(d *c.Draft) { d.Scratch = c.ScratchNever }},
		"a size":             {change: func(d *c.Draft) { d.ScratchBytes = 64 << 20 }},
		"too small":          {change: func(d *c.Draft) { d.ScratchBytes = 1 << 20 }, missing: "the disk for inputs shall have 1048576 bytes, and they need 2097152"},
		"another word":       {change: func(d *c.Draft) { d.Scratch = "yes" }, field: "scratch", says: `expected "always", "never"`},
		"no whole MiB":       {change: func(d *c.Draft) { d.ScratchBytes = 64<<20 + 1 }, field: "scratch_bytes", says: "multiple of 1048576"},
		"less than nothing":  {change: func(d *c.Draft) { d.ScratchBytes = -1 << 20 }, field: "scratch_bytes", says: "multiple of"},
		"a size and a word":  {change: func(d *c.Draft) { d.ScratchBytes, d.Scratch = 64<<20, c.ScratchNever }, field: "scratch_bytes", says: "the one or the other"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			d := p.draft()
			tt.change(&d)
			_, err := p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)
			if tt.field != "" {
				if found := faultsOf(err); len(found) != 1 || !strings.Contains(found[tt.field], tt.says) {
					t.Errorf("got %v", err)
				}
				return
			}
			p.ok(err)
			v := p.view(p.alice)
			_, err = p.Freeze(p.ctx, p.alice.Identity, p.id, v.Revision)
			if tt.missing != "" {
				if found := faultsOf(err); !strings.Contains(found["scratch_bytes"], tt.missing) || len(v.Missing) != 1 || !strings.Contains(v.Missing[0], tt.missing) {
					t.Errorf("missing %q; freezing: %v", v.Missing, err)
				}
				return
			}
			p.ok(err)
			want := map[string]int64{"always": 3 << 20, "a size": 64 << 20}[name]
			if got := p.view(p.carol).Frozen.ScratchBytes; got != want {
				t.Errorf("the disk has %d bytes, want %d", got, want)
			}
		})
	}
}

// A disk made by itself has room for what a folder's entries take, however many.
func TestScratchOfAFolder(t *testing.T) {
	p := newPlay(t)
	folder := c.Asset{Workspace: p.ws.ID, Name: "photos", Kind: c.AssetDataset, SHA256: manifest.Digest{5}, Size: 256 << 20, UnpackedMax: 256 << 20}
	folder, err := p.CreateAsset(p.ctx, p.bob.Identity, folder)
	p.ok(err)
	d := p.draft()
	d.Datasets[0].Asset = folder.ID
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	m := p.view(p.alice).Plan
	if least := m.ScratchNeed() + 262144*4096; m.ScratchBytes < least {
		t.Errorf("the disk has %d bytes, and %d entries of the folder take %d", m.ScratchBytes, 262144, least)
	}
}

// A manifest that gets too long is refused with what to do, and not as trouble of
// the service's.
func TestFreezeOfTooMuch(t *testing.T) {
	p := newPlay(t)
	data := fetched(p.ws.ID)
	for i := range 16 {
		data.Source.Redirects = append(data.Source.Redirects[:i], strings.Repeat("a", 1200)+".example:443")
	}
	data, err := p.CreateAsset(p.ctx, p.bob.Identity, data)
	p.ok(err)
	d := p.draft()
	for i := range 60 {
		d.Datasets = append(d.Datasets[:i], c.DatasetSlot{Name: fmt.Sprint("d", i), Provider: p.bob.User, Asset: data.ID})
	}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	_, err = p.Freeze(p.ctx, p.alice.Identity, p.id, p.view(p.alice).Revision)
	refused(t, err, c.Invalid, "at most 1048576 are allowed; leave certificates")
}

// A draft that is moved finds the asset with the same files and source, not just the
// same content.
func TestImportOfInputs(t *testing.T) {
	p := newPlay(t)
	right, err := p.CreateAsset(p.ctx, p.dave.Identity, packaged(p.ws.ID))
	p.ok(err)
	other := packaged(p.ws.ID)
	other.Files[0].SHA256 = manifest.Digest{99}
	_, err = p.CreateAsset(p.ctx, p.dave.Identity, other)
	p.ok(err)
	there, err := p.CreateAsset(p.ctx, p.bob.Identity, fetched(p.ws.ID))
	p.ok(err)
	d := p.draft()
	d.Algorithm.Asset, d.Datasets[0].Asset, d.Scratch = right.ID, there.ID, c.ScratchAlways
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	raw, err := p.ExportComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	made, err := p.ImportComputation(p.ctx, p.alice.Identity, p.ws.ID, raw)
	p.ok(err)
	if got := made.Draft; got.Algorithm.Asset != right.ID || got.Datasets[0].Asset != there.ID || got.Scratch != c.ScratchAlways {
		t.Errorf("imported %+v", got)
	}
	p.ok(p.RetireAsset(p.ctx, p.dave.Identity, right.ID))
	made, err = p.ImportComputation(p.ctx, p.alice.Identity, p.ws.ID, raw)
	p.ok(err)
	if got := made.Draft.Algorithm.Asset; got != "" {
		t.Errorf("in place of what is retired it has %s", got)
	}
}

// Who writes a draft by hand may say that a source has no redirects; other redirects
// are another source.
func TestImportOfASourceByHand(t *testing.T) {
	p := newPlay(t)
	data := fetched(p.ws.ID)
	data.Source.Redirects = nil
	data, err := p.CreateAsset(p.ctx, p.bob.Identity, data)
	p.ok(err)
	d := p.draft()
	d.Datasets[0].Asset = data.ID
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	raw, err := p.ExportComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	for redirects, want := range map[string]c.ID{`[]`: data.ID, `["cdn.example:443"]`: ""} {
		const url = `"url": "s3://hospital/scans.age"`
		if !strings.Contains(string(raw), url) {
			t.Fatalf("%s", raw)
		}
		made, err := p.ImportComputation(p.ctx, p.alice.Identity, p.ws.ID, []byte(strings.Replace(string(raw), url, url+`, "redirects": `+redirects, 1)))
		p.ok(err)
		if got := made.Draft.Datasets[0].Asset; got != want {
			t.Errorf("redirects %s: the slot has %q, want %q", redirects, got, want)
		}
	}
}

// What no service would read again is not exported.
func TestExportOfTooMuch(t *testing.T) {
	p := newPlay(t)
	data := fetched(p.ws.ID)
	for i := range 16 {
		data.Source.Redirects = append(data.Source.Redirects[:i], strings.Repeat("a", 1200)+".example:443")
	}
	data, err := p.CreateAsset(p.ctx, p.bob.Identity, data)
	p.ok(err)
	d := p.draft()
	for i := range 50 {
		d.Datasets = append(d.Datasets[:i], c.DatasetSlot{Name: fmt.Sprint("d", i), Provider: p.bob.User, Asset: data.ID})
	}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 1, d)))
	raw, err := p.ExportComputation(p.ctx, p.alice.Identity, p.id)
	p.ok(err)
	p.ok(empty(p.ImportComputation(p.ctx, p.alice.Identity, p.ws.ID, raw)))
	for i := 50; i < 60; i++ {
		d.Datasets = append(d.Datasets, c.DatasetSlot{Name: fmt.Sprint("d", i), Provider: p.bob.User, Asset: data.ID})
	}
	p.ok(empty(p.EditDraft(p.ctx, p.alice.Identity, p.id, 2, d)))
	raw, err = p.ExportComputation(p.ctx, p.alice.Identity, p.id)
	refused(t, err, c.Invalid, "at most 1048576 are read")
	if len(raw) > 0 {
		t.Errorf("%d bytes came with the refusal", len(raw))
	}
}
