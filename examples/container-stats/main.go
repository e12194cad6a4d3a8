// Command container-stats is an algorithm in a container: it says how good tables
// are, before anybody computes with them, and nothing of any single row.
//
// For each column it counts what is there, missing, no number, and outside the
// range that /app/plausible.csv of its image holds to be plausible, and for columns
// of numbers tells mean and standard deviation. A file of fewer rows than the
// threshold is refused. It reads the CSV files in COCOS_DATASETS and writes
// quality.json into COCOS_RESULTS.
//
// Its image is built without a container tool (docs/examples/container-stats.md):
//
//	go run ./examples/container-stats/archive container-stats.tar
package main

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "container-stats:", err)
		os.Exit(1)
	}
}

// bounds is the range that is plausible for a column.
type bounds struct{ least, most float64 }

// quality is what is told of a column.
type quality struct {
	Present     int      `json:"present"`
	Missing     int      `json:"missing"`
	NoNumber    int      `json:"no_number"`
	Implausible int      `json:"implausible"`
	Mean        *float64 `json:"mean,omitempty"`
	Deviation   *float64 `json:"standard_deviation,omitempty"`

	sum, squares float64
	numbers      int
}

// report is what is told of a file.
type report struct {
	Rows    int                 `json:"rows"`
	Columns map[string]*quality `json:"columns"`
}

func run(args []string, getenv func(string) string, stdout io.Writer) error {
	flags := flag.NewFlagSet("container-stats", flag.ContinueOnError)
	least := flags.Int("min-rows", 20, "the least `rows` that a file must have")
	ranges := flags.String("plausible", "plausible.csv", "`file` with the plausible range of each column")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *least < 1 {
		return fmt.Errorf("-min-rows %d: expected 1 or more", *least)
	}
	plausible, err := readRanges(*ranges)
	if err != nil {
		return err
	}
	datasets, results := cmp.Or(getenv("COCOS_DATASETS"), "datasets"), cmp.Or(getenv("COCOS_RESULTS"), "results")
	files, err := filepath.Glob(filepath.Join(datasets, "*.csv"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s has no file called *.csv", datasets)
	}
	told := map[string]*report{}
	for _, name := range files {
		r, err := assess(name, plausible)
		if err != nil {
			return err
		}
		if r.Rows < *least {
			return fmt.Errorf("%s has %d rows; nothing is told of fewer than %d", filepath.Base(name), r.Rows, *least)
		}
		told[filepath.Base(name)] = r
		fmt.Fprintf(stdout, "%s: %d rows, %d columns\n", filepath.Base(name), r.Rows, len(r.Columns))
	}
	b, err := json.MarshalIndent(told, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(results, "quality.json"), append(b, '\n'), 0o644)
}

func readRanges(name string) (map[string]bounds, error) {
	rows, err := readAll(name)
	if err != nil {
		return nil, err
	}
	found := map[string]bounds{}
	for i, row := range rows[1:] {
		if len(row) != 3 {
			return nil, fmt.Errorf("%s: line %d has %d cells; expected column, least and most", name, i+2, len(row))
		}
		low, lowErr := strconv.ParseFloat(row[1], 64)
		high, highErr := strconv.ParseFloat(row[2], 64)
		if err := errors.Join(lowErr, highErr); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, i+2, err)
		}
		found[row[0]] = bounds{low, high}
	}
	return found, nil
}

// readAll reads a table with a heading.
func readAll(name string) ([][]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s is empty; expected a heading", filepath.Base(name))
	}
	return rows, nil
}

func assess(name string, plausible map[string]bounds) (*report, error) {
	rows, err := readAll(name)
	if err != nil {
		return nil, err
	}
	heading := rows[0]
	r := &report{Rows: len(rows) - 1, Columns: map[string]*quality{}}
	for _, column := range heading {
		r.Columns[column] = new(quality)
	}
	for _, row := range rows[1:] {
		for i, cell := range row {
			b, known := plausible[heading[i]]
			r.Columns[heading[i]].add(strings.TrimSpace(cell), b, known)
		}
	}
	for _, q := range r.Columns {
		q.finish()
	}
	return r, nil
}

func (q *quality) add(cell string, b bounds, known bool) {
	if cell == "" {
		q.Missing++
		return
	}
	q.Present++
	v, err := strconv.ParseFloat(cell, 64)
	if err != nil {
		q.NoNumber++
		return
	}
	if known && (v < b.least || v > b.most || math.IsNaN(v)) {
		// What can't be is not averaged either.
		q.Implausible++
		return
	}
	q.numbers++
	q.sum += v
	q.squares += v * v
}

// finish tells mean and deviation where most of a column is numbers.
func (q *quality) finish() {
	if q.numbers < 2 || q.NoNumber > q.numbers {
		return
	}
	n := float64(q.numbers)
	mean := q.sum / n
	deviation := math.Sqrt(max(0, (q.squares-n*mean*mean)/(n-1)))
	if math.IsInf(mean, 0) || math.IsNaN(deviation) || math.IsInf(deviation, 0) {
		return
	}
	q.Mean, q.Deviation = &mean, &deviation
}
