package store

import (
	"errors"
	"strconv"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

type auditEntry = computations.AuditEntry

var audit = newTable("audit", "sequence at workspace_id actor_id action object_id detail previous hash", 1,
	", COALESCE(u.email, '')", "LEFT JOIN users u ON u.id = t.actor_id",
	func(e *auditEntry) []any {
		return []any{&e.Sequence, moment{&e.At}, &e.Workspace, &e.Actor, &e.Action, &e.Object, doc{&e.Detail},
			sum{sum: &e.Previous}, sum{sum: &e.Hash}, &e.Email}
	})

// insertAudit never replaces.
const insertAudit = `INSERT INTO audit (sequence, at, workspace_id, actor_id, action, object_id, detail, previous, hash)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

// AppendAudit has the end of the chain to itself until the commit.
func (x *tx) AppendAudit(e auditEntry) error {
	if err := x.lock(lockAudit); err != nil {
		return err
	}
	e.Sequence, e.Previous = 0, [32]byte{}
	err := x.value([]any{&e.Sequence, sum{sum: &e.Previous}}, "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
	if err != nil && !errors.Is(err, computations.ErrNoRow) {
		return err
	}
	e.Sequence++
	// As it will be read, or its sum would be another's.
	e.At = timeOf(nanoseconds(e.At)).Truncate(time.Microsecond)
	e.Workspace, e.Actor, e.Action, e.Object = id(text(string(e.Workspace))), id(text(string(e.Actor))), text(e.Action), id(text(string(e.Object)))
	e.Detail = cleanMap(e.Detail)
	e.Hash = e.Sum()
	if x.failed != nil {
		return x.failed
	}
	args, err := plain(audit.cells(&e)[:audit.columns])
	if err != nil {
		return x.fail(err)
	}
	_, err = x.session.exec(insertAudit, args)
	if errors.Is(err, computations.ErrTaken) {
		// Somebody was faster since this transaction began to see.
		err = &again{locks: []lock{lockAudit}, err: err}
	}
	return x.fail(err)
}

func (x *tx) Audit(af computations.AuditFilter) ([]auditEntry, error) {
	var f filter
	f.add("t.workspace_id = ?", af.Workspace)
	if af.Actor != "" {
		f.add("t.actor_id = ?", af.Actor)
	}
	if af.Action != "" {
		f.add("t.action = ?", af.Action)
	}
	if af.Object != "" {
		f.add("t.object_id = ?", af.Object)
	}
	if !af.From.IsZero() {
		f.add("t.at >= ?", af.From)
	}
	if !af.To.IsZero() {
		f.add("t.at < ?", af.To)
	}
	if af.Before > 0 {
		f.add("t.sequence < ?", af.Before)
	}
	return audit.all(x, f.where("ORDER BY t.sequence DESC LIMIT "+strconv.Itoa(limit(af.Limit))), f.args...)
}

// AuditChain is oldest first.
func (x *tx) AuditChain(after int64, n int) ([]auditEntry, error) {
	return audit.all(x, "WHERE t.sequence > $1 ORDER BY t.sequence LIMIT $2", after, entryLimit(n))
}
