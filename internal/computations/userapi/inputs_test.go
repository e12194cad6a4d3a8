package userapi_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
)

// What assets say of files, packages and a source comes back as it was sent, and so
// does a draft's disk.
func TestInputsComeBack(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	assets, drafts := computationsv1.NewAssetsServiceClient(conn), computationsv1.NewComputationsServiceClient(conn)
	script := &computationsv1.CreateAssetRequest{
		WorkspaceId: string(w.things["workspace"]), Name: "train", Kind: "algorithm", Type: "python", Sha256: make32(1), Size: 9,
		Files: []*computationsv1.File{
			{Name: "r.txt", Sha256: make32(2), Size: 3},
			{Name: "wheels", Commitment: make32(3), Size: 2048, UnpackedMax: 4096},
		},
		Python: &computationsv1.Packages{Requirements: "r.txt", Wheels: "wheels"},
	}
	data := &computationsv1.CreateAssetRequest{
		WorkspaceId: string(w.things["workspace"]), Name: "scans", Kind: "dataset", Sha256: make32(4), Size: 1 << 30,
		Source: &computationsv1.Source{
			Url: "s3://b.bucket/k", Endpoint: "https://s3.example", Region: "eu", Encryption: "age",
			Broker: "https://kbs.example", Resource: "a/b/c", Redirects: []string{"cdn.example:443"},
		},
	}
	made, err := assets.CreateAsset(w.as("alan"), script)
	w.check(err)
	brought, err := assets.CreateAsset(w.as("dora"), data)
	w.check(err)
	listed, err := assets.ListAssets(w.as("vera"), &computationsv1.ListAssetsRequest{WorkspaceId: string(w.things["workspace"])})
	w.check(err)
	for _, a := range listed.GetAssets() {
		for _, want := range []*computationsv1.Asset{made.GetAsset(), brought.GetAsset()} {
			if a.GetId() == want.GetId() && !proto.Equal(a, want) {
				t.Errorf("listed %v, made %v", a, want)
			}
		}
	}
	if a := made.GetAsset(); len(a.GetFiles()) != 2 || !proto.Equal(a.GetFiles()[0], script.Files[0]) || !proto.Equal(a.GetFiles()[1], script.Files[1]) || !proto.Equal(a.GetPython(), script.Python) || a.GetSource() != nil {
		t.Errorf("made %v", a)
	}
	if a := brought.GetAsset(); !proto.Equal(a.GetSource(), data.Source) || len(a.GetFiles()) > 0 || a.GetPython() != nil {
		t.Errorf("brought %v", a)
	}
	d := w.draft()
	d.Algorithm.AssetId, d.Datasets[0].AssetId, d.ScratchBytes = made.GetAsset().GetId(), brought.GetAsset().GetId(), 2<<30
	c, err := drafts.CreateComputation(w.as("carl"), &computationsv1.CreateComputationRequest{WorkspaceId: string(w.things["workspace"]), Draft: d})
	w.check(err)
	id, revision := c.GetComputation().GetId(), c.GetComputation().GetRevision()
	look := func(scratch string, chosen, bytes int64) {
		t.Helper()
		v, err := drafts.GetComputation(w.as("carl"), &computationsv1.GetComputationRequest{ComputationId: id})
		w.check(err)
		if v.GetDraft().GetScratch() != scratch || v.GetDraft().GetScratchBytes() != chosen || v.GetScratchBytes() != bytes || strings.Join(v.GetServers(), " ") != "cdn.example:443 kbs.example:443 s3.example:443" {
			t.Errorf("the draft has %q, %d: a disk of %d, and connects to %q", v.GetDraft().GetScratch(), v.GetDraft().GetScratchBytes(), v.GetScratchBytes(), v.GetServers())
		}
	}
	look("", 2<<30, 2<<30)
	d.Scratch, d.ScratchBytes = "never", 0
	_, err = drafts.EditDraft(w.as("carl"), &computationsv1.EditDraftRequest{ComputationId: id, Revision: revision, Draft: d})
	w.check(err)
	look("never", 0, 0)

	// Each refusal is of something right in all but one field.
	for name, tc := range map[string]struct {
		of     *computationsv1.CreateAssetRequest
		change func(*computationsv1.CreateAssetRequest)
		field  string
	}{
		"a short digest":     {script, func(q *computationsv1.CreateAssetRequest) { q.Files[0].Sha256 = make32(2)[:31] }, "files/0/sha256"},
		"no digest":          {script, func(q *computationsv1.CreateAssetRequest) { q.Files[0].Sha256 = nil }, "files/0/sha256"},
		"a short commitment": {script, func(q *computationsv1.CreateAssetRequest) { q.Files[1].Commitment = make32(2)[:31] }, "files/1/commitment"},
		"a name":             {script, func(q *computationsv1.CreateAssetRequest) { q.Files[1].Name = "a/b" }, "files/1/name"},
		"packages":           {script, func(q *computationsv1.CreateAssetRequest) { q.Python.Wheels = "r.txt" }, "python/wheels"},
		"a source":           {data, func(q *computationsv1.CreateAssetRequest) { q.Source.Url = "ftp://example.org/x" }, "source/url"},
		"a secret":           {data, func(q *computationsv1.CreateAssetRequest) { q.Source.Broker = "https://user:secret@kbs.example" }, "source/broker"},
	} {
		q := proto.CloneOf(tc.of)
		tc.change(q)
		_, err := assets.CreateAsset(w.as("dora"), q)
		found := rpcerr.FaultsOf(err)
		d, _ := rpcerr.DetailOf(err)
		if d.Field != tc.field && (len(found) == 0 || found[0].Field != tc.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
