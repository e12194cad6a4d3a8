package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// example is what people compute: Alice brings the algorithm and gets the result,
// Bob brings the data, and Carol too where there are two owners.
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
	carols    []string // files of Carol's; none: she takes no part
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
	}, {
		name: "hospitals", source: "examples/hospitals/outcomes.py",
		inputs:    "Make the tables of two hospitals, of patients that do not exist",
		prepare:   (*demo).hospitalTables,
		algorithm: "examples/hospitals/outcomes.py",
		args:      []string{"--min-group", "10"},
		data:      []string{d.path("treatments.csv")},
		carols:    []string{d.path("outcomes.csv")},
		report:    (*demo).hospitalsReport,
	}, {
		name: "psi", source: "examples/psi/main.go",
		inputs:    "Build the algorithm, a static program; the lists are made up",
		prepare:   (*demo).psiProgram,
		algorithm: d.path("psi"),
		data:      []string{"examples/psi/data/trial-one.txt"},
		carols:    []string{"examples/psi/data/trial-two.txt"},
		report:    (*demo).psiReport,
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

func (d *demo) hospitalTables() error {
	return d.do(nil, "go", "run", "./examples/hospitals/generate", d.dir)
}

func (d *demo) psiProgram() error {
	return d.do([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"}, "go", "build", "-trimpath", "-buildvcs=false", "-o", d.example.algorithm, "./"+filepath.Dir(d.example.source))
}
