package store

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

type (
	run       = computations.Run
	receipt   = computations.Receipt
	runFilter = computations.RunFilter
)

var runs = newTable("runs", "id computation_id workspace_id number state reason by_id host_id agent_address agent_key agent_state "+
	"simulated stop_asked ttl refused trace created started ended", 1, "", "",
	func(r *run) []any {
		return []any{&r.ID, &r.Computation, &r.Workspace, &r.Number, &r.State, &r.Reason, &r.By, ref{&r.Host},
			&r.AgentAddress, &r.AgentKey, &r.AgentState, &r.Simulated, moment{&r.StopAsked}, &r.TTL, doc{&r.Refused},
			&r.Trace, moment{&r.Created}, moment{&r.Started}, moment{&r.Ended}}
	})

func (x *tx) Run(r id) (run, error) { return runs.one(x, "WHERE t.id = $1", r) }

func (x *tx) LockRun(r id) (run, error) {
	return runs.one(x, "WHERE t.id = $1"+x.session.dialect().forUpdate(), r)
}

// fewParts is up to where a user's runs are sought among those of the user's
// computations; beyond, among all, where some soon turn up.
const fewParts = 1000

// Runs reads one state at a time: each comes from an index in the order wanted.
func (x *tx) Runs(rf runFilter, p computations.Page) ([]run, error) {
	few := false
	if rf.User != "" && rf.Computation == "" {
		var n int
		var f filter
		partsOf(&f, rf)
		err := x.value([]any{&n}, "SELECT count(*) FROM (SELECT 1 FROM parts p "+f.where("LIMIT "+strconv.Itoa(fewParts+1))+") few", f.args...)
		if err != nil {
			return nil, err
		}
		few = n <= fewParts
	}
	states := rf.States
	if len(states) == 0 {
		states = []computations.RunState{""}
	}
	var branches []string
	var args []any
	for _, state := range states {
		f := filter{args: args}
		from := "runs r"
		if few {
			partsOf(&f, rf)
			f.add("r.computation_id = p.computation_id")
			// In SQLite's words: parts first.
			from = "parts p CROSS JOIN runs r"
		} else if rf.User != "" {
			f.add("EXISTS (SELECT 1 FROM parts p WHERE p.computation_id = r.computation_id AND p.user_id = ?)", rf.User)
		}
		for _, c := range []struct {
			condition string
			value     id
		}{{"r.workspace_id = ?", rf.Workspace}, {"r.computation_id = ?", rf.Computation}, {"r.host_id = ?", rf.Host}, {"r.id < ?", p.Before}} {
			if c.value != "" {
				f.add(c.condition, c.value)
			}
		}
		if state != "" {
			f.add("r.state = ?", state)
		}
		branches = append(branches, fmt.Sprintf("SELECT id FROM (SELECT r.id FROM %s %s) b%d", from,
			f.where("ORDER BY r.id DESC LIMIT "+strconv.Itoa(limit(p.Limit))), len(branches)))
		args = f.args
	}
	return runs.all(x, fmt.Sprintf("WHERE t.id IN (%s) ORDER BY t.id DESC LIMIT %d", strings.Join(branches, " UNION ALL "), limit(p.Limit)), args...)
}

func (x *tx) CountRuns(states ...computations.RunState) (map[computations.RunState]int, error) {
	counts := map[computations.RunState]int{}
	if len(states) == 0 {
		return counts, x.failed
	}
	var f filter
	among(&f, "state", states)
	err := x.query(func(scan func(...any) error) error {
		var state computations.RunState
		var n int
		err := scan(&state, &n)
		counts[state] = n
		return err
	}, "SELECT state, count(*) FROM runs "+f.where("GROUP BY state"), f.args...)
	return counts, err
}

func (x *tx) CountActive(workspace id) (n int, err error) {
	f := filter{}
	f.add("workspace_id = ?", workspace)
	among(&f, "state", []computations.RunState{computations.RunQueued, computations.RunOffered, computations.RunStarting, computations.RunRunning})
	return n, x.value([]any{&n}, "SELECT count(*) FROM runs "+f.where(""), f.args...)
}

// partsOf selects the user's, in the workspace if one is named.
func partsOf(f *filter, rf runFilter) {
	f.add("p.user_id = ?", rf.User)
	if rf.Workspace != "" {
		f.add("p.workspace_id = ?", rf.Workspace)
	}
}

// PutRun also tells the computation where its newest run is.
func (x *tx) PutRun(r run) error {
	if err := runs.put(x, r); err != nil {
		return err
	}
	n, err := x.exec(`UPDATE computations SET last_run = $1, last_number = $2
		WHERE id = $3 AND (last_number < $2 OR last_number = $2 AND last_run <> $1)`, r.State, r.Number, r.Computation)
	if err != nil || n == 0 {
		return err
	}
	return x.tellParts(r.Computation)
}

func (x *tx) LockQueue(n int) ([]run, error) {
	if err := x.lock(lockQueue); err != nil {
		return nil, err
	}
	return runs.all(x, "WHERE t.state = $1 ORDER BY t.id LIMIT $2", computations.RunQueued, n)
}

// Expire marks runs of which nothing is left, so that they aren't looked at again.
func (x *tx) Expire(workspace id, before time.Time, limit int) (int, error) {
	total := 0
	for total < limit {
		var r id
		err := x.value([]any{&r}, `SELECT id FROM runs WHERE workspace_id = $1 AND ended <> 0 AND NOT swept AND ended < $2
			ORDER BY ended LIMIT 1`, workspace, before)
		if err == computations.ErrNoRow {
			break
		}
		if err != nil {
			return total, err
		}
		n, err := x.exec(`DELETE FROM entries WHERE run_id = $1 AND position IN (
			SELECT position FROM entries WHERE run_id = $1 ORDER BY position LIMIT $2)`, r, limit-total)
		if err != nil {
			return total, err
		}
		if total += int(n); total >= limit {
			break // perhaps there are more of this run
		}
		for _, query := range []string{"UPDATE runs SET swept = TRUE WHERE id = $1", "UPDATE positions SET swept = TRUE WHERE run_id = $1"} {
			if _, err := x.exec(query, r); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

var receipts = newTable("receipts", "run_id raw by_id at simulated succeeded", 1, "", "",
	func(r *receipt) []any {
		return []any{&r.Run, &r.Raw, &r.By, moment{&r.At}, &r.Simulated, &r.Succeeded}
	})

func (x *tx) Receipt(run id) (receipt, error) { return receipts.one(x, "WHERE t.run_id = $1", run) }

func (x *tx) PutReceipt(r receipt) error { return receipts.put(x, r) }
