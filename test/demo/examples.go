package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// example is what the two people compute: Alice brings the algorithm and gets
// the result, Bob brings the data.
type example struct {
	name string // of the computation, too
	// source must be there, in the source tree.
	source string
	// inputs says where they come from, and prepare makes what the source tree
	// does not have.
	inputs    string
	prepare   func(*demo) error
	algorithm string // file of Alice's
	args      []string
	data      []string // files of Bob's; datasets are called as they are
	// report prints what the computation found out.
	report func(*demo) error
}

// examples in the order in which texts show them; the first is the default.
func examples(d *demo) []example {
	return []example{{
		name: "iris", source: "examples/iris/logistic_regression.py",
		inputs:    "Take the iris data out of Debian's scikit-learn package",
		prepare:   (*demo).irisData,
		algorithm: "examples/iris/logistic_regression.py",
		data:      []string{d.path("iris.csv")},
		report:    (*demo).irisReport,
	}, {
		name: "aggregate-wasm", source: "examples/aggregate-wasm/main.go",
		inputs:    "Build the algorithm from Go for WebAssembly; the tables are made up",
		prepare:   (*demo).aggregateModule,
		algorithm: d.path("aggregate.wasm"),
		args:      []string{"-group-by=ward", "-min-group=10"},
		data:      []string{"examples/aggregate-wasm/data/north.csv", "examples/aggregate-wasm/data/south.csv"},
		report:    (*demo).aggregateReport,
	}, {
		name: "container-stats", source: "examples/container-stats/main.go",
		inputs:    "Build a container image with Go alone; the table is made up",
		prepare:   (*demo).statsImage,
		algorithm: d.path("container-stats.tar"),
		data:      []string{"examples/container-stats/data/visits.csv"},
		report:    (*demo).statsReport,
	}}
}

// choose picks an example by its name; empty is the first.
func (d *demo) choose(name string) error {
	var names []string
	for _, e := range examples(d) {
		if name == e.name || name == "" {
			d.example = e
			return nil
		}
		names = append(names, e.name)
	}
	return fmt.Errorf("there is no example %q; there are %s", name, strings.Join(names, ", "))
}

const irisFile = "usr/lib/python3/dist-packages/sklearn/datasets/data/iris.csv"

func (d *demo) irisData() error {
	return d.do(nil, "go", "run", "./cmd/hal", "extract", irisFile, d.path("iris.csv"))
}

func (d *demo) aggregateModule() error {
	return d.do([]string{"GOOS=wasip1", "GOARCH=wasm"}, "go", "build", "-trimpath", "-buildvcs=false", "-o", d.example.algorithm, "./"+filepath.Dir(d.example.source))
}

func (d *demo) statsImage() error {
	return d.do(nil, "go", "run", "./"+filepath.Dir(d.example.source)+"/archive", d.example.algorithm)
}

// readResult reads a file of the result, which is JSON.
func (d *demo) readResult(name string, into any) error {
	path := d.path("result", "results", name)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func (d *demo) irisReport() error {
	var metrics struct {
		Accuracy float64 `json:"accuracy"`
		Train    int     `json:"train_rows"`
		Test     int     `json:"test_rows"`
	}
	if err := d.readResult("metrics.json", &metrics); err != nil {
		return err
	}
	model, err := os.Stat(d.path("result", "results", "model.joblib"))
	if err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	fmt.Printf("\nThe VM sent back a model of %d bytes, fitted to %d flowers.\n", model.Size(), metrics.Train)
	fmt.Printf("Accuracy on the %d it had not seen: %.1f %%\n", metrics.Test, 100*metrics.Accuracy)
	return nil
}

func (d *demo) aggregateReport() error {
	type set struct {
		Rows    int `json:"rows"`
		Columns map[string]struct {
			Mean float64 `json:"mean"`
		} `json:"columns"`
	}
	var told struct {
		All      set            `json:"all"`
		Groups   map[string]set `json:"groups"`
		Withheld int            `json:"withheld_groups"`
	}
	if err := d.readResult("aggregate.json", &told); err != nil {
		return err
	}
	fmt.Print("\nWhat Alice learns of Bob's patients:\n\n")
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	columns := slices.Sorted(maps.Keys(told.All.Columns))
	fmt.Fprintf(t, "    \trows\tmean %s\n", strings.Join(columns, "\tmean "))
	line := func(name string, s set) {
		fmt.Fprintf(t, "    %s\t%d", name, s.Rows)
		for _, c := range columns {
			fmt.Fprintf(t, "\t%.1f", s.Columns[c].Mean)
		}
		fmt.Fprintln(t)
	}
	for _, g := range slices.Sorted(maps.Keys(told.Groups)) {
		line(g, told.Groups[g])
	}
	line("all", told.All)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Printf("\n%d wards are withheld: they have too few patients, or the others would give one away.\n", told.Withheld)
	return nil
}

func (d *demo) statsReport() error {
	var told map[string]struct {
		Rows    int `json:"rows"`
		Columns map[string]struct {
			Present     int `json:"present"`
			Missing     int `json:"missing"`
			NoNumber    int `json:"no_number"`
			Implausible int `json:"implausible"`
		} `json:"columns"`
	}
	if err := d.readResult("quality.json", &told); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		fmt.Printf("\nWhat Alice learns of Bob's %s, which has %d rows:\n\n", name, told[name].Rows)
		t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "    \tpresent\tmissing\tno number\timplausible")
		columns := told[name].Columns
		for _, c := range slices.Sorted(maps.Keys(columns)) {
			q := columns[c]
			fmt.Fprintf(t, "    %s\t%d\t%d\t%d\t%d\n", c, q.Present, q.Missing, q.NoNumber, q.Implausible)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}
