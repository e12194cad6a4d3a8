package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// aggregate runs the algorithm on tables, and returns what it wrote and printed.
func aggregate(t *testing.T, tables map[string]string, args ...string) (told, string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"datasets", "results"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range tables {
		if err := os.WriteFile(filepath.Join(dir, "datasets", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	err := run(args, dir, &out)
	b, readErr := os.ReadFile(filepath.Join(dir, "results", "aggregate.json"))
	if (err == nil) != (readErr == nil) {
		t.Fatalf("run: %v; reading the result: %v", err, readErr)
	}
	var got told
	if err == nil {
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
	}
	return got, out.String(), err
}

func rows(heading string, rows ...string) string {
	return heading + "\n" + strings.Join(rows, "\n") + "\n"
}

func TestAggregate(t *testing.T) {
	got, out, err := aggregate(t, map[string]string{
		"a.csv":     rows("ward,age,note", "A,10,x", "A,20,7", "B,30,"),
		"b.csv":     rows("ward,age,note", "B, 40.5 ,x", "B,,y"),
		"notes.txt": "no table",
	}, "-group-by=ward", "-min-group=2")
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, s set, n, count int, sum, least, most float64) {
		f := s.Columns["age"]
		if s.Rows != n || len(s.Columns) != 1 || f.Count != count || f.Sum != sum || f.Mean != sum/float64(count) || *f.Min != least || *f.Max != most {
			t.Errorf("%s: %+v", what, s)
		}
	}
	want("all", got.All, 5, 4, 100.5, 10, 40.5)
	want("A", got.Groups["A"], 2, 2, 30, 10, 20)
	want("B", got.Groups["B"], 3, 2, 70.5, 30, 40.5)
	if len(got.Groups) != 2 || got.WithheldGroups != 0 || out != "5 rows of 2 files, 2 groups told of, 0 withheld\n" {
		t.Errorf("%+v, printed %q", got, out)
	}
}

func TestSmallGroupsAreWithheld(t *testing.T) {
	group := func(name string, n int) (rows []string) { return slices.Repeat([]string{name + ",1"}, n) }
	for name, tt := range map[string]struct {
		groups map[string]int
		want   []string
	}{
		"all large":                {map[string]int{"A": 3, "B": 4}, []string{"A", "B"}},
		"one small":                {map[string]int{"A": 3, "B": 5, "c": 2}, []string{"B"}}, // A, or c could be had from the total
		"small ones make up":       {map[string]int{"A": 3, "b": 2, "c": 1}, []string{"A"}},
		"one small beside another": {map[string]int{"A": 9, "c": 1}, nil},
		"all small":                {map[string]int{"a": 2, "b": 2}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var all []string
			for g, n := range tt.groups {
				all = append(all, group(g, n)...)
			}
			got, _, err := aggregate(t, map[string]string{"a.csv": rows("g,x", all...)}, "-group-by=g", "-min-group=3")
			if err != nil {
				t.Fatal(err)
			}
			if told := slices.Sorted(maps.Keys(got.Groups)); !slices.Equal(told, tt.want) || got.WithheldGroups != len(tt.groups)-len(tt.want) {
				t.Errorf("told of %v, %d withheld; want %v", told, got.WithheldGroups, tt.want)
			}
		})
	}
}

// TestFewNumbersAreWithheld: a group of many rows may have few numbers in a
// column.
func TestFewNumbersAreWithheld(t *testing.T) {
	got, _, err := aggregate(t, map[string]string{"a.csv": rows("g,x,y,z",
		"A,1,1,", "A,1,,", "A,1,,5", "B,1,1,", "B,1,1,", "B,1,1,", "C,1,1,", "C,1,1,", "C,1,1,", "C,1,1,")}, "-group-by=g", "-min-group=3")
	if err != nil {
		t.Fatal(err)
	}
	for g, want := range map[string][]string{"A": {"x"}, "B": {"x"}, "C": {"x", "y"}} {
		if told := slices.Sorted(maps.Keys(got.Groups[g].Columns)); !slices.Equal(told, want) {
			t.Errorf("of %s it tells %v; want %v", g, told, want)
		}
	}
	if told := slices.Sorted(maps.Keys(got.All.Columns)); !slices.Equal(told, []string{"x", "y"}) {
		t.Errorf("of all it tells %v", told)
	}
}

func TestExtremesCanBeLeftOut(t *testing.T) {
	got, _, err := aggregate(t, map[string]string{"a.csv": rows("x", "1", "2")}, "-min-group=1", "-extremes=false")
	if err != nil {
		t.Fatal(err)
	}
	if f := got.All.Columns["x"]; f.Min != nil || f.Max != nil || f.Sum != 3 || got.Groups != nil {
		t.Errorf("%+v", got)
	}
}

func TestRefusals(t *testing.T) {
	table := map[string]string{"a.csv": rows("g,secret", "A,1", "A,2")}
	for name, tt := range map[string]struct {
		tables map[string]string
		args   []string
		want   string
	}{
		"too few rows":     {table, nil, "fewer than 10 rows"},
		"no such column":   {table, []string{"-group-by=h"}, `no column "h"`},
		"threshold":        {table, []string{"-min-group=0"}, "-min-group 0"},
		"argument":         {table, []string{"x"}, `"x"`},
		"no tables":        {map[string]string{"a.txt": "x"}, nil, "no file called *.csv"},
		"another heading":  {map[string]string{"a.csv": rows("a,b"), "b.csv": rows("b,a")}, nil, "b.csv has another heading"},
		"empty":            {map[string]string{"a.csv": ""}, nil, "a.csv: reading the heading"},
		"another row":      {map[string]string{"a.csv": rows("a,b", "1,2", "hidden")}, nil, "a.csv: record on line 3: wrong number of fields"},
		"quotes that stay": {map[string]string{"a.csv": rows("a,b", `1,"hidden`)}, nil, "a.csv: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := aggregate(t, tt.tables, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("%v; want %q in it, and no value", err, tt.want)
			}
		})
	}
}
