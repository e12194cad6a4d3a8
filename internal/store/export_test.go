package store

import (
	"context"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// Plan is how the database goes about one query.
type Plan struct{ Query, How string }

// Plans runs f and explains each of its queries.
func (s *Store) Plans(ctx context.Context, f func(computations.Reader) error) ([]Plan, error) {
	var plans []Plan
	err := s.db.view(ctx, func(se session) error {
		return f(&tx{session: &explainer{se, &plans}, now: s.now})
	})
	return plans, err
}

type explainer struct {
	session
	plans *[]Plan
}

func (e *explainer) query(row func(scan func(...any) error) error, query string, args []any) error {
	explain, columns := "EXPLAIN ", 1
	if e.dialect().name() == "sqlite" {
		explain, columns = "EXPLAIN QUERY PLAN ", 4
	}
	p := Plan{Query: query}
	err := e.session.query(func(scan func(...any) error) error {
		cells := make([]any, columns)
		var line string
		for i := range cells {
			cells[i] = new(any)
		}
		cells[columns-1] = &line
		err := scan(cells...)
		p.How += line + "\n"
		return err
	}, explain+query, args)
	*e.plans = append(*e.plans, p)
	if err != nil {
		return err
	}
	return e.session.query(row, query, args)
}
