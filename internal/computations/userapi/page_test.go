package userapi_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	computationsv1 "github.com/ultravioletrs/cocos/api/computations/v1"
	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/rpcerr"
	"github.com/ultravioletrs/cocos/manifest"
)

// Pages put together are the whole list, without gaps and nothing twice.
func TestPagesMakeTheWholeList(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	ctx := w.as("ada")
	for i := range 7 {
		w.put(func(tx computations.Writer) error {
			return tx.PutAsset(computations.Asset{
				ID: computations.NewID(), Workspace: w.things["workspace"], Owner: w.users["ada"], Name: fmt.Sprint(i), Kind: computations.AssetDataset,
				SHA256: manifest.Digest{1}, Created: time.Now(),
			})
		})
	}
	clients := struct {
		assets computationsv1.AssetsServiceClient
		drafts computationsv1.ComputationsServiceClient
		runs   computationsv1.RunsServiceClient
		audit  computationsv1.AuditServiceClient
		people computationsv1.AccountsServiceClient
	}{
		computationsv1.NewAssetsServiceClient(conn), computationsv1.NewComputationsServiceClient(conn),
		computationsv1.NewRunsServiceClient(conn), computationsv1.NewAuditServiceClient(conn), computationsv1.NewAccountsServiceClient(conn),
	}
	ws := string(w.things["workspace"])
	for name, page := range map[string]func(size int32, token string) (ids []string, next string, err error){
		"assets": func(size int32, token string) (ids []string, next string, err error) {
			r, err := clients.assets.ListAssets(ctx, &computationsv1.ListAssetsRequest{WorkspaceId: ws, PageSize: size, PageToken: token})
			for _, a := range r.GetAssets() {
				ids = append(ids, a.GetId())
			}
			return ids, r.GetNextPageToken(), err
		},
		"computations": func(size int32, token string) (ids []string, next string, err error) {
			r, err := clients.drafts.ListComputations(ctx, &computationsv1.ListComputationsRequest{WorkspaceId: ws, PageSize: size, PageToken: token})
			for _, a := range r.GetComputations() {
				ids = append(ids, a.GetId())
			}
			return ids, r.GetNextPageToken(), err
		},
		"entries": func(size int32, token string) (ids []string, next string, err error) {
			r, err := clients.runs.ListEntries(ctx, &computationsv1.ListEntriesRequest{RunId: string(w.things["run"]), PageSize: size, PageToken: token})
			for _, a := range r.GetEntries() {
				ids = append(ids, fmt.Sprint(a.GetPosition()))
			}
			return ids, r.GetNextPageToken(), err
		},
		"entries, the newest first": func(size int32, token string) (ids []string, next string, err error) {
			r, err := clients.runs.ListEntries(ctx, &computationsv1.ListEntriesRequest{RunId: string(w.things["run"]), NewestFirst: true, PageSize: size, PageToken: token})
			for _, a := range r.GetEntries() {
				ids = append(ids, fmt.Sprint(a.GetPosition()))
			}
			return ids, r.GetNextPageToken(), err
		},
		"audit": func(size int32, token string) (ids []string, next string, err error) {
			r, err := clients.audit.ListAudit(ctx, &computationsv1.ListAuditRequest{WorkspaceId: ws, PageSize: size, PageToken: token})
			for _, a := range r.GetEntries() {
				ids = append(ids, fmt.Sprint(a.GetSequence()))
			}
			return ids, r.GetNextPageToken(), err
		},
		"users": func(size int32, token string) (ids []string, next string, err error) {
			r, err := clients.people.ListUsers(w.as("olga"), &computationsv1.ListUsersRequest{PageSize: size, PageToken: token})
			for _, a := range r.GetUsers() {
				ids = append(ids, a.GetId())
			}
			return ids, r.GetNextPageToken(), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			whole, next, err := page(100, "")
			if err != nil || next != "" || len(whole) < 3 {
				t.Fatalf("the whole list: %d, %q, %v", len(whole), next, err)
			}
			for _, size := range []int{1, 2, 3, len(whole) - 1, len(whole)} {
				var all []string
				token := ""
				for pages := 1; ; pages++ {
					ids, next, err := page(int32(size), token)
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, ids...)
					if next == "" {
						if want := (len(whole) + size - 1) / size; pages != want {
							t.Errorf("%d pages of %d; want %d", pages, size, want)
						}
						break
					}
					if len(ids) != size || pages > len(whole) {
						t.Fatalf("a page of %d has %d", size, len(ids))
					}
					token = next
				}
				if !slices.Equal(all, whole) {
					t.Errorf("in pages of %d: %v; want %v", size, all, whole)
				}
			}
			for _, token := range []string{
				"rubbish!", "AAAA", base64.RawURLEncoding.EncodeToString([]byte("p1 ")), base64.RawURLEncoding.EncodeToString([]byte("p1 -1")),
				base64.RawURLEncoding.EncodeToString([]byte("p1 x' OR 1=1")), base64.RawURLEncoding.EncodeToString([]byte("p2 1")),
			} {
				_, _, err := page(1, token)
				wantReason(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, "page_token", "")
			}
			_, _, err = page(-1, "")
			wantReason(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, "page_size", "-1")
		})
	}
}

