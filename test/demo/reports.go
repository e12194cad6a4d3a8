package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

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

func (d *demo) hospitalsReport() error {
	var told struct {
		MinGroup int `json:"min_group"`
		Groups   []struct {
			Treatment string  `json:"treatment"`
			Stage     string  `json:"stage"`
			Patients  int     `json:"patients"`
			Recovered int     `json:"recovered"`
			MeanDays  float64 `json:"mean_days"`
		} `json:"groups"`
		Withheld int `json:"withheld_groups"`
	}
	if err := d.readResult("outcomes.json", &told); err != nil {
		return err
	}
	fmt.Print("\nWhat Alice learns of the patients that Bob's hospital treated and Carol's followed up:\n\n")
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "    treatment\tstage\tpatients\trecovered\tmean days")
	for _, g := range told.Groups {
		fmt.Fprintf(t, "    %s\t%s\t%d\t%.0f %%\t%.1f\n", g.Treatment, g.Stage, g.Patients, 100*float64(g.Recovered)/float64(g.Patients), g.MeanDays)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Printf("\nWithheld: %d, of fewer than %d patients or all with the same outcome.\n", told.Withheld, told.MinGroup)
	return nil
}

func (d *demo) psiReport() error {
	b, err := os.ReadFile(d.path("result", "results", "intersection.txt"))
	if err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	fmt.Print("\nWho takes part in both trials, which is all that Alice learns of them:\n\n")
	for entry := range strings.Lines(string(b)) {
		fmt.Printf("    %s", entry)
	}
	return nil
}
