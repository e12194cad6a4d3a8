package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultravioletrs/cocos/internal/runtime"
	"github.com/ultravioletrs/cocos/manifest"
)

func TestMain(m *testing.M) {
	runtime.Child()
	os.Exit(m.Run())
}

// working is a working folder with these datasets.
func working(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, d := range []string{"datasets", "results"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, "datasets", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// left is what is in results/, by name.
func left(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "results"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, "results", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func lines(l ...string) string { return strings.Join(l, "\n") + "\n" }

func TestIntersection(t *testing.T) {
	for name, tt := range map[string]struct {
		one, two string
		args     []string
		want     string
		count    int
	}{
		"sorted":                 {lines("c", "x", "a", "b"), lines("b", "a", "y", "c", "z"), nil, lines("a", "b", "c"), 3},
		"each once":              {lines("a", "a", "b"), lines("a", "b", "a", "a", "b"), nil, lines("a", "b"), 2},
		"nothing":                {lines("a"), lines("b", "c"), nil, "", 0},
		"the same list":          {lines("b", "a"), lines("b", "a"), nil, lines("a", "b"), 2},
		"letters":                {lines("Ada Ek", "É"), lines("ADA EK", "é"), nil, lines("ada ek", "é"), 2},
		"letters that count":     {lines("Ada", "Bo"), lines("ADA", "Bo"), []string{"-match-case"}, lines("Bo"), 1},
		"blanks":                 {lines("  Ada \t Ek ", "", "b"), lines("ada ek", "c", "  "), nil, lines("ada ek"), 1},
		"composed and not":       {lines("Zo\u00eb", "x"), lines("Zoe\u0308"), nil, lines("zo\u00eb"), 1},
		"ends of lines":          {"a\r\nb\r\n", "a\nb", nil, lines("a", "b"), 2},
		"mark of UTF-8":          {"\ufeffa\nb\n", lines("a", "c"), nil, lines("a"), 1},
		"as long as may be":      {strings.Repeat("x", maxEntry) + "\r\n", lines(strings.Repeat("x", maxEntry), "c"), nil, lines(strings.Repeat("x", maxEntry)), 1},
		"only a part of another": {lines("ab"), lines("a", "b", "abc"), nil, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, swapped := range []bool{false, true} {
				if swapped {
					tt.one, tt.two = tt.two, tt.one
				}
				for _, only := range []string{"", "-count"} {
					dir := working(t, map[string]string{"one.txt": tt.one, "two.txt": tt.two})
					args, want := tt.args, map[string]string{"intersection.txt": tt.want}
					if only != "" {
						args, want = append(args[:len(args):len(args)], only), map[string]string{"count.txt": fmt.Sprintln(tt.count)}
					}
					var out bytes.Buffer
					if err := run(args, dir, &out); err != nil {
						t.Fatal(err)
					}
					if got := left(t, dir); fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%v left %q; want %q", args, got, want)
					}
					if want := fmt.Sprintf("%d entries are in both lists\n", tt.count); out.String() != want {
						t.Errorf("printed %q; want %q", out.String(), want)
					}
				}
			}
		})
	}
}

// TestRefusals: a list that is refused leaves no result, and what is said of it
// has nothing of either list in it.
func TestRefusals(t *testing.T) {
	good := lines("secret one", "secret two")
	for name, tt := range map[string]struct {
		files map[string]string
		args  []string
		want  string
	}{
		"not UTF-8":      {map[string]string{"a": lines("secret", "secret\xff"), "b": good}, nil, "a, line 2 is not UTF-8"},
		"in the longer":  {map[string]string{"a": lines("secret one"), "b": good + "secret\x00\n"}, nil, "b, line 3 has a character that does not print (U+0000)"},
		"invisible":      {map[string]string{"a": lines("sec\u200bret"), "b": good}, nil, "a, line 1 has a character that does not print (U+200B)"},
		"too long":       {map[string]string{"a": lines("secret", "x", strings.Repeat("secret", 200)), "b": good}, nil, "line 3 is longer than 1024 bytes"},
		"a byte too":     {map[string]string{"a": lines(strings.Repeat("x", maxEntry+1)), "b": good}, nil, "a, line 1 is longer than 1024 bytes"},
		"and endless":    {map[string]string{"a": strings.Repeat("secret", 1000), "b": good}, nil, "line 1 is longer"},
		"empty":          {map[string]string{"a": "", "b": good}, nil, "a has no entry"},
		"blank":          {map[string]string{"a": good, "b": " \n\n\t\n"}, nil, "b has no entry"},
		"one list":       {map[string]string{"a": good}, nil, "datasets/ has 1 entries; give two files"},
		"three lists":    {map[string]string{"a": good, "b": good, "c": good}, nil, "datasets/ has 3 entries"},
		"argument":       {map[string]string{"a": good, "b": good}, []string{"b"}, `unexpected argument "b"`},
		"unknown option": {map[string]string{"a": good, "b": good}, []string{"-all"}, "-all"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := working(t, tt.files)
			var out bytes.Buffer
			err := run(tt.args, dir, &out)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v; want %q in it, and nothing of a list", err, tt.want)
			}
			if got := left(t, dir); len(got) > 0 || out.Len() > 0 {
				t.Errorf("it left %q and printed %q", got, out.String())
			}
		})
	}
	dir := working(t, map[string]string{"a": good})
	if err := os.Mkdir(filepath.Join(dir, "datasets", "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run(nil, dir, io.Discard); err == nil || !strings.Contains(err.Error(), "folder is not a file") {
		t.Errorf("a folder: %v", err)
	}
}

// TestInTheSandbox runs the program as the agent does, on the example's data.
func TestInTheSandbox(t *testing.T) {
	program := filepath.Join(t.TempDir(), "psi")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, out)
	}
	files := map[string]string{}
	for _, name := range []string{"trial-one.txt", "trial-two.txt"} {
		b, err := os.ReadFile(filepath.Join("data", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(b)
	}
	start := func(files map[string]string, args ...string) (runtime.Outcome, map[string]string, string, string) {
		t.Helper()
		var out, errs bytes.Buffer
		job := runtime.Job{Type: manifest.Binary, Program: program, Args: args, Dir: working(t, files),
			Limits: manifest.Limits{Seconds: 60}, Stdout: &out, Stderr: &errs}
		o, err := new(runtime.Runner).Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return o, left(t, job.Dir), out.String(), errs.String()
	}

	o, got, out, errs := start(files)
	if !o.Succeeded() || out != "6 entries are in both lists\n" || errs != "" || strings.Count(got["intersection.txt"], "\n") != 6 || len(got) != 1 {
		t.Errorf("%+v, left %q, printed %q, %q", o, got, out, errs)
	}
	for entry := range strings.Lines(got["intersection.txt"]) {
		for name, text := range files {
			if !strings.Contains(strings.Join(strings.Fields(strings.ToLower(text)), " "), strings.TrimSpace(entry)) {
				t.Errorf("%q is not in %s", entry, name)
			}
		}
	}
	o, got, out, errs = start(files, "-count")
	if !o.Succeeded() || got["count.txt"] != "6\n" || len(got) != 1 {
		t.Errorf("-count: %+v, left %q, printed %q, %q", o, got, out, errs)
	}
	files["trial-one.txt"] += "Ada\x07\n"
	o, got, out, errs = start(files)
	if o.ExitCode != 1 || len(got) > 0 || out != "" || errs != "psi: trial-one.txt, line 61 has a character that does not print (U+0007); give plain text, one entry a line\n" {
		t.Errorf("a malformed line: %+v, left %q, printed %q, %q", o, got, out, errs)
	}
}
