package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// told is results/aggregate.json.
type told struct {
	MinGroup int `json:"min_group"`
	All      set `json:"all"`
	// Groups are those that are not withheld, by their value of GroupBy.
	GroupBy        string         `json:"group_by,omitempty"`
	Groups         map[string]set `json:"groups,omitempty"`
	WithheldGroups int            `json:"withheld_groups"`
}

type set struct {
	Rows int `json:"rows"`
	// Columns of numbers, by name. One in which too few rows have a number is
	// left out.
	Columns map[string]figures `json:"columns"`
}

type figures struct {
	Count int      `json:"count"`
	Sum   float64  `json:"sum"`
	Mean  float64  `json:"mean"`
	Min   *float64 `json:"min,omitempty"`
	Max   *float64 `json:"max,omitempty"`
}

// tell says what holds for at least so many rows.
func (t *table) tell(threshold int, extremes bool) (told, error) {
	if t.all.rows < threshold {
		return told{}, fmt.Errorf("the files have fewer than %d rows together, too few to tell anything of", threshold)
	}
	out := told{MinGroup: threshold, GroupBy: t.by, All: set{Rows: t.all.rows, Columns: map[string]figures{}}}
	rows := map[string]int{}
	for name, g := range t.groups {
		rows[name] = g.rows
	}
	shown := withhold(rows, rows, threshold)
	out.WithheldGroups = len(rows) - len(shown)
	if t.by != "" {
		out.Groups = map[string]set{}
	}
	for name := range shown {
		out.Groups[name] = set{Rows: rows[name], Columns: map[string]figures{}}
	}
	for i, column := range t.heading {
		if t.words[i] || t.all.columns[i].count < threshold {
			continue
		}
		out.All.Columns[column] = t.all.columns[i].figures(extremes)
		counts := map[string]int{}
		for name, g := range t.groups {
			counts[name] = g.columns[i].count
		}
		for name := range withhold(counts, shown, threshold) {
			out.Groups[name].Columns[column] = t.groups[name].columns[i].figures(extremes)
		}
	}
	return out, nil
}

// withhold returns those of the candidates whose counts may be told beside the
// total of all counts: each reaches the threshold, and so does what is left of
// the total, unless that is nothing.
func withhold(counts, candidates map[string]int, threshold int) map[string]int {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[a], counts[b]), cmp.Compare(a, b))
	})
	shown, hidden := map[string]int{}, 0
	for _, name := range names {
		if _, ok := candidates[name]; !ok {
			hidden += counts[name]
		}
	}
	for _, name := range names { // the smallest first
		n := counts[name]
		_, ok := candidates[name]
		switch {
		case !ok || n == 0:
		case n < threshold || hidden > 0 && hidden < threshold:
			hidden += n
		default:
			shown[name] = n
		}
	}
	return shown
}

func (n numbers) figures(extremes bool) figures {
	f := figures{Count: n.count, Sum: n.sum, Mean: n.sum / float64(n.count)}
	if extremes {
		f.Min, f.Max = &n.least, &n.top
	}
	return f
}
