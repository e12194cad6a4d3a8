package store

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
	"github.com/ultravioletrs/cocos/manifest"
)

type (
	computation = computations.Computation
	approval    = computations.Approval
)

// storedComputation also has what lists search and select by.
type storedComputation struct {
	computation
	name        string // in small letters
	mustApprove int64
	stage       computations.Stage
}

const computationColumns = "id workspace_id creator_id created name draft revision manifest digest frozen copied_from archived must_approve stage"

var computationTable = newTable("computations", computationColumns, 1, ", t.last_run", "",
	func(c *storedComputation) []any {
		return []any{&c.ID, &c.Workspace, &c.Creator, moment{&c.Created}, &c.name, doc{&c.Draft}, &c.Revision, &c.Manifest,
			digest(&c.Digest), moment{&c.Frozen}, ref{&c.CopiedFrom}, moment{&c.Archived}, &c.mustApprove, &c.stage, &c.LastRun}
	})

func (x *tx) Computation(c id) (computation, error) {
	found, err := computationTable.one(x, "WHERE t.id = $1", c)
	return found.computation, err
}

// PutComputation writes what follows from the manifest, too: how many approvals
// it wants, and whether they are there.
func (x *tx) PutComputation(c computation) error {
	row := storedComputation{computation: c, name: strings.ToLower(c.Draft.Name), stage: computations.StageDraft}
	old, err := computationTable.all(x, "WHERE t.id = $1", c.ID)
	if err != nil {
		return err
	}
	if len(old) > 0 && old[0].Manifest != nil {
		if o := old[0]; !bytes.Equal(o.Manifest, c.Manifest) || o.Digest != c.Digest || !o.Frozen.Equal(c.Frozen) ||
			o.Revision != c.Revision || o.Workspace != c.Workspace {
			return x.fail(fmt.Errorf("%w: the manifest of computation %s is frozen", computations.ErrTaken, c.ID))
		}
		row.mustApprove, row.stage = old[0].mustApprove, old[0].stage
	} else if c.Manifest != nil {
		frozen, err := manifest.Parse(c.Manifest)
		if err != nil {
			return x.fail(fmt.Errorf("computation %s: its manifest: %w", c.ID, err))
		}
		if frozen.Digest != c.Digest {
			return x.fail(fmt.Errorf("computation %s: its manifest has the digest %s, not %s", c.ID, frozen.Digest, c.Digest))
		}
		row.mustApprove, row.stage = int64(len(frozen.Approvals)), computations.StageReady
		if row.mustApprove > 0 {
			row.stage = computations.StageApprovals
		}
	}
	if err := computationTable.put(x, row); err != nil || len(old) == 0 {
		return err
	}
	return x.tellParts(c.ID)
}

// tellParts writes into a computation's parts what lists select them by.
func (x *tx) tellParts(c id) error {
	_, err := x.exec(`UPDATE parts SET status = c.status, archived = c.archived <> 0 FROM computations c
		WHERE c.id = $1 AND parts.computation_id = $1 AND (parts.status <> c.status OR parts.archived <> (c.archived <> 0))`, c)
	return err
}

// Computations reads one state at a time: each comes from an index in the order
// wanted, and no more of it than the page has. A user's come from the user's
// parts, so that others' cost nothing.
func (x *tx) Computations(cf computations.ComputationFilter, p computations.Page) ([]computation, error) {
	from := fromComputations(cf)
	states := cf.States
	if len(states) == 0 {
		states = []string{""}
	}
	var branches []string
	var args []any
	for _, state := range states {
		f := filter{args: args}
		from.add(&f, cf, x.session.dialect())
		if state != "" {
			f.add(from.status+" = ?", state)
		}
		if p.Before != "" {
			f.add(from.id+" < ?", p.Before)
		}
		branches = append(branches, fmt.Sprintf("SELECT id FROM (SELECT %s AS id FROM %s %s) b%d", from.id, from.tables,
			f.where(fmt.Sprintf("ORDER BY %s DESC LIMIT %d", from.id, limit(p.Limit))), len(branches)))
		args = f.args
	}
	found, err := computationTable.all(x, fmt.Sprintf("WHERE t.id IN (%s) ORDER BY t.id DESC LIMIT %d",
		strings.Join(branches, " UNION ALL "), limit(p.Limit)), args...)
	list := make([]computation, len(found))
	for i := range found {
		list[i] = found[i].computation
	}
	return list, err
}

