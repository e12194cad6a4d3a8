package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
)

// series is one figure, taken several times.
type series []float64

func (s series) sorted() series { return slices.Sorted(slices.Values(s)) }

// median is 0 for an empty series.
func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	t := s.sorted()
	if n := len(t) / 2; len(t)%2 == 0 {
		return (t[n-1] + t[n]) / 2
	} else {
		return t[n]
	}
}

// row is one figure and what it was measured beside.
type row struct {
	name, unit string
	values     series
	// reference says what referenceValues are; empty: there are none.
	reference       string
	referenceValues series
	aim             aim
}

// aim of a row; the zero value is none. It is printed, never asserted.
type aim struct {
	ofValue bool // otherwise of the ratio
	atLeast bool // otherwise at most
	bound   float64
}

func (a aim) met(r row) bool {
	x := r.values.median()
	if !a.ofValue {
		ratio := r.ratio()
		if ratio == nil {
			return false
		}
		x = *ratio
	}
	if a.atLeast {
		return x >= a.bound
	}
	return x <= a.bound
}

func (a aim) text(r row) string {
	if a == (aim{}) {
		return "-"
	}
	what, sign, verdict := "ratio", "<=", "missed"
	if a.ofValue {
		what = "value"
	}
	if a.atLeast {
		sign = ">="
	}
	if a.met(r) {
		verdict = "met"
	}
	return fmt.Sprintf("%s %s %s: %s", what, sign, strconv.FormatFloat(a.bound, 'g', -1, 64), verdict)
}

// ratio is nil where there is nothing to divide by.
func (r row) ratio() *float64 {
	ref := r.referenceValues.median()
	if r.reference == "" || ref == 0 {
		return nil
	}
	q := r.values.median() / ref
	return &q
}

// figure is a row's form in the JSON file. All keys are always there; those of
// the reference are null where there is none.
type figure struct {
	Name           string   `json:"name"`
	Value          float64  `json:"value"`
	Unit           string   `json:"unit"`
	Reference      *string  `json:"reference"`
	ReferenceValue *float64 `json:"reference_value"`
	Ratio          *float64 `json:"ratio"`
}

func (r row) figure() figure {
	f := figure{Name: r.name, Value: r.values.median(), Unit: r.unit}
	if r.reference != "" {
		v := r.referenceValues.median()
		f.Reference, f.ReferenceValue, f.Ratio = &r.reference, &v, r.ratio()
	}
	return f
}

// writeJSON writes the figures, whole or not at all.
func writeJSON(name string, rows []row) error {
	figures := make([]figure, len(rows))
	for i, r := range rows {
		figures[i] = r.figure()
	}
	b, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	if err := os.WriteFile(name+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return os.Rename(name+".new", name)
}

// writeTable prints medians, with the least and the greatest beside them.
func writeTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVALUE\t(MIN..MAX)\tUNIT\tREFERENCE VALUE\t(MIN..MAX)\tRATIO\tAIM\tREFERENCE")
	for _, r := range rows {
		refValue, refRange, ratio := "-", "-", "-"
		if r.reference != "" {
			refValue, refRange = number(r.referenceValues.median()), r.referenceValues.span()
		}
		if q := r.ratio(); q != nil {
			ratio = strconv.FormatFloat(*q, 'f', 2, 64)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, number(r.values.median()), r.values.span(), r.unit,
			refValue, refRange, ratio, r.aim.text(r), cmp.Or(r.reference, "-"))
	}
	return t.Flush()
}

func (s series) span() string {
	if len(s) < 2 {
		return "-"
	}
	t := s.sorted()
	return number(t[0]) + ".." + number(t[len(t)-1])
}

// number has three significant digits, and every digit of a large one.
func number(x float64) string {
	if x >= 100 || x == 0 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}
