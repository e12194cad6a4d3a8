package receipt_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/keys"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/receipt"
)

// newDividedWorld is a run whose two consumers get different archives, and whose
// inputs are named by commitments.
func newDividedWorld(t testing.TB) (*world, receipt.Request) {
	w := newWorld(t)
	other := newKey(t)
	m := w.manifest.Manifest
	m.Consumers = []keys.Public{w.approver.Public(), other.Public()}
	m.Outputs.Release = []manifest.Release{{Consumer: other.Public(), Output: true}, {Consumer: w.approver.Public(), Files: []string{"**"}}}
	m.Algorithm.SHA256, m.Algorithm.Commitment = manifest.Digest{}, manifest.Commitment{5}
	m.Datasets[0].SHA256, m.Datasets[0].Commitment = manifest.Digest{}, manifest.Commitment{6}
	m.Algorithm.Files = slices.Clone(m.Algorithm.Files)
	m.Algorithm.Files[0].SHA256, m.Algorithm.Files[0].Commitment = manifest.Digest{}, manifest.Commitment{7}
	f, err := manifest.Freeze(m)
	if err != nil {
		t.Fatal(err)
	}
	w.manifest = f
	req := w.request()
	req.Result = nil
	req.Results = []receipt.Share{
		{Consumer: w.approver.Public().Fingerprint(), SHA256: manifest.Sum([]byte("one"))},
		{Consumer: other.Public().Fingerprint(), SHA256: manifest.Sum([]byte("two"))},
	}
	return w, req
}

func TestSharesAndCommitments(t *testing.T) {
	w, req := newDividedWorld(t)
	r, err := receipt.Verify(t.Context(), w.make(req), w.options())
	if err != nil {
		t.Fatal(err)
	}
	p := r.Statement.Predicate
	if p.Result != nil || len(p.Results) != 2 || p.Results[1] != req.Results[1] || len(r.Statement.Subject) != 2 ||
		r.Statement.Subject[0].Name != "SIMULATED result for "+req.Results[0].Consumer || r.Statement.Subject[1].Digest.SHA256 != req.Results[1].SHA256 {
		t.Errorf("the receipt says %+v", r.Statement)
	}
	if p.AlgorithmCommitment != (manifest.Commitment{5}) || p.Datasets[0].Commitment != (manifest.Commitment{6}) || p.Datasets[1].SHA256 == (manifest.Digest{}) {
		t.Errorf("the receipt says %+v", p)
	}
	for _, want := range []string{"algorithm    commitment 05", "iris, commitment 06", "file         model, commitment 07", "file         wheels, sha256 ", "sha256 " + req.Results[1].SHA256.String(), "for " + req.Results[1].Consumer} {
		if !strings.Contains(r.Text(), want) {
			t.Errorf("its text lacks %q:\n%s", want, r.Text())
		}
	}
}

func TestHowItEnded(t *testing.T) {
	w := newWorld(t)
	req := w.request()
	req.Outcome, req.Reason, req.ExitStatus = receipt.Failed, receipt.AlgorithmFailed, nil
	req.Signal, req.Limit = "SIGKILL", "memory_bytes"
	r, err := receipt.Verify(t.Context(), w.make(req), w.options())
	if err != nil || r.Statement.Predicate.Signal != "SIGKILL" || r.Statement.Predicate.Limit != "memory_bytes" {
		t.Fatalf("%+v, %v", r, err)
	}
	if !strings.Contains(r.Text(), "failed: algorithm-failed, signal SIGKILL, limit memory_bytes") {
		t.Error(r.Text())
	}
}