// CountComputations reads what triggers have counted, where they have.
func (x *tx) CountComputations(cf computations.ComputationFilter) (map[string]int, error) {
	var f filter
	from := fromComputations(cf)
	count := "count(*)"
	if cf.Text == "" && !cf.Archived {
		from = computationsFrom{tables: "tallies y", status: "y.status"}
		count = "CAST(SUM(y.n) AS BIGINT)"
		f.add("y.workspace_id = ?", cf.Workspace)
		f.add("y.user_id = ?", cf.User)
	} else {
		from.add(&f, cf, x.session.dialect())
	}
	among(&f, from.status, cf.States)
	counts := map[string]int{}
	err := x.query(func(scan func(...any) error) error {
		var status string
		var n int
		err := scan(&status, &n)
		if n != 0 {
			counts[status] = n
		}
		return err
	}, "SELECT "+from.status+", "+count+" FROM "+from.tables+" "+f.where("GROUP BY "+from.status), f.args...)
	return counts, err
}

// computationsFrom is where a list of computations comes from.
type computationsFrom struct{ tables, id, status string }

func fromComputations(cf computations.ComputationFilter) computationsFrom {
	switch {
	case cf.User == "":
		return computationsFrom{"computations c", "c.id", "c.status"}
	case cf.Text == "":
		return computationsFrom{"parts p", "p.computation_id", "p.status"}
	}
	return computationsFrom{"parts p JOIN computations c ON c.id = p.computation_id", "p.computation_id", "p.status"}
}

// add adds the filter's conditions but for its states.
func (from computationsFrom) add(f *filter, cf computations.ComputationFilter, d dialect) {
	if cf.User != "" {
		f.add("p.user_id = ?", cf.User)
		f.add("p.workspace_id = ?", cf.Workspace)
		f.add("p.archived = ?", cf.Archived)
	} else {
		f.add("c.workspace_id = ?", cf.Workspace)
		f.add(zeroUnless("c.archived", cf.Archived))
	}
	if cf.Text != "" {
		f.add(d.contains("c.name", "?", false, false), strings.ToLower(cf.Text))
	}
}

func (x *tx) Parts(computation, user id) (parts []computations.Part, err error) {
	err = x.query(func(scan func(...any) error) error { return scan(doc{&parts}) },
		"SELECT parts FROM parts WHERE computation_id = $1 AND user_id = $2", computation, user)
	return parts, err
}

func (x *tx) AllParts(computation id) (map[id][]computations.Part, error) {
	all := map[id][]computations.Part{}
	err := x.query(func(scan func(...any) error) error {
		var user id
		var parts []computations.Part
		err := scan(&user, doc{&parts})
		all[user] = parts
		return err
	}, "SELECT user_id, parts FROM parts WHERE computation_id = $1", computation)
	return all, err
}

func (x *tx) SetParts(computation, user id, parts []computations.Part) error {
	if len(parts) == 0 {
		_, err := x.exec("DELETE FROM parts WHERE computation_id = $1 AND user_id = $2", computation, user)
		return err
	}
	n, err := x.exec(`INSERT INTO parts (computation_id, user_id, parts, workspace_id, status, archived)
		SELECT id, $2, $3, workspace_id, status, archived <> 0 FROM computations WHERE id = $1
		ON CONFLICT (computation_id, user_id) DO UPDATE SET parts = excluded.parts`, computation, user, doc{&parts})
	return x.fail(orNoRow(n, err))
}

func (x *tx) DropParts(workspace, user id) error {
	_, err := x.exec("DELETE FROM parts WHERE user_id = $1 AND workspace_id = $2", user, workspace)
	return err
}

var approvals = newTable("approvals", "computation_id user_id public signature at", 2, "", "",
	func(a *approval) []any {
		return []any{&a.Computation, &a.User, public{&a.PublicKey}, &a.Signature, moment{&a.At}}
	})

func (x *tx) Approvals(computation id) ([]approval, error) {
	return approvals.all(x, "WHERE t.computation_id = $1 ORDER BY t.at, t.user_id", computation)
}

// PutApproval also makes the computation ready when none is missing.
func (x *tx) PutApproval(a approval) error {
	if err := approvals.put(x, a); err != nil {
		return err
	}
	n, err := x.exec(`UPDATE computations SET stage = $1 WHERE id = $2 AND stage = $3
		AND must_approve <= (SELECT count(*) FROM approvals WHERE computation_id = $2)`,
		computations.StageReady, a.Computation, computations.StageApprovals)
	if err != nil || n == 0 {
		return err
	}
	return x.tellParts(a.Computation)
}
