package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// assessed runs the program on one table.
func assessed(t *testing.T, table string, args ...string) (stdout string, told map[string]report, err error) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if table != "" {
		if err := os.WriteFile(filepath.Join(dir, "in", "t.csv"), []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"COCOS_DATASETS": filepath.Join(dir, "in"), "COCOS_RESULTS": filepath.Join(dir, "out")}
	var out bytes.Buffer
	if err := run(args, func(name string) string { return env[name] }, &out); err != nil {
		return out.String(), nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "out", "quality.json"))
	if err != nil {
		t.Fatal(err)
	}
	err = json.Unmarshal(b, &told)
	return out.String(), told, err
}

func TestQuality(t *testing.T) {
	stdout, told, err := assessed(t, "age,word\n10,a\n 20 ,b\n,c\n500,1\nx,d\n", "-min-rows=5")
	if err != nil {
		t.Fatal(err)
	}
	age, word := told["t.csv"].Columns["age"], told["t.csv"].Columns["word"]
	if told["t.csv"].Rows != 5 || age.Present != 4 || age.Missing != 1 || age.NoNumber != 1 || age.Implausible != 1 ||
		age.Mean == nil || *age.Mean != 15 || math.Abs(*age.Deviation-math.Sqrt(50)) > 1e-9 {
		t.Errorf("age: %+v", age)
	}
	if word.NoNumber != 4 || word.Mean != nil {
		t.Errorf("word: %+v", word)
	}
	if stdout != "t.csv: 5 rows, 2 columns\n" {
		t.Errorf("printed %q", stdout)
	}
}

func TestTablesThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		table, want string
		args        []string
	}{
		"too few rows":     {"a\n1\n2\n", "fewer than 20", nil},
		"none":             {"", "no file called", nil},
		"no heading":       {" ", "fewer than 20", nil},
		"uneven":           {"a,b\n1\n", "wrong number of fields", nil},
		"no threshold":     {"a\n1\n", "-min-rows 0", []string{"-min-rows=0"}},
		"another file":     {"a\n1\n", "no such file", []string{"-plausible=none.csv"}},
		"an unknown flag":  {"a\n1\n", "not defined", []string{"-x"}},
		"an unfit of them": {"a\n1\n", "expected column", []string{"-plausible=data/visits.csv"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := assessed(t, tt.table, tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q in it", err, tt.want)
			}
		})
	}
}
