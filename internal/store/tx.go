package store

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// tx is a Reader and, in Update, a Writer. After one of its methods has failed,
// with anything but ErrNoRow from reading, it does nothing more: PostgreSQL
// wouldn't, and code that went on would only work on SQLite.
type tx struct {
	session session
	now     func() time.Time
	failed  error
	signals map[string]bool
}

var _ computations.Writer = (*tx)(nil)

func (x *tx) exec(query string, args ...any) (int64, error) {
	if x.failed != nil {
		return 0, x.failed
	}
	args, err := plain(args)
	if err != nil {
		return 0, x.fail(err)
	}
	n, err := x.session.exec(query, args)
	return n, x.fail(err)
}

func (x *tx) query(row func(scan func(...any) error) error, query string, args ...any) error {
	if x.failed != nil {
		return x.failed
	}
	args, err := plain(args)
	if err != nil {
		return x.fail(err)
	}
	if err := x.session.query(row, query, args); !errors.Is(err, errEnough) {
		return x.fail(err)
	}
	return nil
}

// errEnough ends a query whose other rows nobody wants.
var errEnough = errors.New("no more rows are wanted")

// value reads the one row that the query gives into cells; none is ErrNoRow.
func (x *tx) value(cells []any, query string, args ...any) error {
	found := false
	err := x.query(func(scan func(...any) error) error {
		found = true
		return scan(cells...)
	}, query, args...)
	if err == nil && !found {
		err = computations.ErrNoRow
	}
	return err
}

func (x *tx) fail(err error) error {
	if err != nil && x.failed == nil {
		x.failed = err
	}
	return err
}

// end is what the transaction ends with after f said err: a failure even if f
// thinks nothing of it, in f's words if it has any, unless all of it runs again.
func (x *tx) end(err error) error {
	var more *again
	if err == nil || errors.As(x.failed, &more) || errors.Is(x.failed, errLost) {
		return x.failed
	}
	return err
}

func (x *tx) lock(l lock) error {
	if x.failed != nil {
		return x.failed
	}
	return x.fail(x.session.lock(l))
}

func (x *tx) topics() []string { return slices.Sorted(maps.Keys(x.signals)) }

// Signal wakes listeners of a topic after the commit.
func (x *tx) Signal(topic string) { x.signals[topic] = true }