// Each request is right in all but one thing, and makes no receipt.
func TestStatementsThatAreNotMade(t *testing.T) {
	one := 1
	for name, tt := range map[string]struct {
		change func(w *world, r *receipt.Request)
		want   string
	}{
		"both kinds of result":   {func(_ *world, r *receipt.Request) { r.Result = &receipt.Result{SHA256: manifest.Digest{1}} }, "/predicate/results stand beside"},
		"no result":              {func(_ *world, r *receipt.Request) { r.Results = nil }, "/predicate/result is missing"},
		"a consumer twice":       {func(_ *world, r *receipt.Request) { r.Results[1].Consumer = r.Results[0].Consumer }, "/predicate/results/1/consumer"},
		"no fingerprint":         {func(_ *world, r *receipt.Request) { r.Results[0].Consumer = "carol" }, "/predicate/results/0/consumer"},
		"no digest":              {func(_ *world, r *receipt.Request) { r.Results[0].SHA256 = manifest.Digest{} }, "/predicate/results/0/sha256"},
		"a success by a signal":  {func(_ *world, r *receipt.Request) { r.Signal = "SIGTERM" }, "/predicate/signal"},
		"a success over a limit": {func(_ *world, r *receipt.Request) { r.Limit = "seconds" }, "/predicate/signal or /predicate/limit"},
		"algorithm by both":      {func(w *world, _ *receipt.Request) { w.manifest.Algorithm.SHA256 = manifest.Digest{1} }, "/predicate/algorithm_commitment stands beside"},
		"algorithm by nothing":   {func(w *world, _ *receipt.Request) { w.manifest.Algorithm.Commitment = manifest.Commitment{} }, "/predicate/algorithm is missing"},
		"a file by both":         {func(w *world, _ *receipt.Request) { w.manifest.Algorithm.Files[0].SHA256 = manifest.Digest{1} }, "/predicate/files/0/commitment"},
		"a file by nothing":      {func(w *world, _ *receipt.Request) { w.manifest.Algorithm.Files[0].Commitment = manifest.Commitment{} }, "/predicate/files/0/sha256 is missing"},
		"a dataset by both":      {func(w *world, _ *receipt.Request) { w.manifest.Datasets[0].SHA256 = manifest.Digest{1} }, "/predicate/datasets/0/commitment"},
		"a word that is none": {func(_ *world, r *receipt.Request) {
			r.Outcome, r.Reason, r.ExitStatus, r.Signal = receipt.Failed, receipt.AlgorithmFailed, nil, "a\nb"
		}, "/predicate/signal"},
		"a signal that it exited by": {func(_ *world, r *receipt.Request) {
			r.Outcome, r.Reason, r.ExitStatus, r.Signal = receipt.Failed, receipt.AlgorithmFailed, &one, "SIGHUP"
		}, "/predicate/signal"},
	} {
		t.Run(name, func(t *testing.T) {
			w, req := newDividedWorld(t)
			tt.change(w, &req)
			req.Manifest = w.manifest
			if _, err := receipt.Make(t.Context(), req); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Make: %v; want %q", err, tt.want)
			}
		})
	}
}

// A receipt by an agent that lies about who gets what is refused by whoever has
// the manifest.
func TestSharesThatAreNotTheManifests(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(r *receipt.Request)
		want   string
	}{
		"one for all":  {func(r *receipt.Request) { r.Results, r.Result = nil, &receipt.Result{SHA256: manifest.Digest{1}} }, "/predicate/results"},
		"one missing":  {func(r *receipt.Request) { r.Results = r.Results[:1] }, "/predicate/results"},
		"in disorder":  {func(r *receipt.Request) { r.Results[0], r.Results[1] = r.Results[1], r.Results[0] }, "/predicate/results"},
		"a stranger's": {func(r *receipt.Request) { r.Results[0].Consumer = "sha256:" + strings.Repeat("1", 64) }, "/predicate/results"},
	} {
		t.Run(name, func(t *testing.T) {
			w, req := newDividedWorld(t)
			tt.change(&req)
			if r, err := receipt.Verify(t.Context(), w.make(req), w.options()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v %v, want an error with %q", r, err, tt.want)
			}
		})
	}
	w := newWorld(t)
	req := w.request()
	req.Results, req.Result = []receipt.Share{{Consumer: w.approver.Public().Fingerprint(), SHA256: manifest.Digest{1}}}, nil
	if r, err := receipt.Verify(t.Context(), w.make(req), w.options()); err == nil || !strings.Contains(err.Error(), "/predicate/results") {
		t.Errorf("shares where the manifest has none: %v %v", r, err)
	}
}
