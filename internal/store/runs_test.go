package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/manifest"
)

func testRuns(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	r := computations.Run{ID: "r", Computation: w.draft.ID, Workspace: w.ws.ID, Number: 1, State: computations.RunRunning, Reason: "why",
		By: w.ann.ID, Host: w.host.ID, AgentAddress: "h:1", AgentKey: "k", AgentState: "Running", Simulated: true, StopAsked: now,
		TTL: time.Hour, Refused: []id{"h1", "h2"}, Trace: "00-1", Created: now, Started: now.Add(1), Ended: now.Add(2)}
	put(t, s, func(wr writer) error { return wr.PutRun(r) })
	same(t, s, r, func(rd reader) (computations.Run, error) { return rd.Run("r") })
	update(t, s, func(wr writer) error {
		got, err := wr.LockRun("r")
		got.Refused, got.Simulated, got.StopAsked, got.State = nil, false, time.Time{}, computations.RunFinished
		r = got
		return errors.Join(err, wr.PutRun(got))
	})
	same(t, s, r, func(rd reader) (computations.Run, error) { return rd.Run("r") })
}

func testSelectRuns(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	update(t, s, func(wr writer) error {
		return errors.Join(
			wr.PutRun(computations.Run{ID: "run-a", Computation: w.draft.ID, Workspace: w.ws.ID, Number: 1, State: computations.RunRunning, By: w.ann.ID, Host: w.host.ID}),
			wr.PutRun(computations.Run{ID: "run-b", Computation: w.draft.ID, Workspace: w.ws.ID, Number: 2, State: computations.RunOffered, By: w.ann.ID, Host: w.host.ID}),
			wr.PutComputation(computations.Computation{ID: "comp-x", Workspace: w.other.ID, Creator: w.ann.ID}),
			wr.PutRun(computations.Run{ID: "run-c", Computation: "comp-x", Workspace: w.other.ID, Number: 1, State: computations.RunRunning, By: w.ann.ID}),
			wr.SetParts(w.draft.ID, w.bob.ID, []computations.Part{computations.PartViewer}),
			wr.SetParts("comp-x", w.bob.ID, []computations.Part{computations.PartViewer}))
	})
	for _, c := range []struct {
		states []computations.RunState
		want   map[computations.RunState]int
	}{
		{nil, map[computations.RunState]int{}},
		{[]computations.RunState{computations.RunRunning, computations.RunQueued, computations.RunFailed},
			map[computations.RunState]int{computations.RunRunning: 2, computations.RunQueued: 1}},
	} {
		same(t, s, c.want, func(r reader) (map[computations.RunState]int, error) { return r.CountRuns(c.states...) })
	}
	for workspace, want := range map[id]int{w.ws.ID: 3, w.other.ID: 1, "none": 0} {
		same(t, s, want, func(r reader) (int, error) { return r.CountActive(workspace) })
	}
	type rf = computations.RunFilter
	for name, c := range map[string]struct {
		filter rf
		want   []id
	}{
		"all":            {rf{}, []id{"run-c", "run-b", "run-a", "run-1"}},
		"workspace":      {rf{Workspace: w.ws.ID}, []id{"run-b", "run-a", "run-1"}},
		"computation":    {rf{Computation: w.draft.ID}, []id{"run-b", "run-a"}},
		"host":           {rf{Host: w.host.ID}, []id{"run-b", "run-a"}},
		"states":         {rf{States: []computations.RunState{computations.RunQueued, computations.RunRunning}}, []id{"run-c", "run-a", "run-1"}},
		"host and state": {rf{Host: w.host.ID, States: []computations.RunState{computations.RunOffered}}, []id{"run-b"}},
		"bob's":          {rf{User: w.bob.ID}, []id{"run-c", "run-b", "run-a"}},
		"bob's there":    {rf{User: w.bob.ID, Workspace: w.ws.ID}, []id{"run-b", "run-a"}},
		"bob's running":  {rf{User: w.bob.ID, States: []computations.RunState{computations.RunRunning}}, []id{"run-c", "run-a"}},
		"bob's of one":   {rf{User: w.bob.ID, Computation: w.draft.ID}, []id{"run-b", "run-a"}},
		"not bob's":      {rf{User: w.bob.ID, Computation: w.frozen.ID}, nil},
		"nobody's":       {rf{User: "x"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ids(t, s, c.want, runID, func(r reader) ([]computations.Run, error) { return r.Runs(c.filter, computations.Page{}) })
		})
	}
}

