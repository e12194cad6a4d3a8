// Package hospitals holds an example in Python; its tests run it as the agent
// does, with the Python of the guest image.
package hospitals

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultravioletrs/cocos/hal/progress"
	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
	"github.com/ultravioletrs/cocos/test/parts"
)

var python string // root of the Python disk, unpacked

func TestMain(m *testing.M) {
	runtime.Child()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "cocos-hospitals-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		python = filepath.Join(dir, "python")
		if err := parts.UnpackPython(context.Background(), filepath.Join("..", ".."), python, progress.New(os.Stderr, false, time.Now)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// ran is how the script ended, and all that it left and said.
type ran struct {
	runtime.Outcome
	results  map[string]string
	out, err string
}

// run runs the script on datasets.
func run(t *testing.T, datasets map[string]string, args ...string) ran {
	t.Helper()
	script, err := os.ReadFile("outcomes.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[string]string{"main.py": string(script)}
	for name, text := range datasets {
		files["datasets/"+name] = text
	}
	if err := os.Mkdir(filepath.Join(dir, "results"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	o, err := (&runtime.Runner{Root: python}).Run(t.Context(), runtime.Job{
		Type: manifest.Python, Program: filepath.Join(dir, "main.py"), Args: args, Dir: dir,
		Limits: manifest.Limits{Seconds: 120}, Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := ran{o, map[string]string{}, out.String(), errs.String()}
	left, err := os.ReadDir(filepath.Join(dir, "results"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		b, err := os.ReadFile(filepath.Join(dir, "results", f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		r.results[f.Name()] = string(b)
	}
	return r
}

type group struct {
	Treatment string
	Stage     string
	Patients  int
	Recovered int
	MeanDays  float64 `json:"mean_days"`
}

// told reads the result of a run that succeeded.
func (r ran) told(t *testing.T) (groups []group, withheld int) {
	t.Helper()
	if !r.Succeeded() || r.err != "" || len(r.results) != 1 {
		t.Fatalf("%+v", r)
	}
	var told struct {
		Groups   []group
		Withheld int `json:"withheld_groups"`
	}
	if err := json.Unmarshal([]byte(r.results["outcomes.json"]), &told); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d groups of treatment and stage are told of, %d are withheld\n", len(told.Groups), told.Withheld); r.out != want {
		t.Errorf("it printed %q; want %q", r.out, want)
	}
	return told.Groups, told.Withheld
}

// data is what lies in the example.
func data(t *testing.T) map[string]string {
	t.Helper()
	tables := map[string]string{}
	for _, name := range []string{"treatments.csv", "outcomes.csv"} {
		b, err := os.ReadFile(filepath.Join("data", name))
		if err != nil {
			t.Fatal(err)
		}
		tables[name] = string(b)
	}
	return tables
}

// TestExample compares the result with what this test computes itself.
func TestExample(t *testing.T) {
	tables := data(t)
	outcomes := map[string][2]int{}
	for _, row := range rows(tables["outcomes.csv"]) {
		var o [2]int
		if _, err := fmt.Sscan(row[1]+" "+row[2], &o[0], &o[1]); err != nil {
			t.Fatal(err)
		}
		outcomes[row[0]] = o
	}
	all := map[[2]string]*group{}
	days := map[[2]string]int{}
	for _, row := range rows(tables["treatments.csv"]) {
		o, ok := outcomes[row[0]]
		if !ok {
			continue
		}
		key := [2]string{row[1], row[2]}
		if all[key] == nil {
			all[key] = &group{Treatment: row[1], Stage: row[2]}
		}
		all[key].Patients++
		all[key].Recovered += o[0]
		days[key] += o[1]
	}
	r := run(t, tables, "--min-group", "10")
	groups, withheld := r.told(t)
	if len(groups) != 7 || withheld != 1 || len(groups)+withheld != len(all) {
		t.Errorf("%d groups are told of and %d withheld, of %d: %s", len(groups), withheld, len(all), r.results)
	}
	for _, g := range groups {
		key := [2]string{g.Treatment, g.Stage}
		want := *all[key]
		if mean := float64(days[key]) / float64(want.Patients); g.MeanDays < mean-0.051 || g.MeanDays > mean+0.051 {
			t.Errorf("%v: mean of days %v; want %v", key, g.MeanDays, mean)
		}
		if want.MeanDays = g.MeanDays; g != want || g.Patients < 10 {
			t.Errorf("%+v; want %+v", g, want)
		}
	}
	for p := range outcomes {
		if strings.Contains(r.results["outcomes.json"], p) {
			t.Errorf("the result names patient %s", p)
		}
	}
}

func rows(table string) (rows [][]string) {
	for _, line := range strings.Split(strings.TrimSpace(table), "\n")[1:] {
		rows = append(rows, strings.Split(line, ","))
	}
	return rows
}

// made makes both tables of groups, each n patients of whom so many recovered.
type made struct {
	treatment, stage string
	n, recovered     int
}

func tables(groups ...made) map[string]string {
	treatments, outcomes := "patient,treatment,stage\n", "patient,recovered,days\n"
	next := 0
	for _, g := range groups {
		for i := range g.n {
			recovered := 0
			if i < g.recovered {
				recovered = 1
			}
			treatments += fmt.Sprintf("%032x,%s,%s\n", next, g.treatment, g.stage)
			outcomes += fmt.Sprintf("%032x,%d,%d\n", next, recovered, 10+i)
			next++
		}
	}
	return map[string]string{"treatments.csv": treatments, "outcomes.csv": outcomes}
}

func TestSmallGroupsAreWithheld(t *testing.T) {
	groups, withheld := run(t, tables(
		made{"a", "I", 7, 3}, made{"a", "II", 6, 3}, // as many as it takes, and one too few
		made{"b", "I", 20, 20}, made{"b", "II", 20, 0}, // all of them, and none
		made{"c", "IV", 8, 1}, made{"c", "III", 1, 1},
	), "--min-group=7").told(t)
	want := []group{{"a", "I", 7, 3, 13}, {"c", "IV", 8, 1, 13.5}}
	if !slices.Equal(groups, want) || withheld != 4 {
		t.Errorf("told of %+v, %d withheld; want %+v and 4", groups, withheld, want)
	}
}

// TestRefusals: of a table that is refused nothing is told, no value of it either.
func TestRefusals(t *testing.T) {
	good := tables(made{"secret", "I", 12, 4})
	edited := func(name string, edit func(string) string) map[string]string {
		return map[string]string{"treatments.csv": good["treatments.csv"], "outcomes.csv": good["outcomes.csv"], name: edit(good[name])}
	}
	with := func(name, line string) map[string]string {
		return edited(name, func(s string) string { return s + line + "\n" })
	}
	patient := strings.Repeat("ab", 16)
	for name, tt := range map[string]struct {
		tables map[string]string
		args   []string
		want   string
	}{
		"all too small":      {good, []string{"--min-group", "13"}, "has 13 patients that both hospitals know"},
		"nobody in both":     {edited("outcomes.csv", func(string) string { return "patient,recovered,days\n" + patient + ",1,2\n" }), nil, "nothing can be told"},
		"threshold too low":  {good, []string{"--min-group", "4"}, "--min-group 4: expected 5 or more"},
		"a table is missing": {map[string]string{"treatments.csv": good["treatments.csv"]}, nil, "datasets/outcomes.csv is missing"},
		"an empty table":     {edited("outcomes.csv", func(string) string { return "" }), nil, "outcomes.csv is not a CSV table"},
		"not UTF-8":          {with("treatments.csv", patient+",\xff,I"), nil, "treatments.csv is not a CSV table in UTF-8"},
		"more cells":         {with("treatments.csv", patient+",secret,I,I"), nil, "treatments.csv is not a CSV table"},
		"more in each row":   {edited("treatments.csv", func(s string) string { return strings.ReplaceAll(s, ",I\n", ",I,I\n") }), nil, "other columns than patient,treatment,stage"},
		"fewer cells":        {with("outcomes.csv", patient+",1"), nil, "outcomes.csv, line 14: days is not"},
		"a blank line":       {with("outcomes.csv", ""), nil, "outcomes.csv, line 14: patient is not"},
		"another heading":    {edited("outcomes.csv", func(s string) string { return "patient,days,recovered" + s[22:] }), nil, "outcomes.csv has other columns than patient,recovered,days"},
		"a plain number":     {with("treatments.csv", "4711,secret,I"), nil, "treatments.csv, line 14: patient is not of the form"},
		"an unknown stage":   {with("treatments.csv", patient+",secret,V"), nil, "treatments.csv, line 14: stage is not"},
		"an outcome":         {with("outcomes.csv", patient+",2,5"), nil, "outcomes.csv, line 14: recovered is not"},
		"days":               {with("outcomes.csv", patient+",1,-5"), nil, "outcomes.csv, line 14: days is not"},
		"a patient twice":    {with("outcomes.csv", fmt.Sprintf("%032x,1,5", 3)), nil, "outcomes.csv, line 14: a patient that an earlier line has"},
		// What nobody foresaw is said without a traceback.
		"a folder":      {map[string]string{"treatments.csv": good["treatments.csv"], "outcomes.csv/secret": "x"}, nil, "the program failed with IsADirectoryError; more"},
		"an open quote": {with("treatments.csv", `"secret`), nil, "treatments.csv"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, tt.tables, tt.args...)
			if r.ExitCode != 1 || r.Signal != "" || !strings.HasPrefix(r.err, "outcomes: ") || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, tt.want) {
				t.Errorf("it ended with %+v; want %q", r, tt.want)
			}
			if len(r.results) > 0 || r.out != "" || strings.Contains(r.err, "secret") || strings.Contains(r.err, patient) || strings.Contains(r.err, "4711") {
				t.Errorf("it tells %+v", r)
			}
		})
	}
}