// A list of hosts leaves out what one host alone says at length.
func TestFindingsAreOfOneHostAlone(t *testing.T) {
	w := newWorld(t)
	hosts := computationsv1.NewHostsServiceClient(w.serve())
	w.put(func(tx computations.Writer) error {
		h, err := tx.Host(w.things["host"])
		if err != nil {
			return err
		}
		h.Report.Findings = []computations.Finding{{Name: "kvm", Verdict: "ok", Found: "works"}}
		return tx.PutHost(h)
	})
	list, err := hosts.ListHosts(w.as("olga"), &computationsv1.ListHostsRequest{})
	w.check(err)
	one, err := hosts.GetHost(w.as("olga"), &computationsv1.GetHostRequest{HostId: string(w.things["host"])})
	w.check(err)
	if n := len(list.GetHosts()); n != 1 || len(list.GetHosts()[0].GetReport().GetFindings()) != 0 || len(one.GetHost().GetReport().GetFindings()) != 1 {
		t.Errorf("the list has %v, and the host %v", list.GetHosts(), one.GetHost())
	}
}

// Whoever watches again from the last position seen gets the rest.
func TestWatchGoesOnFromAPosition(t *testing.T) {
	w := newWorld(t)
	runs := computationsv1.NewRunsServiceClient(w.serve())
	read := func(after int64) (positions []int64, state string) {
		stream, err := runs.Watch(w.as("vera"), &computationsv1.WatchRequest{RunId: string(w.things["run"]), After: after})
		w.check(err)
		for {
			m, err := stream.Recv()
			if err != nil {
				return positions, state
			}
			for _, e := range m.GetEntries() {
				positions = append(positions, e.GetPosition())
			}
			state = m.GetRun().GetState()
		}
	}
	whole, state := read(0)
	if len(whole) < 4 || state != "finished" {
		t.Fatalf("%v, %s", whole, state)
	}
	for i, after := range whole {
		if rest, _ := read(after); !slices.Equal(rest, whole[i+1:]) {
			t.Errorf("after %d: %v; want %v", after, rest, whole[i+1:])
		}
	}
	stream, err := runs.Watch(w.as("vera"), &computationsv1.WatchRequest{RunId: string(w.things["run"]), After: -1})
	w.check(err)
	_, err = stream.Recv()
	wantReason(t, err, codes.InvalidArgument, rpcerr.ArgumentInvalid, "after", "-1")
}

// A page of assets that say as much as they may is one message that clients take.
func TestFullAssetsMakeOnePage(t *testing.T) {
	w := newWorld(t)
	conn := w.serve()
	wide := func(n int) string { return strings.Repeat("\U0001F9EC", n) } // four bytes each
	// A dataset's source is what the service takes at most, 20 KiB together.
	source := manifest.Source{URL: "https://data.example.org/x"}
	left := 20<<10 - len(source.URL)
	for i := range 16 {
		n := left / 16
		if i == 15 {
			n = left - 15*n
		}
		source.Redirects = append(source.Redirects, strings.Repeat("a", n-4)+":443")
	}
	var files []manifest.File
	for i := range 64 {
		files = append(files, manifest.File{
			Name: fmt.Sprintf("%02d%s", i, strings.Repeat("n", 126)), SHA256: manifest.Digest{1}, Size: manifest.MaxInputSize, UnpackedMax: manifest.MaxInputSize,
		})
	}
	who := w.who["ada"]
	for kind, a := range map[computations.AssetKind]computations.Asset{
		computations.AssetDataset:   {Source: source, UnpackedMax: manifest.MaxInputSize},
		computations.AssetAlgorithm: {Type: manifest.Python, Files: files},
	} {
		a.Workspace, a.Kind, a.Name, a.Description = w.things["workspace"], kind, wide(128), wide(4096)
		a.SHA256, a.Size = manifest.Digest{1}, manifest.MaxInputSize
		made, err := w.svc.CreateAsset(t.Context(), who, a)
		w.check(err)
		for range 99 {
			made.ID = computations.NewID()
			w.put(func(tx computations.Writer) error { return tx.PutAsset(made) })
		}
		r, err := computationsv1.NewAssetsServiceClient(conn).ListAssets(w.as("ada"), &computationsv1.ListAssetsRequest{WorkspaceId: string(made.Workspace), Kind: string(kind), PageSize: 100})
		if err != nil || len(r.GetAssets()) != 100 {
			t.Errorf("%s: %d, %v", kind, len(r.GetAssets()), err)
		}
	}
}
