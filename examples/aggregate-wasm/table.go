package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// numbers is what is kept of many.
type numbers struct {
	count      int
	sum        float64
	least, top float64
}

func (n *numbers) add(x float64) {
	if n.count == 0 {
		n.least, n.top = x, x
	}
	n.count++
	n.sum += x
	n.least, n.top = min(n.least, x), max(n.top, x)
}

// group is a set of rows.
type group struct {
	rows    int
	columns []numbers // as in the heading
}

// table takes in rows, and keeps none.
type table struct {
	by      string
	heading []string
	key     int // index of by, or -1
	// words marks columns that hold something else than numbers.
	words  []bool
	all    group
	groups map[string]*group // nil without by
}

func newTable(by string) *table {
	t := &table{by: by, key: -1}
	if by != "" {
		t.groups = map[string]*group{}
	}
	return t
}

func (t *table) readFile(path string) error {
	name := filepath.Base(path)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.ReuseRecord = true
	heading, err := r.Read()
	if err != nil {
		return fmt.Errorf("%s: reading the heading: %w", name, err)
	}
	if t.heading == nil {
		if err := t.begin(slices.Clone(heading)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	} else if !slices.Equal(heading, t.heading) {
		return fmt.Errorf("%s has another heading than the files before it; give all the same columns in the same order", name)
	}
	for {
		// Errors of the reader name lines and columns, and no values.
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t.add(row)
	}
}

func (t *table) begin(heading []string) error {
	t.heading, t.words = heading, make([]bool, len(heading))
	t.all.columns = make([]numbers, len(heading))
	if t.by == "" {
		return nil
	}
	if t.key = slices.Index(heading, t.by); t.key < 0 {
		return fmt.Errorf("there is no column %q to group by", t.by)
	}
	t.words[t.key] = true
	return nil
}

func (t *table) add(row []string) {
	sets := []*group{&t.all}
	if t.key >= 0 {
		g := t.groups[row[t.key]]
		if g == nil {
			g = &group{columns: make([]numbers, len(t.heading))}
			t.groups[strings.Clone(row[t.key])] = g
		}
		sets = append(sets, g)
	}
	for _, g := range sets {
		g.rows++
	}
	for i, cell := range row {
		cell = strings.TrimSpace(cell)
		if t.words[i] || cell == "" {
			continue
		}
		x, err := strconv.ParseFloat(cell, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			t.words[i] = true
			continue
		}
		for _, g := range sets {
			g.columns[i].add(x)
		}
	}
}
