package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/internal/store"
	"github.com/ultravioletrs/cocos/manifest"
)

// Filled is what Fill has made.
type Filled struct {
	// Workspace has all computations; Creator a part in each of them, Provider in
	// one of a hundred. Both are members, Creator as administrator.
	Workspace         computations.ID
	Creator, Provider computations.User
	Hosts             []computations.ID
	// Newest is the last computation, Run its run.
	Newest, Run computations.ID
}

// Fill makes a workspace with n computations of all states, each but the drafts
// with a run that has a few entries, with an asset and an audit entry for every
// tenth, and 100 hosts.
func Fill(t testing.TB, s *store.Store, n int) Filled {
	t.Helper()
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	f := Filled{Workspace: computations.NewID(),
		Creator:  computations.User{ID: computations.NewID(), Email: "creator@example.org", Name: "Creator", Created: at},
		Provider: computations.User{ID: computations.NewID(), Email: "provider@example.org", Name: "Provider", Created: at}}
	states := []computations.RunState{"", computations.RunFinished, computations.RunFinished, computations.RunFinished,
		computations.RunFailed, computations.RunFinished, computations.RunStopped, computations.RunFinished, "", computations.RunFinished}
	rare := map[int]computations.RunState{n / 2: computations.RunRunning, n / 3: computations.RunQueued}
	var w computations.Writer
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one := func(i int) {
		state := states[i%len(states)]
		if r, ok := rare[i]; ok {
			state = r
		}
		c := computations.Computation{ID: computations.NewID(), Workspace: f.Workspace, Creator: f.Creator.ID, Created: at, Revision: 1,
			Draft: computations.Draft{Name: fmt.Sprintf("Computation %d of the series", i), TEE: manifest.TEESNP,
				Algorithm: computations.AlgorithmSlot{Provider: f.Provider.ID}, Consumers: []computations.ID{f.Creator.ID}}}
		try(w.PutComputation(c))
		try(w.SetParts(c.ID, f.Creator.ID, []computations.Part{computations.PartCreator, computations.PartConsumer}))
		if i%100 == 0 {
			try(w.SetParts(c.ID, f.Provider.ID, []computations.Part{computations.PartAlgorithm}))
		}
		if i%10 == 0 {
			try(w.PutAsset(computations.Asset{ID: computations.NewID(), Workspace: f.Workspace, Owner: f.Provider.ID,
				Name: fmt.Sprintf("asset %d", i), Kind: computations.AssetDataset, Created: at}))
			try(w.AppendAudit(computations.AuditEntry{At: at, Workspace: f.Workspace, Actor: f.Creator.ID,
				Action: string(computations.ComputationCreate), Object: c.ID}))
		}
		f.Newest = c.ID
		if state == "" {
			return
		}
		r := computations.Run{ID: computations.NewID(), Computation: c.ID, Workspace: f.Workspace, Number: 1, State: state,
			By: f.Creator.ID, Created: at, Started: at, Ended: at.Add(time.Minute)}
		if r.Host = f.Hosts[i%len(f.Hosts)]; !state.Ended() {
			r.Ended = time.Time{}
		}
		if state == computations.RunQueued {
			r.Host = ""
		}
		f.Run = r.ID
		try(w.PutRun(r))
		_, err := w.Append([]computations.Entry{
			{Run: r.ID, Type: computations.EntryEvent, Source: "manager", Sequence: 1, Time: at, Kind: "vm.ready", Message: "the VM is ready"},
			{Run: r.ID, Type: computations.EntryLog, Source: "agent", Time: at, Level: "info", Message: "reading the algorithm"},
		})
		try(err)
	}
	batch := func(do func()) {
		t.Helper()
		try(s.Update(t.Context(), func(x computations.Writer) error { w = x; do(); return nil }))
	}
	batch(func() {
		try(w.PutUser(f.Creator))
		try(w.PutUser(f.Provider))
		try(w.PutWorkspace(computations.Workspace{ID: f.Workspace, Name: "Filled", Created: at}))
		for user, role := range map[computations.ID]computations.Role{f.Creator.ID: computations.RoleAdministrator, f.Provider.ID: computations.RoleMember} {
			try(w.PutMember(computations.Member{Workspace: f.Workspace, User: user, Role: role, Joined: at}))
		}
		for i := range 100 {
			h := computations.Host{ID: computations.NewID(), Name: fmt.Sprintf("host %03d", i), Serial: fmt.Sprintf("%04x", i), Enrolled: at,
				Report: computations.HostReport{TEEs: []manifest.TEE{manifest.TEESNP}, Capacity: 8}}
			try(w.PutHost(h))
			f.Hosts = append(f.Hosts, h.ID)
		}
	})
	const some = 500
	for i := 0; i < n; i += some {
		batch(func() {
			for j := i; j < min(i+some, n); j++ {
				one(j)
			}
		})
	}
	return f
}