func testQueue(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	queue := func(limit int, want ...id) {
		t.Helper()
		update(t, s, func(wr writer) error {
			list, err := wr.LockQueue(limit)
			got := names(list, runID)
			if len(got) != len(want) {
				t.Fatalf("got %v, want %v", got, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Errorf("got %v, want %v", got, want)
				}
			}
			return err
		})
	}
	second := w.run
	second.ID, second.Number = "run-2", 2
	put(t, s, func(wr writer) error { return wr.PutRun(second) })
	queue(10, "run-1", "run-2")
	queue(1, "run-1")
	w.run.State, w.run.Host = computations.RunOffered, w.host.ID
	put(t, s, func(wr writer) error { return wr.PutRun(w.run) })
	queue(10, "run-2")
}

func testReceipts(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	r := computations.Receipt{Run: w.run.ID, Raw: []byte{0, 1, 2}, By: w.ann.ID, At: now, Simulated: true}
	get := func(rd reader) (computations.Receipt, error) { return rd.Receipt(w.run.ID) }
	put(t, s, func(wr writer) error { return wr.PutReceipt(r) })
	same(t, s, r, get)
	r.Raw, r.By, r.Simulated, r.Succeeded = []byte("x"), w.bob.ID, false, true
	put(t, s, func(wr writer) error { return wr.PutReceipt(r) })
	same(t, s, r, get)
}

func testHosts(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	h := computations.Host{ID: "h2", Name: "a rack", Serial: "0b", PreviousSerial: "0c", CertificateExpires: now, Enrolled: now, Revoked: now,
		Cordoned: true, Draining: true, Contact: now, Connected: true, Process: "p", Address: "1.2.3.4:5",
		Report: computations.HostReport{Version: "1", TEEs: []manifest.TEE{manifest.TEESNP}, Capacity: 4, Load: 0.25, MemoryFree: 1 << 40,
			Images:   []computations.Image{{Digest: "d", Measurements: map[string]string{"snp": "00"}}},
			Findings: []computations.Finding{{Name: "kvm", Verdict: "ok"}}}}
	put(t, s, func(wr writer) error { return wr.PutHost(h) })
	same(t, s, h, func(r reader) (computations.Host, error) { return r.Host("h2") })
	same(t, s, h, func(r reader) (computations.Host, error) { return r.HostBySerial("0b") })
	same(t, s, h, func(r reader) (computations.Host, error) { return r.HostBySerial("0c") })

	// Only what it was given and what hasn't ended counts.
	update(t, s, func(wr writer) error {
		var errs []error
		for i, state := range []computations.RunState{computations.RunOffered, computations.RunStarting, computations.RunRunning,
			computations.RunFinished, computations.RunFailed, computations.RunStopped} {
			errs = append(errs, wr.PutRun(computations.Run{ID: id("run-x" + state), Computation: w.draft.ID, Workspace: w.ws.ID,
				Number: int64(i), State: state, Host: "h2", By: w.ann.ID}))
		}
		return errors.Join(errs...)
	})
	h.Active = 3
	same(t, s, []computations.Host{h, w.host}, reader.Hosts)
	h.Report, h.PreviousSerial = computations.HostReport{}, ""
	put(t, s, func(wr writer) error { return wr.PutHost(h) })
	same(t, s, h, func(r reader) (computations.Host, error) { return r.Host("h2") })
}

func testEnrolTokens(t *testing.T, s *store.Store) {
	w := newWorld(t, s)
	e := computations.EnrolToken{ID: "e1", Name: "rack 2", Hash: [32]byte{1}, By: w.ann.ID, Created: now, Expires: now.Add(time.Hour)}
	f := computations.EnrolToken{ID: "e2", Hash: [32]byte{2}, By: w.ann.ID, Host: w.host.ID}
	update(t, s, func(wr writer) error { return errors.Join(wr.PutEnrolToken(e), wr.PutEnrolToken(f)) })
	same(t, s, e, func(r reader) (computations.EnrolToken, error) { return r.EnrolToken([32]byte{1}) })
	same(t, s, []computations.EnrolToken{f, e}, reader.EnrolTokens)
	e.Host = w.host.ID
	put(t, s, func(wr writer) error { return wr.PutEnrolToken(e) })
	same(t, s, e, func(r reader) (computations.EnrolToken, error) { return r.EnrolToken([32]byte{1}) })
}
