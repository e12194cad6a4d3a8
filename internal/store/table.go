package store

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ultravioletrs/cocos/internal/computations"
)

// table joins a type to a table. Its columns are listed once, in the order of its
// cells, the key first.
type table[T any] struct {
	cells   func(*T) []any
	columns int    // that the table itself has; the rest are of joined ones
	read    string // SELECT ... FROM ..., where the table is called t
	write   string // INSERT ... ON CONFLICT ... DO UPDATE
}

// newTable takes the names of columns with spaces between them; the first keys of
// them are the key. more are expressions that lists read besides, and join is
// what they need.
func newTable[T any](name, columns string, keys int, more, join string, cells func(*T) []any) *table[T] {
	names := strings.Fields(columns)
	var values, sets []string
	for i, n := range names {
		values = append(values, "$"+strconv.Itoa(i+1))
		if i >= keys {
			sets = append(sets, n+" = excluded."+n)
		}
	}
	t := &table[T]{cells: cells, columns: len(names)}
	t.read = "SELECT t." + strings.Join(names, ", t.") + more + " FROM " + name + " t " + join
	t.write = fmt.Sprintf("INSERT INTO %s AS t (%s) VALUES (%s) ON CONFLICT (%s) DO UPDATE SET %s", name,
		strings.Join(names, ", "), strings.Join(values, ", "), strings.Join(names[:keys], ", "), strings.Join(sets, ", "))
	return t
}

// put makes the row or replaces it.
func (t *table[T]) put(x *tx, v T) error {
	_, err := x.exec(t.write, t.cells(&v)[:t.columns]...)
	return err
}

// all reads the rows that rest (WHERE and what follows) selects.
func (t *table[T]) all(x *tx, rest string, args ...any) ([]T, error) {
	return t.until(x, func(*T) bool { return false }, rest, args...)
}

// until is all up to the first row that enough says so of.
func (t *table[T]) until(x *tx, enough func(*T) bool, rest string, args ...any) ([]T, error) {
	var list []T
	err := x.query(func(scan func(...any) error) error {
		var v T
		list = append(list, v)
		last := &list[len(list)-1]
		if err := scan(t.cells(last)...); err != nil {
			return err
		}
		if enough(last) {
			return errEnough
		}
		return nil
	}, t.read+" "+rest, args...)
	return list, err
}

// one is all for exactly one.
func (t *table[T]) one(x *tx, rest string, args ...any) (T, error) {
	list, err := t.all(x, rest, args...)
	if err != nil || len(list) == 0 {
		var none T
		if err == nil {
			err = computations.ErrNoRow
		}
		return none, err
	}
	return list[0], nil
}

// filter gathers conditions and their arguments.
type filter struct {
	conditions []string
	args       []any
}

// add takes a condition with a ? for each argument.
func (f *filter) add(condition string, args ...any) {
	for _, arg := range args {
		f.args = append(f.args, arg)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(f.args)), 1)
	}
	f.conditions = append(f.conditions, condition)
}

// among adds that column is one of the words; no words: no condition.
func among[S ~string](f *filter, column string, words []S) {
	if len(words) == 0 {
		return
	}
	args := make([]any, len(words))
	for i, w := range words {
		args[i] = w
	}
	f.add(column+" IN (?"+strings.Repeat(", ?", len(words)-1)+")", args...)
}

// where is all of it, followed by rest.
func (f *filter) where(rest string) string {
	if len(f.conditions) == 0 {
		return rest
	}
	return "WHERE " + strings.Join(f.conditions, " AND ") + " " + rest
}

// page adds the page's condition and returns how it ends: newest first.
func (f *filter) page(p computations.Page) string {
	if p.Before != "" {
		f.add("t.id < ?", p.Before)
	}
	return "ORDER BY t.id DESC LIMIT " + strconv.Itoa(limit(p.Limit))
}

func limit(n int) int {
	if n <= 0 || n > computations.MaxPage {
		return computations.MaxPage
	}
	return n
}
